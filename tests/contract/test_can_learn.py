"""Every method can learn: with a frozen random head it makes 64 real sentences fit, on the real pretrained model."""

import gzip
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from remora.data.tokenize import TextEncoder
from remora.engine import loop
from remora.engine.lanes import Lane
from remora.engine.trial import Examples, TrialData
from remora.models.base import Base
from remora.models.load import load_base
from tests.contract.cases import ADAPTER_CASES, Case
from tests.trials import run, spec, toy_data

STEPS, ENOUGH = 300, 0.47
COMMON = {"batch_size": 8, "epochs": STEPS, "max_steps": STEPS, "weight_decay": 0.0, "base_dropout": False}


class FrozenHeadLane(Lane):
    """Its head stays as drawn; it stops early once the last losses are low, to save time."""

    def update(self, loss: torch.Tensor) -> None:
        for value in self.head_params.values():
            assert value.grad is not None
            value.grad.zero_()
        super().update(loss)

    @property
    def finished(self) -> bool:
        return super().finished or (self.step >= 40 and float(np.mean(self.losses[-8:])) < ENOUGH)


def short_sentences(folder: Path, tokenizer: object) -> Examples:
    """32 short sentences of either class."""
    by_class: defaultdict[str, list[str]] = defaultdict(list)
    with gzip.open(folder / "sst2" / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if 6 <= len(row["sentence"].split()) <= 9 and len(by_class[row["label"]]) < 32:
                by_class[row["label"]].append(row["sentence"])
    texts = [(text,) for label in sorted(by_class) for text in by_class[label]]
    encoded = TextEncoder(tokenizer).encode_texts(texts, 64)
    assert encoded.type_ids is not None
    return Examples(ids=encoded.ids, type_ids=encoded.type_ids, targets=np.repeat([0, 1], 32))


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("minilm", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def data(base: Base, shared_data: Path) -> TrialData:
    return toy_data(short_sentences(shared_data, base.tokenizer))


@pytest.fixture(scope="module")
def quantised_base() -> Base:
    return load_base("minilm", dtype=torch.bfloat16, quantization="nf4")


def untouched(base: Base, data: TrialData) -> float:
    """Accuracy of the untouched base under the frozen random head."""
    trial = spec("lora", id="untouched", lr=1e-12, **{**COMMON, "max_steps": 1})
    return run(base, data, [trial])["untouched"].metrics["validation"]["accuracy"]


@pytest.fixture(scope="module")
def start(base: Base, data: TrialData) -> float:
    return untouched(base, data)


@pytest.mark.real
@pytest.mark.parametrize("case", [case for case in ADAPTER_CASES if case.number == 0], ids=lambda case: case.name)
def test_every_method_can_learn(
    case: Case,
    base: Base,
    data: TrialData,
    start: float,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if case.quantization != "none":
        base = request.getfixturevalue("quantised_base")
        start = untouched(base, data)
    monkeypatch.setattr(loop, "Lane", FrozenHeadLane)
    assert start < 0.8
    bound = max(case.cls.min_train_accuracy, start + 0.1)
    reached: dict[float, float | str] = {}
    for point in (2, 3, 1):  # of the four learning rates that tuning would try
        lr = case.cls.lr_range.grid(4)[point]
        (outcome,) = run(base, data, [spec(case.name, case.settings, lr=lr, **COMMON)]).values()
        assert outcome.grad_norm["min"] > 0
        done = outcome.status == "done"
        reached[lr] = outcome.metrics["validation"]["accuracy"] if done else outcome.status
        if done and outcome.metrics["validation"]["accuracy"] >= bound:
            return
    raise AssertionError(f"{bound:.3f} was to be reached, by learning rate it came to {reached}")
