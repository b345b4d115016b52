"""Leases: who holds what in a run directory, told by files alone, so that machines that share only the folder agree.

A lease is a file ``<name>.<number>.lease``. Making it anew is what a file system grants to one process only (O_EXCL),
and the highest number holds; whoever has a lower one has lost it, and asks before anything is committed. A holder
counts in its file. Others watch the count, each by its own clock: when it stands still for their patience, the holder
is dead and the next number is free. Clocks of two machines are never compared. Where holder and watcher run under
one kernel they need not wait: the file is also locked (flock), which ends with the process; across machines, where
such locks cannot be trusted, none is asked for.
"""

import fcntl
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["held", "released", "died", "lost", "done"]
"""Of a lease; ``lost`` is what a watcher writes that takes the next number; ``died`` says that a worker process did."""

PATIENCE = 120.0
"""Seconds without a count after which a holder counts as dead; above what network file systems remember names for."""
_FILE = re.compile(r"([A-Za-z0-9-]+)\.(\d{6})\.lease")
_BYTES = 512
"""Of a lease file, always: it is written over in place, and a reader sees the old content or the new."""
_BEATS = 10
"""Counts within the patience."""


class LeaseLostError(Exception):
    """Another process holds what this one held; nothing of it may be committed."""


def kernel_id() -> str:
    """What tells this running kernel from all others; empty where there is no such thing."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a lease file says.

    Args:
        number: which of the name's leases it is.
        state: whether it is held, or how it ended.
        nonce: the holder's, known to no other.
        host: the holder's machine, for people.
        pid: the holder's process there.
        kernel: see `kernel_id`; empty when the file is not locked.
        raw: the whole content.
    """

    number: int
    state: State
    nonce: str
    host: str
    pid: int
    kernel: str
    raw: bytes


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """What another process needs to know of a lease in order to ask whether it still holds."""

    name: str
    number: int
    nonce: str


class Lease:
    """A lease that this process took; `Leases.take` makes it.

    Args:
        folder: of the lease files.
        ticket: which one.
        descriptor: its file, open and locked.
        kernel: see `Standing`.
    """

    def __init__(self, folder: Path, ticket: Ticket, descriptor: int, kernel: str) -> None:
        self.ticket = ticket
        self._folder = folder
        self._descriptor = descriptor
        self._kernel = kernel
        self._beat = 0
        self._open = True
        self._lock = threading.Lock()
        try:
            self._write("held")
        except OSError:  # a name without a holder's content would count as held until patience ran out
            _path(folder, ticket.name, ticket.number).unlink(missing_ok=True)
            os.close(descriptor)
            raise

    def beat(self) -> None:
        """Count on.

        Raises:
            LeaseLostError: another process holds it now.
            OSError: the file cannot be written at the moment.
        """
        with self._lock:
            if self._open:
                check_lease(self._folder, self.ticket)
                self._beat += 1
                self._write("held")

    def check(self) -> None:
        """Ask whether it still holds.

        Raises:
            LeaseLostError: it does not.
        """
        check_lease(self._folder, self.ticket)

    def end(self, state: State) -> None:
        """Hold it no more; a lease that was lost is left to its holder."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            with suppress(LeaseLostError, OSError):
                check_lease(self._folder, self.ticket)
                self._write(state)
            os.close(self._descriptor)

    def _write(self, state: State) -> None:
        host = socket.gethostname() if state == "held" else ""  # a run directory that is done names no machine
        values = {"state": state, "nonce": self.ticket.nonce, "host": host, "pid": os.getpid()}
        os.pwrite(self._descriptor, _content({**values, "kernel": self._kernel, "beat": self._beat}), 0)
        os.fsync(self._descriptor)


class Leases:
    """The leases in a folder as one process sees them.

    Args:
        folder: made with the first lease.
        patience: see `PATIENCE`.
        clock: seconds of this process.
        kernel: the kernel that this process runs under.
    """

    def __init__(
        self,
        folder: Path,
        patience: float = PATIENCE,
        *,
        clock: Callable[[], float] = time.monotonic,
        kernel: str | None = None,
    ) -> None:
        self.folder = folder
        self.patience = patience
        self._clock = clock
        self._kernel = kernel_id() if kernel is None else kernel
        self._seen: dict[tuple[str, int], tuple[bytes, float, float]] = {}

    def numbers(self) -> Mapping[str, list[int]]:
        """Name -> numbers of its leases, in order."""
        found: dict[str, list[int]] = {}
        with suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                if match := _FILE.fullmatch(entry.name):
                    found.setdefault(match[1], []).append(int(match[2]))
        return {name: sorted(numbers) for name, numbers in found.items()}

    def standing(self, name: str, numbers: Mapping[str, list[int]] | None = None) -> Standing | None:
        """Of the highest number of a name; None when it has no lease.

        Args:
            name: of the lease.
            numbers: of all names, where they were listed a moment ago.
        """
        found = (self.numbers() if numbers is None else numbers).get(name)
        return None if found is None else _read(self.folder, name, found[-1])

    def ended_badly(self, name: str, numbers: Mapping[str, list[int]]) -> int:
        """How many holders of a name were lost or said that their process died."""
        found = (_read(self.folder, name, number) for number in numbers.get(name, ()))
        return sum(standing is not None and standing.state in ("died", "lost") for standing in found)

    def dead(self, name: str, standing: Standing) -> bool:
        """Whether whoever wrote a standing is gone: at once under this kernel, else when it has not counted for long.

        Only time in which this process looked counts: one that slept, or had no file system, starts to watch anew.
        """
        if standing.kernel and standing.kernel == self._kernel and _unlocked(self.folder, name, standing.number):
            again = _read(self.folder, name, standing.number)
            return again is not None and again.raw == standing.raw  # else it ended well between the two looks
        key, now = (name, standing.number), self._clock()
        content, since, last = self._seen.get(key, (b"", now, now))
        if content != standing.raw or now - last > self.patience / 2:
            since = now
        self._seen[key] = (standing.raw, since, now)
        return now - since >= self.patience

    def is_alive_here(self, name: str, standing: Standing) -> bool:
        """Whether whoever wrote a standing is known at once to live: a process under this kernel."""
        here = standing.kernel and standing.kernel == self._kernel
        return bool(here) and not _unlocked(self.folder, name, standing.number)

    def is_free(self, name: str, numbers: Mapping[str, list[int]] | None = None) -> bool:
        """Whether a name has no holder that lives; see `standing`."""
        standing = self.standing(name, numbers)
        return standing is None or standing.state != "held" or self.dead(name, standing)

    def take(self, name: str) -> Lease | None:
        """Take a lease that nobody has; None when somebody has it, or was faster.

        Raises:
            OSError: the folder cannot be written.
        """
        standing = self.standing(name)
        number = 1
        if standing is not None:
            if standing.state == "held":
                if not self.dead(name, standing):
                    return None
                # In its own file: a name that another machine made may be seen late, a file opened is read anew.
                _mark_lost(self.folder, name, standing)
            number = standing.number + 1
        self.folder.mkdir(parents=True, exist_ok=True)
        path = _path(self.folder, name, number)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        except FileExistsError:
            return None
        kernel = self._kernel
        try:
            # Before anything is written, as an empty file is not asked whether it is locked.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            kernel = ""
        return Lease(self.folder, Ticket(name=name, number=number, nonce=secrets.token_hex(8)), descriptor, kernel)

    def forget(self, name: str, *, but: int | None = None) -> None:
        """Remove the leases of a name, perhaps but one; whoever held one has lost it."""
        for number in self.numbers().get(name, ()):
            if number != but:
                _path(self.folder, name, number).unlink(missing_ok=True)


class Heart:
    """Counts for leases in a thread of its own, whatever else the process does; use as a context manager.

    Args:
        patience: of those who watch.
    """

    def __init__(self, patience: float) -> None:
        self._seconds = patience / _BEATS
        self._leases: list[Lease] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Heart":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def keep(self, lease: Lease) -> Lease:
        """Count for a lease until it ends or is lost; gives it back."""
        self._leases = [*self._leases, lease]
        return lease

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            for lease in self._leases:
                try:
                    lease.beat()
                except LeaseLostError:
                    self._leases = [other for other in self._leases if other is not lease]
                except OSError:  # the next count may be written; if none is, others will see that
                    continue


def check_lease(folder: Path, ticket: Ticket) -> None:
    """Ask whether a lease still holds.

    Raises:
        LeaseLostError: it does not.
    """
    standing = _read(folder, ticket.name, ticket.number)
    with suppress(FileNotFoundError), os.scandir(folder):
        pass  # opening the folder has a network file system look for names made elsewhere
    follower = _path(folder, ticket.name, ticket.number + 1)
    if standing is None or standing.nonce != ticket.nonce or standing.state != "held" or follower.exists():
        raise LeaseLostError(f"{ticket.name} is held by another process")


def _path(folder: Path, name: str, number: int) -> Path:
    return folder / f"{name}.{number:06d}.lease"


def _content(values: Mapping[str, object]) -> bytes:
    return json.dumps(values).encode().ljust(_BYTES - 1)[: _BYTES - 1] + b"\n"


def _read(folder: Path, name: str, number: int) -> Standing | None:
    """What a lease file says; one that is still empty or cut is held by somebody unknown. None when it is gone."""
    try:
        descriptor = os.open(_path(folder, name, number), os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        raw = file.read(_BYTES)
    try:
        values = json.loads(raw)
        return Standing(
            number=number,
            state=values["state"],
            nonce=values["nonce"],
            host=values["host"],
            pid=values["pid"],
            kernel=values["kernel"],
            raw=raw,
        )
    except (ValueError, KeyError, TypeError):
        return Standing(number=number, state="held", nonce="", host="?", pid=0, kernel="", raw=raw)


def _mark_lost(folder: Path, name: str, standing: Standing) -> None:
    values = {"state": "lost", "nonce": standing.nonce, "host": standing.host, "pid": standing.pid}
    with suppress(FileNotFoundError):
        descriptor = os.open(_path(folder, name, standing.number), os.O_WRONLY | os.O_NOFOLLOW)
        try:
            os.pwrite(descriptor, _content({**values, "kernel": standing.kernel, "beat": -1}), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unlocked(folder: Path, name: str, number: int) -> bool:
    """Whether no process of this machine has a lease file locked any more."""
    try:
        descriptor = os.open(_path(folder, name, number), os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: watchers must not take each other for holders
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
