"""The nursery: a process that imports what training needs, computes nothing, and forks the processes of a study.

A child of the coordinator (`be_one`), or run as ``python -m remora.study.nursery --channel FD --parent PID``; by
`study.processes`. Over the channel come requests, each with the standard streams of a new process and a pipe for its
exit code; the answer is the process's descriptor.
Nothing here may compute with torch: threads of OpenMP, once started, would be missing in a child.
"""

import argparse
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from remora.study.processes import Kind, adopt_environment, die_with, thread_settings

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Left to the processes it forks: a terminal or a scheduler may send them to all."""
_SET_NAME = 15
_KINDS: Mapping[Kind, str] = {"worker": "remora.study.worker", "solo": "remora.study.solo"}
_NEEDED = (
    "remora.engine.checkpoint",
    "remora.engine.loop",
    "remora.study.context",
    "remora.study.drivers",
    "remora.study.halving",
    "remora.study.resident",
)
"""What the modules of processes import while they work, but for pyarrow, which would start a thread."""
_MOST_BYTES = 2**16


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``python -m remora.study.nursery``."""
    parser = argparse.ArgumentParser(prog="remora.study.nursery")
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args(arguments)
    _ignore_signals(given.parent)
    with socket.socket(fileno=given.channel) as channel:
        _serve(channel)


def be_one(channel: socket.socket, parent: int) -> NoReturn:
    """Make a child that has just been forked, with signals blocked, a nursery; it ends here.

    Args:
        channel: its end, the one thing of its parent's that it keeps open.
        parent: its process.
    """
    code = 1
    try:
        _ignore_signals(parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        adopt_environment()
        nothing = os.open(os.devnull, os.O_RDWR)
        for place in range(3):
            os.dup2(nothing, place)
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) != channel.fileno():
                with suppress(OSError):  # the one that lists them
                    os.close(int(name))
        _serve(channel)
        code = 0
    finally:
        os._exit(code)  # without what its parent does when that ends


def _ignore_signals(parent: int) -> None:
    die_with(parent)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _serve(channel: socket.socket) -> None:
    """Import, then fork what is asked for until nobody is there any more."""
    gc.disable()  # what is imported stays, and to look for garbage in it takes a fourth of the time
    for name in (*_NEEDED, *_KINDS.values()):
        importlib.import_module(name)
    gc.freeze()  # nor do children look there, so that these pages stay common
    with selectors.DefaultSelector() as waiting:
        waiting.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is not channel:
                    waiting.unregister(key.fd)
                    _bury(key.fd, *key.data)
                    continue
                asked, streams, _, _ = socket.recv_fds(channel, _MOST_BYTES, 4)
                if not asked:
                    return
                descriptor, child = _fork(channel, waiting, json.loads(asked), streams)
                waiting.register(descriptor, selectors.EVENT_READ, (child, streams[3]))


def _fork(
    channel: socket.socket, waiting: selectors.BaseSelector, asked: dict[str, Any], streams: Sequence[int]
) -> tuple[int, int]:
    """Start a process, and tell of it; gives its descriptor and number."""
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # one that comes while it is made is the child's
    child = os.fork()
    if child == 0:
        _live(channel, waiting, asked, streams, parent)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    for stream in streams[:3]:
        os.close(stream)
    descriptor = os.pidfd_open(child)
    with suppress(OSError):  # whoever asked may be gone
        socket.send_fds(channel, [b"1"], [descriptor])
    return descriptor, child


def _bury(descriptor: int, child: int, status: int) -> None:
    """Pass the exit code of a child on."""
    _, ended = os.waitpid(child, 0)
    with suppress(OSError):
        os.write(status, str(os.waitstatus_to_exitcode(ended)).encode())
    os.close(status)
    os.close(descriptor)


def _live(
    channel: socket.socket, waiting: selectors.BaseSelector, asked: dict[str, Any], streams: Sequence[int], parent: int
) -> NoReturn:
    """What a child does: all that a process started for it would, but for the imports."""
    code = 1
    try:
        for place, stream in enumerate(streams[:3]):
            os.dup2(stream, place)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(place, "r" if place == 0 else "w", buffering=1, closefd=False) for place in range(3)
        )
        for key in list(waiting.get_map().values()):  # the pipes of others must end with them and the nursery alone
            if key.fileobj is not channel:
                os.close(key.fd)
                os.close(key.data[1])
        for stream in streams:
            os.close(stream)
        waiting.close()
        channel.close()
        os.environ.update(thread_settings(asked["threads"]))
        gc.enable()
        ctypes.CDLL(None).prctl(_SET_NAME, f"remora-{asked['kind']}".encode(), 0, 0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        code = _run(asked["kind"], [*asked["arguments"], "--parent", str(parent)])
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run(kind: Kind, arguments: Sequence[str]) -> int:
    try:
        importlib.import_module(_KINDS[kind]).main(arguments)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0


if __name__ == "__main__":
    main()
