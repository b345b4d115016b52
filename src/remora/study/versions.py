"""What a study ran with: versions of the packages, and the files of methods that come from outside."""

import importlib.metadata
import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from remora.config.schema import EngineConfig
from remora.errors import ConfigError, ResourceError
from remora.methods.plugins import plugin_hash
from remora.methods.registry import get_method
from remora.native import kernels
from remora.study.machine import cpu_name
from remora.study.rows import StudyRow

_PACKAGES = ("remora", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scikit-learn", "scipy")
_PLUGIN = "plug-in "
_PROCESSOR, _KERNELS = "processor", "compiled kernels"


def versions_of(rows: Sequence[StudyRow]) -> dict[str, str]:
    """Package (and "python", "plug-in METHOD" and what the machine is) -> its version; a plug-in's is the SHA-256."""
    versions = _packages() | {"python": platform.python_version(), _PROCESSOR: cpu_name(), _KERNELS: _has_kernels()}
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


def refuse_other_versions(begun: Mapping[str, str], run_dir: Path) -> None:
    """Trials of one study are not trained with several versions of what computes them.

    Args:
        begun: `versions_of` the process that coordinates the study.
        run_dir: of the study.

    Raises:
        ResourceError: a package of this process has another version.
        ConfigError: a plug-in is missing here, or its file is another one.
    """
    here = _packages()
    others = [f"{name} {here[name]}, there {begun[name]}" for name in here if begun.get(name, here[name]) != here[name]]
    if others:
        raise ResourceError(
            f"{run_dir} is trained with other versions than are installed here: {'; '.join(others)}",
            "use one environment, or one container, on all machines",
        )
    for name in begun:
        if name.startswith(_PLUGIN):
            sha256 = plugin_hash(type(get_method(name.removeprefix(_PLUGIN))))
            if sha256 != begun[name]:
                raise ConfigError(
                    f"the file of {name} is not the one with which {run_dir} is trained",
                    f"remora worker {shlex.quote(str(run_dir))} --plugin FILE",
                )


def machine_difference(begun: Mapping[str, str], engine: EngineConfig) -> str:
    """In what this machine differs from the coordinator's so that last bits may differ, in words; empty for nothing."""
    here = {_PROCESSOR: cpu_name(), _KERNELS: _has_kernels()} if engine.device == "cpu" else {}
    found = [f"{name}: {here[name]} beside {begun[name]}" for name in here if begun.get(name, here[name]) != here[name]]
    return f"trained on machines that differ, so last bits may ({'; '.join(found)})" if found else ""


def _packages() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _has_kernels() -> str:
    return "yes" if kernels.status()[0] else "no"
