"""Builds the C kernels into the cache folder with the compiler the machine has.

The library's name is a hash of the sources, the options, the compiler and the processor's abilities, so that a cache
folder shared by different machines holds one library for each kind.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from remora.paths import cache_dir

SOURCES = Path(__file__).parent
COMPILERS = ("cc", "gcc", "clang")
OPTIONS = (
    "-std=gnu11",
    "-O3",
    "-fPIC",
    "-shared",
    # Let loops with rint and float comparisons become vector code; results keep NaN and rounding.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-w",
)
NATIVE = ("-march=native", "-mcpu=native")
"""Spellings of "for this processor": x86 compilers take the first, some for ARM and POWER the second only."""
TIMEOUT = 120


class NotBuiltError(Exception):
    """There is no library; the message says why."""


def library_path() -> Path:
    """The library for this machine, built when it is not there yet.

    Raises:
        NotBuiltError: no compiler, or it failed.
    """
    compiler = _compiler()
    folder = cache_dir() / "native"
    path = folder / f"kernels-{_fingerprint(compiler)}.so"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        aside = Path(scratch) / "kernels.so"
        problem = ""
        for native in NATIVE:
            command = [*compiler, *OPTIONS, native, str(SOURCES / "kernels.c"), "-o", str(aside), "-lm"]
            try:
                result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise NotBuiltError(f"{compiler[0]} did not run: {error}") from error
            if result.returncode == 0:
                # Several processes may build at once; the last one to finish replaces an equal file.
                aside.replace(path)
                return path
            problem = next(iter(result.stderr.strip().splitlines()), f"exit status {result.returncode}")
    raise NotBuiltError(f"{compiler[0]} failed: {problem}")


def _compiler() -> list[str]:
    named = os.environ.get("CC")
    if named:
        return shlex.split(named)
    for name in COMPILERS:
        found = shutil.which(name)
        if found:
            return [found]
    raise NotBuiltError(f"no C compiler ({', '.join(COMPILERS)})")


def _fingerprint(compiler: list[str]) -> str:
    digest = hashlib.sha256()
    for source in sorted(SOURCES.glob("*.[ch]")):
        digest.update(source.read_bytes())
    try:
        version = subprocess.run(
            [*compiler, "--version"], capture_output=True, text=True, timeout=TIMEOUT, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuiltError(f"{compiler[0]} did not run: {error}") from error
    digest.update("\n".join([*compiler, version, *OPTIONS, platform.machine(), _processor()]).encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """The abilities of the processor, as far as the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
