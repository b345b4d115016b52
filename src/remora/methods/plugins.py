"""Method files from outside the package: ``--plugin FILE``, and the variable that hands them on to worker processes.

A plug-in is code of the user's own and runs with the user's rights, so it is named on the command line or in the
environment alone; no study file and no adapter can name one.
"""

import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from remora.errors import ConfigError

VARIABLE = "REMORA_PLUGINS"
"""Environment variable with the files' absolute paths, separated as in PATH."""


def add_plugins(files: Iterable[Path]) -> None:
    """Make method files known to this process and to those it starts; they are loaded when methods are first listed.

    Raises:
        ConfigError: not a Python file, or not there.
    """
    known = named_plugins()
    for file in files:
        if file.suffix != ".py" or not file.is_file():
            raise ConfigError(f"no plug-in {file}", "give a Python file that registers a method")
        if file.resolve() not in known:
            known.append(file.resolve())
    os.environ[VARIABLE] = os.pathsep.join(map(str, known))


def named_plugins() -> list[Path]:
    """The files this process was given."""
    return [Path(part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]


def load_plugins() -> None:
    """Run every named file; what it registers is a method from then on.

    Raises:
        ConfigError: a file is not there or fails, with its line.
    """
    for file in named_plugins():
        name = _module_name(file)
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except ConfigError:
            del sys.modules[name]
            raise
        except Exception as error:
            del sys.modules[name]
            line = _line_in(file, error)
            raise ConfigError(
                f"plug-in {file}, line {line}: {type(error).__name__}: {error}" if line else f"plug-in {file}: {error}",
                "mend the file, or leave --plugin away",
            ) from error


def plugin_hash(method: type) -> str | None:
    """SHA-256 of the file that a method comes from, if that is a plug-in: another file may compute something else."""
    file = inspect.getsourcefile(method)
    if file is None or method.__module__.startswith("remora."):
        return None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _module_name(file: Path) -> str:
    """A name of its own for every path: two plug-ins may have the same file name."""
    return f"remora_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"


def _line_in(file: Path, error: BaseException) -> int | None:
    """Where in the file an error arose."""
    if isinstance(error, SyntaxError):
        return error.lineno
    lines: list[int] = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return lines[-1] if lines else None
