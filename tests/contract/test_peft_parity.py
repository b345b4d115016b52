"""Training follows peft's: the same initial weights, batches and optimizer give the same losses, step for step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from remora.adapters.format import save_adapter
from remora.engine.driver import Driver
from remora.engine.loop import run_pack
from remora.engine.optim import lr_factor
from remora.engine.trial import Examples, TrialOutcome, TrialSpec
from remora.models.base import Base
from remora.models.load import load_base
from tests.contract.test_can_learn import short_sentences
from tests.contract.test_storage import INFO
from tests.tiny import tiny_base, tiny_hf
from tests.trials import RecordedStep, padded, record_steps, spec, toy_data, toy_examples

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

STEPS = 50
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"dropout": 0.0},
    "rslora": {"dropout": 0.0, "rank": 4},
    "dora": {"dropout": 0.0},
    "vera": {"rank": 64},
    "ia3": {},
    "full": {},
}


def ours(
    base: Base, examples: Examples, trial: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> tuple[TrialOutcome, list[RecordedStep]]:
    steps = record_steps(monkeypatch)
    with Driver(base) as driver:
        (outcome,) = run_pack(driver, toy_data(examples), [trial], slots=1)
    return outcome, steps[trial.id]


def theirs(
    model: nn.Module, base: Base, examples: Examples, trial: TrialSpec, steps: list[RecordedStep]
) -> list[float]:
    """Losses of torch's AdamW on a transformers or peft model in ``eval()`` (no dropout), on the same batches."""
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    decays = [value for name, value in trained.items() if value.ndim >= 2 and "ia3_l" not in name]
    exempt = [value for name, value in trained.items() if value.ndim < 2 or "ia3_l" in name]
    groups = [{"params": decays, "weight_decay": trial.weight_decay}, {"params": exempt, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0)
    losses: list[float] = []
    for number, step in enumerate(steps):
        batch = padded(examples, step.chosen, int(base.config.pad_token_id or 0))
        targets = torch.from_numpy(examples.targets[step.chosen])
        loss: Tensor = nn.functional.cross_entropy(model(**batch).logits, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(list(trained.values()), trial.clip)
        for group in optimizer.param_groups:
            group["lr"] = trial.lr * lr_factor(number, len(steps), trial.warmup, trial.schedule)
        optimizer.step()
        losses.append(loss.item())
    return losses


def compare(
    base: Base, model: nn.Module, examples: Examples, trial: TrialSpec, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> np.ndarray:
    """Differences of the losses after checking that both trained the same numbers."""
    from peft import PeftModel

    outcome, steps = ours(base, examples, trial, monkeypatch)
    start = steps[0]
    if trial.method == "full":
        model.load_state_dict({**start.base, **start.head}, strict=True)
        model.requires_grad_(True)
    else:
        save_adapter(folder, base, replace(outcome, adapter=start.adapter, head=start.head), INFO)
        model = PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    model.eval()
    num_trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert num_trained == sum(outcome.num_params.values())
    losses = np.array([step.loss for step in steps])
    assert len(losses) == STEPS
    assert losses[-10:].mean() < losses[:10].mean() - 0.02, "nothing was learnt, so nothing is compared"
    return losses - np.array(theirs(model, base, examples, trial, steps))


def trial_of(method: str, lr: float) -> TrialSpec:
    return spec(
        method, METHODS[method], lr=lr, epochs=STEPS, batch_size=8, max_steps=STEPS, base_dropout=False, splits=()
    )


@pytest.mark.parametrize("method", METHODS)
def test_losses_follow_peft(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("bert")
    lr = {"full": 1e-3, "ia3": 2e-2, "vera": 2e-2}.get(method, 5e-3)
    differences = compare(base, tiny_hf("bert"), toy_examples(16), trial_of(method, lr), tmp_path / "a", monkeypatch)
    assert np.abs(differences).max() < 1e-4


def test_the_comparison_sees_another_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the learning rate on one side is far outside the tolerance."""
    base, trial, examples = tiny_base("bert"), trial_of("lora", 5e-3), toy_examples(16)
    outcome, steps = ours(base, examples, trial, monkeypatch)
    from peft import PeftModel

    save_adapter(tmp_path / "a", base, replace(outcome, adapter=steps[0].adapter, head=steps[0].head), INFO)
    model = PeftModel.from_pretrained(tiny_hf("bert"), str(tmp_path / "a"), is_trainable=True).eval()
    losses = theirs(model, base, examples, replace(trial, lr=trial.lr / 2), steps)
    assert np.abs(losses - np.array([step.loss for step in steps])).max() > 1e-3


@pytest.mark.real
def test_losses_follow_peft_on_the_real_model(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForSequenceClassification

    from remora.models.files import resolve

    base = load_base("minilm")
    model = AutoModelForSequenceClassification.from_pretrained(resolve("minilm").folder, num_labels=2)
    examples = short_sentences(shared_data, base.tokenizer)
    differences = compare(base, model, examples, trial_of("lora", 1e-3), tmp_path / "a", monkeypatch)
    assert np.abs(differences).max() < 1e-4
