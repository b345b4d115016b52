"""Files that run code when they are unpickled, and a watch on what a process opens and unpickles."""

import io
import pickle
import sys
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


class Bomb:
    """Writes a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.marker, "ran"))


def pickled(marker: Path) -> bytes:
    return pickle.dumps(Bomb(marker))


def torch_zip(marker: Path) -> bytes:
    """What ``torch.save`` writes: a zip archive with a pickle inside."""
    stream = io.BytesIO()
    torch.save({"weight": torch.zeros(2), "bomb": Bomb(marker)}, stream)
    return stream.getvalue()


def climbing_zip(marker: Path) -> bytes:
    """A zip archive that names a file outside the folder into which it would be unpacked."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("../" * 12 + str(marker).lstrip("/"), "ran")
    return stream.getvalue()


PAYLOADS = {"pickle": pickled, "torch-zip": torch_zip, "climbing-zip": climbing_zip}


@dataclass
class Watch:
    """What happened meanwhile: files opened from Python, and names that pickles looked up."""

    opened: list[str] = field(default_factory=list)
    unpickled: list[str] = field(default_factory=list)


_watches: list[Watch] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _watches:
        return
    if event == "open":
        _watches[-1].opened.append(str(args[0]))
    elif event == "pickle.find_class":
        _watches[-1].unpickled.append(".".join(map(str, args)))


sys.addaudithook(_hook)  # Python cannot take one away again; without a watch it does nothing


@contextmanager
def watched() -> Generator[Watch]:
    watch = Watch()
    _watches.append(watch)
    try:
        yield watch
    finally:
        _watches.remove(watch)
