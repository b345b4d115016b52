"""Where Remora may write outside a run directory: one cache folder."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder, created when missing: ``$REMORA_CACHE``, ``$XDG_CACHE_HOME/remora`` or ``~/.cache/remora``."""
    root = os.environ.get("REMORA_CACHE")
    folder = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "remora"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
