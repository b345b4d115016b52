"""The launcher of a machine: worker processes, to which packs are handed that nobody has, in the order of the plan.

It is the same on the machine that coordinates and on those that take part: packs come from the board of the run
directory (`study.board`), each with a lease that this process keeps alive while one of its workers trains the pack.
"""

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from remora.errors import ResourceError
from remora.native.build import NotBuiltError, library_path
from remora.results.store import is_finished
from remora.study.board import Board
from remora.study.leases import PATIENCE, Heart, Lease, Ticket
from remora.study.oversee import Event, Oversight
from remora.study.packs import PlannedPack
from remora.study.processes import Process, Start, spawn
from remora.study.trials import PlannedTrial

_LOG_LINES = 30
_SECONDS_TO_END = 8
_LOOK_SECONDS = 0.5
"""Between two looks at what other machines did."""


class _Worker:
    """One worker process and the pack it has."""

    def __init__(self, number: int, process: Process, events: "queue.Queue[tuple[_Worker, Event | None]]") -> None:
        self.pack: PlannedPack | None = None
        self.ready = False
        self.log: list[str] = []
        self.process = process
        self.number = number
        threading.Thread(target=self._read, args=(events,), daemon=True).start()
        threading.Thread(target=self._read_log, daemon=True).start()

    def _read(self, events: "queue.Queue[tuple[_Worker, Event | None]]") -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                events.put((self, json.loads(line)))
        events.put((self, None))

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.log = [*self.log[1 - _LOG_LINES :], line.rstrip()]

    def give(self, pack: PlannedPack, done: frozenset[str], ticket: Ticket) -> None:
        """Hand a pack over, with those of its trials that are done: lanes have the neighbours that the plan says."""
        self.pack = pack
        job: dict[str, Any] = {"pack": pack.id, "slots": pack.slots, "parts": pack.parts}
        job["trials"] = [trial.to_json() for trial in pack.trials]
        job["done"] = [trial.spec.id for trial in pack.trials if trial.spec.id in done]
        job["lease"] = asdict(ticket)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()

    def dismiss(self) -> None:
        """Tell it that there is nothing more."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it is gone, and so is what was still to be written
            self.process.stdin.close()


class Workers:
    """Worker processes of one study; use as a context manager, so that none outlives this process.

    Args:
        run_dir: of the study.
        count: most processes.
        threads: of each process.
        gpus: whether each process has a GPU of its own.
        board: where packs are on offer; by default that of the run directory.
        start: starts them.
    """

    def __init__(
        self,
        run_dir: Path,
        count: int,
        threads: int,
        *,
        gpus: bool = False,
        board: Board | None = None,
        start: Start = spawn,
    ) -> None:
        self._run_dir = run_dir
        self._count = count
        self._threads = threads
        self._gpus = gpus
        self._start_process = start
        self._board = board if board is not None else Board(run_dir, PATIENCE)
        self._heart = Heart(self._board.leases.patience)
        self._events: queue.Queue[tuple[_Worker, Event | None]] = queue.Queue()
        self._workers: list[_Worker] = []
        self._leases: dict[_Worker, Lease] = {}
        self._last_words: dict[str, str] = {}

    def __enter__(self) -> "Workers":
        # Once here rather than by every worker at the same time; one that finds no library does without.
        with suppress(NotBuiltError, OSError):
            library_path()
        self._heart.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers that are left; each writes a checkpoint if it can do so in time, and its pack is free."""
        for worker in self._workers:
            worker.process.terminate()
        end = time.monotonic() + _SECONDS_TO_END
        for worker in self._workers:
            try:
                worker.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.dismiss()
        self._heart.__exit__()
        for lease in self._leases.values():
            lease.end("released")

    def dismiss(self) -> None:
        """Let every worker end by itself; each then checks that its base is what it was.

        Raises:
            AssertionError: a worker's base changed.
        """
        for worker in self._workers:
            worker.dismiss()
        for worker in self._workers:
            if worker.process.wait() != 0:
                raise AssertionError(f"a worker ended badly: {_last(worker.log)}")
        self._workers = []

    def run(
        self,
        packs: Sequence[PlannedPack],
        finished: frozenset[str],
        on_event: Callable[[Event], None],
        on_death: Callable[[PlannedTrial, str], None],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Have packs trained, here and by whoever takes part; returns when every trial of them is finished or failed.

        Args:
            packs: in order of the plan.
            finished: ids of trials that need no training.
            on_event: told what workers say.
            on_death: told of a trial that was lost with its worker once too often. The first time its pack goes on
                from its checkpoint, the second time it has no neighbours.
            check: called at every look; raises when this process may not go on.

        Raises:
            ResourceError: workers die before they can take a pack, or one cannot write what it trained.
        """
        stage = Oversight(self._run_dir, self._board, packs, finished, self._threads, on_event, on_death)

        def look() -> None:
            check()
            stage.look(frozenset(worker.pack.id for worker in self._workers if worker.pack), self._last_words)

        self._serve(lambda: bool(stage.left or self._leases), stage.done, stage.hear, look)
        self._board.close()

    def follow(self, goes_on: Callable[[], bool], on_event: Callable[[Event], None]) -> None:
        """Train packs that another process plans.

        Args:
            goes_on: asked at every look.
            on_event: told what the workers of this process say.

        Raises:
            ResourceError: as `run`.
        """
        self._serve(goes_on, frozenset(), on_event, lambda: None)

    def _serve(
        self,
        goes_on: Callable[[], bool],
        done: AbstractSet[str],
        hear: Callable[[Event], None],
        look: Callable[[], None],
    ) -> None:
        """Give packs to workers that are free and pass on what they say."""
        next_look = 0.0
        while True:
            if time.monotonic() >= next_look:
                look()
                if not goes_on():
                    return
                self._staff(done)
                next_look = time.monotonic() + _LOOK_SECONDS
            with suppress(queue.Empty):
                worker, event = self._events.get(timeout=max(0.0, next_look - time.monotonic()))
                if self._take_in(worker, event, hear):
                    next_look = 0.0

    def _staff(self, done: AbstractSet[str]) -> None:
        """Give a pack to every worker that has none, and start workers while there are packs for them."""
        idle = [worker for worker in self._workers if worker.ready and worker.pack is None]
        starting = sum(not worker.ready for worker in self._workers)
        while idle and (taken := self._board.take()) is not None:
            worker, pack = idle.pop(0), taken.pack
            self._leases[worker] = self._heart.keep(taken.lease)
            ids = [trial.spec.id for trial in pack.trials]
            there = frozenset(name for name in ids if name in done or is_finished(self._run_dir, name))
            worker.give(pack, there, taken.lease.ticket)
        if not idle and len(self._workers) < self._count:
            more = len(self._board.free()) - starting
            for _ in range(min(more, self._count - len(self._workers))):
                self._start()

    def _take_in(self, worker: _Worker, event: Event | None, hear: Callable[[Event], None]) -> bool:
        """Take in what a worker says (None when it has ended); whether there may now be something to do."""
        if event is None:
            self._bury(worker)
            lease = self._leases.pop(worker, None)
            if worker.pack is not None and lease is not None:
                code = worker.process.returncode
                self._last_words[worker.pack.id] = _last(worker.log) or f"its process ended with code {code}"
                lease.end("died")
                hear({"event": "warning", "text": f"a worker process ended with code {code}; its pack is taken up"})
            elif not worker.ready:
                raise ResourceError(
                    f"a worker process ended before it began: {_last(worker.log)}", "see the lines above"
                )
            return True
        if event["event"] == "resources":
            raise ResourceError(
                f"{self._run_dir}: {event['text']}", "finished trials are kept; free space and repeat the command"
            )
        if event["event"] in ("ready", "pack", "lost"):
            worker.ready, worker.pack = True, None
            lease = self._leases.pop(worker, None)
            if lease is not None:
                lease.end("done")  # which a lease that was lost leaves to its holder
            return True
        hear(event)
        return False

    def _start(self) -> None:
        taken = {worker.number for worker in self._workers}
        number = min(set(range(len(taken) + 1)) - taken)  # of one that died: its GPU is free
        arguments = [str(self._run_dir), "--threads", str(self._threads)]
        arguments += ["--gpu", str(number)] if self._gpus else []
        process = self._start_process("worker", arguments, self._threads)
        self._workers.append(_Worker(number, process, self._events))

    def _bury(self, worker: _Worker) -> None:
        worker.process.wait()
        worker.dismiss()
        self._workers.remove(worker)


def _last(lines: Sequence[str]) -> str:
    return lines[-1] if lines else ""


def shares(cores: int, packs: int, configured: Mapping[str, int | None], gpus: int | None = None) -> tuple[int, int]:
    """How many processes and how many threads each: one thread per process as soon as there are packs for every core.

    On a CPU the threads do not depend on how many workers were asked for: products and sums cut among other numbers of
    threads have other last bits.

    Args:
        cores: of the machine.
        packs: of the largest stage.
        configured: ``workers`` and ``threads``, None where the machine decides.
        gpus: of the machine, in a study on GPUs: each worker has one, two would only share it.
    """
    if gpus is not None:
        workers = min(configured["workers"] or max(1, min(gpus, packs)), gpus)
        return workers, configured["threads"] or max(1, cores // workers)
    at_once = max(1, min(cores, packs))
    return configured["workers"] or at_once, configured["threads"] or max(1, cores // at_once)
