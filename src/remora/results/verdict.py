"""The verdict in plain English: who is best, who cannot be told apart, what to take, what it costs, what to expect.

Every sentence is there because a number puts it there; nothing is said that the study did not measure.
"""

import math
from collections.abc import Sequence

from remora.results.judgement import Judgement
from remora.results.names import shown
from remora.results.schema import DataInfo, ProtocolInfo
from remora.results.summary_schema import Recommendation, Row
from remora.results.wording import (
    CONSTANT_ANSWERS,
    RAW_METRICS,
    count,
    duration,
    interval,
    listing,
    metric_name,
    number,
    plural,
    points,
    rate,
    share,
    size,
)

WORTH = {
    "quality": "has the highest mean",
    "size": "trains the fewest parameters",
    "speed": "has the shortest training step",
}
# Below this (a fraction: 0.05 points) a difference is not worth a sentence.
NEGLIGIBLE = 0.0005
# More seeds than this are no advice.
MAX_SEEDS = 50
# A margin beyond ten points (a fraction) calls methods equal that are not: no advice either.
WIDEST_MARGIN = 0.1


def recommend(judged: Judgement, rows: Sequence[Row], data: DataInfo, protocol: ProtocolInfo) -> Recommendation:
    """The recommendation with its text.

    Args:
        judged: what the statistics found.
        rows: the rows, best first.
        data: the data set.
        protocol: the protocol, for margin and preference.
    """
    by_label = {row.label: row for row in rows}
    taken = by_label.get(judged.recommended or "")
    lr = taken.hyperparameters.get("lr") if taken else None
    return Recommendation(
        label=judged.recommended,
        method=taken.method if taken else None,
        decidable=judged.decidable,
        reason=judged.reason,
        text=verdict_text(judged, rows, data, protocol),
        loss=judged.loss,
        optimism=judged.optimism,
        need_items=judged.need_items,
        need_seeds=judged.need_seeds,
        need_both=judged.need_both,
        margin=protocol.margin,
        prefer=protocol.prefer,
        best=judged.best,
        best_set=judged.best_set,
        adapter=taken.adapter if taken else None,
        lr=float(lr) if isinstance(lr, int | float) else None,
        next_steps=() if judged.decidable else next_steps(judged),
    )


def verdict_text(judged: Judgement, rows: Sequence[Row], data: DataInfo, protocol: ProtocolInfo) -> str:
    """One paragraph of plain text."""
    by_label = {row.label: row for row in rows}
    best = by_label.get(judged.best or "")
    if best is None:
        return f"No trial on {shown(data.name)} finished, so there is nothing to compare."
    taken = by_label.get(judged.recommended or "")
    trained = [row for row in rows if row.role != "baseline" and row.mean is not None]
    sentences = [*_standing(judged, best, trained, data), *_floor(rows, best, data)]
    if len(trained) > 1:
        sentences += _untuned(protocol)
        sentences += _nearest(judged, best, trained)
        sentences += _advice(judged, taken, best, protocol)
        sentences += _price(taken, rows)
        sentences += _optimism(judged, best, trained, data)
    return " ".join(sentences)


def _standing(judged: Judgement, best: Row, trained: Sequence[Row], data: DataInfo) -> list[str]:
    metric = metric_name(data.metric)
    unit = "" if data.metric in RAW_METRICS else " points"
    where = interval(best.low, best.high, data.metric)
    sure = f" (95 % interval {where})" if best.low is not None else ""
    reached = f"{points(best.mean, data.metric)}{unit} of {metric} on test{sure}"
    if len(trained) == 1:
        return [f"On {shown(data.name)}, {_name(best)} reaches {reached}."]
    tied = [row for row in trained if row.label in judged.best_set]
    if len(tied) < 2:
        if not judged.best_set:
            return [f"On {shown(data.name)}, {_name(best)} has the highest mean: {reached}."]
        return [f"On {shown(data.name)}, {_name(best)} is the best of {len(trained)}: {reached}."]
    means = [row.mean for row in tied if row.mean is not None]
    low, high = points(min(means), data.metric), points(max(means), data.metric)
    span = f"all at {low}" if low == high else f"means from {low} to {high}"
    who = f"all {len(tied)} methods" if len(tied) == len(trained) else listing([_name(row) for row in tied])
    return [f"On {shown(data.name)}, {who} cannot be told apart in {metric} (95 % confidence, {span}{unit})."]


def _untuned(protocol: ProtocolInfo) -> list[str]:
    if protocol.tuning_trials:
        return []
    return ["No learning rate was tuned: with rates that suit each method the order may be another."]


def _floor(rows: Sequence[Row], best: Row, data: DataInfo) -> list[str]:
    """What one gets for nothing: the majority answer and the untrained model."""
    parts: list[str] = []
    majority = next((row.mean for row in rows if row.method == "majority"), None)
    if majority is not None and best.low is not None and best.low <= majority and data.metric not in RAW_METRICS:
        what = CONSTANT_ANSWERS[data.task]
        return [
            f"None is clearly better than always answering {what} ({points(majority, data.metric)}): "
            "train longer, or check the labels."
        ]
    for row in rows:
        if row.mean is None or row.role != "baseline":
            continue
        if row.method == "majority" and data.task != "regression":
            parts.append(f"always answering {CONSTANT_ANSWERS[data.task]} scores {points(row.mean, data.metric)}")
        elif row.method == "untrained":
            verb = "" if parts else " scores"
            who = (
                f"{row.label} prompting"
                if data.task in ("prompt-classification", "summarization")
                else "the untrained model"
            )
            parts.append(f"{who}{verb} {points(row.mean, data.metric)}")
    return [f"For comparison, {' and '.join(parts)}."] if parts else []


def _nearest(judged: Judgement, best: Row, trained: Sequence[Row]) -> list[str]:
    """The closest row that is shown to be behind, and what it saves."""
    behind = [row for row in trained if judged.best_set and row.label not in judged.best_set]
    if not behind:
        return []
    near = behind[0]
    gap = _gap(best, near)
    saving = ""
    mine, theirs = near.adapter_params + near.base_params, best.adapter_params + best.base_params
    if 0 < mine < 0.6 * theirs:
        saving = f" at {share(mine, theirs)} of its parameters"
    if len(behind) == 1:
        return [f"{_name(near)} is {gap} behind {_name(best)}{saving}."]
    lead = f"Of the {len(behind)} that are shown to be behind, {_name(near)} comes closest"
    return [f"{lead}: {gap} below {_name(best)}{saving}."]


def _advice(judged: Judgement, taken: Row | None, best: Row, protocol: ProtocolInfo) -> list[str]:
    margin = plural_points(protocol.margin)
    if taken is None:
        if judged.reason == "one-seed":
            return ["With one seed nobody can tell a better method from luck: run at least 2, better 5."]
        return [
            f"Which to take cannot be decided to within {margin}{_need(judged)}.",
            f"Until then {_name(best)} has the highest mean.",
        ]
    setting = taken.hyperparameters.get("lr")
    lr = f" (lr {rate(float(setting))})" if isinstance(setting, int | float) else ""
    bound = f" it loses at most {plural_points(100 * judged.loss)} to the best" if judged.loss else ""
    if len(judged.eligible) > 1:
        why = (
            f": of the {len(judged.eligible)} shown to lose less than {margin} to the best, it {WORTH[protocol.prefer]}"
        )
    elif judged.reason == "non-inferior":
        why = f": it alone is shown to lose less than {margin} to the best;{bound}" if bound else ""
    else:
        why = ""
    where = [f"Its adapter is in {taken.adapter}."] if taken.adapter else []
    return [f"Take {_name(taken)}{lr}{why}.", *where]


def _need(judged: Judgement) -> str:
    needs: list[str] = []
    if judged.need_items:
        needs.append(f"about {number(two_digits(judged.need_items))} test rows")
    if judged.need_seeds:
        needs.append(plural(judged.need_seeds, "seed"))
    if not needs:
        return ": no number of test rows and seeds in reach would do"
    return f": that needs {' and '.join(needs) if judged.need_both else ' or '.join(needs)}"


def next_steps(judged: Judgement) -> tuple[str, ...]:
    """What would decide an undecided study, each on its own."""
    steps: list[str] = []
    if judged.reason == "one-seed":
        steps.append("train more seeds: --seeds 5")
    if judged.need_seeds and judged.need_seeds <= MAX_SEEDS and not judged.need_both:
        steps.append(f"train more seeds: --seeds {judged.need_seeds}")
    if judged.need_items and not judged.need_both:
        steps.append(f"label more test rows: about {number(two_digits(judged.need_items))} in all")
    within = {label: judged.losses[label] for label in judged.best_set if label in judged.losses}
    least = min(within.values(), default=math.inf)
    if judged.reason == "undecided" and least <= WIDEST_MARGIN:
        winners = [label for label, loss in within.items() if loss == least]
        answer = f", and the answer is {shown(winners[0])}" if len(winners) == 1 else ""
        steps.append(f"accept a wider margin: --margin {math.ceil(1000 * least) / 10:g} decides{answer}")
    return tuple(steps)


def two_digits(value: int) -> int:
    """Rounded up to two significant digits: all that such an estimate carries."""
    step = 10 ** max(len(str(value)) - 2, 0)
    return -(-value // step) * step


def _price(taken: Row | None, rows: Sequence[Row]) -> list[str]:
    if taken is None:
        return []
    split = f"{count(taken.adapter_params)} parameters" if taken.adapter_params else "nothing"
    text = f"It trains {split} besides the head's {count(taken.head_params)}"
    if taken.base_params:
        text = f"It trains all {count(taken.base_params)} weights of the base model"
    reference = next((row for row in rows if row.role == "reference" and row.label != taken.label), None)
    if reference is not None:
        if taken.trained_params and reference.trained_params:
            text += f", {share(taken.trained_params, reference.trained_params)} of what {_name(reference)} trains"
        against: list[str] = []
        if taken.step_seconds and reference.step_seconds:
            against.append(f"{duration(taken.step_seconds)} per step against {duration(reference.step_seconds)}")
        if taken.peak_bytes and reference.peak_bytes:
            against.append(f"{size(taken.peak_bytes)} of memory against {size(reference.peak_bytes)}")
        text += f", and takes {' and '.join(against)}" if against else ""
    return [f"{text}."]


def _optimism(judged: Judgement, best: Row, trained: Sequence[Row], data: DataInfo) -> list[str]:
    if judged.optimism is None or judged.optimism < NEGLIGIBLE or data.metric in RAW_METRICS:
        return []
    less = plural_points(100 * judged.optimism)
    return [f"{_name(best)} was picked as the best of {len(trained)}: expect about {less} less on new data."]


def _name(row: Row) -> str:
    return shown(row.label)


def _gap(best: Row, other: Row) -> str:
    difference = abs((best.mean or 0.0) - (other.mean or 0.0))
    return f"{difference:.3g}" if best.metric in RAW_METRICS else plural_points(100 * difference)


def plural_points(value: float) -> str:
    """A number of points in a sentence: 1 point, 0.5 points."""
    text = f"{value:.1f}".removesuffix(".0")
    return f"{text} point" if text == "1" else f"{text} points"
