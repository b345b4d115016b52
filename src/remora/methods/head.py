"""Head only: the base is used as it is and nothing but the classification head is trained (linear probing).

Its features never change, so they are computed once per example, without dropout, and reused in every epoch and trial.
Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes", arXiv:1610.01644.
"""

from typing import ClassVar

from remora.methods.base import LogRange, Method
from remora.methods.registry import register


@register("head")
class HeadOnly(Method):
    """Head only, base dropout off."""

    label: ClassVar[str] = "head only"
    family: ClassVar = "head"
    citation: ClassVar[str] = "Alain and Bengio 2016, arXiv:1610.01644"
    use_when: ClassVar[str] = "as the cheapest baseline, and where the base's features tell the classes apart"
    lr_range: ClassVar[LogRange] = LogRange(1e-3, 3e-2)
    min_train_accuracy: ClassVar[float] = 0.0
