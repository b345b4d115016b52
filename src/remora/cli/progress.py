"""Three ways to watch a study: a live table on a terminal, timestamped lines elsewhere, silence for programs."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from remora.results.wording import duration, points
from remora.study.progress import Progress

_MAX_ROWS = 14
_HEARTBEAT_SECONDS = 30.0


@dataclass
class TrialRow:
    """What is known of one trial."""

    trial: str
    status: str = "running"
    step: int = 0
    total: int = 0
    loss: float | None = None
    metric: float | None = None


@dataclass
class Board:
    """The state of a study as its watcher sees it.

    Args:
        clock: seconds from any origin; only differences are used.
    """

    clock: Callable[[], float] = time.monotonic
    name: str = ""
    total: int = 0
    done: int = 0
    trained: int = 0
    since: float = 0.0
    rows: dict[str, TrialRow] = field(default_factory=dict[str, TrialRow])

    def stage(self, name: str, total: int) -> None:
        """Begin a stage; the rows of the one before are forgotten."""
        self.name, self.total, self.done, self.trained, self.since = name, total, 0, 0, self.clock()
        self.rows = {}

    def row(self, trial: str) -> TrialRow:
        """The row of a trial, made when it is new."""
        return self.rows.setdefault(trial, TrialRow(trial))

    def finish(self, trial: str, status: str, metric: float | None) -> None:
        """Mark a trial as ended."""
        row = self.row(trial)
        row.status, row.metric = status, metric if metric is not None else row.metric
        self.done += 1
        self.trained += status != "kept"

    def remaining(self) -> float | None:
        """Seconds this stage will still take at its pace so far; None before its first trial has ended."""
        if not self.trained:
            return None
        return (self.clock() - self.since) / self.trained * (self.total - self.done)

    def visible(self) -> list[TrialRow]:
        """The rows to show: all that run, and as many of those ended last as there is room for."""
        running = [row for row in self.rows.values() if row.status == "running"][:_MAX_ROWS]
        ended = [row for row in self.rows.values() if row.status != "running"]
        return [*ended[max(0, len(ended) - (_MAX_ROWS - len(running))) :], *running]


class LiveProgress:
    """A table with progress bars that redraws in place on stderr.

    Args:
        console: the terminal to draw on.
        board: the state; a fresh one by default.
    """

    def __init__(self, console: Console, board: Board | None = None) -> None:
        self.board = board or Board()
        self._live = Live(get_renderable=self.render, console=console, refresh_per_second=4, transient=True)
        self._console = console

    def render(self) -> RenderableType:
        """The table as it stands now."""
        board = self.board
        left = board.remaining()
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text(board.name, style="bold"),
            ProgressBar(total=max(board.total, 1), completed=board.done, width=30),
            f"{board.done}/{board.total} trials",
            "" if left is None else f"about {duration(round(left))} left",
        )
        table = Table(box=None, pad_edge=False)
        for name in ("trial", "status", "", "steps", "loss", "metric"):
            table.add_column(name, justify="right" if name in ("steps", "loss", "metric") else "left", no_wrap=True)
        for row in board.visible():
            table.add_row(
                Text(row.trial),
                Text(row.status, style="red" if row.status in ("failed", "diverged") else ""),
                ProgressBar(
                    total=max(row.total, 1), completed=row.step if row.status == "running" else row.total, width=16
                ),
                f"{row.step}/{row.total}" if row.total else "",
                "" if row.loss is None else f"{row.loss:.3f}",
                "" if row.metric is None else points(row.metric),
            )
        return Group(head, table)

    def stage(self, name: str, total: int) -> None:
        """Begin a stage."""
        self._leave_line()
        self.board.stage(name, total)
        self._live.start()

    def trial_started(self, trial: str) -> None:
        """Show a trial as running."""
        self.board.row(trial)

    def trial_step(self, trial: str, step: int, total: int, loss: float, metric: float | None) -> None:
        """Move a trial's bar."""
        row = self.board.row(trial)
        row.step, row.total, row.loss = step, total, loss
        row.metric = metric if metric is not None else row.metric

    def trial_finished(self, trial: str, status: str, metric: float | None) -> None:
        """Show how a trial ended."""
        self.board.finish(trial, status, metric)

    def note(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(Text(text))

    def finished(self) -> None:
        """Take the table away."""
        self._leave_line()
        self._live.stop()

    def _leave_line(self) -> None:
        """Keep one line of a stage that ended, since the live table itself vanishes."""
        if self.board.name and self.board.done:
            took = duration(round(self.board.clock() - self.board.since))
            self._console.print(Text(f"{self.board.name}: {self.board.done}/{self.board.total} trials in {took}"))
            self.board.name = ""


class LineProgress:
    """Plain lines with the time of day on stderr: for logs and pipes.

    Args:
        write: takes one line.
        board: the state; a fresh one by default.
        stamp: gives the time of day.
    """

    def __init__(
        self,
        write: Callable[[str], None] = lambda line: click.echo(line, err=True),
        board: Board | None = None,
        stamp: Callable[[], str] = lambda: time.strftime("%H:%M:%S"),
    ) -> None:
        self.board = board or Board()
        self._write = write
        self._stamp = stamp
        self._last_line = self.board.clock()

    def note(self, text: str) -> None:
        """Write a line."""
        self._last_line = self.board.clock()
        self._write(f"{self._stamp()} {text}")

    def stage(self, name: str, total: int) -> None:
        """Write that a stage begins."""
        self.board.stage(name, total)
        self.note(f"{name}: {total} trials")

    def trial_started(self, trial: str) -> None:
        """Remember that a trial runs; its end gets the line."""
        self.board.row(trial)

    def trial_step(self, trial: str, step: int, total: int, loss: float, metric: float | None) -> None:
        """Write a sign of life when nothing was written for a while."""
        if self.board.clock() - self._last_line >= _HEARTBEAT_SECONDS:
            value = "" if metric is None else f", metric {points(metric)}"
            self.note(f"{self.board.name}: {trial} at step {step}/{total}, loss {loss:.3f}{value}")

    def trial_finished(self, trial: str, status: str, metric: float | None) -> None:
        """Write how a trial ended and how long the stage will still take."""
        board = self.board
        board.finish(trial, status, metric)
        left = board.remaining()
        value = "" if metric is None else f" {points(metric)}"
        tail = f", about {duration(round(left))} left" if left else ""
        self.note(f"{board.name} {board.done}/{board.total}: {trial} {status}{value}{tail}")

    def finished(self) -> None:
        """Nothing to clean up."""


class SilentProgress:
    """Says nothing but notes, which go to stderr: for ``--json``."""

    def stage(self, name: str, total: int) -> None:
        """Ignore it."""

    def trial_started(self, trial: str) -> None:
        """Ignore it."""

    def trial_step(self, trial: str, step: int, total: int, loss: float, metric: float | None) -> None:
        """Ignore it."""

    def trial_finished(self, trial: str, status: str, metric: float | None) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Pass a note on: warnings must reach people even when a program reads stdout."""
        click.echo(text, err=True)

    def finished(self) -> None:
        """Nothing to clean up."""


def choose_progress(*, silent: bool) -> Progress:
    """The watcher that fits where stderr goes.

    Args:
        silent: a program reads our output (``--json``).

    Returns:
        Silent when asked for, live on a terminal, lines elsewhere.
    """
    if silent:
        return SilentProgress()
    console = Console(stderr=True)
    return LiveProgress(console) if console.is_terminal else LineProgress()
