"""Where Remora may write outside a run directory, one cache folder; and when what it wrote is on disk."""

import os
from pathlib import Path


def cache_path() -> Path:
    """Where the cache folder is or will be: ``$REMORA_CACHE``, ``$XDG_CACHE_HOME/remora`` or ``~/.cache/remora``."""
    root = os.environ.get("REMORA_CACHE")
    return Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "remora"


def cache_dir() -> Path:
    """The cache folder, created when missing."""
    folder = cache_path()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def flush(path: Path) -> None:
    """Return once a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
