"""Tensors that wait outside memory come back as they were, and leave nothing behind."""

import gc
from pathlib import Path

import pytest
import torch

from remora.engine.driver import Driver
from remora.engine.lanes import Lane
from remora.engine.loop import run_pack
from remora.engine.parking import Parked
from remora.engine.rungs import Halving
from tests.tiny import tiny_base
from tests.trials import spec, toy_data, toy_examples

DATA = toy_data(toy_examples(8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_come_back_to_the_bit_and_views_stay_views(dtype: torch.dtype, tmp_path: Path) -> None:
    whole = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=dtype)
    other = torch.arange(12, dtype=dtype).reshape(3, 4)
    view, before = whole[10:30].view(4, 5), (whole.clone(), other.clone())
    parked = Parked([whole, other], tmp_path)
    assert whole.untyped_storage().nbytes() == other.untyped_storage().nbytes() == 0
    assert list(tmp_path.iterdir()) == [], "the file has no name"
    parked.fetch()
    assert torch.equal(whole, before[0])
    assert torch.equal(other, before[1])
    whole[10] = 7.0
    assert view[0, 0] == 7.0


def test_a_pack_given_up_leaves_nothing_open(tmp_path: Path) -> None:
    """pytest turns the warning about a file that was not closed into an error."""
    specs = [spec("full", id=str(n), lr=10.0**-n, epochs=4) for n in range(4)]
    with Driver(tiny_base("bert")) as driver:
        halvings = [Halving([one.id for one in specs], 8)]
        outcomes = run_pack(driver, DATA, specs, slots=1, halvings=halvings, folder=tmp_path)
        assert next(outcomes).status == "stopped"
        outcomes.close()
    del outcomes
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_what_trains_the_base_is_parked_and_what_shares_it_is_not(tmp_path: Path) -> None:
    with Driver(tiny_base("bert")) as driver:
        for method, freed in (("full", True), ("lora", False)):
            lane = Lane(spec(method), driver, DATA)
            lane.optimizer.grad.fill_(1e-3)
            lane.update(torch.tensor(0.5))
            lane.remember_best(0.5)
            tensors = [*lane.optimizer.storage(), lane.optimizer.snapshot()]
            before = [tensor.clone() for tensor in tensors]
            assert len(tensors) >= 5, "values, gradients, two moments and a copy"
            lane.park(tmp_path)
            sizes = {tensor.untyped_storage().nbytes() == 0 for tensor in tensors[:-1]}
            assert sizes == {freed}
            lane.fetch()
            assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))
