"""MAM adapter: prefix tuning with few virtual tokens in attention, and a scaled parallel adapter beside the FFN.

He et al. 2022, "Towards a unified view of parameter-efficient transfer learning", arXiv:2110.04366, section 4.6 (mix
and match): keys and values [P_k; K], [P_v; V] with l = 30 vectors in every layer, and y' = y + s (U relu(D x + d) + u)
with s = 4 and the larger share of the parameters, a bottleneck of 512 features. Both parts are this package's own
(`prefix_tuning.py`, `adapter_parallel.py`); they meet at no site.
Trains what both parts train. Not mergeable.
"""

from typing import Any, ClassVar

from pydantic import Field

from remora.methods.adapter_parallel import ParallelAdapter, ParallelConfig
from remora.methods.base import LogRange, MethodConfig
from remora.methods.combination import Combination
from remora.methods.prefix_tuning import PrefixConfig, PrefixTuning
from remora.methods.registry import register
from remora.models.sites import SiteKind


class MAMConfig(PrefixConfig, ParallelConfig):
    """Virtual tokens and the network that gives them; bottleneck of the adapter, its activation, dropout and factor."""

    num_virtual_tokens: int = Field(30, ge=1)
    head_ratio: float = Field(1.0, gt=0)
    bottleneck: int = Field(512, ge=1)


@register("mam")
class MAM(Combination):
    """Prefix tuning and a parallel adapter."""

    label: ClassVar[str] = "MAM adapter"
    family: ClassVar = "hybrid"
    citation: ClassVar[str] = "He et al. 2022, arXiv:2110.04366"
    use_when: ClassVar[str] = "where quality counts more than size: it was made to come close to full fine-tuning"
    lr_range: ClassVar[LogRange] = LogRange(3e-5, 3e-3)
    site_kinds: ClassVar[tuple[SiteKind, ...]] = ("kv", "linear")
    identity_at_init: ClassVar[bool] = False
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"num_virtual_tokens": 3, "reparameterize": False, "bottleneck": 5, "scale": 1.5, "dropout": 0.1},
    )
    Config: ClassVar[type[MethodConfig]] = MAMConfig

    def __init__(self, config: MAMConfig) -> None:
        values = config.model_dump()
        prefix = PrefixConfig(**{name: values[name] for name in PrefixConfig.model_fields})
        parallel = ParallelConfig(**{name: values[name] for name in ParallelConfig.model_fields})
        super().__init__(config, [PrefixTuning(prefix), ParallelAdapter(parallel)])
