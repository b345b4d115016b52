"""P-tuning v2: keys and values of n virtual tokens in every layer, trained themselves, with an ordinary head.

Liu et al. 2021, "P-tuning v2: prompt tuning can be comparable to fine-tuning universally across scales and tasks",
arXiv:2110.07602, section 3.2: deep prompts for language understanding, a linear head in place of a verbalizer, and no
reparameterisation unless a task gains by it (section 3.3). The computation is that of `prefix_tuning.py`.
Trains 2 n kv numbers per layer, kv = key-value heads x features. PEFT type PREFIX_TUNING.
"""

from typing import Any, ClassVar

from pydantic import Field

from remora.methods.base import LogRange, MethodConfig
from remora.methods.prefix_tuning import PrefixConfig, PrefixTuning
from remora.methods.registry import register


class _Config(PrefixConfig):
    """Number of virtual tokens, whether a network gives them, and its hidden features."""

    num_virtual_tokens: int = Field(8, ge=1)
    reparameterize: bool = False
    head_ratio: float = Field(1.0, gt=0)


@register("p-tuning-v2")
class PTuningV2(PrefixTuning):
    """Deep prompts: trained keys and values before every sequence, without a network."""

    label: ClassVar[str] = "P-tuning v2"
    citation: ClassVar[str] = "Liu et al. 2021, arXiv:2110.07602"
    use_when: ClassVar[str] = "with large bases or hard sequence tasks, as prompts in every layer"
    lr_range: ClassVar[LogRange] = LogRange(2e-3, 1e-1)
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"num_virtual_tokens": 4, "reparameterize": True, "encoder_hidden": 8},
    )
    Config: ClassVar[type[MethodConfig]] = _Config
