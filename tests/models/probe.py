"""An attention function that records what each layer hands to it, and short ways to run a tiny backbone."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from remora.models.base import Base
from tests.tiny import VOCAB

NAME = "remora_test_probe"


@dataclass
class Recorded:
    """What the attention function was called with: (module, query, key, value), each (B, heads, L, features)."""

    calls: list[tuple[nn.Module, Tensor, Tensor, Tensor]] = field(default_factory=list)


def probe(base: Base) -> Recorded:
    """Send a base's attention to a recorder that returns the queries; the base is used up by it."""
    recorded = Recorded()

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, None]:
        recorded.calls.append((module, query, key, value))
        return query.transpose(1, 2).contiguous(), None

    def no_mask(*_: Any, **__: Any) -> None:
        return None

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, no_mask)
    base.config._attn_implementation = NAME
    return recorded


def ids_of(batch: int, length: int) -> Tensor:
    """Token ids (batch, length) above the special ones."""
    return torch.randint(5, VOCAB, (batch, length), generator=torch.Generator().manual_seed(3))


def hidden(base: Base, **inputs: Tensor) -> Tensor:
    """The backbone's last hidden states."""
    with torch.no_grad():
        return base.model(**inputs).last_hidden_state
