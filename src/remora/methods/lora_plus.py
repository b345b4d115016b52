"""LoRA+: LoRA whose B learns `ratio` times as fast as A (and as the head): y = W x + b + (alpha / r) B A drop(x).

Hayou et al. 2024, "LoRA+: efficient low rank adaptation of large models", arXiv:2402.12354, section 4.
The ratio acts on the matrices B alone; heads and biases keep the trial's learning rate. Stored as plain LoRA.
"""

from typing import Any, ClassVar

from pydantic import Field

from remora.methods.base import LogRange
from remora.methods.lora import LoRA
from remora.methods.registry import register


@register("lora-plus")
class LoRAPlus(LoRA):
    """LoRA with two learning rates."""

    label: ClassVar[str] = "LoRA+"
    citation: ClassVar[str] = "Hayou et al. 2024, arXiv:2402.12354"
    use_when: ClassVar[str] = "where LoRA learns too slowly and a higher rate for all of it is not stable"
    lr_range: ClassVar[LogRange] = LogRange(3e-5, 3e-3)
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"ratio": 2.0, "rank": 4, "targets": ("ffn.up", "ffn.down")})

    class Config(LoRA.Config):
        """LoRA's settings and the ratio of B's learning rate to A's."""

        ratio: float = Field(16.0, gt=0)

    def lr_multiplier(self, parameter: str) -> float:
        """The ratio for B, 1 for A."""
        assert isinstance(self.config, LoRAPlus.Config)
        return self.config.ratio if parameter == "lora_B" else 1.0
