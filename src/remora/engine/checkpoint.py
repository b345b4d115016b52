"""What a pack is in the middle of its training, and how it is written so that what is there is whole.

A checkpoint is a folder of a safetensors file with all tensors, a JSON file with everything else, and a manifest with
the SHA-256 of both. It is written beside its place, flushed to disk, and renamed; the last two are kept. One that is
damaged is passed over for the one before. A pack taken up from a checkpoint goes on bit for bit, because data order,
dropout and draws are functions of seeds and step numbers and lanes keep their places.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from remora.paths import flush

_TENSORS, _FACTS, _MANIFEST = "tensors.safetensors", "facts.json", "manifest.json"
_KEPT = 2
_FORMAT = 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class State:
    """Tensors by name, and plain values that JSON can hold.

    Floats survive: JSON writes the shortest text that gives the same double back.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def part(self, prefix: str) -> "State":
        """The tensors whose names begin with ``<prefix>/``, and the facts under that name."""
        start = f"{prefix}/"
        own = {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}
        return State(tensors=own, facts=self.facts[prefix])


def joined(parts: Mapping[str, State]) -> State:
    """One state of several, each under a name; `State.part` gives it back."""
    tensors = {f"{key}/{name}": value for key, part in parts.items() for name, value in part.tensors.items()}
    return State(tensors=tensors, facts={key: part.facts for key, part in parts.items()})


class Interrupted(BaseException):
    """The pack was asked to end and its checkpoint is written; nothing may take it for an error of training."""


class Keeper:
    """The checkpoints of one pack.

    Args:
        folder: theirs alone; made with the first one.
        seconds: least time between two.
        warn: told, in a sentence, when one cannot be written or read.
        check: called before one is written and before it gets its name; raises where another process has the pack.

    Class attributes:
        MOST_SHARE: of the run time that may go into writing: the pause between two grows with what one takes.
    """

    MOST_SHARE = 0.01

    def __init__(
        self,
        folder: Path,
        seconds: float,
        warn: Callable[[str], None] = _log.warning,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._warn = warn
        self._check = check
        self._seconds = seconds
        self._last = time.monotonic()
        self._pause = seconds
        self._asked = False

    @property
    def due(self) -> bool:
        """Whether the next one should be written."""
        return self._asked or time.monotonic() - self._last >= self._pause

    def ask(self) -> None:
        """Have the next step followed by a checkpoint, and by `Interrupted`; may be called from a signal handler."""
        self._asked = True

    def save(self, state: State) -> None:
        """Write a checkpoint; when this returns it is on disk, and only the last two are left.

        Where it cannot be written, those before are as they were, and training goes on with a warning.

        Raises:
            Interrupted: `ask` was called.
        """
        start = time.monotonic()
        try:
            self._write(state)
        except (OSError, SafetensorError) as error:  # the latter is how safetensors tells of a full disk
            self._warn(f"no checkpoint was written: {error}; those before it are kept")
            for left in self._folder.glob(".*.part"):
                shutil.rmtree(left, ignore_errors=True)
        if self._asked:
            raise Interrupted
        self._last = time.monotonic()
        self._pause = max(self._seconds, (self._last - start) / self.MOST_SHARE)

    def _write(self, state: State) -> None:
        self._check()
        self._folder.mkdir(parents=True, exist_ok=True)
        number = max(self._numbers(), default=0) + 1
        aside = self._folder / f".{number:06d}.part"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        save_file({name: value.detach().contiguous() for name, value in state.tensors.items()}, aside / _TENSORS)
        (aside / _FACTS).write_text(json.dumps(state.facts))
        manifest = {"format": _FORMAT, "sha256": {name: _sha256(aside / name) for name in (_TENSORS, _FACTS)}}
        (aside / _MANIFEST).write_text(json.dumps(manifest))
        for path in (*aside.iterdir(), aside):
            flush(path)
        self._check()
        aside.rename(self._folder / f"{number:06d}")
        flush(self._folder)
        for old in self._numbers()[:-_KEPT]:
            shutil.rmtree(self._folder / f"{old:06d}", ignore_errors=True)

    def load(self) -> State | None:
        """The newest checkpoint that is whole; None when there is none."""
        for number in reversed(self._numbers()):
            folder = self._folder / f"{number:06d}"
            try:
                return _read(folder)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                self._warn(f"checkpoint {folder.name} is damaged ({error}); the one before it is taken")
        return None

    def clear(self) -> None:
        """Remove all of them: the pack is done."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _numbers(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())


def _read(folder: Path) -> State:
    """A checkpoint, every byte of it checked.

    Raises:
        OSError, ValueError, KeyError, SafetensorError: it is not whole.
    """
    manifest = json.loads((folder / _MANIFEST).read_bytes())
    if manifest["format"] != _FORMAT:
        raise ValueError(f"its format is {manifest['format']}")
    for name in (_TENSORS, _FACTS):
        if _sha256(folder / name) != manifest["sha256"][name]:
            raise ValueError(f"{name} is not what was written")
    return State(tensors=load_file(folder / _TENSORS), facts=json.loads((folder / _FACTS).read_text()))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
