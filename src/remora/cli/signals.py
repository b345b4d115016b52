"""Stopping politely: SIGTERM becomes an exception in the main thread, so that every ``finally`` runs."""

import signal
from types import FrameType


class Terminated(BaseException):
    """SIGTERM arrived."""


def raise_on_sigterm() -> None:
    """Make SIGTERM raise ``Terminated`` in the main thread of this process."""
    signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(signum: int, frame: FrameType | None) -> None:
    raise Terminated
