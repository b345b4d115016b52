"""What a study ran with: versions of the packages, and the files of methods that come from outside."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from remora.errors import ConfigError
from remora.methods.plugins import plugin_hash
from remora.study.rows import StudyRow

_PACKAGES = ("remora", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scikit-learn", "scipy")
_PLUGIN = "plug-in "


def versions_of(rows: Sequence[StudyRow]) -> dict[str, str]:
    """Package (and "python", and "plug-in METHOD") -> its version; a plug-in's is the SHA-256 of its file."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES} | {"python": platform.python_version()}
    for row in rows:
        sha256 = plugin_hash(type(row.method)) if row.method is not None else None
        if sha256 is not None:
            versions[_PLUGIN + row.id] = sha256
    return versions


def refuse_changed_plugins(begun: Mapping[str, str], now: Mapping[str, str], run_dir: Path) -> None:
    """Trials finished with one file and trials still to come with another are not one study.

    Raises:
        ConfigError: a plug-in's file differs from the one that the run directory was begun with.
    """
    for name, sha256 in now.items():
        if name.startswith(_PLUGIN) and begun.get(name) != sha256:
            raise ConfigError(
                f"the file of {name} is not the one with which {run_dir} was begun",
                "take the file as it was, or give another --out",
            )
