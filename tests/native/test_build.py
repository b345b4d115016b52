"""Building the kernels: by the compiler there is, once, and without one everything still trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from remora.native import kernels
from remora.native.build import NotBuiltError, library_path

HAS_KERNELS = pytest.mark.skipif(not kernels.status()[0], reason=f"no compiled kernels: {kernels.status()[1]}")
TRAIN = """
from remora.engine.selftest import train_tiny
from remora.native import kernels
print(kernels.status(), train_tiny())
"""


def train_tiny(**environment: str) -> tuple[str, float]:
    """What `kernels.status` says in a fresh process, and the loss of a tiny training there."""
    result = subprocess.run(
        [sys.executable, "-c", TRAIN], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    status, _, rest = result.stdout.strip().rpartition(" (")
    return status, float(rest.split(",")[0])


@HAS_KERNELS
def test_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMORA_CACHE", str(tmp_path))
    path = library_path()
    made = path.stat().st_mtime_ns
    assert library_path() == path
    assert path.stat().st_mtime_ns == made
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMORA_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(NotBuiltError, match="no C compiler"):
        library_path()


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_a_compiler_that_fails(compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMORA_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(NotBuiltError, match=compiler):
        library_path()


def test_training_goes_on_without_a_compiler(tmp_path: Path) -> None:
    status, loss = train_tiny(CC="false", REMORA_CACHE=str(tmp_path))
    assert status.startswith("(False, 'false failed")
    off, same = train_tiny(REMORA_NATIVE="0")
    assert off == "(False, 'switched off by REMORA_NATIVE=0')"
    assert same == loss


@HAS_KERNELS
def test_kernels_train_to_the_same_loss() -> None:
    status, loss = train_tiny()
    assert status.startswith("(True")
    assert loss == pytest.approx(train_tiny(REMORA_NATIVE="0")[1], rel=1e-6)
