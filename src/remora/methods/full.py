"""Full fine-tuning: every weight of the base and of its head is trained; the reference all methods are compared with.

Howard and Ruder 2018, arXiv:1801.06146; Devlin et al. 2018, "BERT", arXiv:1810.04805, section 4 and appendix A.3.
It trains private float32 copies of the base's weights, so it runs alone in its pack. Tied tensors stay tied.
"""

from typing import ClassVar

from remora.methods.base import LogRange, Method
from remora.methods.registry import register


@register("full")
class Full(Method):
    """Full fine-tuning."""

    label: ClassVar[str] = "full fine-tuning"
    family: ClassVar = "full"
    citation: ClassVar[str] = "Devlin et al. 2018, arXiv:1810.04805"
    use_when: ClassVar[str] = "as the reference, and where every task may have a copy of the model of its own"
    lr_range: ClassVar[LogRange] = LogRange(1e-5, 5e-4)
    shares_base: ClassVar[bool] = False
