"""Successive halving of tuning trials: ids, packs, what is read back, and what is never chosen."""

import queue
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from remora.config.load import build_study
from remora.engine.rungs import Rung
from remora.engine.trial import TrialSpec
from remora.errors import ConfigError
from remora.methods.registry import get_method
from remora.results.schema import ParamCount, TrialResult
from remora.results.store import read_result, write_result
from remora.study import launch
from remora.study.halving import halvings, rung_record
from remora.study.leases import Ticket
from remora.study.packs import Packing, PlannedPack, inseparable, plan_packs
from remora.study.rows import UNTRAINED, StudyRow
from remora.study.trials import PlannedTrial, TrialMaker
from remora.study.tuning import choose_lr

BARE = StudyRow(id=UNTRAINED, label="untrained model", settings={}, lrs=(), stream="", method=None)


def maker(**protocol: Any) -> TrialMaker:
    """Trials of a study whose data and base are nothing but their hashes."""
    config = build_study({"model": "minilm", "data": "helpdesk", "protocol": {"seeds": 2, **protocol}})
    base = SimpleNamespace(sha256="0" * 64, dtype=torch.float32)
    dataset = SimpleNamespace(hash="1" * 20, metrics=("accuracy", "macro_f1"))
    context = SimpleNamespace(
        config=config,
        max_length=64,
        base=base,
        dataset=dataset,
        prompt=None,
        task=SimpleNamespace(generates=False),
        quantization_for=lambda method: "none",
    )
    return TrialMaker(context)  # type: ignore[arg-type]


def row(*lrs: float, method: str = "head", label: str = "head only") -> StudyRow:
    return StudyRow(id=method, label=label, settings={}, lrs=lrs, stream="", method=get_method(method))


def ids(trials: Sequence[PlannedTrial]) -> list[str]:
    return [trial.spec.id for trial in trials]


def rivals(label: str, num: int, method: str = "lora") -> list[PlannedTrial]:
    """The tuning trials of a row that halves."""
    names = tuple(f"{label}{n}" for n in range(num))
    return [
        PlannedTrial(
            spec=TrialSpec(id=name, method=method, lr=1e-3),
            purpose="tuning",
            label=label,
            family="x",
            hyperparameters={"lr": 1e-3},
            rivals=names,
        )
        for name in names
    ]


def loners(label: str, num: int) -> list[PlannedTrial]:
    return [replace(trial, rivals=()) for trial in rivals(label, num)]


def result(trial: str, status: str, rungs: Sequence[Rung] = (), lr: float = 1e-3, score: float = 0.5) -> TrialResult:
    done = status == "done"
    return TrialResult.model_validate(
        {
            "trial": trial,
            "purpose": "tuning",
            "method": "lora",
            "label": "LoRA",
            "family": "reparameterized",
            "hyperparameters": {"lr": lr},
            "seed": 0,
            "status": status,
            "metrics": {"validation": {"accuracy": score}} if done else {},
            "losses": {"validation": 0.3} if done else {},
            "rungs": [rung_record(rung) for rung in rungs],
            "params": ParamCount(adapter=1, head=1),
        }
    )


def test_without_halving_ids_are_those_of_studies_run_before() -> None:
    """A literal on purpose: another id would train again what a run directory holds."""
    made = maker()
    rows = row(1e-4, 1e-3)
    assert ids([*made.tuning(rows), *made.final(rows, 1e-3), *made.untrained(BARE)]) == [
        "head-only-s1000003-57418658ef",
        "head-only-s1000003-52b75e1a3f",
        "head-only-s0-e70d7345be",
        "head-only-s1-ae89c3f99a",
        "untrained-model-s0-570256d40c",
        "untrained-model-s1-7239a9edaa",
    ]


def test_halving_changes_the_ids_of_tuning_trials_only() -> None:
    plain, halving = maker(), maker(stop="halving")
    rows = row(1e-4, 1e-3)
    assert ids(plain.final(rows, 1e-3)) == ids(halving.final(rows, 1e-3))
    assert ids(plain.untrained(BARE)) == ids(halving.untrained(BARE))
    assert not set(ids(plain.tuning(rows))) & set(ids(halving.tuning(rows)))
    assert {trial.rivals for trial in plain.tuning(rows)} == {()}
    assert {trial.rivals for trial in halving.tuning(rows)} == {tuple(ids(halving.tuning(rows)))}


def test_an_id_depends_on_the_rivals() -> None:
    """With other rivals the same trial may be stopped or not."""
    made = maker(stop="halving")
    assert made.tuning(row(1e-4, 1e-3))[0].spec == replace(
        made.tuning(row(1e-4, 1e-2))[0].spec, id=made.tuning(row(1e-4, 1e-3))[0].spec.id
    )
    assert made.tuning(row(1e-4, 1e-3))[0].spec.id != made.tuning(row(1e-4, 1e-2))[0].spec.id


def test_every_method_gets_the_same_trials_to_compare() -> None:
    made = maker(stop="halving")
    for method in ("lora", "full", "head", "bitfit"):
        trials = made.tuning(row(1e-4, 3e-4, 1e-3, 3e-3, method=method, label=method))
        assert [len(trial.rivals) for trial in trials] == [4, 4, 4, 4]
        assert [trial.spec.lr for trial in trials] == [1e-4, 3e-4, 1e-3, 3e-3]
    assert made.tuning(row(1e-4)) == ()


def test_rivals_survive_the_way_to_a_worker() -> None:
    trial = rivals("a", 3)[0]
    values = {**trial.to_json(), "rivals": list(trial.rivals)}  # JSON knows no tuples
    assert PlannedTrial.from_json(values) == trial


def test_rivals_share_a_pack_and_whole_rows_fill_it() -> None:
    trials = [*loners("u", 5), *(trial for label in "abc" for trial in rivals(label, 2)), *rivals("f", 3, "full")]
    packs = plan_packs(trials, Packing(slots=4))
    assert [ids(pack.trials) for pack in packs] == [
        ["f0", "f1", "f2"],
        ["a0", "a1", "b0", "b1"],
        ["c0", "c1"],
        ["u0", "u1", "u2"],
        ["u3", "u4"],
    ]
    assert [pack.slots for pack in packs] == [1, 4, 4, 4, 4]


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_row_with_more_trials_than_slots_is_one_pack(slots: int) -> None:
    packs = plan_packs([*rivals("a", 4), *rivals("b", 4)], Packing(slots=slots))
    assert [ids(pack.trials) for pack in packs] == [["a0", "a1", "a2", "a3"], ["b0", "b1", "b2", "b3"]]


def test_without_rivals_packs_are_as_before() -> None:
    packs = plan_packs(loners("t", 10), Packing(slots=4))
    assert [len(pack.trials) for pack in packs] == [4, 3, 3]
    assert [unit[0].spec.id for unit in inseparable(loners("t", 3))] == ["t0", "t1", "t2"]


def test_what_finished_rivals_recorded_is_read_back(tmp_path: Path) -> None:
    row_a, row_b = rivals("a", 4), rivals("b", 2)
    first = Rung(step=3, num_steps=12, score=0.4, loss=float("inf"), went_on={"a2": 0.9, "a3": 0.8})
    write_result(tmp_path, result("a0", "stopped", [first]))
    write_result(tmp_path, result("a1", "diverged"))
    assert read_result(tmp_path, "a0").rungs[0].loss is None, "JSON has no infinity"
    one, two = halvings(tmp_path, [*row_a[2:], *row_b, *loners("u", 2)], 500)
    assert (one.running, two.running) == (("a2", "a3"), ("b0", "b1"))
    for trial, score in (("a2", 0.1), ("a3", 0.7)):
        one.arrive(trial, step=3, num_steps=12, score=score, loss=1.0)
    assert {rung.went_on == first.went_on for rung in one.decide().values()} == {True}
    for trial, score in (("a2", 0.1), ("a3", 0.7)):
        one.arrive(trial, step=6, num_steps=12, score=score, loss=1.0)
    assert {name: dict(rung.went_on) for name, rung in one.decide().items()} == {"a2": {"a3": 0.7}, "a3": {"a3": 0.7}}


def test_a_stopped_trial_is_never_chosen() -> None:
    stopped = result("a", "stopped", [Rung(step=3, num_steps=12, score=0.99, loss=0.1, went_on={})], lr=1e-2)
    assert choose_lr([stopped, result("b", "done", lr=1e-4)], "accuracy", 500) == 1e-4
    assert choose_lr([stopped], "accuracy", 500) is None


class DyingWorker:
    """Stands for a worker process: the first two die over their packs, one after its first trial; others train all."""

    packs: list[PlannedPack] = []  # noqa: RUF012  of all workers, in the order given

    def __init__(self, number: int, process: Any, events: "queue.Queue[Any]") -> None:
        self.pack: PlannedPack | None = None
        self.ready, self.log, self.events = False, [], events
        self.process = SimpleNamespace(wait=lambda: -9, returncode=-9, terminate=lambda: None)
        events.put((self, {"event": "ready"}))

    def give(self, pack: PlannedPack, done: frozenset[str], ticket: Ticket) -> None:
        self.pack = pack
        self.packs.append(pack)
        if len(self.packs) == 1:
            self.events.put((self, {"event": "finished", "trial": pack.trials[0].spec.id}))
        else:
            assert ("a0" in done) == ("a0" in ids(pack.trials))
        if len(self.packs) <= 2:
            self.events.put((self, None))
            return
        for trial in pack.trials:
            self.events.put((self, {"event": "finished", "trial": trial.spec.id}))
        self.events.put((self, {"event": "pack"}))

    def dismiss(self) -> None:
        pass


def test_rivals_orphaned_by_a_worker_are_trained_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_Worker", DyingWorker)
    monkeypatch.setattr(DyingWorker, "packs", [])
    pack = PlannedPack(id="p", trials=(*rivals("a", 3), *rivals("b", 2), *loners("u", 2)), slots=8)
    lost: list[str] = []
    workers = launch.Workers(tmp_path, 1, 1, start=lambda *_: SimpleNamespace())
    workers.run([pack], frozenset(), lambda event: None, lambda trial, error: lost.append(trial.spec.id))
    assert DyingWorker.packs[1] == pack, "it goes on once as it was, from its checkpoint"
    assert [ids(given.trials) for given in DyingWorker.packs[2:]] == [["a1", "a2"], ["b0", "b1"], ["u0"], ["u1"]]
    assert {given.slots for given in DyingWorker.packs[2:]} == {1}
    assert pack.id not in {given.id for given in DyingWorker.packs[2:]}, "another pack, with checkpoints of its own"
    assert lost == []


def test_a_misspelled_rule_is_told() -> None:
    with pytest.raises(ConfigError, match=r"protocol.stop: must be one of none, halving; found 'halvin'; did you mean"):
        build_study({"model": "minilm", "data": "helpdesk", "protocol": {"stop": "halvin"}})
