"""Entering and leaving the stack of layers between two of them, so that known states are not computed again.

The model is unmodified: its forward still calls every layer in turn, but a layer below the entry hands on what it is
given, the layer at the entry is given the known states instead, and a pass that only wants a layer's input ends there.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Forward = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where a pass enters the stack when what lies below is known.

    Args:
        layer: index of the first layer to compute.
        hidden_TD: flattened states of all rows of the pass that go into it.
    """

    layer: int
    hidden_TD: Tensor


class _ReachedError(Exception):
    """Not a fault: the states that were asked for are there, nothing above them need be computed."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class _Here(threading.local):
    """What this thread's pass asks of the stack: an entry, or the input of a layer."""

    entry: Entry | None = None
    wanted: int | None = None


class Stack:
    """The layers of a driven model."""

    def __init__(self) -> None:
        self._here = _Here()
        self._num_extras: dict[int, int] = {}

    @contextmanager
    def entered(self, entry: Entry | None) -> Generator[None]:
        """Passes inside the block enter at `entry`, on this thread."""
        self._here.entry = entry
        try:
            yield
        finally:
            self._here.entry = None

    def input_of(self, layer: int, run: Callable[[], object]) -> Tensor:
        """What `run`, a pass through the model, gives a layer; the pass ends there.

        Args:
            layer: index of the layer.
            run: the pass.

        Returns:
            (T, D) flattened states.
        """
        self._here.wanted = layer
        try:
            run()
        except _ReachedError as reached:
            return reached.hidden.reshape(-1, reached.hidden.shape[-1])
        finally:
            self._here.wanted = None
        raise AssertionError(f"layer {layer} was never called")

    def forward(self, original: Forward, index: int) -> Forward:
        """What a layer's module calls instead of its own forward.

        Args:
            original: its own.
            index: of the layer. Some architectures' layers return tuples: a layer passed by gives as many values,
                which it learned when `input_of` ran it.
        """

        def forward(hidden_states: Tensor, *args: Any, **keywords: Any) -> Any:
            here = self._here
            if here.wanted == index:
                raise _ReachedError(hidden_states)
            entry = here.entry
            if entry is not None and index < entry.layer:
                extras = self._num_extras[index]
                return hidden_states if extras < 0 else (hidden_states, *(None,) * extras)
            if entry is not None and index == entry.layer:
                hidden_states = entry.hidden_TD.view(hidden_states.shape)
            output = original(hidden_states, *args, **keywords)
            self._num_extras[index] = len(output) - 1 if isinstance(output, tuple) else -1
            return output

        return forward
