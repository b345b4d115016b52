"""rsLoRA: y = W x + b + (alpha / sqrt(r)) B A drop(x); LoRA with a scale that keeps large ranks learning.

Kalajdzievski 2023, "A rank stabilization scaling factor for fine-tuning with LoRA", arXiv:2312.03732, theorem 3.2.
Trains r (in + out) numbers per site. Mergeable. PEFT type LORA with `use_rslora`.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from remora.methods.base import LogRange
from remora.methods.lora import LoRA
from remora.methods.registry import register
from remora.models.sites import Site


@register("rslora")
class RankStabilizedLoRA(LoRA):
    """Rank-stabilized LoRA."""

    label: ClassVar[str] = "rsLoRA"
    citation: ClassVar[str] = "Kalajdzievski 2023, arXiv:2312.03732"
    use_when: ClassVar[str] = "in place of LoRA at ranks of 16 and more, where LoRA's scale makes the update too small"
    lr_range: ClassVar[LogRange] = LogRange(1e-4, 1e-2)
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"rank": 16, "targets": ("linear",)})

    @property
    def scale(self) -> float:
        """s in y = W x + s B A x."""
        return self.config.alpha / math.sqrt(self.config.rank)

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Keys of peft's LoraConfig."""
        return {**super().peft_config(sites), "use_rslora": True}
