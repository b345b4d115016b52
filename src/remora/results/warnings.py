"""What a reader must know before trusting the numbers: counted, named, said once."""

from collections.abc import Mapping, Sequence

from remora.results.schema import DataInfo, ProtocolInfo, TrialResult
from remora.results.store import RunDirectory
from remora.results.summary_schema import Row, Tuning, Warning
from remora.results.wording import CONSTANT_ANSWERS, listing, plural, points, rate

TINY_TEST = 200
FEW_RATES = 3
# Notes on the data that say how the splits were made, not that something is odd.
USUAL_NOTES = ("cut-", "limit-", "task", "duplicates")


def collect_warnings(
    run: RunDirectory,
    rows: Sequence[Row],
    finals: Mapping[str, Sequence[TrialResult]],
    tuned: Sequence[Tuning],
    constant: Mapping[str, int],
    judged: Sequence[str],
) -> tuple[Warning, ...]:
    """All warnings of a study, the gravest kinds first.

    Args:
        run: the run directory.
        rows: the rows of the summary.
        finals: row label -> its final trials.
        tuned: the tuning of every tuned row.
        constant: row label -> number of seeds that predict one and the same for every test row.
        judged: what the statistics warn of.
    """
    return (
        *_unfinished(run),
        *_incidents(run),
        *_protocol(run.study.protocol),
        *(Warning(kind="statistics", message=message) for message in judged),
        *_small_test(run.data),
        *_broken(finals),
        *_constant(constant, rows),
        *_not_better(rows, run.data, tuned),
        *_undertrained(rows),
        *_edges(tuned),
        *_tuning_losses(run, tuned),
        *_truncated(run, finals),
        *_data_notes(run.data),
    )


def _unfinished(run: RunDirectory) -> list[Warning]:
    if not run.unfinished:
        return []
    number = plural(len(run.unfinished), "trial")
    return [Warning(kind="unfinished", message=f"{number} did not finish; repeat the command to complete the study")]


def _incidents(run: RunDirectory) -> list[Warning]:
    """What the study survived; results are what they would have been without it."""
    return [
        Warning(kind="incident", message=text if times == 1 else f"{text} ({times} times)")
        for text, times in run.incidents.items()
    ]


def _protocol(protocol: ProtocolInfo) -> list[Warning]:
    return [Warning(kind="budget", message=cut) for cut in protocol.cuts]


def _small_test(data: DataInfo) -> list[Warning]:
    rows = data.splits["test"].rows if "test" in data.splits else 0
    if rows >= TINY_TEST:
        return []
    counted = rows and data.task in ("classification", "multiple-choice", "prompt-classification")
    weight = f"; one of them is {points(1 / rows)} points of accuracy" if counted else ""
    return [Warning(kind="tiny_test", message=f"the test set has only {plural(rows, 'row')}{weight}")]


def _broken(finals: Mapping[str, Sequence[TrialResult]]) -> list[Warning]:
    found: list[Warning] = []
    for label, trials in finals.items():
        for status, word in (("diverged", "diverged"), ("failed", "failed")):
            bad = [trial for trial in trials if trial.status == status]
            if not bad:
                continue
            seeds = listing([str(trial.seed) for trial in bad])
            reason = f" ({bad[0].error})" if bad[0].error else ""
            message = f"seed {seeds} of {len(trials)} {word}{reason}; the mean is over the others"
            found.append(Warning(kind=status, label=label, message=message))
    return found


def _constant(constant: Mapping[str, int], rows: Sequence[Row]) -> list[Warning]:
    found: list[Warning] = []
    for row in rows:
        number = constant.get(row.label, 0)
        if number and row.method != "majority":
            message = f"predicts the same for every test row in {number} of {plural(row.seeds, 'seed')}"
            found.append(Warning(kind="constant", label=row.label, message=message))
    return found


def _not_better(rows: Sequence[Row], data: DataInfo, tuned: Sequence[Tuning]) -> list[Warning]:
    majority = next((row for row in rows if row.method == "majority"), None)
    if majority is None or majority.mean is None:
        return []
    what = CONSTANT_ANSWERS[data.task]
    few = {each.label: _few_rates(each) for each in tuned}
    message = f"is not clearly better than always answering {what}"
    return [
        Warning(kind="chance", label=row.label, message=message + few.get(row.label, ""))
        for row in rows
        if row.role != "baseline" and row.low is not None and row.low <= majority.mean
    ]


def _few_rates(tuning: Tuning) -> str:
    """That a learning rate in between might do, where so few were tried that they lie far apart."""
    rates = [rate(trial.lr) for trial in tuning.trials]
    if not 1 < len(rates) < FEW_RATES:
        return ""
    return f"; only {len(rates)} learning rates were tried ({listing(rates)}), protocol.tuning_trials=4 tries more"


def _undertrained(rows: Sequence[Row]) -> list[Warning]:
    return [
        Warning(
            kind="undertrained",
            label=row.label,
            message=f"training loss was still falling at the end in {row.undertrained} of {plural(row.seeds, 'seed')}; "
            "more epochs may raise it",
        )
        for row in rows
        if row.undertrained
    ]


def _edges(tuned: Sequence[Tuning]) -> list[Warning]:
    found: list[Warning] = []
    for row in tuned:
        chosen = next((trial for trial in row.trials if trial.chosen), None)
        if row.edge and chosen:
            message = f"chose the {row.edge} learning rate tried ({rate(chosen.lr)}); the best may lie beyond"
            found.append(Warning(kind="lr_edge", label=row.label, message=message))
    return found


def _tuning_losses(run: RunDirectory, tuned: Sequence[Tuning]) -> list[Warning]:
    found: list[Warning] = []
    planned = {plan.label: len(plan.lrs) for plan in run.study.rows}
    for row in tuned:
        good = sum(trial.status in ("done", "stopped") for trial in row.trials)
        if good < planned.get(row.label, 0):
            message = f"{good} of {planned[row.label]} tuning trials finished"
            found.append(Warning(kind="tuning", label=row.label, message=message))
    return found


def _truncated(run: RunDirectory, finals: Mapping[str, Sequence[TrialResult]]) -> list[Warning]:
    found: list[Warning] = []
    usual = 0
    if run.data.lengths and run.data.lengths.split:
        number = plural(run.data.lengths.split, "sentence")
        message = f"{number} longer than a window of {run.data.lengths.max_length} tokens, continued in the next one"
        found.append(Warning(kind="split", message=message))
    if run.data.lengths and run.data.lengths.truncated:
        usual = run.data.lengths.truncated
        message = f"{plural(usual, 'text')} longer than {run.data.lengths.max_length} tokens cut"
        if run.data.lengths.unread:
            number = plural(run.data.lengths.unread, "word")
            message += f"; {number} beyond that are not read, and entities there count as missed"
        found.append(Warning(kind="truncated", message=message))
    for label, trials in finals.items():
        most = max((sum(trial.truncated.values()) for trial in trials), default=0)
        if most > usual:
            message = f"{plural(most, 'text')} cut, because its virtual tokens take room"
            found.append(Warning(kind="truncated", label=label, message=message))
    return found


def _data_notes(data: DataInfo) -> list[Warning]:
    """What was odd about the data; how the splits were made is in the report's protocol."""
    return [
        Warning(kind=note.kind, message=note.message) for note in data.notes if not note.kind.startswith(USUAL_NOTES)
    ]
