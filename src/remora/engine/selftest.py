"""Two optimizer steps on a tiny random model: the whole engine in a second, without any file."""

import math

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from remora.engine.driver import Driver
from remora.engine.loop import run_pack
from remora.engine.trial import Examples, TrialData, TrialSpec
from remora.errors import ResourceError
from remora.models.files import ModelFiles
from remora.models.load import make_base

VOCABULARY, NUM_EXAMPLES, LENGTH, NUM_CLASSES = 50, 8, 6, 2


class TinyTask:
    """Cross-entropy and accuracy over two classes."""

    def loss(self, logits_BC: Tensor, targets_B: Tensor) -> Tensor:
        """(B,) losses."""
        return torch.nn.functional.cross_entropy(logits_BC, targets_B, reduction="none")

    def metrics(self, targets_B: np.ndarray, logits_BC: np.ndarray) -> dict[str, float]:
        """Accuracy."""
        return {"accuracy": float((logits_BC.argmax(1) == targets_B).mean())}


def train_tiny() -> tuple[float, float]:
    """Train LoRA on a tiny random BERT.

    Returns:
        Training loss and mean gradient norm.

    Raises:
        ResourceError: the loss or the gradient is not a finite number above zero, so the machine computes wrongly.
    """
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LENGTH,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
    files = ModelFiles(name="tiny BERT", source="made here", config=config.to_dict())
    base = make_base(model, tokenizer=None, files=files, missing=(), dtype=torch.float32)
    spec = TrialSpec(
        id="doctor", method="lora", lr=1e-3, epochs=1, batch_size=NUM_EXAMPLES // 2, splits=("validation",)
    )
    with Driver(base) as driver:
        (outcome,) = run_pack(driver, tiny_data(), [spec], slots=1)
    loss, norm = outcome.curve[-1].train_loss, outcome.grad_norm["mean"]
    if outcome.status != "done" or not (math.isfinite(loss) and math.isfinite(norm) and norm > 0):
        raise ResourceError(f"loss {loss}, gradient norm {norm}, status {outcome.status}")
    return loss, norm


def tiny_data() -> TrialData:
    """Random sentences with random labels."""
    rng = np.random.Generator(np.random.Philox(0))
    examples = Examples(
        ids=list(rng.integers(1, VOCABULARY, (NUM_EXAMPLES, LENGTH))),
        type_ids=list(np.zeros((NUM_EXAMPLES, LENGTH), np.int64)),
        targets=np.arange(NUM_EXAMPLES) % NUM_CLASSES,
    )
    return TrialData(task=TinyTask(), num_outputs=NUM_CLASSES, split=lambda name, room: examples, fingerprint="tiny")
