"""Imported by every Python process that has this folder on its path: no connection leaves it, each try is noted."""

import os
import socket
import sys
from typing import Any

_NETWORK = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname")


def _deny(event: str, args: tuple[Any, ...]) -> None:
    if event not in _NETWORK or (isinstance(args[0], socket.socket) and args[0].family == socket.AF_UNIX):
        return
    with open(os.environ["SEALED_LOG"], "a") as log:
        log.write(f"{event} {args[1:]!r}\n")
    raise PermissionError(f"{event} is denied")


sys.addaudithook(_deny)
