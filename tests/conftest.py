"""Fixtures shared by all tests: where the real data sets are, one thread per test process, a private cache."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from remora.study import processes
from remora.study.processes import Nursery

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; processes share the cores, not threads
# Studies of one pack give their worker all cores, and threads that wait by spinning would take them from other tests.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# No test may fail because a machine is slow, and what one run finds the next must find too.
settings.register_profile("remora", deadline=None, derandomize=True)
settings.load_profile("remora")

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository; missing, it fails in CI and is a skip elsewhere."""
    if not SHARED_DATA.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{SHARED_DATA} is missing in CI")
        pytest.skip("the real data sets (../shared/data) are not on this machine")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests out of the user's cache; one cache for the whole test process."""
    monkeypatch.setenv("REMORA_CACHE", str(tmp_path_factory.getbasetemp() / "remora-cache"))


class _Common:
    """One nursery for the studies of a test process, as for those of a recipe; each would import torch for its own."""

    def __init__(self) -> None:
        self._nursery: Nursery | None = None
        self._surroundings: object = None

    @contextmanager
    def lent(self) -> Iterator[Nursery]:
        """The nursery; another one where the last is dead, or was made where children would see another environment."""
        surroundings = {**os.environ, "PYTEST_CURRENT_TEST": "", "working directory": os.getcwd()}
        if self._nursery is None or not is_alive(self._nursery) or surroundings != self._surroundings:
            self.close()
            self._nursery, self._surroundings = Nursery().__enter__(), surroundings
        yield self._nursery

    def close(self) -> None:
        if self._nursery is not None:
            self._nursery.__exit__()


def is_alive(nursery: Nursery) -> bool:
    process = nursery._process  # pyright: ignore[reportPrivateUsage]
    return process is not None and process.poll() is None


@pytest.fixture(scope="session")
def _common() -> Iterator[_Common]:
    common = _Common()
    yield common
    common.close()


@pytest.fixture(autouse=True)
def _nursery(_common: _Common, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "Nursery", _common.lent)
