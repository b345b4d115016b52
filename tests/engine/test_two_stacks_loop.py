"""Trials on encoder-decoders through the loop: beside others and alone, in one pass or several, diverging or not."""

from typing import Any

import numpy as np
import pytest
import torch

from remora.engine import lanes
from remora.engine.trial import TrialData, TrialOutcome, TrialSpec
from remora.errors import ConfigError
from remora.models.base import Base
from tests.contract.cases import DENSE_CASES, Case
from tests.contract.checks import largest_difference, no_global_randomness
from tests.seq2seq import CROSS, WritingHead, WrittenTask, seq2seq_base, seq2seq_examples
from tests.tiny import VOCAB
from tests.trials import record_steps, run, spec

NUM_STEPS = 20
SITES = ("attention.q", "attention.v", *CROSS)
SPLITS = {"train": seq2seq_examples(12), "validation": seq2seq_examples(5, seed=1)}
DATA = TrialData(
    task=WrittenTask(), num_outputs=VOCAB, split=lambda name, room: SPLITS[name], fingerprint="toy", head="lm"
)
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"targets": SITES, "dropout": 0.2, "rank": 2},
    "dora": {"targets": SITES, "dropout": 0.1, "rank": 2},
    "ia3": {"targets": ("attention.v", "cross.k", "cross.v", "ffn.down")},
    "bitfit": {},
    "adapter-houlsby": {"bottleneck": 4, "dropout": 0.1},
    "prompt-tuning": {"num_virtual_tokens": 3, "init": "normal"},
    "loreft": {"rank": 2, "first": 1, "last": 2},
    "adalora": {"targets": SITES},
    "fish-mask": {"targets": SITES},
    "full": {},
}


@pytest.fixture(autouse=True)
def _writing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "head_for", lambda base, *_: WritingHead(base=base, num_outputs=VOCAB, kind="lm"))


def trial(method: str, **fields: Any) -> TrialSpec:
    given = {"id": method, "epochs": 10, "max_steps": NUM_STEPS, "batch_size": 4, **fields}
    return spec(method, METHODS[method], **given)


def alone(base: Base, trials: list[TrialSpec]) -> dict[str, TrialOutcome]:
    return {one.id: run(base, DATA, [one], slots=1)[one.id] for one in trials}


@pytest.mark.parametrize(("name", "tolerance"), [("bart", 1e-9), ("t5", 1e-4)])
def test_trials_beside_others_are_what_they_are_alone(name: str, tolerance: float) -> None:
    """Of different methods, learning rates, batch sizes and lengths of training; T5's norms compute in float32."""
    base = seq2seq_base(name)
    before = base.hash()
    trials = [trial(method, batch_size=3 + number % 3, lr=3e-3) for number, method in enumerate(METHODS)]
    trials[1] = trial("dora", max_steps=7, seed=1, base_dropout=False)
    with no_global_randomness():
        packed = run(base, DATA, trials, slots=3)
        single = alone(base, trials)
    assert base.hash() == before
    for one in trials:
        assert (packed[one.id].status, packed[one.id].step) == ("done", 7 if one.id == "dora" else NUM_STEPS)
        assert (packed[one.id].lanes > 1) == (one.id != "full")
        assert largest_difference(packed[one.id], single[one.id]) < tolerance, one.id


@pytest.mark.parametrize(("name", "share"), [("bart", 0.6), ("t5", 0.9)])
def test_two_lanes_learn_to_write(name: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve texts by heart, T5 slowly, as it scales rows down; and nothing that is trained has no part in it."""
    base, steps = seq2seq_base(name), record_steps(monkeypatch)
    fields: dict[str, Any] = {"lr": 1e-2, "epochs": 40, "batch_size": 12, "base_dropout": False, "warmup": 0.0}
    settings = {"targets": ("linear",), "rank": 8, "alpha": 8, "dropout": 0.0}
    adapter = spec("adapter-houlsby", {"bottleneck": 16}, id="adapter", **fields)
    outcomes = run(base, DATA, [spec("lora", settings, id="lora", **fields), adapter])
    for key, outcome in outcomes.items():
        assert steps[key][-1].loss < share * steps[key][0].loss, key
        for trained in outcome.adapter:
            assert max(float(step.grads[trained].abs().max()) for step in steps[key][:2]) > 1e-9, trained
    assert outcomes["lora"].logits["validation"].shape == (5, 7, VOCAB)


NO_KEYS = {"prefix-tuning", "p-tuning-v2", "mam", "unipelt"}
"""They bring keys and values of their own, which attention of padded models takes none of."""
OTHERS = [case for case in DENSE_CASES if not case.number and case.name not in METHODS and case.name != "head"]


@pytest.mark.full_grid
@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case.name)
def test_every_other_method_trains_beside_itself_or_says_why_not(case: Case) -> None:
    base = seq2seq_base("bart")
    trials = [spec(case.name, case.settings, id=f"{seed}", seed=seed, max_steps=3, lr=3e-3) for seed in (0, 1)]
    if case.name in NO_KEYS:
        with pytest.raises(ConfigError, match="extra keys and values"):
            run(base, DATA, trials)
        return
    packed = run(base, DATA, trials)["1"]
    assert packed.status == "done"
    assert packed.grad_norm["min"] > 0
    assert largest_difference(packed, run(base, DATA, trials[1:])["1"]) < 1e-9


@pytest.mark.parametrize("num_layers", [1, 4])
def test_a_pass_runs_both_stacks_whatever_is_trained(num_layers: int) -> None:
    """Nothing below the last layers changes, yet there is no one state with which a pass could begin there."""
    settings = {"num_layers": num_layers}
    trials = [spec("top-layers", settings, id=f"{seed}", seed=seed, max_steps=3, base_dropout=False) for seed in (0, 1)]
    base = seq2seq_base("bart")
    packed = run(base, DATA, trials)["1"]
    assert largest_difference(packed, run(base, DATA, trials[1:])["1"]) < 1e-9
    assert packed.grad_norm["min"] > 0


@pytest.mark.parametrize("method", ["lora", "full", "adapter-houlsby"])
def test_a_step_in_several_passes_is_the_same_step(method: str) -> None:
    base = seq2seq_base("bart")
    whole = run(base, DATA, [trial(method)])[method]
    cut = run(base, DATA, [trial(method)], tokens_per_pass=25)[method]
    assert largest_difference(whole, cut) < 1e-9


def test_a_lane_that_diverges_changes_no_other() -> None:
    base = seq2seq_base("bart")
    good = trial("lora")
    beside = run(base, DATA, [trial("bitfit", lr=1e200, warmup=0.0), good])
    assert beside["bitfit"].status == "diverged"
    assert largest_difference(beside["lora"], alone(base, [good])["lora"]) < 1e-9


def test_evaluation_does_not_depend_on_how_texts_are_cut_into_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    from remora.engine import inference

    base = seq2seq_base("bart")
    expected = run(base, DATA, [trial("lora")])["lora"]
    monkeypatch.setattr(inference, "EVAL_TOKENS", 20)
    found = run(base, DATA, [trial("lora")])["lora"]
    np.testing.assert_allclose(found.logits["validation"], expected.logits["validation"], rtol=0, atol=1e-6)


def test_what_a_pass_holds_counts_both_stacks() -> None:
    examples = SPLITS["train"]
    assert examples.decoder_ids is not None
    sizes = [len(read) + len(written) for read, written in zip(examples.ids, examples.decoder_ids, strict=True)]
    assert examples.lengths.tolist() == sizes
    assert [examples.tokens(number, 3) for number in range(12)] == [size + 3 for size in sizes]
    part = examples.subset(np.array([3, 1]))
    assert part.decoder_ids is not None
    assert [row.tolist() for row in part.decoder_ids] == [examples.decoder_ids[i].tolist() for i in (3, 1)]


def test_bfloat16_trains() -> None:
    base = seq2seq_base("t5", torch.bfloat16)
    outcome = run(base, DATA, [trial("lora", lr=1e-2)])["lora"]
    assert outcome.status == "done"
    assert 0 < outcome.grad_norm["min"] < outcome.grad_norm["max"] < float("inf")
