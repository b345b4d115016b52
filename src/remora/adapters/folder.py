"""Folders written whole or not at all, tensor files with checksums, and nothing read that is not safetensors."""

import json
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from remora.errors import AdapterError, ConfigError, ResourceError
from remora.models.files import file_sha256
from remora.paths import flush


@contextmanager
def written_whole(folder: Path, *, replace: bool = True) -> Generator[Path]:
    """A folder to write into that takes its place when all went well; until then the old one stays.

    Args:
        folder: to be made or replaced.
        replace: whether something of that name may be there.

    Raises:
        ConfigError: it is there and may not be replaced.
        ResourceError: no room or no permission.
    """
    if not replace:
        refuse_existing(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            aside.chmod(0o755)
            yield aside
            for path in (*aside.iterdir(), aside):
                flush(path)
            if folder.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
                os.replace(folder, old)
                os.replace(aside, folder)
                shutil.rmtree(old)
            else:
                os.replace(aside, folder)
            flush(folder.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise ResourceError(f"{folder} cannot be written: {error}", "is there room, and permission?") from error


def refuse_existing(folder: Path) -> None:
    """Make sure that nothing is overwritten.

    Raises:
        ConfigError: something of that name is there.
    """
    if os.path.lexists(folder):
        raise ConfigError(f"{folder} exists already", "name another folder with --out")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, readable and in UTF-8."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file.

    Returns:
        Its SHA-256.

    Raises:
        ResourceError: no room or no permission.
    """
    own = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    try:
        save_file(own, path, metadata={"format": "pt"})
    except SafetensorError as error:  # how safetensors tells of a full disk
        raise ResourceError(f"{path} cannot be written: {error}", "is there room, and permission?") from error
    return file_sha256(path)


def read_tensors(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """Read a safetensors file.

    Args:
        path: of the file.
        sha256: what it must hash to, where that is known.

    Raises:
        AdapterError: missing, changed, cut off or no safetensors file.
    """
    if not path.is_file():
        raise AdapterError(f"{path} is missing", "the folder is incomplete; copy it again or train again")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path} cannot be read: {error}", "the file is damaged; copy it again") from error
    actual = file_sha256(path) if sha256 is not None else None
    if actual != sha256:
        raise AdapterError(
            f"{path} was changed after it was written: its SHA-256 is {actual}, recorded is {sha256}",
            "copy the folder again, or load it with peft if the change is wanted",
        )
    return tensors


def check_names(
    path: Path,
    found: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    hint: str = "the adapter and its record do not belong together",
) -> None:
    """Refuse tensors that are not exactly those expected, or that are not finite.

    Args:
        path: for the message.
        found: what the file holds.
        expected: shape by name.
        hint: what a mismatch means.

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
        raise AdapterError(f"{path}: {'; '.join(faults[:5])}", hint)
