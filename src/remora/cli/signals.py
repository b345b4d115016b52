"""Stopping politely: SIGTERM becomes an exception in the main thread, so that every ``finally`` runs.

SIGUSR1, which schedulers send some time before they end a job, is taken the same way. Only the first one counts: what
follows it must not stop what it began.
"""

import signal
from types import FrameType


class Terminated(BaseException):
    """SIGTERM or SIGUSR1 arrived."""


def raise_on_sigterm() -> None:
    """Make SIGTERM and SIGUSR1 raise ``Terminated`` in the main thread of this process."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _on_sigterm)


def _on_sigterm(signum: int, frame: FrameType | None) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    raise Terminated
