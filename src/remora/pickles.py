"""Files that may hold code, which reading them would run: known by their names, never opened."""

from pathlib import Path

_SUFFIXES = frozenset(
    (".bin", ".ckpt", ".h5", ".joblib", ".msgpack", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"),
)


def is_pickle(path: Path) -> bool:
    """Whether a file is of a type whose readers may run code, in whatever case its name is written."""
    return path.suffix.lower() in _SUFFIXES
