"""Where Remora may write outside a run directory: one cache folder."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder, created when missing: ``$REMORA_CACHE``, else ``$XDG_CACHE_HOME/remora``, else ``~/.cache/remora``."""
    root = os.environ.get("REMORA_CACHE")
    if root:
        folder = Path(root)
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "remora"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
