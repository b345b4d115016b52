"""Base weights in the compute type, once in the cache folder and mapped into every process that uses them.

Workers of a machine then share one copy through the page cache, and start without converting anything. A base has two
files: raw bytes, every tensor on a 64-byte boundary (the bits of a matrix product can depend on it), and an index,
written last. Mappings are private: a write by mistake would stay in its process and be seen by the hash check.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from remora.models.base import Quantization
from remora.models.files import ModelFiles
from remora.paths import cache_dir

_FORMAT = "1"
_ALIGNMENT = 64
_TYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.uint8)}


def weights_key(
    files: ModelFiles, dtype: torch.dtype, quantization: Quantization = "none", *, language_head: bool = False
) -> str:
    """Names the weights of a folder as they are held; another one as soon as a file of the folder was touched.

    Args:
        files: the folder.
        dtype: in which they are held.
        quantization: of the linear layers.
        language_head: whether a language-modelling head that is not tied is among them.
    """
    facts: list[Any] = [_FORMAT, transformers.__version__, str(dtype)]
    facts += [quantization] if quantization != "none" else []
    facts += ["language head"] if language_head else []
    for path in sorted([*files.folder.glob("*.safetensors"), *files.folder.glob("*.json")]):
        real = path.resolve()
        status = real.stat()
        facts.append([str(real), status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def map_weights(key: str) -> dict[str, Tensor] | None:
    """The tensors kept under a key, mapped; None when there are none or the files do not fit together."""
    raw, index = _paths(key)
    try:
        entries: dict[str, dict[str, Any]] = json.loads(index.read_text(encoding="utf-8"))
        size = raw.stat().st_size
        storage = torch.from_file(str(raw), shared=False, size=size, dtype=torch.uint8)
        return {name: _view(storage, entry) for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def keep_weights(key: str, tensors: Mapping[str, Tensor]) -> bool:
    """Write tensors under a key, beside and renamed; False when the cache folder cannot take them."""
    raw, index = _paths(key)
    entries: dict[str, dict[str, Any]] = {}
    try:
        raw.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=raw.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as stream:
                for name, tensor in tensors.items():
                    stream.write(b"\0" * (-stream.tell() % _ALIGNMENT))
                    values = tensor.detach().cpu().contiguous()
                    entries[name] = {"dtype": str(values.dtype), "shape": list(values.shape), "offset": stream.tell()}
                    stream.write(values.reshape(-1).view(torch.uint8).numpy().data)
            os.replace(aside, raw)
        except BaseException:
            os.unlink(aside)
            raise
        written = index.with_suffix(f".{os.getpid()}.part")
        written.write_text(json.dumps(entries), encoding="utf-8")
        os.replace(written, index)
    except OSError:
        return False
    return True


def _paths(key: str) -> tuple[Path, Path]:
    folder = cache_dir() / "bases"
    return folder / f"{key}.bin", folder / f"{key}.json"


def _view(storage: Tensor, entry: Mapping[str, Any]) -> Tensor:
    dtype, shape = _TYPES[entry["dtype"]], [int(size) for size in entry["shape"]]
    start = int(entry["offset"])
    stop = start + dtype.itemsize * int(torch.Size(shape).numel())
    if stop > storage.numel():
        raise ValueError("the raw file is too short")
    return storage[start:stop].view(dtype).view(shape)
