"""Command lines run in the test process, where all is imported already."""

import io
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from remora.cli.main import run_cli


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a command gave, under the names of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def remora(command: Sequence[str]) -> Done:
    """Run a command line, its arguments after ``remora``."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = run_cli(list(command))
    return Done(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())
