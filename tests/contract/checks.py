"""What every method must keep, as functions, so that deliberately wrong methods can be held against them too."""

import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from remora.engine.driver import Driver
from remora.engine.layout import LaneBatch
from remora.engine.pooling import pooled_rows
from remora.engine.trial import Examples, TrialOutcome
from remora.methods.base import AdapterTensors, Method, init_adapter
from remora.models.base import Base
from tests import naive
from tests.trials import RecordedStep, padded


def fresh_adapter(method: Method, driver: Driver, seed: int = 0) -> AdapterTensors:
    """A new adapter with tensors in the base's dtype."""
    sites = method.sites(driver.base)
    adapter = init_adapter(method, sites, driver.site_weights, seed)
    dtype = driver.base.dtype
    adapter.shared = {name: value.to(dtype) for name, value in adapter.shared.items()}
    for state in adapter.states.values():
        state.frozen = {
            name: value.to(dtype) if value.is_floating_point() else value for name, value in state.frozen.items()
        }
        state.trained = {name: value.to(dtype) for name, value in state.trained.items()}
    return adapter


def rows_read(driver: Driver, examples: Examples, adapter: AdapterTensors | None) -> Tensor:
    """(n, D) rows that the head reads."""
    total, prefix = (0, 0) if adapter is None else (adapter.method.num_virtual_tokens, adapter.method.num_prefix_tokens)
    batch = LaneBatch(
        ids=examples.ids,
        type_ids=examples.type_ids,
        index=range(len(examples)),
        num_virtual=total - prefix,
        num_prefix=prefix,
    )
    layout = driver.lay_out([batch], training=False)
    with torch.no_grad():
        return pooled_rows(driver.forward(layout, [adapter]), layout, driver.base.pooling)[0]


def check_identity(method: Method, base: Base, examples: Examples) -> None:
    """A method that says its start is the base itself computes what the base computes; one that does not, does not."""
    with Driver(base) as driver:
        plain = rows_read(driver, examples, None)
        changed = rows_read(driver, examples, fresh_adapter(method, driver))
    difference = float((changed - plain).abs().max())
    assert (difference < 1e-12) == method.identity_at_init, f"differs by {difference}"


def check_gradients_flow(method: Method, steps: list[RecordedStep], site_names: Mapping[str, str]) -> None:
    """Every trained tensor has a gradient by the second step, unless declared.

    Args:
        method: the method.
        steps: at least two recorded steps.
        site_names: portable name by site key.
    """
    for name in steps[0].adapter:
        key, short = name.rsplit(".", 1)
        if f"{site_names.get(key, key)}.{short}" in method.zero_gradients:
            continue
        largest = max(float(step.grads[name].abs().max()) for step in steps[:2])
        assert largest > 1e-10, f"{name} has no gradient"


def check_trains_only_its_own(steps: list[RecordedStep], outcome: TrialOutcome) -> None:
    """Trained tensors move (and may be pruned again), frozen ones stay bit for bit, and the count is true."""
    before = steps[0]
    assert outcome.num_params["adapter"] == sum(value.numel() for value in outcome.adapter.values())
    assert outcome.num_params["head"] == sum(value.numel() for value in outcome.head.values())
    for name, start in before.adapter.items():
        later = [*(step.adapter[name] for step in steps[1:]), outcome.adapter[name]]
        assert not all(torch.equal(start, value) for value in later), f"{name} did not move"
    assert set(before.frozen) == set(outcome.frozen)
    for name, start in before.frozen.items():
        assert torch.equal(start, outcome.frozen[name]), f"{name} moved"


def check_naive(
    base: Base,
    model: torch.nn.Module,
    method: Method,
    examples: Examples,
    steps: list[RecordedStep],
    tolerance: float | None = None,
) -> None:
    """Losses and gradients are those of the paper's formula on padded batches, in float64.

    To 1e-9; norms, rotations and softmax of LLaMA and Gemma 2 compute in float32 whatever comes in, so there to 5e-6.
    """
    atol = tolerance or (5e-6 if base.arch.model_type in ("llama", "gemma2") else 1e-9)
    for step in steps:
        values = {name: value.clone().requires_grad_() for name, value in step.adapter.items()}
        own = {name: value.clone().requires_grad_() for name, value in {**step.head, **step.base}.items()}
        # In float64 transformers' Gemma 2 makes NaN of padding beyond its window, so its sequences come one by one.
        together = [[i] for i in step.chosen] if base.arch.model_type == "gemma2" else [step.chosen]
        batches = [padded(examples, chosen, int(base.config.pad_token_id or 0)) for chosen in together]
        targets = torch.from_numpy(examples.targets[step.chosen])
        loss = naive.loss(model, base, method, {**step.frozen, **step.drawn}, values, own, batches, targets)
        loss.backward()
        assert abs(loss.item() - step.loss) < max(1e-6 * max(1.0, step.loss), atol)  # the loop keeps losses in float32
        for name, value in {**values, **own}.items():
            if not value.numel():
                continue  # dropped by a search
            assert value.grad is not None, f"{name} is not part of the formula"
            difference = float((step.grads[name] - value.grad).abs().max())
            assert difference < atol * max(1.0, float(value.grad.abs().max())), (
                f"gradient of {name} off by {difference}"
            )


def largest_difference(one: TrialOutcome, other: TrialOutcome, *, without: str = "^$") -> float:
    """Over trained tensors, losses and logits; the number of steps and the status must agree.

    Logits are kept in float32, so two that differ in the last place only count as next to nothing, though not as equal.
    Tensors whose names match ``without`` are left out.
    """
    assert (one.status, one.step) == (other.status, other.step)
    found = [abs(one.losses["train"] - other.losses["train"])]
    for part in ("adapter", "head", "base_weights", "logits"):
        mine, theirs = getattr(one, part), getattr(other, part)
        assert set(mine) == set(theirs)
        for name in mine:
            if not re.search(without, name):
                a, b = np.asarray(mine[name], np.float64), np.asarray(theirs[name], np.float64)
                gap = np.abs(a - b)
                if part == "logits":
                    last_place = np.spacing(np.maximum(np.abs(a), np.abs(b)).astype(np.float32))
                    gap = np.where((gap > 0) & (gap <= last_place), np.finfo(np.float64).tiny, gap)
                found.append(float(gap.max(initial=0)))
    return float(np.max(found))  # NaN where any is


@contextmanager
def no_global_randomness() -> Iterator[None]:
    """Fails when torch's, numpy's or Python's global random state moved inside the block."""
    before = (torch.get_rng_state(), np.random.get_state(), random.getstate())
    yield
    assert torch.equal(before[0], torch.get_rng_state()), "torch's global state was drawn from"
    assert all(np.array_equal(a, b) for a, b in zip(before[1], np.random.get_state(), strict=True)), "numpy's was"
    assert before[2] == random.getstate(), "Python's was"
