"""Methods that transform a site's output: at parts of fused layers, beside other lanes, with dropout and notes."""

import math

import pytest
import torch

from remora.engine.driver import Driver
from remora.engine.layout import LaneBatch
from remora.methods.base import LinearChange, LogRange, Method, SiteState
from remora.methods.lora import LoRA
from tests.contract.checks import fresh_adapter
from tests.tiny import tiny_base
from tests.trials import toy_examples

EXAMPLES = toy_examples(5)


class Scale(Method):
    """Trebles queries and values by its own computation, or declares that for the engine."""

    lr_range = LogRange(1e-3, 1e-2)
    by_transform = True

    @property
    def targets(self):
        return ("attention.q", "attention.v")

    def transforms(self, site):
        return self.by_transform

    def init(self, site, base, shared, rng):
        return SiteState(trained={"scale": torch.full((site.out_features,), 3.0)})

    def change(self, state, site, base):
        bias = None if base.bias is None else (state["scale"] - 1) * base.bias
        return LinearChange(out_scale=state["scale"], bias=bias)

    def transform(self, state, site, base, x_TD, y_TD, rows):
        assert y_TD.shape[1] == site.out_features
        return y_TD * state["scale"]


class Declared(Scale):
    by_transform = False


class Drops(Scale):
    """Drops half of the queries' inputs and writes down what it did at the value's."""

    def transform(self, state, site, base, x_TD, y_TD, rows):
        if site.name == "attention.q":
            rows.notes["dropped"] = rows.dropout(torch.ones_like(y_TD), 0.5)
            return y_TD * rows.notes["dropped"] * state["scale"]
        return y_TD + rows.notes["dropped"].mean() * state["scale"]


class Breaks(Scale):
    def transform(self, state, site, base, x_TD, y_TD, rows):
        return y_TD * math.nan * state["scale"]


def method(cls: type[Method]) -> Method:
    return cls(cls.Config())


def outputs(
    arch: str, classes: list[type[Method] | None], *, training: bool = False
) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
    """Hidden states of each lane's rows and the gradient of its first tensor, in float64."""
    with Driver(tiny_base(arch, torch.float64)) as driver:
        lanes = [
            LaneBatch(ids=EXAMPLES.ids, type_ids=EXAMPLES.type_ids, index=range(5), dropout_key=7, base_dropout=False)
            for _ in classes
        ]
        layout = driver.lay_out(lanes, training=training)
        adapters = [None if cls is None else fresh_adapter(method(cls), driver) for cls in classes]
        firsts = [None if adapter is None else next(iter(adapter.trained().values())) for adapter in adapters]
        leaves = [value.requires_grad_() for value in firsts if value is not None]
        hidden = driver.forward(layout, adapters)
        hidden.square().sum().backward()
        grads = [None if value is None else value.grad for value in firsts]
        assert len(leaves) == sum(grad is not None for grad in grads)
        return [hidden[rows].detach() for rows in layout.lane_rows], grads


@pytest.mark.parametrize("arch", ["bert", "gpt2", "gpt_neox", "phi3", "mpnet", "deberta-v3", "albert"])
def test_a_transform_equals_the_same_declared_change(arch: str) -> None:
    (mine,), (my_grad,) = outputs(arch, [Scale])
    (theirs,), (their_grad,) = outputs(arch, [Declared])
    (plain,) = outputs_without(arch)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(my_grad, their_grad, rtol=1e-6, atol=1e-6)
    assert float((mine - plain).abs().max()) > 1e-2


def outputs_without(arch: str) -> list[torch.Tensor]:
    with torch.no_grad(), Driver(tiny_base(arch, torch.float64)) as driver:
        lane = LaneBatch(ids=EXAMPLES.ids, type_ids=EXAMPLES.type_ids, index=range(5))
        return [driver.forward(driver.lay_out([lane], training=False), [None])]


@pytest.mark.parametrize("arch", ["bert", "gpt2", "mpnet"])
def test_lanes_with_changes_transforms_and_nothing_do_not_touch_each_other(arch: str) -> None:
    classes: list[type[Method] | None] = [None, Drops, LoRA, Scale, Breaks, Declared, None]
    together, grads = outputs(arch, classes, training=True)
    for cls, mine, grad in zip(classes, together, grads, strict=True):
        (alone,), (own,) = outputs(arch, [cls], training=True) if cls is not None else (outputs_without(arch), [None])
        if cls is Breaks:
            assert bool(mine.isnan().all(1).any())
            continue
        torch.testing.assert_close(mine, alone, rtol=1e-10, atol=1e-10)
        if grad is not None:
            torch.testing.assert_close(grad, own, rtol=1e-9, atol=1e-9)


def test_dropout_of_a_transform_is_off_outside_training_and_halves_inside() -> None:
    (still,), _ = outputs("bert", [Drops])
    (again,), _ = outputs("bert", [Drops])
    (moving,), _ = outputs("bert", [Drops], training=True)
    assert torch.equal(still, again)
    assert not torch.allclose(still, moving)


class Places(Method):
    """Adds to every row of a layer's output what it was told of the row."""

    lr_range = LogRange(1e-3, 1e-2)
    site_kinds = ("block",)

    @property
    def targets(self):
        return ("block",)

    def init(self, site, base, shared, rng):
        return SiteState(trained={"zero": torch.zeros(1)})

    def transform(self, state, site, base, x_TD, y_TD, rows):
        told = torch.stack([rows.sequence_T, rows.place_T, rows.length_T], 1)
        return torch.cat([told.to(y_TD.dtype), y_TD[:, 3:]], 1) + state["zero"]


@pytest.mark.parametrize("arch", ["bert", "mpnet"])
def test_a_method_knows_where_its_rows_stand(arch: str) -> None:
    """Also with another lane before it, virtual tokens of that lane, and padding."""
    with torch.no_grad(), Driver(tiny_base(arch)) as driver:
        lanes = [
            LaneBatch(ids=EXAMPLES.ids[:2], type_ids=EXAMPLES.type_ids[:2], index=range(2), num_virtual=1),
            LaneBatch(ids=EXAMPLES.ids, type_ids=EXAMPLES.type_ids, index=range(5)),
        ]
        layout = driver.lay_out(lanes, training=False)
        hidden = driver.forward(layout, [None, fresh_adapter(method(Places), driver)])
    for sequence, ids in enumerate(EXAMPLES.ids):
        number = sequence + 2
        start = int(layout.start_S[number])
        told = hidden[start : start + len(ids), :3].long().tolist()
        assert told == [[sequence, place, len(ids)] for place in range(len(ids))]
