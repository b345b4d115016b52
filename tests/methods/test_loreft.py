"""LoReFT against its paper's equation over a whole training, its projection, and its settings."""

import pytest
import torch
from torch import Tensor

from remora.engine.optim import lr_factor
from remora.errors import ConfigError
from remora.methods.loreft import orthonormal
from remora.methods.registry import get_method
from tests import naive
from tests.tiny import tiny_base, tiny_hf
from tests.trials import padded, record_steps, run, spec, toy_data, toy_examples

STEPS = 20
SETTINGS = {"rank": 3, "first": 2, "last": 1}
EXAMPLES = toy_examples(8)


def gram_schmidt(rows: Tensor) -> Tensor:
    done: list[Tensor] = []
    for row in rows:
        for other in done:
            row = row - (row @ other) * other
        done.append(row / row.norm())
    return torch.stack(done)


def by_the_paper(arch: str, start: dict[str, Tensor], chosen: list[list[int]], lr: float) -> dict[str, Tensor]:
    """Tensors after training with torch's AdamW, every R made orthonormal row by row after each step."""
    base, model = tiny_base(arch, torch.float64), tiny_hf(arch, dtype=torch.float64)
    method = get_method("loreft", SETTINGS)
    values = {name: value.clone().requires_grad_() for name, value in start.items()}
    decays = [value for name, value in values.items() if value.ndim >= 2 and not name.endswith("rotation")]
    exempt = [value for name, value in values.items() if value.ndim < 2 or name.endswith("rotation")]
    groups = [{"params": decays, "weight_decay": 0.01}, {"params": exempt, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0)
    adapter_names = [name for name in values if name.rsplit(".", 1)[1] in ("rotation", "source", "source_bias")]
    for step, examples in enumerate(chosen):
        batch = padded(EXAMPLES, examples, int(base.config.pad_token_id or 0))
        adapter = {name: values[name] for name in adapter_names}
        head = {name: value for name, value in values.items() if name not in adapter}
        logits = naive.logits(model, base, method, adapter, head, batch)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(EXAMPLES.targets[examples])).backward()
        torch.nn.utils.clip_grad_norm_(list(values.values()), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr * lr_factor(step, len(chosen), 0.06, "linear")
        optimizer.step()
        with torch.no_grad():
            for name in adapter_names:
                if name.endswith("rotation"):
                    values[name].copy_(gram_schmidt(values[name]))
    return {name: value.detach() for name, value in values.items()}


def test_training_follows_the_papers_equation(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = record_steps(monkeypatch)
    trial = spec("loreft", SETTINGS, lr=0.01, epochs=STEPS, max_steps=STEPS, base_dropout=False, splits=())
    (outcome,) = run(tiny_base("bert", torch.float64), toy_data(EXAMPLES), [trial]).values()
    recorded = steps[trial.id]
    assert len(recorded) == STEPS
    start = {**recorded[0].adapter, **recorded[0].head}
    end = by_the_paper("bert", start, [step.chosen.tolist() for step in recorded], trial.lr)
    for name, value in {**outcome.adapter, **outcome.head}.items():
        torch.testing.assert_close(value, end[name], rtol=0, atol=1e-7)
        assert float((value - start[name]).abs().max()) > 1e-3
    for name, value in outcome.adapter.items():
        if name.endswith("rotation"):
            torch.testing.assert_close(value @ value.T, torch.eye(3, dtype=value.dtype), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 4, 6])
def test_projection_spans_the_same_space_and_keeps_what_is_orthonormal(rank: int) -> None:
    rows = torch.randn(rank, 6, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)
    projected = orthonormal(rows)
    torch.testing.assert_close(projected @ projected.T, torch.eye(rank, dtype=rows.dtype), rtol=0, atol=1e-12)
    torch.testing.assert_close(rows @ projected.T @ projected, rows, rtol=0, atol=1e-12)
    torch.testing.assert_close(orthonormal(projected), projected, rtol=0, atol=1e-12)
    torch.testing.assert_close(projected, gram_schmidt(rows), rtol=0, atol=1e-10)


def test_settings_that_change_nothing_or_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="no token is changed"):
        get_method("loreft", {"first": 0, "last": 0})
    with pytest.raises(ConfigError, match="rank 33 is more than the 32 features"):
        get_method("loreft", {"rank": 33}).sites(tiny_base("bert"))
