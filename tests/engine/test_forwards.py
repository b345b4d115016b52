"""Several forwards in a step: each has draws of its own, and a later one is compared with the earlier ones."""

import pytest
import torch

from remora.methods.base import LinearChange
from remora.methods.lora import LoRA
from tests.contract.checks import largest_difference
from tests.tiny import tiny_base
from tests.trials import add_method, record_steps, run, spec, toy_data, toy_examples

DATA = toy_data(toy_examples(10))
QUIET = {"base_dropout": False, "warmup": 0.0, "splits": ()}
FACTORS = (1.0, 2.5, -1.0)


class Thrice(LoRA):
    """Three forwards with scales of their own; what differs from the last one joins the loss."""

    pull = 1.0

    def num_forwards(self):
        return 3

    def before_forward(self, adapter, step, forward):
        adapter.drawn = {site.id: {"factor": torch.tensor(FACTORS[forward])} for site in adapter.sites}

    def change(self, state, site, base):
        factor = float(state.get("factor", 1.0))
        return LinearChange(A=state["lora_A"] + 1, B=state["lora_B"] + 0.1, scale=factor)

    def agreement(self, logits_NC, earlier):
        assert all(not other.requires_grad and other.shape == logits_NC.shape for other in earlier)
        return self.pull * (logits_NC - earlier[-1]).square().sum(1) * len(earlier)


class Scaled(Thrice):
    """One forward at a time."""

    forward = 0

    def num_forwards(self):
        return 1

    def before_forward(self, adapter, step, forward):
        super().before_forward(adapter, step, self.forward)


class Indifferent(Thrice):
    """Compares, and makes nothing of it."""

    def agreement(self, logits_NC, earlier):
        return None


def test_mean_of_forwards_with_draws_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for toy in (Indifferent, Scaled):
        add_method(monkeypatch, toy)
    steps = record_steps(monkeypatch)
    base = tiny_base("bert", torch.float64)
    run(base, DATA, [spec("indifferent", id="all", max_steps=1, **QUIET)])
    for forward in range(3):
        monkeypatch.setattr(Scaled, "forward", forward)
        run(base, DATA, [spec("scaled", id=f"{forward}", max_steps=1, **QUIET)])
    losses = [steps[f"{forward}"][0].loss for forward in range(3)]
    assert max(losses) - min(losses) > 1e-3
    assert steps["all"][0].loss == pytest.approx(sum(losses) / 3, rel=1e-6)
    for name, grad in steps["all"][0].grads.items():
        torch.testing.assert_close(grad, sum(steps[f"{forward}"][0].grads[name] for forward in range(3)) / 3)


def test_comparison_joins_loss_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a mean over examples, and linear in its weight."""
    add_method(monkeypatch, Thrice)
    steps = record_steps(monkeypatch)
    base = tiny_base("bert", torch.float64)
    for pull in (0.0, 1.0, 2.0):
        monkeypatch.setattr(Thrice, "pull", pull)
        run(base, DATA, [spec("thrice", id=f"{pull}", max_steps=1, batch_size=10, **QUIET)])
    none, once, twice = (steps[key][0] for key in ("0.0", "1.0", "2.0"))
    assert once.loss - none.loss > 1e-3
    assert twice.loss - none.loss == pytest.approx(2 * (once.loss - none.loss), rel=1e-4)
    for name, grad in once.grads.items():
        torch.testing.assert_close(twice.grads[name] - none.grads[name], 2 * (grad - none.grads[name]))


def test_examples_meet_their_own_logits_however_a_step_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    add_method(monkeypatch, Thrice)
    base = tiny_base("bert", torch.float64)
    trial = spec("thrice", id="x", epochs=2, batch_size=6, base_dropout=False)
    beside = spec("lora", epochs=2, batch_size=3)
    whole = run(base, DATA, [trial])["x"]
    for tokens in (1, 30):
        assert largest_difference(whole, run(base, DATA, [beside, trial], tokens_per_pass=tokens)["x"]) < 1e-9
