"""Starts the processes of a study: workers, and the one that measures what rows cost.

Python, torch and transformers take seconds to be imported. On Linux one process, the nursery, has them imported and
computes nothing; the others are its children, which begin with what it has imported (`study.nursery`). Elsewhere, and
on GPUs, which no child may use whose parent might have, every process is started anew.

The nursery is itself a child of the coordinator where that has a single thread, as the command line has when a study
begins: nothing that only threads could give back is lost, and nothing has computed. Where there are more, as in a
notebook, it is started anew.
"""

import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Literal, Protocol

_MALLOC = {"TRIM_THRESHOLD": (-1, -1), "TOP_PAD": (-2, 64 * 2**20), "MMAP_MAX": (-4, 0)}
"""What glibc's malloc is told, in the environment or by ``mallopt``: name, its number in malloc.h, value."""

Kind = Literal["worker", "solo"]
"""Of process: the module of `remora.study` whose ``main`` it runs."""


class Process(Protocol):
    """What `subprocess.Popen` and `Child` have in common."""

    stdin: IO[str] | None
    stdout: IO[str] | None
    stderr: IO[str] | None
    returncode: int | None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and give the exit code.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        ...

    def terminate(self) -> None:
        """Send SIGTERM."""
        ...

    def kill(self) -> None:
        """Send SIGKILL."""
        ...


Start = Callable[[Kind, Sequence[str], int], Process]
"""Starts a process of a kind, with the arguments of its ``main``, in the `process_environment` of so many threads."""


def thread_settings(threads: int) -> dict[str, str]:
    """What tells libraries how many threads a process computes with."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def process_environment(threads: int) -> dict[str, str]:
    """The environment of a process that trains: its threads, memory kept between operations.

    glibc gives large blocks back to the kernel after every operation; page faults would then dominate a training step.
    """
    return {
        **os.environ,
        **thread_settings(threads),
        "TOKENIZERS_PARALLELISM": "false",
        **{f"MALLOC_{name}_": str(value) for name, (_, value) in _MALLOC.items()},
        "PYTHONUNBUFFERED": "1",
    }


def adopt_environment() -> None:
    """Have in this process what `process_environment` of one thread gives to one that is started anew. Linux."""
    os.environ.update(process_environment(1))
    with suppress(OSError, AttributeError):  # a C library without it
        for parameter, value in _MALLOC.values():
            ctypes.CDLL(None).mallopt(parameter, value)


def spawn(kind: Kind, arguments: Sequence[str], threads: int) -> Process:
    """Start a process anew; see `Start`. Its three standard streams are pipes."""
    return subprocess.Popen(
        [*_python(kind), *arguments, "--parent", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=process_environment(threads),
        text=True,
    )


def _python(module: str) -> list[str]:
    # Without -P, -m would import torch.py, or any other name, from the folder the user happens to be in.
    return [sys.executable, "-P", "-m", f"remora.study.{module}"]


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent dies, so that no two ever write one checkpoint. Linux.

    Raises:
        SystemExit: it is dead already.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        raise SystemExit("the coordinator has ended")


def can_fork() -> bool:
    """Whether processes on the CPU can be children of a nursery here."""
    return sys.platform == "linux" and sys.version_info >= (3, 9)


@contextmanager
def starting(on_gpus: bool) -> Generator[Start]:
    """What starts processes, in the way that suits them.

    Args:
        on_gpus: whether they compute on GPUs.
    """
    if on_gpus or not can_fork():
        yield spawn
        return
    with Nursery() as nursery:
        yield nursery.start


class Child:
    """A child of the nursery, used as a `subprocess.Popen` is.

    Args:
        descriptor: of the process (pidfd), so that no signal goes to another one that has got its number.
        streams: this process's ends of its standard input, output and error.
        status: where its exit code will be read; the end without one says that the nursery died, and so did it.
    """

    def __init__(self, descriptor: int, streams: Sequence[int], status: int) -> None:
        self._descriptor, self._status = descriptor, status
        self.stdin: IO[str] | None = os.fdopen(streams[0], "w")
        self.stdout: IO[str] | None = os.fdopen(streams[1])
        self.stderr: IO[str] | None = os.fdopen(streams[2])
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def wait(self, timeout: float | None = None) -> int:
        """See `Process`."""
        if self.returncode is None and not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("a worker process", timeout or 0.0)
        with self._lock:
            if self.returncode is None:
                self.returncode = int(os.read(self._status, 16) or -signal.SIGKILL)
                os.close(self._status)
                os.close(self._descriptor)
            return self.returncode

    def poll(self) -> int | None:
        """See `Process`."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def terminate(self) -> None:
        """See `Process`."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """See `Process`."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)


def _has_one_thread() -> bool:
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def _started(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """A nursery started anew, with its end of the channel."""
    return subprocess.Popen(
        [*_python("nursery"), "--channel", str(theirs.fileno()), "--parent", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=process_environment(1),
        pass_fds=[theirs.fileno()],
    )


class _Forked:
    """A nursery that is a child of this process.

    Args:
        theirs: its end of the channel.
    """

    def __init__(self, theirs: socket.socket) -> None:
        from remora.study import nursery  # which imports this module

        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        gc.freeze()  # nobody looks for garbage in what is imported, so that these pages stay common
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, nursery.SIGNALS)  # one that comes meanwhile is the parent's
        self.pid = os.fork()
        if self.pid == 0:
            nursery.be_one(theirs, parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, nursery.SIGNALS)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """See `Process`."""
        return self._await(os.WNOHANG)

    def wait(self) -> int:
        """See `Process`."""
        code = self._await(0)
        assert code is not None
        return code

    def kill(self) -> None:
        """See `Process`."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _await(self, options: int) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, options)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class Nursery:
    """A process that waits with everything imported and forks others; use as a context manager.

    It is made at once and is of use when it has imported; until then, and when it dies, processes are `spawn`-ed.
    """

    def __init__(self) -> None:
        self._process: _Forked | subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def __enter__(self) -> "Nursery":
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = _Forked(theirs) if _has_one_thread() else _started(theirs)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._close()
        self._process.kill()  # it holds nothing, and may be in the middle of its imports
        self._process.wait()

    def start(self, kind: Kind, arguments: Sequence[str], threads: int) -> Process:
        """Fork a process; see `Start`. Waits for the imports."""
        child = None
        with suppress(OSError):
            child = self._fork(kind, arguments, threads)
        return child if child is not None else spawn(kind, arguments, threads)

    def _fork(self, kind: Kind, arguments: Sequence[str], threads: int) -> Child | None:
        if self._channel is None:
            return None
        asked = json.dumps({"kind": kind, "arguments": list(arguments), "threads": threads}).encode()
        pipes = [os.pipe() for _ in range(4)]  # standard input, output, error; the exit code
        theirs = [pipes[0][0], *(writing for _, writing in pipes[1:])]
        ours = [pipes[0][1], *(reading for reading, _ in pipes[1:])]
        try:
            socket.send_fds(self._channel, [asked], theirs)
            _, (descriptor, *_), _, _ = socket.recv_fds(self._channel, 1, 1)
        except (OSError, ValueError):  # it is dead
            for each in ours:
                os.close(each)
            self._close()
            return None
        finally:
            for each in theirs:
                os.close(each)
        return Child(descriptor, ours[:3], ours[3])

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
