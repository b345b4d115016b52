"""What the untouched base computes below everything that is trained: once per example, not once per step.

Head-only trials and the untrained baseline read pooled rows of the whole base. A trial whose lowest site lies in an
upper layer, with the base's dropout off, enters the stack there: hidden states of all tokens are kept for it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from remora.engine.driver import EVAL_TOKENS, Driver
from remora.engine.inference import base_rows
from remora.engine.layout import LaneBatch, Layout, token_chunks
from remora.engine.stack import Entry
from remora.engine.transfer import to_device
from remora.engine.trial import Examples, TrialData

MOST_BYTES = 2**30
"""Of one split's hidden states; a larger one is computed in every pass. Not a share of the machine's memory: whether a
trial enters the stack in the middle must not depend on where it runs."""


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """Hidden states of all tokens of a split, as they go into a layer.

    Args:
        layer: index of the layer.
        hidden_ND: all sequences' tokens one after the other, in the base's compute dtype.
        offsets: (S + 1,) where each sequence begins, and the end.
    """

    layer: int
    hidden_ND: Tensor
    offsets: np.ndarray

    def entry(self, chosen: np.ndarray, layout: Layout) -> Entry:
        """How a pass over some sequences enters the stack.

        Args:
            chosen: the sequences of the pass.
            layout: the pass.
        """
        spans = [(int(self.offsets[i]), int(self.offsets[i + 1])) for i in chosen]
        kept = np.concatenate([np.arange(first, end) for first, end in spans])
        hidden = self.hidden_ND[to_device(kept, self.hidden_ND.device)]
        if layout.kind == "padded":
            width = layout.input_ids.shape[1]
            rows = np.concatenate([i * width + np.arange(end - first) for i, (first, end) in enumerate(spans)])
            padded = hidden.new_zeros(layout.num_rows, hidden.shape[1])
            padded[to_device(rows, hidden.device)] = hidden
            hidden = padded
        return Entry(layer=self.layer, hidden_TD=hidden)


class FeatureCache:
    """The rows the head reads, and the states that enter a layer, by split; from the untouched base without dropout.

    Args:
        driver: of the base.
        data: shared by all trials.
    """

    def __init__(self, driver: Driver, data: TrialData) -> None:
        self._driver = driver
        self._data = data
        self._rows: dict[str, Tensor] = {}
        self._seen: dict[bytes, tuple[np.ndarray, Tensor]] = {}
        self._prefixes: dict[str, Prefix] = {}

    def rows(self, split: str) -> Tensor:
        """(R, D) rows of a split in its order, in the base's compute dtype; computed at the first call."""
        if split not in self._rows:
            self._rows[split] = base_rows(self._driver, self._data.split(split, 0))
        return self._rows[split]

    def training_rows(self, chosen: np.ndarray, seen: np.ndarray | None) -> Tensor:
        """(R, D) rows of some training examples.

        Args:
            chosen: examples, in the order wanted.
            seen: ascending, all examples that the trial ever sees, `chosen` among them, where that is a part of the
                split: the others are not computed. None for the whole split. What is computed together depends on the
                trial alone, so a trial's numbers do not depend on which others ran before it.
        """
        train = self._data.split("train", 0)
        numbers = train.rows(train.sequences(chosen))
        if seen is None:
            every = self.rows("train")
        else:
            key = seen.tobytes()
            if key not in self._seen:
                known = train.rows(train.sequences(seen))
                self._seen[key] = known, base_rows(self._driver, train.subset(seen))
            known, every = self._seen[key]
            numbers = np.searchsorted(known, numbers)
        return every[to_device(numbers, every.device)]

    def prefix(self, split: str, layer: int) -> Prefix | None:
        """The states of a split that enter a layer, kept until another layer is asked for.

        Args:
            split: its name.
            layer: 0 for the bottom, where there is nothing to save.

        Returns:
            None at the bottom, and where the states would take too much memory.
        """
        if layer == 0:
            return None
        examples = self._data.split(split, 0)
        offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in examples.ids])]).astype(np.int64)
        width = int(self._driver.base.config.hidden_size)
        size = int(offsets[-1]) * width * torch.empty(0, dtype=self._driver.base.dtype).element_size()
        if size == 0 or size > MOST_BYTES:
            return None
        known = self._prefixes.get(split)
        if known is None or known.layer != layer:
            hidden = self._below(examples, offsets, layer)
            known = self._prefixes[split] = Prefix(layer=layer, hidden_ND=hidden, offsets=offsets)
        return known

    @torch.no_grad()
    def _below(self, examples: Examples, offsets: np.ndarray, layer: int) -> Tensor:
        """(N, D) states of all tokens as they go into a layer."""
        driver = self._driver
        out: Tensor | None = None
        for chosen in token_chunks(examples.ids, EVAL_TOKENS):
            ids = [examples.ids[i] for i in chosen]
            batch = LaneBatch(ids=ids, type_ids=[examples.type_ids[i] for i in chosen], index=range(len(chosen)))
            layout = driver.lay_out([batch], training=False)
            hidden_TD = driver.entering(layout, layer)
            if out is None:
                out = torch.empty(int(offsets[-1]), hidden_TD.shape[1], dtype=hidden_TD.dtype, device=hidden_TD.device)
            for start, i in zip(layout.start_S.tolist(), chosen.tolist(), strict=True):
                first, end = int(offsets[i]), int(offsets[i + 1])
                out[first:end] = hidden_TD[start : start + end - first]
        assert out is not None
        return out
