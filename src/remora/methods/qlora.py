"""QLoRA: y = dequantise(W) x + b + (alpha / r) B A drop(x) on all linear layers of a base held in 4-bit NormalFloat.

Dettmers et al. 2023, "QLoRA: efficient finetuning of quantized LLMs", arXiv:2305.14314, equations 5 and 6; adapters on
every linear layer are what matched 16-bit fine-tuning there (section 4). A, B and the head stay in float32. In a study
on a dense base its rows run over a quantised one beside it; with ``model.quantization=nf4`` all rows share that one.
Trains r (in + out) numbers per site. Mergeable into the dequantised weights. PEFT type LORA.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from remora.methods.base import LogRange
from remora.methods.lora import LoRA
from remora.methods.registry import register
from remora.models.base import Quantization
from remora.models.sites import Site


@register("qlora")
class QLoRA(LoRA):
    """Low-rank adaptation of a quantised base."""

    label: ClassVar[str] = "QLoRA"
    citation: ClassVar[str] = "Dettmers et al. 2023, arXiv:2305.14314"
    use_when: ClassVar[str] = "where the base's weights are what fills the memory, for a dearer step"
    lr_range: ClassVar[LogRange] = LogRange(1e-4, 1e-2)
    base_quantization: ClassVar[Quantization] = "nf4"
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"rank": 4, "alpha": 32, "targets": ("attention.q",)})

    class Config(LoRA.Config):
        """LoRA's settings, with all linear layers as targets."""

        targets: tuple[str, ...] = ("linear",)

    def remark(self, sites: Sequence[Site]) -> str | None:
        """Says what the base is."""
        return "linear layers of the base are held in 4-bit NormalFloat with double quantisation"
