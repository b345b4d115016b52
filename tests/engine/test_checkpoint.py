"""A pack that is killed and taken up from a checkpoint ends with the bits of one that was not."""

import json
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from remora.engine import loop
from remora.engine.checkpoint import Interrupted, Keeper, State, joined
from remora.engine.driver import Driver
from remora.engine.rungs import Halving
from remora.engine.trial import NoEvents, TrialOutcome, TrialSpec
from remora.models.base import Base
from tests.contract.cases import CASES
from tests.contract.checks import largest_difference
from tests.tiny import tiny_base, tiny_quantised
from tests.trials import spec, toy_data, toy_examples

DATA = toy_data(toy_examples(20), validation=toy_examples(7, seed=5))


class Killed(Exception):  # noqa: N818  it stands for no error
    """Stands for kill -9: nothing is cleaned up but memory."""


class KillAt(NoEvents):
    """Ends the process at a lane's step, counted over all lanes."""

    def __init__(self, at: int) -> None:
        self._left = at

    def step(self, spec: TrialSpec, step: int, num_steps: int, loss: float) -> None:
        self._left -= 1
        if self._left == 0:
            raise Killed


def specs_of_every_method(quantization: str) -> list[TrialSpec]:
    """A short trial of every method whose base is held so; those with phases meet them."""
    cases = [case for case in CASES if case.number == 0 and case.quantization == quantization]
    return [
        spec(
            case.name,
            case.settings,
            id=case.id,
            lr=3e-3,
            seed=number % 3,
            batch_size=(4, 7)[number % 2],
            epochs=2 + number % 2,
            curve=number % 4 == 0,
            select="best-validation" if number % 5 == 0 else "last",
        )
        for number, case in enumerate(cases)
    ]


def run_through(
    base: Base, specs: Sequence[TrialSpec], folder: Path, kills: Sequence[int], **settings: Any
) -> dict[str, TrialOutcome]:
    """Outcomes by trial, of a pack that is killed so many steps after each start; a checkpoint after every step."""
    found: dict[str, TrialOutcome] = {}
    killed = 0
    halves = settings.pop("halves", ())
    for kill in (*kills, None):
        keeper = Keeper(folder, seconds=0)
        keeper.MOST_SHARE = 1e9  # type: ignore[misc]
        events = NoEvents() if kill is None else KillAt(kill)
        with Driver(base) as driver:
            halvings = [Halving(rivals, 7) for rivals in halves]
            pack = loop.run_pack(driver, DATA, specs, events=events, keeper=keeper, halvings=halvings, **settings)
            try:
                for outcome in pack:
                    found[outcome.spec.id] = outcome
            except Killed:
                killed += 1
    assert killed == len(kills), "a kill came after the end"
    return found


def assert_same_bits(one: dict[str, TrialOutcome], other: dict[str, TrialOutcome]) -> None:
    assert set(one) == set(other)
    for name, outcome in one.items():
        again = other[name]
        assert largest_difference(outcome, again) == 0, name
        assert outcome.metrics == again.metrics
        assert outcome.curve == again.curve
        assert outcome.rungs == again.rungs
        assert outcome.grad_norm == again.grad_norm
        for split, logits in outcome.logits.items():
            assert np.array_equal(logits, again.logits[split])
        for key, value in outcome.frozen.items():
            assert torch.equal(value, again.frozen[key]), f"{name} {key}"


@pytest.mark.parametrize(
    ("make", "quantization", "kills"), [(tiny_base, "none", (7, 60, 31, 88, 120)), (tiny_quantised, "nf4", (2, 5))]
)
def test_every_method_goes_on_as_it_was(
    make: Callable[[str], Base], quantization: str, kills: tuple[int, ...], tmp_path: Path
) -> None:
    base, specs = make("bert"), specs_of_every_method(quantization)
    whole = run_through(base, specs, tmp_path / "whole", [], slots=5)
    parts = run_through(base, specs, tmp_path / "parts", kills, slots=5)
    assert_same_bits(whole, parts)


def test_rivals_that_wait_at_a_rung_are_taken_up_too(tmp_path: Path) -> None:
    base = tiny_base("bert")
    specs = [spec("lora", id=f"l{n}", lr=10.0**-n, epochs=4, batch_size=5) for n in range(1, 5)]
    specs += [spec("full", id=f"f{n}", lr=10.0**-n, epochs=4, batch_size=5) for n in range(2, 5)]
    halves = [[one.id for one in specs if one.id[0] == row] for row in "lf"]
    whole = run_through(base, specs, tmp_path / "whole", [], slots=2, halves=halves)
    assert {outcome.status for outcome in whole.values()} == {"done", "stopped"}
    for kill, times in ((3, 4), (11, 3), (25, 1)):
        parts = run_through(base, specs, tmp_path / f"parts{kill}", [kill] * times, slots=2, halves=halves)
        assert_same_bits(whole, parts)


def test_without_the_moments_the_end_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: a lane that forgets its optimizer's state ends elsewhere."""
    base, specs = tiny_base("bert"), [spec("lora", id="one", epochs=3)]
    whole = run_through(base, specs, tmp_path / "whole", [], slots=1)

    def forgetful(keeper: Keeper) -> State | None:
        state = load(keeper)
        if state is None:
            return None
        return State(tensors={n: v * 0 if "exp_avg" in n else v for n, v in state.tensors.items()}, facts=state.facts)

    load = Keeper.load
    monkeypatch.setattr(Keeper, "load", forgetful)
    parts = run_through(base, specs, tmp_path / "parts", [6], slots=1)
    assert largest_difference(whole["one"], parts["one"]) > 1e-5


# --- the files


def small_state(number: int) -> State:
    return joined(
        {"a": State(tensors={"x": torch.full((3,), float(number))}, facts={"number": number, "third": 1 / 3})}
    )


def test_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "pack", seconds=0)
    assert keeper.load() is None
    for number in range(4):
        keeper.save(small_state(number))
    assert sorted(path.name for path in (tmp_path / "pack").iterdir()) == ["000003", "000004"]
    state = keeper.load()
    assert state is not None
    assert state.part("a").facts == {"number": 3, "third": 1 / 3}
    assert state.part("a").tensors["x"].tolist() == [3, 3, 3]
    keeper.clear()
    assert not (tmp_path / "pack").exists()


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("harm", [flip_a_bit, shorten, Path.unlink])
@pytest.mark.parametrize("name", ["tensors.safetensors", "facts.json", "manifest.json"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, harm: Any, name: str, caplog: pytest.LogCaptureFixture) -> None:
    keeper = Keeper(tmp_path, seconds=0)
    for number in range(2):
        keeper.save(small_state(number))
    harm(tmp_path / "000002" / name)
    state = keeper.load()
    assert state is not None
    assert state.part("a").facts["number"] == 0
    assert "000002 is damaged" in caplog.text


@pytest.mark.parametrize("call", ["mkdir", "save_file", "write_text", "rename", "fsync"])
def test_a_kill_while_one_is_written_leaves_those_before(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(tmp_path, seconds=0)
    keeper.save(small_state(0))

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        if call == "save_file":
            patched.setattr("remora.engine.checkpoint.save_file", die)
        elif call == "fsync":
            patched.setattr("remora.paths.os.fsync", die)
        else:
            patched.setattr(Path, call, die)
        with pytest.raises(Killed):
            keeper.save(small_state(1))
    again = Keeper(tmp_path, seconds=0)
    state = again.load()
    assert state is not None
    assert state.part("a").facts["number"] == 0
    again.save(small_state(2))
    newest = again.load()
    assert newest is not None
    assert newest.part("a").facts["number"] == 2


@contextmanager
def small_files(most: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: a real failure to write, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("what", ["tensors", "facts"])
def test_what_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str) -> None:
    keeper = Keeper(tmp_path, seconds=0)
    keeper.save(small_state(0))
    large = State(facts={"x": "y" * 2**21}) if what == "facts" else State(tensors={"x": torch.zeros(2**19)})
    with small_files(2**20):
        keeper.save(large)
    assert "no checkpoint was written" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["000001"]
    state = keeper.load()
    assert state is not None
    assert state.part("a").facts["number"] == 0


def test_one_that_is_asked_for_comes_after_the_next_step(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, seconds=3600)
    with Driver(tiny_base("bert")) as driver:
        keeper.ask()
        with pytest.raises(Interrupted):
            list(loop.run_pack(driver, DATA, [spec("lora", id="one")], slots=1, keeper=keeper))
    state = keeper.load()
    assert state is not None
    assert state.part("lanes").part("one").facts["step"] == 1


def test_an_older_format_is_not_read(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, seconds=0)
    keeper.save(small_state(0))
    path = tmp_path / "000001" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0}))
    assert keeper.load() is None


def test_the_pause_grows_with_what_one_takes(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, seconds=0)
    assert keeper.due
    keeper.save(small_state(0))
    assert not keeper.due, "writing took some time, of which a hundredfold has not passed"
