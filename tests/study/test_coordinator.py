"""One process coordinates a run directory; the lock of one that died is found to be stale, on other machines too."""

from pathlib import Path

import pytest

from remora.errors import ConfigError, ResourceError
from remora.results.store import PACKS
from remora.study.board import COORDINATOR
from remora.study.coordinator import coordinating
from remora.study.leases import Heart, Lease, Leases


class Notes:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage(self, name: str, total: int) -> None: ...
    def trial_started(self, trial: str) -> None: ...
    def trial_step(self, trial: str, step: int, total: int, loss: float, metric: float | None) -> None: ...
    def trial_finished(self, trial: str, status: str, metric: float | None) -> None: ...
    def finished(self) -> None: ...


def taken_elsewhere(run_dir: Path) -> Lease:
    """The coordinator's lease, held by a process of another machine."""
    lease = Leases(run_dir / PACKS, 1.0, kernel="another kernel").take(COORDINATOR)
    assert lease is not None
    return lease


def state(run_dir: Path) -> str:
    standing = Leases(run_dir / PACKS).standing(COORDINATOR)
    assert standing is not None
    return standing.state


def test_the_second_is_refused_here_and_from_another_machine(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with (
        coordinating(run_dir, 1.0, Notes()),
        pytest.raises(ResourceError, match="another process is running the study"),
        coordinating(run_dir, 1.0, Notes()),
    ):
        pass
    other, told = tmp_path / "other", Notes()
    with Heart(1.0) as heart:
        lease = heart.keep(taken_elsewhere(other))
        with pytest.raises(ResourceError, match="another process is running the study"), coordinating(other, 1.0, told):
            pass
    lease.check()
    assert "waiting up to 1 s for a sign of life" in told.notes[0]  # it lives, which is seen only by watching


def test_the_lock_of_a_coordinator_that_died_elsewhere_is_stale(tmp_path: Path) -> None:
    run_dir, told = tmp_path / "run", Notes()
    lease = taken_elsewhere(run_dir)
    with coordinating(run_dir, 1.0, told) as own:
        own.check()
        assert own.ticket.number == lease.ticket.number + 1
    assert len(told.notes) == 1
    assert [path.name for path in (run_dir / PACKS).iterdir()] == [f"{COORDINATOR}.000002.lease"]


def test_how_it_ended_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="No space left"), coordinating(tmp_path, 1.0, Notes()):
        raise OSError(28, "No space left on device")
    assert state(tmp_path) == "released"
    with coordinating(tmp_path, 1.0, Notes()):
        assert state(tmp_path) == "held"
    assert state(tmp_path) == "done"


def test_nothing_is_left_of_a_study_that_was_not_begun(tmp_path: Path) -> None:
    run_dir, begun = tmp_path / "run", tmp_path / "begun"
    with pytest.raises(ConfigError), coordinating(run_dir, 1.0, Notes()):
        raise ConfigError("a setting is wrong")
    assert not run_dir.exists()
    begun.mkdir()
    (begun / "study.yaml").touch()
    with pytest.raises(ConfigError), coordinating(begun, 1.0, Notes()):
        raise ConfigError("a setting is wrong")
    assert sorted(path.name for path in begun.iterdir()) == [PACKS, "study.yaml"]
