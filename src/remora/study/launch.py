"""The local launcher: one worker process per core, packs handed out in the order of the plan as workers fall free."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from remora.errors import ResourceError
from remora.native.build import NotBuiltError, library_path
from remora.study.packs import PlannedPack, isolated
from remora.study.trials import PlannedTrial

Event = dict[str, Any]
_LOG_LINES = 30
_SECONDS_TO_END = 8
_MOST_DEATHS = 2
"""Workers that may die with a trial before it counts as failed."""


def worker_environment(threads: int) -> dict[str, str]:
    """The environment of a worker: its threads, no network for the Hub unless asked, memory kept between operations.

    glibc gives large blocks back to the kernel after every operation; page faults would then dominate a training step.
    """
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "MALLOC_TRIM_THRESHOLD_": "-1",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TOP_PAD_": str(64 * 2**20),
        "PYTHONUNBUFFERED": "1",
    }


class _Worker:
    """One worker process and the pack it has."""

    def __init__(
        self, run_dir: Path, number: int, threads: int, gpus: bool, events: "queue.Queue[tuple[_Worker, Event | None]]"
    ) -> None:
        self.pack: PlannedPack | None = None
        self.ready = False
        self.log: list[str] = []
        self.process = subprocess.Popen(
            [
                # -P: "-m" alone would import torch.py, or any other name, from the folder the user happens to be in.
                *(sys.executable, "-P", "-m", "remora.study.worker", str(run_dir), "--threads", str(threads)),
                *("--parent", str(os.getpid())),
                *(("--gpu", str(number)) if gpus else ()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=worker_environment(threads),
            text=True,
        )
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

    def give(self, pack: PlannedPack, done: frozenset[str]) -> None:
        """Hand a pack over, with those of its trials that are done: lanes have the neighbours that the plan says."""
        self.pack = pack
        job: dict[str, Any] = {"pack": pack.id, "slots": pack.slots, "parts": pack.parts}
        job["trials"] = [trial.to_json() for trial in pack.trials]
        job["done"] = [trial.spec.id for trial in pack.trials if trial.spec.id in done]
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()

    def dismiss(self) -> None:
        """Tell it that there is nothing more."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it is gone, and so is what was still to be written
            self.process.stdin.close()


class Workers:
    """Worker processes of one study; use as a context manager, so that none outlives the coordinator.

    Args:
        run_dir: of the study.
        count: most processes.
        threads: of each process.
        gpus: whether each process has a GPU of its own.
    """

    def __init__(self, run_dir: Path, count: int, threads: int, *, gpus: bool = False) -> None:
        self._run_dir = run_dir
        self._count = count
        self._threads = threads
        self._gpus = gpus
        self._events: queue.Queue[tuple[_Worker, Event | None]] = queue.Queue()
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Workers":
        # Once here rather than by every worker at the same time; one that finds no library does without.
        with suppress(NotBuiltError, OSError):
            library_path()
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers that are left; each writes a checkpoint if it can do so in time."""
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
    ) -> None:
        """Train packs; returns when every trial of them is finished or failed.

        Args:
            packs: in order of the plan.
            finished: ids of trials that need no training.
            on_event: told what workers say.
            on_death: told of a trial that was lost with its worker once too often. The first time its pack goes on
                from its checkpoint, the second time it has no neighbours.

        Raises:
            ResourceError: workers die before they can take a pack, or one cannot write what it trained.
        """
        waiting = [pack for pack in packs if any(trial.spec.id not in finished for trial in pack.trials)]
        left = {trial.spec.id for pack in waiting for trial in pack.trials} - finished
        lost: dict[str, int] = {}
        done: set[str] = set(finished)
        for worker in self._workers:
            if worker.ready and waiting:
                worker.give(waiting.pop(0), frozenset(done))
        for _ in range(len(self._workers), min(self._count, len(self._workers) + len(waiting))):
            self._start()
        while left:
            worker, event = self._events.get()
            if event is None:
                self._bury(worker)
                if worker.pack is None and worker.ready:
                    continue
                if worker.pack is None:
                    raise ResourceError(
                        f"a worker process ended before it began: {_last(worker.log)}", "see the lines above"
                    )
                code = worker.process.returncode
                on_event({"event": "warning", "text": f"a worker process ended with code {code}; its pack is taken up"})
                orphans = [trial for trial in worker.pack.trials if trial.spec.id in left]
                for trial in orphans:
                    lost[trial.spec.id] = lost.get(trial.spec.id, 0) + 1
                    if lost[trial.spec.id] > _MOST_DEATHS:
                        on_death(trial, _last(worker.log) or f"its process ended with code {worker.process.returncode}")
                        left.discard(trial.spec.id)
                        done.add(trial.spec.id)
                if max((lost[trial.spec.id] for trial in orphans), default=0) == 1:
                    waiting = [worker.pack, *waiting]
                else:
                    orphans = [trial for trial in orphans if trial.spec.id in left]
                    waiting = [*isolated(orphans, worker.pack.parts), *waiting]
                if waiting:
                    self._start()
                continue
            if event["event"] == "resources":
                raise ResourceError(
                    f"{self._run_dir}: {event['text']}", "finished trials are kept; free space and repeat the command"
                )
            if event["event"] == "finished":
                left.discard(event["trial"])
                done.add(event["trial"])
            if event["event"] == "ready":
                worker.ready = True
            if event["event"] in ("ready", "pack"):
                worker.pack = None
                if waiting:
                    worker.give(waiting.pop(0), frozenset(done))
            else:
                on_event(event)

    def _start(self) -> None:
        taken = {worker.number for worker in self._workers}
        number = min(set(range(len(taken) + 1)) - taken)  # of one that died: its GPU is free
        self._workers.append(_Worker(self._run_dir, number, self._threads, self._gpus, self._events))

    def _bury(self, worker: _Worker) -> None:
        worker.process.wait()
        worker.dismiss()
        self._workers.remove(worker)


def _last(lines: Sequence[str]) -> str:
    return lines[-1] if lines else ""


def shares(cores: int, packs: int, configured: Mapping[str, int | None], gpus: int | None = None) -> tuple[int, int]:
    """How many processes and how many threads each: one thread per process as soon as there are packs for every core.

    Args:
        cores: of the machine.
        packs: of the largest stage.
        configured: ``workers`` and ``threads``, None where the machine decides.
        gpus: of the machine, in a study on GPUs: each worker has one, two would only share it.
    """
    workers = configured["workers"] or max(1, min(cores if gpus is None else gpus, packs))
    workers = workers if gpus is None else min(workers, gpus)
    return workers, configured["threads"] or max(1, cores // workers)
