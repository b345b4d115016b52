"""Small trials on tiny models: random data, packs, and lanes whose steps are recorded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from remora.engine import loop
from remora.engine.driver import Driver
from remora.engine.lanes import Lane
from remora.engine.trial import Examples, TrialData, TrialOutcome, TrialSpec
from remora.methods import registry
from remora.methods.base import Method
from remora.models.base import Base
from tests.tiny import VOCAB


class ToyTask:
    """Cross-entropy and accuracy; squared error and its negative where there is one output."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if logits.shape[1] == 1:
            return (logits[:, 0] - targets.to(logits.dtype)).square()
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    def metrics(self, targets: np.ndarray, logits: np.ndarray) -> dict[str, float]:
        if logits.shape[1] == 1:
            return {"minus_mse": -float(np.mean((logits[:, 0] - targets) ** 2))}
        return {"accuracy": float((logits.argmax(1) == targets).mean())}


def toy_examples(num: int, *, low: int = 3, high: int = 12, seed: int = 0, num_outputs: int = 2) -> Examples:
    """Random sentences of `low` to `high` tokens, with segments, classes in turn or random numbers."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(5, VOCAB, int(length)) for length in rng.integers(low, high + 1, num)]
    type_ids = [(np.arange(len(row)) > len(row) // 2).astype(np.int64) for row in ids]
    targets = rng.normal(size=num).astype(np.float32) if num_outputs == 1 else np.arange(num) % num_outputs
    return Examples(ids=ids, type_ids=type_ids, targets=targets)


def toy_data(train: Examples, *, validation: Examples | None = None, num_outputs: int = 2) -> TrialData:
    """Data whose splits do not depend on the room for virtual tokens."""
    splits = {"train": train, "validation": validation or train, "test": validation or train}
    return TrialData(task=ToyTask(), num_outputs=num_outputs, split=lambda name, room: splits[name], fingerprint="toy")


def spec(method: str, settings: dict[str, Any] | None = None, **fields: Any) -> TrialSpec:
    """A trial with a large learning rate, no curve, evaluated on validation."""
    given = {"id": f"{method} {settings}", "lr": 1e-2, "epochs": 2, "batch_size": 4, "curve": False}
    given |= {"splits": ("validation",), **fields}
    return TrialSpec(method=method, settings=settings or {}, **given)


def run(
    base: Base, data: TrialData, specs: Sequence[TrialSpec], *, slots: int = 8, tokens_per_pass: int = 2400
) -> dict[str, TrialOutcome]:
    """Outcomes by trial id."""
    with Driver(base) as driver:
        outcomes = list(loop.run_pack(driver, data, specs, slots=slots, tokens_per_pass=tokens_per_pass))
    return {outcome.spec.id: outcome for outcome in outcomes}


@dataclass(frozen=True, kw_only=True)
class RecordedStep:
    """A lane just before an optimizer step: values, what was drawn, gradients, the examples of the batch, the loss."""

    loss: float
    chosen: np.ndarray
    adapter: dict[str, Tensor]
    frozen: dict[str, Tensor]
    drawn: dict[str, Tensor]
    head: dict[str, Tensor]
    base: dict[str, Tensor]
    grads: dict[str, Tensor]


def record_steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[RecordedStep]]:
    """Make every lane of the loop write down its steps.

    Returns:
        Recorded steps by trial id, filled while trials run.
    """
    steps: dict[str, list[RecordedStep]] = {}

    class RecordingLane(Lane):
        def update(self, loss: Tensor) -> None:
            params = self.optimizer.params
            frozen = {
                f"{key}.{name}": value
                for key, state in self.adapter.states.items()
                for name, value in state.frozen.items()
            }
            steps.setdefault(self.spec.id, []).append(
                RecordedStep(
                    loss=float(loss),
                    chosen=self.indices().copy(),
                    adapter={name: value.detach().clone() for name, value in self.adapter.trained().items()},
                    frozen={name: value.clone() for name, value in {**frozen, **self.adapter.shared}.items()},
                    drawn={f"{k}.{name}": v for k, of in self.adapter.drawn.items() for name, v in of.items()},
                    head={name: value.detach().clone() for name, value in self.head_params.items()},
                    base={name: value.detach().clone() for name, value in self.base_params.items()},
                    grads={name: _grad(value) for name, value in params.items()},
                )
            )
            super().update(loss)

    monkeypatch.setattr(loop, "Lane", RecordingLane)
    return steps


def _grad(value: Tensor) -> Tensor:
    assert value.grad is not None
    return value.grad.clone()


def add_method(monkeypatch: pytest.MonkeyPatch, cls: type[Method]) -> type[Method]:
    """Make a toy method known for one test, under its class's name in lower case."""
    registry.list_methods()
    cls.name = cls.__name__.lower()
    monkeypatch.setitem(registry._METHODS, cls.name, cls)
    return cls


def padded(examples: Examples, chosen: Sequence[int] | np.ndarray, pad_id: int) -> dict[str, Tensor]:
    """Examples as transformers takes them: padded on the right, with an attention mask."""
    width = max(len(examples.ids[i]) for i in chosen)
    shape = (len(chosen), width)
    ids, types = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.int64)
    mask = torch.zeros(shape, dtype=torch.int64)
    for row, i in enumerate(chosen):
        length = len(examples.ids[i])
        ids[row, :length] = torch.from_numpy(examples.ids[i])
        types[row, :length] = torch.from_numpy(examples.type_ids[i])
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
