"""The flat optimizer against torch's AdamW on separate tensors, and schedules against transformers' own."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from remora.engine.optim import FlatAdamW, ParamRule, lr_factor

SHAPES = {"A": (3, 4), "bias": (5,), "B": (4, 2), "scale": (1,)}
RULES = {"A": ParamRule(), "B": ParamRule(lr_multiplier=16.0), "bias": ParamRule(decay=False)}


def values(seed: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=rng) for name, shape in SHAPES.items()}


def flat(start: dict[str, Tensor], **settings: float) -> FlatAdamW:
    return FlatAdamW(
        start, lambda name, value: RULES.get(name, ParamRule(decay=False)), **{"weight_decay": 0.1, **settings}
    )


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e9])
def test_equals_torchs_adamw(clip: float) -> None:
    start = values(0)
    mine = flat(start)
    theirs = {name: value.clone().requires_grad_() for name, value in start.items()}
    groups = [
        {
            "params": [value],
            "weight_decay": 0.1 if RULES.get(name, ParamRule(decay=False)).decay else 0.0,
            "times": RULES.get(name, ParamRule()).lr_multiplier,
        }
        for name, value in theirs.items()
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, fused=False, foreach=False)
    for step in range(20):
        lr = 1e-2 * (step + 1) / 20
        mine.zero_grad()
        for name, gradient in values(step + 1).items():
            mine.params[name].grad.add_(gradient)
            theirs[name].grad = gradient.clone()
        norm = torch.stack([value.grad.norm() for value in theirs.values()]).norm()
        if clip > 0:
            torch.nn.utils.clip_grad_norm_(list(theirs.values()), clip)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["times"]
        optimizer.step()
        assert float(mine.step(lr, clip)) == pytest.approx(float(norm), rel=1e-5)
    for name, value in theirs.items():
        torch.testing.assert_close(mine.params[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_updates_nothing(bad: float) -> None:
    optimizer = flat(values(0))
    before = optimizer.snapshot()
    optimizer.params["B"].grad[0, 0] = bad
    assert not math.isfinite(optimizer.step(1e-2, 1.0))
    assert torch.equal(optimizer.snapshot(), before)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_hook_changes_values_unless_the_lane_has_stopped(stopped: bool) -> None:
    optimizer = flat(values(0))
    if stopped:
        optimizer.params["B"].grad[0, 0] = math.inf
        optimizer.step(1e-2, 1.0)
    before = optimizer.snapshot()
    with torch.no_grad(), optimizer.unless_stopped():
        optimizer.params["A"].add_(1.0)
    assert torch.equal(optimizer.snapshot(), before) == stopped


def test_restore_reaches_the_parameters() -> None:
    optimizer = flat(values(0))
    before = optimizer.snapshot()
    for value in optimizer.params.values():
        value.grad.fill_(1.0)
    optimizer.step(0.1, 0.0)
    assert not torch.equal(optimizer.params["A"], values(0)["A"])
    optimizer.restore(before)
    assert all(torch.equal(optimizer.params[name], value) for name, value in values(0).items())


def test_nothing_to_train() -> None:
    assert FlatAdamW({}, lambda name, value: ParamRule(), weight_decay=0.1).step(1.0, 1.0).item() == 0.0


@pytest.mark.parametrize("num_steps", [1, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.06, 0.5, 1.0])
def test_schedules_are_transformers(num_steps: int, warmup: float) -> None:
    num_warmup = math.ceil(num_steps * warmup)
    makers = {
        "linear": lambda o: get_linear_schedule_with_warmup(o, num_warmup, num_steps),
        "constant": lambda o: get_constant_schedule_with_warmup(o, num_warmup),
    }
    for name, make in makers.items():
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        scheduler = make(optimizer)
        for step in range(num_steps):
            mine = lr_factor(step, num_steps, warmup, name)  # type: ignore[arg-type]
            np.testing.assert_allclose(mine, scheduler.get_last_lr()[0], rtol=1e-12)
            optimizer.step()
            scheduler.step()


def test_every_tensor_starts_where_torch_would_put_it() -> None:
    """Products of the same values at another alignment can differ in the last bit; a reloaded adapter must not."""
    optimizer = flat(values(0))
    for name, value in optimizer.params.items():
        assert value.data_ptr() % 64 == 0
        assert value.grad.data_ptr() % 64 == 0
        assert torch.equal(value, values(0)[name])
