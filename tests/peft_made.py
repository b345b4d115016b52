"""Adapters made, given random values and written by peft itself on the tiny models, and what peft answers with them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from remora.engine.trial import Examples
from remora.models.base import Base
from tests.tiny import tiny_hf
from tests.trials import padded, toy_examples

NUM_LABELS = 3
EXAMPLES = toy_examples(7, low=2, high=9, num_outputs=NUM_LABELS)


def made(arch: str, config: Any, folder: Path) -> nn.Module:
    """A peft model whose trained tensors were moved at random, in ``eval()``, saved in a folder."""
    from peft import get_peft_model

    hf = tiny_hf(arch, NUM_LABELS)
    hf.config.pad_token_id = int(hf.config.pad_token_id or 0)
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(hf, config).eval()  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.3 * torch.randn(value.shape, generator=rng))
    model.save_pretrained(str(folder))
    return model


def logits(model: nn.Module, base: Base, examples: Examples = EXAMPLES) -> np.ndarray:
    """Of the examples as one batch, padded on the right."""
    batch = padded(examples, range(len(examples)), int(base.config.pad_token_id or 0))
    if not base.takes_type_ids:
        batch.pop("token_type_ids")
    with torch.no_grad():
        return model(**batch).logits.numpy()
