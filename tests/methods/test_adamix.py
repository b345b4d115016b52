"""AdaMix: routes come from seed and step alone, evaluation is one averaged adapter, the divergence is as in books."""

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from remora.engine.driver import Driver
from remora.methods.adamix import divergence
from remora.methods.base import AdapterTensors, SiteState
from remora.methods.registry import get_method
from tests.contract.checks import fresh_adapter, rows_read
from tests.tiny import tiny_base
from tests.trials import RecordedStep, record_steps, run, spec, toy_data, toy_examples

EXAMPLES = toy_examples(8)
DATA = toy_data(EXAMPLES)
SETTINGS = {"bottleneck": 4, "num_modules": 3, "sharing": "none"}


def routes(steps: list[RecordedStep]) -> torch.Tensor:
    """(steps, sites, forwards, 2)."""
    names = sorted(name for name in steps[0].drawn if name.endswith("routes"))
    return torch.stack([torch.stack([step.drawn[name] for name in names]) for step in steps])


def test_routes_depend_on_seed_and_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = record_steps(monkeypatch)
    base = tiny_base("bert")
    common = {"epochs": 10, "max_steps": 20, "splits": ()}
    mine = [spec("adamix", SETTINGS, id=f"{k}", seed=k % 2, batch_size=4, **common) for k in range(2)]
    run(base, DATA, mine)
    first = [routes(steps[key]) for key in "01"]
    other = [spec("adamix", SETTINGS, id="again", seed=0, lr=1e-4, batch_size=4, **common), spec("lora", **common)]
    run(base, DATA, [other[1], other[0]], tokens_per_pass=20)
    assert torch.equal(routes(steps["again"]), first[0])
    assert not torch.equal(*first)
    assert first[0].unique().tolist() == [0, 1, 2]
    assert (first[0][:, :, 0] != first[0][:, :, 1]).any(), "both forwards have draws of their own"
    assert (first[0][:, 0] != first[0][:, 1]).any(), "so have sites"
    with Driver(base) as driver:
        adapter = fresh_adapter(get_method("adamix", SETTINGS), driver, mine[0].stream_seed("init"))
    adapter.method.before_step(adapter, 13, 20)  # as after a resume: nothing before it was drawn
    assert torch.equal(torch.stack([adapter.drawn[key]["routes"] for key in sorted(adapter.drawn)]), first[0][13])


@pytest.mark.parametrize("sharing", ["none", "up", "down"])
def test_evaluation_is_one_adapter_of_mean_weights(sharing: str) -> None:
    settings = {**SETTINGS, "sharing": sharing}
    with Driver(tiny_base("bert", torch.float64)) as driver:
        mixture = fresh_adapter(get_method("adamix", settings), driver)
        rng = torch.Generator().manual_seed(0)
        for state in mixture.states.values():
            for name, value in state.trained.items():
                state.trained[name] = value + 0.3 * torch.randn(value.shape, generator=rng, dtype=value.dtype)
            assert state.trained["down"].shape[0] == (1 if sharing == "down" else 3)
            assert state.trained["up"].shape[0] == (1 if sharing == "up" else 3)
        means = {
            key: SiteState(trained={name: sum(value) / len(value) for name, value in state.trained.items()})
            for key, state in mixture.states.items()
        }
        single = get_method("adapter-pfeiffer", {"bottleneck": 4, "activation": "gelu"})
        averaged = AdapterTensors(method=single, sites=mixture.sites, states=means, shared={})
        mixture.method.before_step(mixture, 0, 1)
        mixture.method.before_forward(mixture, 0, 0)
        torch.testing.assert_close(rows_read(driver, EXAMPLES, mixture), rows_read(driver, EXAMPLES, averaged))


def test_divergence() -> None:
    rng = torch.Generator().manual_seed(0)
    one, other = (3 * torch.randn(5, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    p, q = one.log_softmax(1), other.log_softmax(1)
    both = F.kl_div(p, q, reduction="none", log_target=True) + F.kl_div(q, p, reduction="none", log_target=True)
    torch.testing.assert_close(divergence(one, other), both.sum(1) / 2)
    torch.testing.assert_close(divergence(one[:, :1], other[:, :1]), (one - other)[:, 0] ** 2 / 2)


def test_one_sided_gradient_is_the_two_sided_one_in_expectation() -> None:
    """Over all pairs of routes, each as likely as the others."""
    method = get_method("adamix", {"consistency": 0.5})
    rng = torch.Generator().manual_seed(0)
    modules = torch.randn(3, 6, 4, generator=rng, dtype=torch.float64).requires_grad_()
    x = torch.randn(5, 6, generator=rng, dtype=torch.float64)
    pairs = list(product(range(3), repeat=2))
    two_sided = sum(0.5 * divergence(x @ modules[i], x @ modules[j]).mean() for i, j in pairs)
    one_sided = torch.zeros((), dtype=torch.float64)
    for i, j in pairs:
        term = method.agreement(x @ modules[j], [(x @ modules[i]).detach()])
        assert term is not None
        one_sided = one_sided + term.mean()
    torch.testing.assert_close(one_sided, two_sided)
    ours, expected = (torch.autograd.grad(value, modules)[0] for value in (one_sided, two_sided))
    assert float(expected.abs().max()) > 1e-2
    torch.testing.assert_close(ours, expected)


def test_without_consistency_there_is_one_forward() -> None:
    assert get_method("adamix", {"consistency": 0}).num_forwards() == 1
    assert get_method("adamix").num_forwards() == 2
