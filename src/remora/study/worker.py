"""A worker process: takes packs as JSON lines on standard input, trains them, says what happens on standard output.

It opens the study from its run directory, so it depends on nothing but files; what it prints is for progress only, what
counts is in the trial folders. Before it writes a checkpoint or commits a trial it asks whether the lease of its pack
still holds: a machine that slept must not write into what another has taken up.
"""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from remora.data.metric_names import LOG_LIKELIHOOD
from remora.errors import ResourceError
from remora.results.schema import finite
from remora.study.history import History
from remora.study.processes import die_with

if TYPE_CHECKING:
    from remora.engine.checkpoint import Keeper
    from remora.engine.trial import TrialData
    from remora.study.context import StudyContext
    from remora.study.drivers import Drivers

Say = Callable[[dict[str, Any]], None]
_EVERY_SECONDS = 0.5
HISTORY = "history.jsonl"
"""Beside a pack's checkpoints: what happened to its trials so far."""


class _Reporter:
    """Engine events as JSON lines, steps at most twice a second and trial."""

    def __init__(self, say: Say, history: History) -> None:
        self._say = say
        self._last: dict[str, float] = {}
        self._history = history

    def started(self, spec: Any, num_steps: int) -> None:
        self._history.add(spec.id, "started", steps=num_steps)
        self._say({"event": "started", "trial": spec.id, "total": num_steps})

    def step(self, spec: Any, step: int, num_steps: int, loss: float) -> None:
        now = time.monotonic()
        if now - self._last.get(spec.id, 0.0) >= _EVERY_SECONDS or step == num_steps:
            self._last[spec.id] = now
            self._say({"event": "step", "trial": spec.id, "step": step, "total": num_steps, "loss": loss})

    def epoch(self, spec: Any, point: Any) -> None:
        shown = {name: value for name, value in (point.validation or {}).items() if name != LOG_LIKELIHOOD}
        metric = next(iter(shown.values()), None)
        self._history.add(
            spec.id,
            "epoch",
            epoch=point.epoch,
            step=point.step,
            train_loss=finite(point.train_loss),
            validation=dict(point.validation or {}),
        )
        self._say({"event": "epoch", "trial": spec.id, "step": point.step, "metric": metric, "loss": point.train_loss})


class _Interruption:
    """What SIGTERM does to a worker: a pack in training ends after a step, with a checkpoint; else the process ends.

    SIGUSR1 does the same, which schedulers may send to all processes of a job before they end it. SIGINT is left to the
    coordinator, to whose process group a terminal sends it too.
    """

    def __init__(self) -> None:
        self.keeper: Any = None
        self.came = False
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._end)

    def _end(self, signum: int, frame: FrameType | None) -> None:
        if self.came:
            return  # what the first one asked for is being done
        self.came = True
        if self.keeper is None:
            raise SystemExit(128 + signal.SIGTERM)
        self.keeper.ask()
        self.keeper = None


def work(run_dir: Path, threads: int, jobs: Any, say: Say, gpu: int | None = None) -> None:
    """Train packs until there are no more.

    Args:
        run_dir: holds the study file.
        threads: of this process.
        jobs: lines of JSON, one pack each.
        say: sends an event to the coordinator.
        gpu: its number, in a study on GPUs.
    """
    import torch

    from remora.config.load import read_study
    from remora.engine.checkpoint import Interrupted, Keeper
    from remora.results.store import CHECKPOINTS, PACKS, within
    from remora.study.context import open_context
    from remora.study.drivers import Drivers
    from remora.study.leases import LeaseLostError, Ticket, check_lease
    from remora.study.machine import compute_device, give_memory_back, settle

    interruption = _Interruption()
    torch.set_num_threads(threads)
    if gpu is not None:
        torch.cuda.set_device(gpu)
    config = read_study(run_dir / "study.yaml")
    context = open_context(config)
    data = context.trial_data()
    with Drivers(context, compute_device(config.engine)) as drivers:
        drivers.on(context.base.quantization)
        settle()
        say({"event": "ready"})
        for line in jobs:
            job = json.loads(line)
            check = partial(check_lease, run_dir / PACKS, Ticket(**job["lease"]))
            seconds = config.engine.checkpoint_seconds
            folder = within(run_dir, CHECKPOINTS, job["pack"])
            keeper = Keeper(folder, seconds, _warner(say), check) if seconds else None
            interruption.keeper = keeper
            try:
                _train(run_dir, context, drivers, data, job, folder, keeper, check, say)
                check()
                if keeper is not None:
                    keeper.clear()
                said = "pack"
            except Interrupted:
                raise SystemExit(128 + signal.SIGTERM) from None
            except LeaseLostError:
                said = "lost"
            except (OSError, ResourceError) as error:
                with suppress(LeaseLostError):
                    check()  # what is missing may be what the new holder has cleared away
                    text = error.message if isinstance(error, ResourceError) else str(error)
                    say({"event": "resources", "text": text})
                    raise SystemExit(ResourceError.exit_code) from None
                said = "lost"
            interruption.keeper = None
            give_memory_back()
            say({"event": said, "pack": job["pack"]})
            if interruption.came:
                raise SystemExit(128 + signal.SIGTERM)  # it came after the last step of the pack
        drivers.check_unchanged()


def _train(
    run_dir: Path,
    context: "StudyContext",
    drivers: "Drivers",
    data: "TrialData",
    job: dict[str, Any],
    folder: Path,
    keeper: "Keeper | None",
    check: Callable[[], None],
    say: Say,
) -> None:
    """Train the trials of a pack and put away what each gave; an error of training fails all that are left.

    Raises:
        LeaseLostError: another process has the pack now.
        OSError, ResourceError: something cannot be written.
    """
    from remora.engine.loop import run_pack
    from remora.results.schema import Pack
    from remora.study.halving import halvings
    from remora.study.record import fresh_outcomes, record_failure, record_outcome
    from remora.study.trials import PlannedTrial

    trials = [PlannedTrial.from_json(values) for values in job["trials"]]
    waiting = {trial.spec.id: trial for trial in trials if trial.spec.id not in job["done"]}
    pack, aside = Pack(id=job["pack"], lanes=0), fresh_outcomes(folder)
    history = History(folder / HISTORY if keeper is not None else None)
    try:
        outcomes = run_pack(
            drivers.on(trials[0].quantization),
            data,
            [trial.spec for trial in trials],
            slots=job["slots"],
            parts=job["parts"],
            halvings=halvings(run_dir, trials, len(context.dataset.validation)),
            folder=run_dir,
            keeper=keeper,
            tokens_per_pass=context.config.engine.pass_tokens,
            events=_Reporter(say, history),
        )
        for outcome in outcomes:
            events = history.take(outcome.spec.id)
            if outcome.spec.id not in waiting:
                continue  # put away before the pack was taken up again, with the same bits
            trial = waiting.pop(outcome.spec.id)
            result = record_outcome(run_dir, context, trial, outcome, pack, events, aside, check)
            metric = result.metrics.get("validation", {}).get(context.dataset.metric)
            say({"event": "finished", "trial": result.trial, "status": result.status, "metric": metric})
    except (RuntimeError, AssertionError, ValueError) as error:
        check()
        detail = "".join(traceback.format_exception_only(error)).strip()
        say({"event": "trouble", "text": "".join(traceback.format_exception(error))})
        for trial in waiting.values():
            record_failure(run_dir, trial, detail)
            say({"event": "finished", "trial": trial.spec.id, "status": "failed", "metric": None})


def _warner(say: Say) -> Callable[[str], None]:
    return lambda text: say({"event": "warning", "text": text})


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``python -m remora.study.worker``."""
    parser = argparse.ArgumentParser(prog="remora.study.worker")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gpu", type=int)
    parser.add_argument("--parent", type=int, default=os.getppid())
    given = parser.parse_args(arguments)
    die_with(given.parent)
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever libraries print must not mix with the events

    def say(event: dict[str, Any]) -> None:
        out.write(json.dumps(event) + "\n")

    work(given.run_dir, given.threads, sys.stdin, say, given.gpu)


if __name__ == "__main__":
    main()
