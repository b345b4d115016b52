"""What a study will cost before it runs: trials, time, memory; and what a time budget leaves of it.

Time is counted in tokens over the packs of the plan, at the seconds per token that the probe measured for each row.
Workers take packs in the order of the plan as they fall free, so the last of them may wait for one another. To this
come the fixed costs: processes that start, the solo steps, the report. All of it is an estimate to decide by; it goes
with how busy the machine is, and the report has what was measured.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from remora.config.schema import ProtocolConfig
from remora.engine.rungs import trained_share
from remora.study.context import StudyContext
from remora.study.machine import available_cores, num_gpus
from remora.study.memory import peak_memory
from remora.study.packs import PlannedPack
from remora.study.probe import Probe, RowProbe
from remora.study.processes import can_fork
from remora.study.rows import StudyRow
from remora.study.solo import NUM_STEPS as SOLO_STEPS
from remora.study.solo import ROUNDS as SOLO_ROUNDS
from remora.study.stages import plan_stages

_IMPORT_SECONDS = 4.0
"""A fresh process until it opens the study: Python, torch and transformers (3 to 5 seconds on a quiet machine)."""
_REPORT_SECONDS = 4.0
"""Statistics, tables and the page."""
_TRIAL_SECONDS = 0.1
"""What is written for every trial."""
_ONE_PROCESS = 1.3
"""Two one-thread workers do so many times the work of one with two threads (measured on small encoders)."""
_MIN_TRAIN = 200


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """The cost of a study, estimated.

    Args:
        num_trials: trained, baselines without training not counted.
        seconds: wall time.
        peak_bytes: memory of all processes together.
        trials_per_pack: lanes.
        cuts: what a budget cut, in words.
        reductions: what was reduced so that it fits into memory, in words.
    """

    num_trials: int
    seconds: float
    peak_bytes: int
    trials_per_pack: int
    cuts: tuple[str, ...] = ()
    reductions: tuple[str, ...] = ()


def estimate(context: StudyContext, rows: Sequence[StudyRow], probe: Probe, train_rows: int | None = None) -> StudyPlan:
    """The cost of a study.

    Args:
        context: data, base and protocol.
        rows: of the study.
        probe: what its parts cost.
        train_rows: training examples; by default all that the context has.
    """
    stages = plan_stages(context, rows)
    counts = {name: len(split) for name, split in context.dataset.splits.items()}
    if train_rows is not None:
        counts["train"] = train_rows
    work = _Work(context, probe, counts)
    threads = stages.workers * stages.threads
    slower = probe.crowding.get(threads, max(probe.crowding.values())) / _speed(stages.threads)
    start = probe.opening + (0.0 if _forks(context) else _IMPORT_SECONDS)  # of a process, or of all workers at once
    seconds = _IMPORT_SECONDS + probe.opening + probe.seconds + start + _REPORT_SECONDS
    for packs in stages.packs():
        seconds += _makespan([slower * work.pack(pack) for pack in packs], stages.workers)
        seconds += _TRIAL_SECONDS * sum(len(pack.trials) for pack in packs) / stages.workers
    cores = available_cores()
    seconds += start * len({context.quantization_for(row.method) for row in rows if row.method is not None})
    for row in probe.rows.values():
        steps = SOLO_ROUNDS * SOLO_STEPS * context.config.protocol.batch_size * work.tokens("train", row, 1)
        seconds += steps * row.seconds / _speed(cores)
    return StudyPlan(
        num_trials=sum(trial.purpose != "baseline" for trial in (*stages.first, *stages.final)),
        seconds=seconds,
        peak_bytes=peak_memory(context, rows, probe),
        trials_per_pack=stages.how.slots,
    )


def _forks(context: StudyContext) -> bool:
    return can_fork() and num_gpus(context.config.engine) is None


class _Work:
    """Seconds of one thread that packs take.

    Args:
        context: data and protocol.
        probe: what a token costs.
        counts: examples by split.
    """

    def __init__(self, context: StudyContext, probe: Probe, counts: Mapping[str, int]) -> None:
        self._context = context
        self._probe = probe
        self._counts = counts
        self._mean = {name: float(context.encoded(name).lengths.mean()) * context.repeats(name) for name in counts}
        self._texts = {name: float(context.encoded(name).num_texts.mean()) for name in counts}

    def tokens(self, split: str, row: RowProbe | None, examples: int | None = None) -> float:
        """Tokens of some examples of a split, or of all, as a row sees them."""
        number = self._counts[split] if examples is None else examples
        return number * (self._mean[split] + (row.virtual * self._texts[split] if row is not None else 0))

    def pack(self, pack: PlannedPack) -> float:
        """Training and evaluation of all trials; splits that only heads read are computed once for the pack."""
        seconds = 0.0
        read: set[str] = set()
        for trial in pack.trials:
            row = self._probe.rows.get(trial.label)
            evaluated = [*trial.spec.splits]
            if trial.purpose != "tuning":
                seconds += self._writing(trial.spec.splits, row) * self._probe.eval_seconds
            if row is not None:
                stepped = trained_share(len(trial.rivals)) if trial.rivals else 1.0
                seconds += stepped * trial.spec.epochs * self.tokens("train", row) * row.seconds
                evaluated += ["validation"] * (trial.spec.epochs if trial.spec.curve else 0)
            if row is None or row.reads_features:
                read |= {*evaluated, *(["train"] if row is not None else [])}
            else:
                seconds += sum(self.tokens(split, row) for split in evaluated) * self._probe.eval_seconds
        return seconds + sum(self.tokens(split, None) for split in read) * self._probe.eval_seconds

    def _writing(self, splits: Sequence[str], row: RowProbe | None) -> float:
        """Tokens read and written where texts are generated: at least what these cost, as batches are small then."""
        if not self._context.task.generates:
            return 0.0
        settings = self._context.config.generation
        new = settings.max_new_tokens * settings.num_beams
        return sum(self.tokens(split, row) + new * self._counts[split] for split in splits)


def _speed(threads: int) -> float:
    """How many times faster a process with so many threads is than with one."""
    return 1.0 if threads == 1 else threads / _ONE_PROCESS


def _makespan(seconds: Sequence[float], workers: int) -> float:
    """When the last worker is done, if each takes the next pack as soon as it is free."""
    free = [0.0] * workers
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def fit_budget(
    context: StudyContext, rows: Sequence[StudyRow], probe: Probe, budget: float
) -> tuple[ProtocolConfig, int | None, tuple[str, ...]]:
    """Cut a study until its estimate fits: seeds to 3, tuning to 2, seeds to 2, then training data.

    Args:
        context: data and base.
        rows: of the study.
        probe: what its parts cost.
        budget: seconds.

    Returns:
        The protocol, the limit on training rows (None for all), and the cuts in words.
    """
    protocol = context.config.protocol
    num_train = len(context.dataset.train)
    cuts: list[str] = []

    def fits(candidate: ProtocolConfig, train_rows: int) -> bool:
        cut_rows = _with_tuning(rows, candidate)
        cut = replace(context, config=context.config.model_copy(update={"protocol": candidate}))
        return estimate(cut, cut_rows, probe, train_rows).seconds <= budget

    for name, value in (("seeds", 3), ("tuning_trials", 2), ("seeds", 2)):
        if fits(protocol, num_train):
            break
        before = getattr(protocol, name)
        if before > value:
            protocol = protocol.model_copy(update={name: value})
            cuts.append(f"{name.replace('_', ' ')} from {before} to {value}")
    train_rows = num_train
    while not fits(protocol, train_rows) and train_rows > _MIN_TRAIN:
        train_rows = max(_MIN_TRAIN, int(train_rows * 0.8))
    if train_rows < num_train:
        cuts.append(f"training rows from {num_train} to {train_rows}")
    if not fits(protocol, train_rows):
        cuts.append("and still over the budget: fewer methods or a smaller test set would be needed")
    return protocol, train_rows if train_rows < num_train else None, tuple(cuts)


def _with_tuning(rows: Sequence[StudyRow], protocol: ProtocolConfig) -> list[StudyRow]:
    """Rows with the number of learning rates a protocol tries."""
    cut: list[StudyRow] = []
    for row in rows:
        tuned = row.method is not None and len(row.lrs) > 1
        lrs = row.method.lr_range.grid(max(1, protocol.tuning_trials)) if tuned and row.method else row.lrs
        cut.append(replace(row, lrs=lrs))
    return cut
