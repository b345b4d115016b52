"""Folders written whole or not at all, tensor files with checksums, and nothing read that is not safetensors."""

import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from remora.errors import AdapterError, ResourceError
from remora.models.files import file_sha256


@contextmanager
def written_whole(folder: Path) -> Generator[Path]:
    """A folder to write into that takes its place when all went well; until then the old one stays.

    Args:
        folder: to be made or replaced.

    Raises:
        ResourceError: no room or no permission.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            aside.chmod(0o755)
            yield aside
            for path in (*aside.iterdir(), aside):
                _sync(path)
            if folder.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
                os.replace(folder, old)
                os.replace(aside, folder)
                shutil.rmtree(old)
            else:
                os.replace(aside, folder)
            _sync(folder.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise ResourceError(f"{folder} cannot be written: {error}", "is there room, and permission?") from error


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file.

    Returns:
        Its SHA-256.
    """
    own = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    save_file(own, path, metadata={"format": "pt"})
    return file_sha256(path)


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read a safetensors file whose SHA-256 is known.

    Raises:
        AdapterError: missing, changed, cut off or no safetensors file.
    """
    if not path.is_file():
        raise AdapterError(f"{path} is missing", "the folder is incomplete; copy it again or train again")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path} cannot be read: {error}", "the file is damaged; copy it again") from error
    actual = file_sha256(path)
    if actual != sha256:
        raise AdapterError(
            f"{path} was changed after it was written: its SHA-256 is {actual}, recorded is {sha256}",
            "copy the folder again, or load it with peft if the change is wanted",
        )
    return tensors


def check_names(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors that are not exactly those expected, or that are not finite.

    Args:
        path: for the message.
        found: what the file holds.
        expected: shape by name.

    Raises:
        AdapterError: missing, unknown, misshapen or not finite.
    """
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    faults: list[str] = []
    if missing:
        faults.append(f"{len(missing)} tensors are missing, such as {missing[0]}")
    if extra:
        faults.append(f"{len(extra)} tensors are unknown, such as {extra[0]}")
    for name, shape in expected.items():
        if name in found and tuple(found[name].shape) != shape:
            faults.append(f"{name} has shape {tuple(found[name].shape)}, expected {shape}")
        elif name in found and not bool(torch.isfinite(found[name]).all()):
            faults.append(f"{name} holds values that are not finite")
    if faults:
        raise AdapterError(f"{path}: {'; '.join(faults[:5])}", "the adapter and its record do not belong together")
