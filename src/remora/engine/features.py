"""Pooled rows of the bare base, computed once per split: all that a head-only trial or the untrained baseline needs."""

import torch
from torch import Tensor

from remora.engine.driver import EVAL_TOKENS, Driver
from remora.engine.layout import LaneBatch, token_chunks
from remora.engine.pooling import pooled_rows
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
            self._rows[split] = self._compute(split)
        return self._rows[split]

    def _compute(self, split: str) -> Tensor:
        driver, examples = self._driver, self._data.split(split, 0)
        base = driver.base
        out = torch.empty(len(examples), base.hidden_size, dtype=base.dtype, device=driver.device)
        with torch.no_grad():
            for chosen in token_chunks(examples.ids, EVAL_TOKENS):
                batch = LaneBatch(
                    ids=[examples.ids[i] for i in chosen],
                    type_ids=[examples.type_ids[i] for i in chosen],
                    index=range(len(chosen)),
                )
                layout = driver.lay_out([batch], training=False)
                rows, _ = pooled_rows(driver.forward(layout, [None]), layout, base.pooling)
                out[torch.from_numpy(chosen)] = rows
        return out
