"""Remora's side of the benchmark: all trials of a job in one pack of one worker.

``python -m bench.remora_side JOB.json ANSWER.json``. The clock starts when every lane has done the warm-up steps and
stops with the last optimizer step of the first lane to finish (all lanes of a job have equally many steps). A job
without warm-up steps is timed as a whole, from the first lane's start to the last one's end, four lanes at a time.
"""

import math
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

from bench.job import Answer, Job, TrialAnswer, read_job
from remora.config.schema import DataConfig, MethodEntry, ModelConfig, StudyConfig
from remora.data.order import permutation
from remora.engine.driver import Driver
from remora.engine.loop import run_pack
from remora.engine.trial import Examples, NoEvents, TrialOutcome, TrialSpec
from remora.study.context import open_context
from remora.study.machine import settle
from remora.study.packs import LONE_PARTS

CURVE_PARTS = 12
WHOLE_SLOTS = 4


class Stopwatch(NoEvents):
    """Times the steps after the warm-up and keeps the losses."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.warm: set[str] = set()
        self.start_time = math.nan
        self.seconds = math.nan
        self.losses: dict[str, list[float]] = {}

    def start(self) -> None:
        """Wait at the gate, if there is one, and start the clock."""
        if self.job.gate:
            print("ready", flush=True)
            sys.stdin.readline()
        self.start_time = time.perf_counter()

    def step(self, spec: TrialSpec, step: int, num_steps: int, loss: float) -> None:
        """Start the clock when the last lane is warm, stop it when the first lane is done."""
        self.losses.setdefault(spec.id, []).append(loss)
        if step == self.job.warmup_steps:
            self.warm.add(spec.id)
            if len(self.warm) == len(self.job.trials):
                self.start()
        elif step == num_steps and self.job.warmup_steps and math.isnan(self.seconds):
            self.seconds = time.perf_counter() - self.start_time


def study_config(job: Job) -> StudyConfig:
    """The job as a study: what a user's command line would say about model and data."""
    return StudyConfig(
        name="bench",
        kind="train",
        model=ModelConfig(id=job.model, max_length=job.max_length),
        data=DataConfig(path=job.data),
        methods=(MethodEntry(id="lora"),),
    )


def specs(job: Job, num_train: int) -> list[TrialSpec]:
    """The job's trials in the engine's words: the peer's protocol, no validation, test only when asked for."""
    epochs = job.epochs if not job.max_steps else math.ceil(job.max_steps * job.batch_size / num_train)
    return [
        TrialSpec(
            id=f"trial-{i}",
            method=trial.method,
            settings={key: int(value) if value == int(value) else value for key, value in trial.settings.items()}
            if trial.method != "full"
            else {},
            lr=trial.lr,
            seed=trial.seed,
            epochs=epochs,
            max_steps=job.max_steps or None,
            batch_size=job.batch_size,
            base_dropout=job.base_dropout,
            curve=False,
            splits=("test",) if job.evaluate else (),
        )
        for i, trial in enumerate(job.trials)
    ]


def timed_tokens(job: Job, train: Examples, num_steps: int) -> int:
    """Tokens of all trials' timed steps, from their data orders."""
    lengths = np.array([len(ids) for ids in train.ids])
    steps_per_epoch = math.ceil(len(train) / job.batch_size)
    total = 0
    for trial in job.trials:
        for step in range(job.warmup_steps, num_steps):
            epoch, at = divmod(step, steps_per_epoch)
            order = permutation(trial.seed, epoch, len(train))
            total += int(lengths[order[at * job.batch_size : (at + 1) * job.batch_size]].sum())
    return total


def trial_answer(outcome: TrialOutcome, losses: list[float], evaluated: bool) -> TrialAnswer:
    """An outcome in the benchmark's words.

    Raises:
        RuntimeError: the trial diverged, or a gradient norm was zero or not finite.
    """
    if outcome.status != "done":
        raise RuntimeError(f"{outcome.spec.id}: {outcome.error}")
    lowest, highest = outcome.grad_norm["min"], outcome.grad_norm["max"]
    if not 0 < lowest <= highest < math.inf:
        raise RuntimeError(f"gradient norms must be finite and above zero, seen from {lowest} to {highest}")
    parts = np.array_split(np.array(losses), min(CURVE_PARTS, len(losses)))
    predictions = outcome.logits["test"].argmax(1).tolist() if evaluated else []
    return TrialAnswer(
        seed=outcome.spec.seed,
        steps=outcome.step,
        train_loss=float(np.mean(losses)),
        curve=tuple(float(part.mean()) for part in parts),
        grad_norm_min=lowest,
        grad_norm_max=highest,
        predictions=tuple(predictions),
    )


def main() -> None:
    began = time.perf_counter()
    job = read_job(sys.argv[1])
    torch.set_num_threads(job.threads)
    context = open_context(study_config(job))
    data = context.trial_data()
    train = data.split("train", 0)
    watch = Stopwatch(job)
    settle()
    with Driver(context.base) as driver:
        todo = specs(job, len(train))
        parts = LONE_PARTS if len(todo) == 1 else 1
        slots = len(todo) if job.warmup_steps else WHOLE_SLOTS
        if not job.warmup_steps:
            watch.start()
        outcomes = run_pack(driver, data, todo, slots=slots, parts=parts, events=watch)
        done = {outcome.spec.id: outcome for outcome in outcomes}
        if not job.warmup_steps:
            watch.seconds = time.perf_counter() - watch.start_time
    answers = [trial_answer(done[spec.id], watch.losses[spec.id], job.evaluate) for spec in todo]
    steps = answers[0].steps - job.warmup_steps
    examples = steps * job.batch_size * len(answers)
    tokens = timed_tokens(job, train, answers[0].steps)
    answer = Answer(
        trials=tuple(answers),
        timed_examples=examples,
        timed_seconds=watch.seconds,
        timed_tokens_real=tokens,
        timed_tokens_computed=tokens,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        wall_seconds=time.perf_counter() - began,
        notes={"base_dtype": str(context.base.dtype).removeprefix("torch.")},
    )
    Path(sys.argv[2]).write_text(answer.to_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
