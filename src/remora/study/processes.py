"""Starts the processes of a study: workers, and the one that measures what rows cost.

Python, torch and transformers take seconds to be imported. On Linux one process, the nursery, imports them once and
computes nothing; the others are its children, which begin with what it has imported (`study.nursery`). Elsewhere, and
on GPUs, which no child may use whose parent might have, every process is started anew.
"""

import ctypes
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
        "MALLOC_TRIM_THRESHOLD_": "-1",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TOP_PAD_": str(64 * 2**20),
        "PYTHONUNBUFFERED": "1",
    }


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


class Nursery:
    """A process that waits with everything imported and forks others; use as a context manager.

    It is started at once and is of use when it has imported; until then, and when it dies, processes are `spawn`-ed.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def __enter__(self) -> "Nursery":
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*_python("nursery"), "--channel", str(theirs.fileno()), "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=process_environment(1),
                pass_fds=[theirs.fileno()],
            )
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
