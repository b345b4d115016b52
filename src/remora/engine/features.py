"""Pooled rows of the bare base, computed once per split: all that a head-only trial or the untrained baseline needs."""

from torch import Tensor

from remora.engine.driver import Driver
from remora.engine.inference import base_rows
from remora.engine.trial import TrialData


class FeatureCache:
    """The rows the head reads, by split, from the untouched base without dropout.

    Args:
        driver: of the base.
        data: shared by all trials.
    """

    def __init__(self, driver: Driver, data: TrialData) -> None:
        self._driver = driver
        self._data = data
        self._rows: dict[str, Tensor] = {}

    def rows(self, split: str) -> Tensor:
        """(n, D) rows of a split in its order, in the base's compute dtype; computed at the first call."""
        if split not in self._rows:
            self._rows[split] = base_rows(self._driver, self._data.split(split, 0))
        return self._rows[split]
