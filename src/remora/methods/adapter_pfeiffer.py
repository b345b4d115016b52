"""Pfeiffer adapters: y' = y + U f(D y + d) + u on the output y of the feed-forward sublayer alone.

Pfeiffer et al. 2020, "AdapterFusion: non-destructive task composition for transfer learning", arXiv:2005.00247,
appendix A: one bottleneck per layer, after the feed-forward sublayer, does as well as Houlsby's two.
The computation and its start are Houlsby's (`adapter_houlsby.py`), which takes it inside the skip connection.
Trains 2 m out + m + out numbers per layer. Not mergeable.
"""

from typing import Any, ClassVar

from pydantic import Field

from remora.methods.adapter_houlsby import Activation, BottleneckConfig, HoulsbyAdapter
from remora.methods.base import MethodConfig
from remora.methods.registry import register


class _Config(BottleneckConfig):
    """Features of the bottleneck (a sixteenth of BERT-base's 768), its activation, and dropout on it."""

    bottleneck: int = Field(48, ge=1)
    activation: Activation = "relu"


@register("adapter-pfeiffer")
class PfeifferAdapter(HoulsbyAdapter):
    """One bottleneck adapter per layer, after the feed-forward sublayer."""

    label: ClassVar[str] = "Pfeiffer adapter"
    citation: ClassVar[str] = "Pfeiffer et al. 2020, arXiv:2005.00247"
    use_when: ClassVar[str] = "in place of Houlsby adapters at half their parameters and cost"
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"bottleneck": 4, "activation": "gelu", "dropout": 0.2})
    Config: ClassVar[type[MethodConfig]] = _Config

    @property
    def targets(self) -> tuple[str, ...]:
        """The linear layer that ends the feed-forward sublayer."""
        return ("ffn.down",)
