"""Methods that only papers have: 20 optimizer steps of the paper's equations in plain torch give the same values.

The other side knows nothing of the engine or of the methods' code: transformers' model on padded batches, dense
weights, torch's AdamW, and the paper's rule before and after each step, written out here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from remora.engine.optim import lr_factor
from remora.engine.trial import TrialOutcome
from remora.methods.base import Method
from remora.methods.registry import get_method
from tests import naive
from tests.tiny import tiny_base, tiny_hf
from tests.trials import RecordedStep, ToyTask, padded, record_steps, run, spec, toy_data, toy_examples

STEPS = 20
EXAMPLES = toy_examples(16)


@dataclass(kw_only=True)
class Side:
    """The paper's side of a comparison.

    Args:
        values: trained tensors by name, adapter and head.
        kept: tensors that the formula reads and nobody trains.
        lr: of the present step.
    """

    values: dict[str, Tensor]
    kept: dict[str, Tensor]
    lr: float = 0.0

    def named(self, end: str) -> dict[str, Tensor]:
        return {name: value for name, value in self.values.items() if name.endswith(f".{end}")}


Rule = Callable[[Side, int], None]


def nothing(side: Side, step: int) -> None:
    """No rule beside the gradient."""


def follow(
    method: Method,
    steps: list[RecordedStep],
    lr: float,
    before: Rule = nothing,
    backward: Rule = nothing,
    after: Rule = nothing,
    num_layers: int = 2,
) -> Side:
    """The same training by the paper's equations, from the recorded start and on the recorded batches."""
    base = tiny_base("bert", torch.float64, num_hidden_layers=num_layers)
    model = tiny_hf("bert", dtype=torch.float64, num_hidden_layers=num_layers)
    first = steps[0]
    values = {name: value.clone().requires_grad_() for name, value in {**first.adapter, **first.head}.items()}
    side = Side(values=values, kept={name: value.clone() for name, value in first.frozen.items()})
    groups: list[dict[str, Any]] = []
    for name, value in values.items():
        short, own = name.rsplit(".")[-1], name in first.adapter
        decays = value.ndim >= 2 and (not own or method.decays(short, value))
        speed = method.lr_multiplier(short) if own else 1.0
        groups.append({"params": [value], "weight_decay": 0.01 if decays else 0.0, "speed": speed})
    optimizer = torch.optim.AdamW(groups, lr=0.0)
    for number, step in enumerate(steps):
        side.lr = lr * lr_factor(number, len(steps), 0.0, "linear")
        before(side, number)
        batch = padded(EXAMPLES, step.chosen, 0)
        head = {name: values[name] for name in first.head}
        adapter = {name: values[name] for name in first.adapter}
        targets = torch.from_numpy(EXAMPLES.targets[step.chosen])
        loss = naive.loss(model, base, method, {**side.kept, **step.drawn}, adapter, head, [batch], targets)
        assert abs(loss.item() - step.loss) < 1e-5
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            backward(side, number)
            nn.utils.clip_grad_norm_(list({id(value): value for value in values.values()}.values()), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = side.lr * group["speed"]
            optimizer.step()
            after(side, number)
    return side


def train(
    method: str, settings: Mapping[str, Any], lr: float, monkeypatch: pytest.MonkeyPatch, num_layers: int = 2
) -> tuple[Method, list[RecordedStep], TrialOutcome]:
    steps = record_steps(monkeypatch)
    trial = spec(
        method,
        dict(settings),
        lr=lr,
        epochs=STEPS,
        batch_size=8,
        max_steps=STEPS,
        base_dropout=False,
        warmup=0.0,
        splits=("validation",),
    )
    base = tiny_base("bert", torch.float64, num_hidden_layers=num_layers)
    (outcome,) = run(base, toy_data(EXAMPLES), [trial]).values()
    assert len(steps[trial.id]) == STEPS
    return get_method(method, settings), steps[trial.id], outcome


def agree(side: Side, outcome: TrialOutcome, steps: list[RecordedStep]) -> None:
    """The same end to 1e-9, far from the start."""
    moved = 0.0
    for name, value in {**outcome.adapter, **outcome.head}.items():
        torch.testing.assert_close(side.values[name].detach(), value, rtol=0, atol=1e-9, msg=name)
        moved = max(moved, float((value - {**steps[0].adapter, **steps[0].head}[name]).abs().max()))
    assert moved > 1e-2


def test_dylora(monkeypatch: pytest.MonkeyPatch) -> None:
    method, steps, outcome = train("dylora", {"rank": 6, "dropout": 0.0}, 1e-2, monkeypatch)
    agree(follow(method, steps, 1e-2), outcome, steps)
    ranks = [int(next(iter(step.drawn.values()))) for step in steps]
    assert all(len({int(rank) for rank in step.drawn.values()}) == 1 for step in steps), "one rank for all sites"
    assert set(ranks) == {1, 2, 3, 4, 5, 6}


class Averages(ToyTask):
    """Scores by the mean logit, which every change of an adapter moves."""

    def metrics(self, targets_B: np.ndarray, logits_BC: np.ndarray) -> dict[str, float]:
        return {"mean": float(logits_BC[:, 0].mean())}


def test_dylora_is_scored_at_every_rank() -> None:
    """One training scores the ranks as trainings with another rank to evaluate do, for they train alike."""
    data, base = replace(toy_data(EXAMPLES), task=Averages()), tiny_base("bert")
    scores: dict[int, dict[str, dict[str, float]]] = {}
    outcome = None
    for rank in (1, 2, 4, 6):
        settings = {"rank": 6, "evaluate_rank": rank}
        trial = spec("dylora", settings, lr=3e-2, epochs=2, batch_size=8, splits=("validation", "test"))
        (outcome,) = run(base, data, [trial]).values()
        scores[rank] = {split: dict(values) for split, values in outcome.metrics.items()}
    assert outcome is not None
    assert outcome.variants == {f"rank {rank}": values for rank, values in scores.items()}
    assert len({values["validation"]["mean"] for values in scores.values()}) == 4
    tuning = spec("dylora", {"rank": 6}, lr=3e-2, epochs=1, batch_size=8, splits=("validation",))
    (outcome,) = run(base, data, [tuning]).values()
    assert outcome.variants == {}, "nothing is chosen among them"


def test_sora(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"rank": 6, "dropout": 0.0, "sparsity": 3.0}
    method, steps, outcome = train("sora", settings, 1e-2, monkeypatch)

    def threshold(side: Side, step: int) -> None:
        for gate in side.named("gate").values():
            shrunk = torch.where(gate > 0, gate - side.lr * 3.0, gate + side.lr * 3.0)
            gate.copy_(torch.where(gate.abs() > side.lr * 3.0, shrunk, torch.zeros_like(gate)))

    side = follow(method, steps, 1e-2, after=threshold)
    agree(side, outcome, steps)
    gates = torch.cat([value for name, value in outcome.adapter.items() if name.endswith("gate")])
    assert 0 < int((gates == 0).sum()) < gates.numel(), "some gates closed"


def test_delta_lora(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not telescoped: after every step the product's change goes into a private weight, as the paper says."""
    settings = {"rank": 3, "alpha": 6, "ratio": 0.7, "start": 0.25}
    method, steps, outcome = train("delta-lora", settings, 1e-2, monkeypatch)
    added: dict[str, Tensor] = {}

    def products(side: Side) -> dict[str, Tensor]:
        pairs = zip(side.named("lora_A").items(), side.named("lora_B").values(), strict=True)
        return {name.removesuffix(".lora_A"): (B @ A).detach() for (name, A), B in pairs}

    last: dict[str, Tensor] = {}

    def before(side: Side, step: int) -> None:
        last.update(products(side))

    def after(side: Side, step: int) -> None:
        if step >= 5:
            for name, product in products(side).items():
                added[name] = added.get(name, 0) + 0.7 * 2.0 * (product - last[name])

    def formula(settings: Any, p: Mapping[str, Tensor], W: Tensor, b: Tensor, x: Tensor, ffn: bool) -> Tensor:
        return nn.functional.linear(x, W + p["added"] + 2.0 * p["lora_B"] @ p["lora_A"], b)

    def give(side: Side, step: int) -> None:
        before(side, step)
        side.kept = {f"{name}.added": added.get(name, torch.zeros(32, 32)) for name in last}

    monkeypatch.setitem(naive.LINEAR, "delta-lora", formula)
    agree(follow(method, steps, 1e-2, before=give, after=after), outcome, steps)
    assert max(float(value.abs().max()) for value in added.values()) > 1e-3


def test_adalora(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop runs the schedule by itself: at the end exactly the target's number of triplets is left."""
    settings = {"initial_rank": 6, "target_rank": 2, "interval": 3, "start": 0.1, "end": 0.7, "smoothing": 0.8}
    method, steps, outcome = train("adalora", settings, 1e-2, monkeypatch)
    mean: dict[str, Tensor] = {}
    spread: dict[str, Tensor] = {}
    alive: list[Tensor] = []

    def importance(side: Side, step: int) -> None:
        for name, value in side.values.items():
            now = (value * value.grad).abs()
            mean[name] = 0.8 * mean.get(name, 0) + 0.2 * now
            spread[name] = 0.8 * spread.get(name, 0) + 0.2 * (now - mean[name]).abs()

    def prune(side: Side, step: int) -> None:
        sites = [name.removesuffix(".lora_E") for name in side.named("lora_E")]
        if step <= 14 and (step % 3 == 0 or step == 14):
            left = 1 if step < 2 else (1 - (step - 2) / 12) ** 3
            budget = round(len(sites) * (2 + (6 - 2) * left))
            triplets = [(site, k) for site in sites for k in range(6)]

            def worth(triplet: tuple[str, int]) -> float:
                site, k = triplet
                s = {end: mean[f"{site}.{end}"] * spread[f"{site}.{end}"] for end in ("lora_A", "lora_B", "lora_E")}
                return float(s["lora_E"][k] + s["lora_A"][k].mean() + s["lora_B"][:, k].mean())

            best = sorted(triplets, key=worth, reverse=True)[:budget]
            alive[:] = [torch.tensor([float((site, k) in best) for k in range(6)]) for site in sites]
        elif step < 14:
            return
        for site, kept in zip(sites, alive, strict=True):
            side.values[f"{site}.lora_E"].mul_(kept)

    agree(follow(method, steps, 1e-2, backward=importance, after=prune), outcome, steps)
    values = torch.cat([value for name, value in outcome.adapter.items() if name.endswith("lora_E")])
    assert int((values != 0).sum()) == 2 * 4


def test_lora_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sharing is one tensor used at several sites; importance comes from hooks on transformers' model."""
    targets = ("attention.q", "attention.v")
    settings = {"rank": 3, "alpha": 6, "dropout": 0.0, "survey": 0.4, "threshold": 0.55, "targets": targets}
    method, steps, outcome = train("lora-drop", settings, 1e-2, monkeypatch, num_layers=4)
    model = tiny_hf("bert", dtype=torch.float64, num_hidden_layers=4)
    base = tiny_base("bert", torch.float64, num_hidden_layers=4)
    totals: dict[str, float] = {}
    counts: dict[str, int] = {}
    shared: list[str] = []

    def measure(side: Side, step: int) -> None:
        batch = padded(EXAMPLES, steps[step].chosen, 0)
        handles: list[Any] = []
        for site in method.sites(base):
            B, A = (side.values[f"{site.id}.lora_{x}"].detach() for x in "BA")

            def look(module: nn.Module, args: tuple[Tensor], key: str = site.id, BA: Tensor = B @ A) -> None:
                x = args[0].detach()[batch["attention_mask"].bool()]
                totals[key] = totals.get(key, 0.0) + float((x @ BA.T).square().sum())
                counts[key] = counts.get(key, 0) + x.shape[0]

            handles.append(model.get_submodule(site.hf_name).register_forward_pre_hook(look))
        values = {name: value.detach() for name, value in side.values.items()}
        head = {name: value for name, value in values.items() if name in steps[0].head}
        naive.logits(model, base, method, {k: v for k, v in values.items() if k not in head}, head, batch)
        for handle in handles:
            handle.remove()

    def before(side: Side, step: int) -> None:
        if 4 <= step < 8:
            measure(side, step)
        if step != 8:
            return
        for kind in ("query", "value"):
            worth = {key: totals[key] / counts[key] for key in totals if key.endswith(kind)}
            order = sorted(worth, key=lambda key: worth[key], reverse=True)
            num = next(n for n in range(1, 9) if sum(worth[k] for k in order[:n]) >= 0.55 * sum(worth.values()))
            for key in order[num + 1 :]:
                shared.append(key)
                for end in ("lora_A", "lora_B"):
                    side.values[f"{key}.{end}"].grad = None  # nothing uses it any more
                    side.values[f"{key}.{end}"] = side.values[f"{order[num]}.{end}"]

    agree(follow(method, steps, 1e-2, before=before, num_layers=4), outcome, steps)
    assert shared, "some sites share"


def test_diff_pruning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gates' noise is the recorded one; after half of the steps the largest changes are kept and train on alone."""
    settings = {"density": 0.02, "search": 0.5, "l0": 1e-3, "alpha": 1.0, "gate_speed": 30.0, "refine": 3.0}
    method, steps, outcome = train(
        "diff-pruning", {**settings, "targets": ("attention.v", "ffn.down")}, 1e-2, monkeypatch
    )
    masks: dict[str, Tensor] = {}
    start: dict[str, Tensor] = {}

    def gates(side: Side, name: str) -> tuple[Tensor, Tensor]:
        alpha, group = (side.values[name.removesuffix("value") + end] for end in ("alpha", "group"))
        return alpha, group

    def fix(side: Side) -> None:
        for name, mask in masks.items():
            alpha, group = gates(side, name)
            alpha.copy_(torch.where(mask, 20.0, -20.0))
            group.fill_(20.0)

    def cut(side: Side, step: int) -> None:
        with torch.no_grad():
            if step == 10:
                opened = {name: [torch.sigmoid(a) for a in gates(side, name)] for name in side.named("value")}
                worth = {n: (w.abs() * opened[n][0] * opened[n][1]).bfloat16() for n, w in side.named("value").items()}
                for rank in worth.values():
                    rank.view(-1)[rank.argmax()] = torch.inf  # each site's largest stays
                every = torch.cat([rank.flatten() for rank in worth.values()])
                kept = torch.zeros(len(every), dtype=torch.bool)
                kept[every.sort(descending=True, stable=True).indices[: round(0.02 * len(every))]] = True
                parts = kept.split([rank.numel() for rank in worth.values()])
                masks.update({n: part.view(worth[n].shape) for n, part in zip(worth, parts, strict=True)})
                for name, w in side.named("value").items():
                    z, z_group = ((3 * s - 1.5).clamp(0, 1) for s in opened[name])
                    w.copy_(z * z_group * w * masks[name])
                fix(side)
            start.update({name: value.clone() for name, value in side.named("value").items()})

    def only_kept(side: Side, step: int) -> None:
        for name, mask in masks.items():
            side.values[name].grad.mul_(mask)

    def faster(side: Side, step: int) -> None:
        for name, mask in masks.items():
            value = side.values[name]
            value.copy_((start[name] + 3.0 * (value - start[name])) * mask)
        fix(side)

    agree(follow(method, steps, 1e-2, before=cut, backward=only_kept, after=faster), outcome, steps)
    total = sum(value.numel() for name, value in outcome.adapter.items() if name.endswith("value"))
    left = sum(int((value != 0).sum()) for name, value in outcome.adapter.items() if name.endswith("value"))
    assert left == round(0.02 * total)
    closed = [
        float((torch.sigmoid(step.adapter[n]) < 0.5).double().mean()) for step in steps[:10] for n in step.adapter
    ]
    assert max(closed) > 0, "the penalty closes gates"
    assert any(name.endswith("words") for name in steps[9].drawn)
    assert not any(name.endswith("words") for name in steps[10].drawn)


def test_said(monkeypatch: pytest.MonkeyPatch) -> None:
    method, steps, outcome = train("said", {"dim": 100, "targets": ("attention.v", "ffn.up")}, 3e-2, monkeypatch)
    agree(follow(method, steps, 3e-2), outcome, steps)


def test_adamix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forwards and their divergence, on the recorded routes."""
    settings = {"bottleneck": 4, "num_modules": 3, "sharing": "none", "consistency": 2.0}
    method, steps, outcome = train("adamix", settings, 1e-2, monkeypatch)
    agree(follow(method, steps, 1e-2), outcome, steps)
