"""Runs a study from its configuration to its report; the one entry for the command line and for Python."""

import datetime
import io
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from remora.config.load import dump_yaml, fingerprint
from remora.config.schema import StudyConfig
from remora.errors import ResourceError
from remora.report.terminal import render_rows
from remora.report.write import write_report
from remora.results.schema import (
    Costs,
    DataInfo,
    DataNote,
    Lengths,
    ModelInfo,
    ProtocolInfo,
    RowCost,
    SplitInfo,
    Study,
    TrialResult,
)
from remora.results.store import (
    CHECKPOINTS,
    COSTS_FILE,
    DATA_FILE,
    RESULT_FILE,
    STUDY_FILE,
    add_incident,
    is_finished,
    read_record,
    read_result,
    trial_dir,
    trial_id,
    write_atomic,
    write_record,
)
from remora.results.summary import summarise
from remora.results.summary_schema import Row, StudySummary
from remora.results.wording import duration, size
from remora.study.board import Board
from remora.study.context import StudyContext, open_context
from remora.study.coordinator import coordinating
from remora.study.estimate import StudyPlan, estimate, fit_budget
from remora.study.launch import Workers
from remora.study.leases import Lease, LeaseLostError
from remora.study.machine import available_cores, describe_machine, dtype_name, num_gpus
from remora.study.memory import fit_memory
from remora.study.packs import Packing, plan_packs
from remora.study.prepare import resume_config, with_absolute_paths
from remora.study.probe import run_probe
from remora.study.processes import Start, starting
from remora.study.progress import Progress, Teller
from remora.study.record import record_failure, record_majority
from remora.study.resident import free_bytes
from remora.study.rows import MAJORITY, UNTRAINED, StudyRow, reference_row, study_rows
from remora.study.solo import Solo, faster, in_turns
from remora.study.stages import plan_stages
from remora.study.trials import TUNING_SEED, PlannedTrial, TrialMaker
from remora.study.tuning import choose_lr
from remora.study.versions import refuse_changed_plugins, versions_of

__all__ = ["StudyPlan", "StudyResult", "plan_study", "run_study"]


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A finished study.

    Args:
        run_dir: where everything is.
        summary: rows, recommendation, warnings.
    """

    run_dir: Path
    summary: StudySummary

    @property
    def exit_code(self) -> int:
        """0, or 5 when final trials failed or diverged."""
        return 5 if any(row.failed for row in self.summary.rows) else 0

    @property
    def best(self) -> Row | None:
        """The recommended row; None when the data cannot decide."""
        label = self.summary.recommendation.label
        return next((row for row in self.summary.rows if row.label == label), None)

    def table(self) -> str:
        """The ranking as text."""
        from rich.console import Console

        text = io.StringIO()
        Console(width=120, file=text).print(render_rows(self.summary))
        return text.getvalue().rstrip()

    def report(self, path: Path | str | None = None) -> Path:
        """The HTML report; copied to `path` when given."""
        page = self.run_dir / "report.html"
        if path is None:
            return page
        write_atomic(Path(path), page.read_bytes())
        return Path(path)


def plan_study(config: StudyConfig) -> StudyPlan:
    """What a study would run and cost, without training.

    Raises:
        RemoraError: anything that would stop the study.
    """
    _, plan = _settle(config, fit=True)
    return plan


def run_study(config: StudyConfig, out: Path | None = None, *, progress: Progress) -> StudyResult:
    """Run a study, or finish one that was stopped: trials found finished are kept.

    Args:
        config: what to run.
        out: run directory; by default ``runs/<name>-<hash8>``.
        progress: told what happens.

    Raises:
        RemoraError: bad data, model or settings before anything runs; another study in `out`; no resources.
    """
    run_dir = out if out is not None else usual_run_dir(config)
    with (
        starting(num_gpus(config.engine) is not None) as start,
        coordinating(run_dir, config.engine.lease_seconds, progress) as lock,
    ):
        return conduct(config, run_dir, progress, lock, start)


def usual_run_dir(config: StudyConfig) -> Path:
    """``runs/<name>-<hash8>``."""
    return Path("runs") / f"{config.name}-{fingerprint(config)[:8]}"


def conduct(config: StudyConfig, run_dir: Path, progress: Progress, lock: Lease, start: Start) -> StudyResult:
    """Run a study as its coordinator; see `run_study`.

    Args:
        config: what to run.
        run_dir: its run directory.
        progress: told what happens.
        lock: the coordinator's lease, kept alive by the caller.
        start: starts its processes.
    """
    begun = time.monotonic()
    config, origin = resume_config(config, run_dir)
    config = with_absolute_paths(config)
    context, plan = _settle(config, fit=not (run_dir / STUDY_FILE).is_file())
    run = _Run(
        context=context,
        run_dir=run_dir,
        progress=progress,
        lock=lock,
        start=start,
        rows=study_rows(context.config, context.base, context.task.name),
    )
    run.write_header(origin, plan)
    progress.note(_cost_line(plan, context))
    for cut in plan.cuts:
        progress.note(f"to fit the budget: {cut}")
    for reduction in plan.reductions:
        progress.note(f"to fit the memory: {reduction}")
    run.train()
    run.measure_costs(time.monotonic() - begun)
    run.check()
    summary = summarise(run_dir)
    write_report(run_dir, summary)
    progress.finished()
    return StudyResult(run_dir=run_dir, summary=summary)


@dataclass(kw_only=True)
class _Run:
    """One run of a study: its stages over one run directory."""

    context: StudyContext
    run_dir: Path
    progress: Progress
    lock: Lease
    start: Start
    rows: tuple[StudyRow, ...]

    def check(self) -> None:
        """Ask whether this process is still the coordinator.

        Raises:
            ResourceError: it was taken for dead and another took its place.
        """
        try:
            self.lock.check()
        except LeaseLostError:
            raise ResourceError(
                f"{self.run_dir}: this process gave no sign of life for too long, and another one coordinates now",
                "nothing is lost; look at that one",
            ) from None

    def write_header(self, origin: str, plan: StudyPlan) -> None:
        """study.yaml, study.json and data.json, before the first trial; what was cut when it was begun is kept.

        Raises:
            ConfigError: a plug-in's file has changed since.
        """
        context, config, base = self.context, self.context.config, self.context.base
        known = self.run_dir / STUDY_FILE
        begun = read_record(known, Study) if known.is_file() else None
        versions = versions_of(self.rows)
        if begun is not None:
            refuse_changed_plugins(begun.versions, versions, self.run_dir)
        write_atomic(self.run_dir / "study.yaml", dump_yaml(config).encode())
        protocol = config.protocol
        tuned = any(len(row.lrs) > 1 for row in self.rows)
        untrained = "no training" if context.prompt is not None else "random head, no training"
        notes = {"head": "base dropout off", MAJORITY: "no training", UNTRAINED: untrained}
        study = Study(
            name=config.name,
            kind=config.kind,
            fingerprint=origin,
            command=shlex.join(["remora", *sys.argv[1:]]) if sys.argv and sys.argv[0].endswith("remora") else "",
            created=begun.created if begun is not None else _now(),
            model=ModelInfo(
                name=base.name,
                architecture=base.arch.model_type,
                params=base.num_params,
                sha256=base.sha256,
                dtype=dtype_name(base.dtype),
                quantization=base.quantization,
                revision=base.revision,
                max_length=context.max_length,
            ),
            protocol=ProtocolInfo(
                mode=protocol.mode,
                epochs=protocol.epochs,
                batch_size=protocol.batch_size,
                seeds=tuple(range(protocol.seeds)),
                tuning_trials=protocol.tuning_trials if tuned else 0,
                tuning_seed=TUNING_SEED if tuned else None,
                stop=protocol.stop,
                schedule=protocol.schedule,
                warmup=protocol.warmup,
                clip=protocol.clip,
                weight_decay=protocol.weight_decay,
                base_dropout=protocol.base_dropout,
                select=protocol.select,
                margin=protocol.margin,
                prefer=protocol.prefer,
                reference=reference_row(self.rows),
                cuts=begun.protocol.cuts if begun is not None else plan.cuts,
            ),
            rows=tuple(row.plan(notes.get(row.id, self._base_note(row))) for row in self.rows),
            reductions=begun.reductions if begun is not None else plan.reductions,
            versions=versions,
        )
        write_record(self.run_dir / STUDY_FILE, study)
        write_record(self.run_dir / DATA_FILE, _data_info(context))

    def _base_note(self, row: StudyRow) -> str:
        """Says of a row that its base is not the study's."""
        quantization = self.context.quantization_for(row.method)
        return "" if quantization == self.context.base.quantization else f"on a base quantised to {quantization}"

    def train(self) -> None:
        """Baselines and tuning, then the final trials with the learning rates chosen."""
        maker = TrialMaker(self.context)
        self._majority()
        stages = plan_stages(self.context, self.rows)
        metric = self.context.dataset.validation_metric
        trained = [row for row in self.rows if row.method is not None]
        gpus = num_gpus(self.context.config.engine) is not None
        board = Board(self.run_dir, self.context.config.engine.lease_seconds)
        with Workers(self.run_dir, stages.workers, stages.threads, gpus=gpus, board=board, start=self.start) as workers:
            if stages.first:
                self._stage("tuning", stages.first, stages.how, workers)
            final: list[PlannedTrial] = []
            for row in trained:
                tried = [read_result(self.run_dir, trial.spec.id) for trial in maker.tuning(row)]
                validation = len(self.context.dataset.validation)
                lr = choose_lr(tried, metric, validation) if tried else row.lrs[0]
                if lr is None:
                    self.progress.note(f"{row.label}: no tuning trial finished, so it has no final trials")
                    self._never_ran(maker.final(row, row.lrs[0]))
                    continue
                final += maker.final(row, lr)
            self._stage("training", final, stages.how, workers)
            workers.dismiss()
        shutil.rmtree(self.run_dir / CHECKPOINTS, ignore_errors=True)

    def measure_costs(self, seconds: float) -> None:
        """The solo step of every row that trained; kept when a resumed run finds it."""
        path = self.run_dir / COSTS_FILE
        before = read_record(path, Costs) if path.is_file() else None
        known = dict(before.rows) if before is not None else {}
        rows = [row for row in self.rows if row.method is not None and row.label not in known]
        turns = in_turns(rows)
        self.progress.stage("measuring", len(turns))
        with Solo(self.run_dir, available_cores(), self.start) as solo:
            for row in turns:
                self.progress.trial_started(row.label)
                cost = solo.measure(TrialMaker(self.context).final(row, row.lrs[0])[0])
                known[row.label] = faster(cost, known.get(row.label, RowCost()))
                self.progress.trial_finished(row.label, "done", None)
        for row in rows:
            if known[row.label] == RowCost():
                self.progress.note(f"{row.label}: its cost could not be measured")
        total = seconds + (before.study_seconds if before is not None else 0.0)
        costs = Costs(
            machine=describe_machine(self.context.base.dtype, self.context.config.engine),
            rows=known,
            study_seconds=round(total, 1),
        )
        write_record(path, costs)

    def _majority(self) -> None:
        for row in self.rows:
            if row.id == MAJORITY:
                name = trial_id(row.label, 0, {"data": self.context.dataset.hash, "baseline": MAJORITY})
                if not is_finished(self.run_dir, name):
                    record_majority(self.run_dir, self.context, name, row.label)

    def _never_ran(self, trials: Sequence[PlannedTrial]) -> None:
        for trial in trials:
            record_failure(self.run_dir, trial, "no tuning trial of this row was trained to its end")

    def _stage(self, name: str, trials: Sequence[PlannedTrial], how: Packing, workers: Workers) -> None:
        kept = frozenset(trial.spec.id for trial in trials if self._is_kept(trial))
        self.progress.stage(name, len(trials))
        for trial in trials:
            if trial.spec.id in kept:
                self.progress.trial_finished(trial.spec.id, "kept", self._validation(trial.spec.id))
            else:  # from here on a result says that a trial ended in this run, wherever it was trained
                (trial_dir(self.run_dir, trial.spec.id) / RESULT_FILE).unlink(missing_ok=True)

        def lost(trial: PlannedTrial, error: str) -> None:
            record_failure(self.run_dir, trial, error)
            self.progress.trial_finished(trial.spec.id, "failed", None)

        def warn(text: str) -> None:
            self.progress.note(f"warning: {text}")
            add_incident(self.run_dir, text)

        teller = Teller(self.progress, warn, self._validation)
        workers.run(plan_packs(trials, how), kept, teller.tell, lost, self.check)

    def _is_kept(self, trial: PlannedTrial) -> bool:
        if not is_finished(self.run_dir, trial.spec.id):
            return False
        return read_result(self.run_dir, trial.spec.id).status != "failed"

    def _validation(self, trial: str) -> float | None:
        result: TrialResult = read_result(self.run_dir, trial)
        return result.metrics.get("validation", {}).get(self.context.dataset.metric)


def _settle(config: StudyConfig, *, fit: bool) -> tuple[StudyContext, StudyPlan]:
    """Open a study, measure what its parts cost, and estimate it.

    Args:
        config: the study.
        fit: whether it may still be cut to its budget and reduced to the memory there is; not once it was begun, as
            the plan of its packs would change.
    """
    start = time.monotonic()
    context = open_context(config)
    config = context.config
    rows = study_rows(config, context.base, context.task.name)
    context.lengths()  # tokenizes every split
    opening = time.monotonic() - start
    probe = run_probe(context, rows, workers=available_cores(), opening=opening)
    cuts: tuple[str, ...] = ()
    reductions: tuple[str, ...] = ()
    if fit and config.protocol.budget_seconds is not None:
        protocol, train_rows, cuts = fit_budget(context, rows, probe, config.protocol.budget_seconds)
        data = config.data if train_rows is None else config.data.model_copy(update={"train_limit": train_rows})
        update = {"protocol": protocol.model_copy(update={"budget_seconds": None}), "data": data}
        config = config.model_copy(update=update)
        context = open_context(config)
        rows = study_rows(config, context.base, context.task.name)
    if fit and config.engine.device == "cpu":  # a GPU's memory is fitted by the loop, which halves passes
        engine, reductions = fit_memory(context, rows, probe, free_bytes())
        threads = plan_stages(replace(context, config=config.model_copy(update={"engine": engine})), rows).threads
        engine = engine.model_copy(update={"threads": threads})  # of every worker from now on, on any machine
        context = replace(context, config=context.config.model_copy(update={"engine": engine}))
    return context, replace(estimate(context, rows, probe), cuts=cuts, reductions=reductions)


def _data_info(context: StudyContext) -> DataInfo:
    dataset, lengths = context.dataset, context.lengths()
    return DataInfo(
        name=dataset.name,
        task=dataset.task,
        hash=dataset.hash,
        text_columns=dataset.text_columns,
        label_column=dataset.label_column,
        label_names=dataset.label_names,
        metric=dataset.metric,
        metrics=dataset.metrics,
        positive_class=dataset.positive,
        splits={
            name: SplitInfo(
                rows=len(split), hash=split.hash, source=split.source, label_counts=dataset.label_counts(name)
            )
            for name, split in dataset.splits.items()
        },
        notes=tuple(DataNote(kind=note.kind, message=note.message, count=note.count) for note in dataset.notes),
        lengths=Lengths(
            mean=lengths.mean,
            p50=lengths.p50,
            p95=lengths.p95,
            max=lengths.max,
            truncated=lengths.truncated,
            max_length=context.max_length,
            unread=lengths.unread,
            split=lengths.split,
        ),
        documents=_beginnings(context) if context.task.generates else (),
    )


_SHOWN_DOCUMENTS, _SHOWN_LETTERS = 5, 600


def _beginnings(context: StudyContext) -> tuple[str, ...]:
    """How the first test documents begin, for the report."""
    return tuple(texts[0][:_SHOWN_LETTERS] for texts in context.dataset.test.texts[:_SHOWN_DOCUMENTS])


def _cost_line(plan: StudyPlan, context: StudyContext) -> str:
    dtype = dtype_name(context.base.dtype)
    held = "" if context.base.quantization == "none" else f", linear layers in {context.base.quantization}"
    return (
        f"{plan.num_trials} trials, estimated {duration(plan.seconds)}, estimated peak memory {size(plan.peak_bytes)}, "
        f"{plan.trials_per_pack} trials per pack, base in {dtype}{held}"
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
