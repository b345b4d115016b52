"""Tensors of a trial that waits, moved out of memory: a waiting trial that trains the base's own weights is large.

The file has no name, so that it vanishes with its process, however that ends.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_PIECE = 2**20
"""Numbers written or read at a time."""


class Parked:
    """Tensors whose memory is freed and whose values lie in a file; views of them stay valid, but must not be read.

    Args:
        tensors: each the whole of its storage.
        folder: on whose disk the values go; None for the system's folder of temporary files.
    """

    def __init__(self, tensors: Sequence[Tensor], folder: Path | None) -> None:
        self._tensors = tensors
        self._sizes = [tensor.untyped_storage().nbytes() for tensor in tensors]
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  open until `fetch` or `drop`
        for tensor in tensors:
            for piece in tensor.view(-1).split(_PIECE):
                # A copy: what numpy has seen, torch does not resize.
                piece.cpu().clone().numpy().tofile(self._file)
        for tensor in tensors:
            tensor.untyped_storage().resize_(0)

    def fetch(self) -> None:
        """Bring the values back and drop the file."""
        with self._file as file:
            file.seek(0)
            for tensor, size in zip(self._tensors, self._sizes, strict=True):
                tensor.untyped_storage().resize_(size)
                for piece in tensor.view(-1).split(_PIECE):
                    piece.copy_(torch.from_numpy(np.fromfile(file, _numpy_type(tensor), piece.numel())))

    def look(self) -> dict[int, Tensor]:
        """id of a tensor -> its values, mapped from the file: nothing is brought back into memory."""
        found: dict[int, Tensor] = {}
        self._file.flush()
        offset = 0
        for tensor, size in zip(self._tensors, self._sizes, strict=True):
            shape, kind = (tensor.numel(),), _numpy_type(tensor)
            # "c": what is written to it would stay in memory; torch wants no read-only arrays.
            mapped = np.memmap(self._file, kind, "c", offset, shape)
            found[id(tensor)] = torch.from_numpy(mapped).view(tensor.shape)
            offset += size
        return found

    def drop(self) -> None:
        """Forget the values; the tensors are of no use any more."""
        self._file.close()


def _numpy_type(tensor: Tensor) -> np.dtype[np.generic]:
    return torch.empty(0, dtype=tensor.dtype).numpy().dtype
