"""Leases on one disk, as processes see them that share nothing else: one holder, and nobody takes a dead one's word."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from remora.study.leases import Heart, Lease, LeaseLostError, Leases, kernel_id


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def elsewhere(folder: Path, clock: Clock | None = None, kernel: str = "another kernel") -> Leases:
    """The view of a process on another machine."""
    return Leases(folder, 60, clock=clock or Clock(), kernel=kernel)


def taken(leases: Leases, name: str = "a") -> Lease:
    lease = leases.take(name)
    assert lease is not None
    return lease


def test_one_holds_and_the_next_waits_until_it_is_released(tmp_path: Path) -> None:
    here, there = elsewhere(tmp_path, kernel="one"), elsewhere(tmp_path, kernel="two")
    lease = taken(here)
    lease.check()
    assert there.take("a") is None
    assert taken(there, "b").ticket.number == 1
    lease.end("released")
    with pytest.raises(LeaseLostError):
        lease.check()
    assert taken(there).ticket.number == 2


def test_a_holder_that_shows_no_life_loses_its_lease_and_finds_out(tmp_path: Path) -> None:
    clock = Clock()
    here, there = elsewhere(tmp_path, kernel="one"), elsewhere(tmp_path, clock, kernel="two")
    lease = taken(here)
    for _ in range(6):  # 60 s in all, and each time a sign of life came in between
        assert there.take("a") is None
        clock.now += 20
        lease.beat()
    for seconds in (0, 29, 29):
        clock.now += seconds
        assert there.take("a") is None
    clock.now += 2
    second = taken(there)
    for ask in (lease.check, lease.beat):
        with pytest.raises(LeaseLostError):
            ask()
    lease.end("done")  # says nothing, as it is not its own any more
    second.check()
    standing = there.standing("a")
    assert standing is not None
    assert (standing.number, standing.state, standing.nonce) == (2, "held", second.ticket.nonce)
    assert there.ended_badly("a", there.numbers()) == 1


def test_a_lease_that_found_no_room_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    leases = Leases(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            leases.take("a")
    assert not list(tmp_path.iterdir())
    assert elsewhere(tmp_path).is_free("a")
    assert taken(leases).ticket.number == 1


def test_a_watcher_that_slept_starts_to_watch_anew(tmp_path: Path) -> None:
    clock = Clock()
    taken(elsewhere(tmp_path, kernel="one"))
    there = elsewhere(tmp_path, clock)
    assert there.take("a") is None
    clock.now += 10_000  # the lid was closed, or the file system did not answer
    assert there.take("a") is None
    for _ in range(3):
        clock.now += 21
        lease = there.take("a")
    assert lease is not None


def test_what_is_in_the_file_may_be_anything(tmp_path: Path) -> None:
    """A holder that died before it wrote a word is dead when nothing changes, and not before."""
    (tmp_path / "a.000004.lease").write_bytes(b"")
    (tmp_path / "b.000001.lease").write_bytes(b'{"state": "held"')
    (tmp_path / "other.txt").write_bytes(b"")
    clock = Clock()
    there = elsewhere(tmp_path, clock)
    assert (there.take("a"), there.take("b")) == (None, None)
    for _ in range(3):
        clock.now += 21
        there.is_free("a")
        there.is_free("b")
    assert taken(there, "a").ticket.number == 5
    assert taken(there, "b").ticket.number == 2


def test_a_forgotten_lease_is_lost_also_when_its_number_is_given_again(tmp_path: Path) -> None:
    here = elsewhere(tmp_path)
    lease = taken(here)
    here.forget("a")
    with pytest.raises(LeaseLostError):
        lease.check()
    again = taken(here)
    assert again.ticket.number == lease.ticket.number
    with pytest.raises(LeaseLostError):
        lease.check()
    again.check()


def test_a_heart_keeps_a_lease_alive(tmp_path: Path) -> None:
    here, there = elsewhere(tmp_path, kernel="one"), Leases(tmp_path, 1.0, kernel="two")
    with Heart(1.0) as heart:
        lease = heart.keep(taken(here))
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            assert there.take("a") is None
            time.sleep(0.05)
    end = time.monotonic() + 5
    while (second := there.take("a")) is None and time.monotonic() < end:
        time.sleep(0.05)
    assert second is not None
    with pytest.raises(LeaseLostError):
        lease.check()


RACE = """
import sys, time
from pathlib import Path
from remora.study.leases import Leases
folder, start = Path(sys.argv[1]), float(sys.argv[2])
leases = Leases(folder, 60)
time.sleep(max(0.0, start - time.time()))
won = [name for name in map(str, range(20)) if leases.take(name) is not None]
print(*won)
time.sleep(2)
"""


def test_of_many_processes_one_wins(tmp_path: Path) -> None:
    for name in range(10):  # half of the leases are new, half are given back
        taken(elsewhere(tmp_path), str(name)).end("released")
    command = [sys.executable, "-c", RACE, str(tmp_path), str(time.time() + 4)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    won = [racer.communicate()[0].split() for racer in racers]
    assert sorted(int(name) for names in won for name in names) == list(range(20))


HOLD = """
import sys, time
from pathlib import Path
from remora.study.leases import Leases
lease = Leases(Path(sys.argv[1]), 60).take("a")
print(lease.ticket.number, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not kernel_id(), reason="this system does not tell one start of its kernel from another")
def test_a_process_killed_under_this_kernel_is_known_to_be_dead_at_once(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    here, there = Leases(tmp_path, 60), elsewhere(tmp_path)
    standing = here.standing("a")
    assert standing is not None
    assert here.is_alive_here("a", standing)
    assert not there.is_alive_here("a", standing)
    assert here.take("a") is None
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert there.take("a") is None  # from elsewhere nobody can know yet
    assert taken(here).ticket.number == 2
