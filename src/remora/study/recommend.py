"""The recommendation: the cheapest method shown to lose less than the margin to the best, or what would decide.

A method can be recommended when it is in the confidence set of the best and its simultaneous bound on the loss to the
best is within the margin. Otherwise the answer is "not decidable", with the number of test items or seeds at which
two equally good methods would be shown to be within the margin with 80 % probability. More items shrink the item
component and the seeds' disagreement on single items; more seeds shrink the seed component alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from remora.study.best_set import BestSet
from remora.study.joint import Joint, z_to_t
from remora.study.seed_variance import MAX_PRIOR_DOF

Prefer = Literal["quality", "size", "speed"]
Reason = Literal["best", "non-inferior", "only-method", "undecided", "one-seed", "no-result"]

POWER_Z = float(special.ndtri(0.8))
MAX_ITEMS = 10_000_000
MAX_SEEDS = 1_000


@dataclass(frozen=True, kw_only=True)
class MethodCost:
    """What a method costs; None where it was not measured.

    Args:
        adapter_params: trained scalars to store, base weights included for full fine-tuning.
        adapter_bytes: size on disk.
        step_seconds: one training step with the whole machine.
    """

    adapter_params: int | None = None
    adapter_bytes: int | None = None
    step_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The verdict.

    Args:
        label: the recommended method, or None when the data do not decide.
        leader: the method with the highest mean, or None without results.
        decidable: whether `label` is shown to be within the margin of the best.
        reason: "best" (alone in the set), "non-inferior", "only-method", "undecided", "one-seed" (no method has two
            seeds), "no-result".
        text: the verdict in plain English.
        loss: upper bound on what `label` loses to the best, a fraction; None without a label.
        optimism: by how much the highest mean is expected to flatter its method, a fraction.
        eligible: all methods shown to be within the margin of the best, in the order given; `label` is one of them.
        need_items: test items (to two digits) that would decide with the seeds there are; None when decided, or out of
            reach.
        need_seeds: seeds that would decide with the items there are; None when decided, or out of reach.
        need_both: True when only `need_items` and `need_seeds` together would decide.
        margin: in points (hundredths).
        prefer: what "cheapest" means.
    """

    label: str | None
    leader: str | None
    decidable: bool
    reason: Reason
    text: str
    loss: float | None
    optimism: float
    eligible: tuple[str, ...]
    need_items: int | None
    need_seeds: int | None
    need_both: bool
    margin: float
    prefer: Prefer


def recommend(
    labels: Sequence[str],
    joint: Joint,
    best: BestSet,
    *,
    margin: float,
    prefer: Prefer,
    costs: Mapping[str, MethodCost],
    optimism: float,
    metric: str,
) -> Recommendation:
    """Decide.

    Args:
        labels: of the L methods.
        joint: means and errors.
        best: the confidence set of the best.
        margin: largest loss to the best that does not matter, in points (hundredths of the metric).
        prefer: "quality" takes the highest mean, "size" the fewest bytes (then parameters), "speed" the shortest step.
        costs: by label; a method without the cost asked for comes last.
        optimism: from `best_set.optimism`.
        metric: name of the metric, for the text.
    """
    num_items = joint.items.num_items
    leader = best.leader
    members = [int(i) for i in np.flatnonzero(best.member_L)]
    fitting = [i for i in members if best.loss_L[i] <= margin / 100]

    def verdict(reason: Reason, text: str, chosen: int | None = None, need: "Need | None" = None) -> Recommendation:
        return Recommendation(
            label=None if chosen is None else labels[chosen],
            leader=None if leader is None else labels[leader],
            decidable=chosen is not None,
            reason=reason,
            text=text,
            loss=None if chosen is None else float(best.loss_L[chosen]),
            optimism=optimism,
            eligible=() if chosen is None else tuple(labels[i] for i in fitting) or (labels[chosen],),
            need_items=_round_up(need.items) if need and need.items else None,
            need_seeds=need.seeds if need else None,
            need_both=need.both if need else False,
            margin=margin,
            prefer=prefer,
        )

    if leader is None:
        return verdict("no-result", "No method has a finished seed, so there is nothing to recommend.")
    if int(np.isfinite(best.loss_L).sum()) == 1:
        return verdict("only-method", f"{labels[leader]} is the only method with results.", leader)
    if not joint.seeds.known:
        text = (
            f"Not decidable: with one seed per method nobody can tell methods from luck. {labels[leader]} has the "
            f"highest {metric}, for these trained models only. Run at least 2 seeds, better 5."
        )
        return verdict("one-seed", text)
    if members == [leader]:
        return verdict("best", f"{labels[leader]} is the best on {metric}, with 95 % confidence.", leader)
    if fitting:
        chosen = min(fitting, key=lambda i: (*_cost(costs.get(labels[i]), prefer), -joint.mean_L[i], labels[i]))
        points = 100 * best.loss_L[chosen]
        why = "the only method" if len(fitting) == 1 else f"{_WHY[prefer]} of {len(fitting)} methods"
        text = (
            f"{labels[chosen]} ({why} shown to be within {margin:g} {_plural(margin, 'point')} of the best): "
            f"it loses at most {points:.1f} points of {metric} to the best, with 95 % confidence."
        )
        return verdict("non-inferior", text, chosen)
    need = needed(joint, best, margin / 100)
    text = (
        f"Not decidable within {margin:g} {_plural(margin, 'point')}: {len(members)} methods cannot be told apart from "
        f"the best. {_needs(need, num_items, int(joint.seeds_L[members].min()))} Until then {labels[leader]} has the "
        f"highest {metric}."
    )
    return verdict("undecided", text, need=need)


@dataclass(frozen=True, kw_only=True)
class Need:
    """Test items or seeds that would decide: either alone, or both together; None where out of reach."""

    items: int | None
    seeds: int | None
    both: bool


def needed(joint: Joint, best: BestSet, margin: float) -> Need:
    """Test items or seeds at which the leader, if it ties with the rest of the set, would be shown within the margin.

    Args:
        joint: means and errors at the present numbers.
        best: the set; at least two members.
        margin: a fraction.
    """
    assert best.leader is not None, "needs a leader"
    rivals = [int(k) for k in np.flatnonzero(best.member_L) if k != best.leader]
    pair = (np.array([best.leader] * len(rivals)), np.array(rivals))
    num_items, num_seeds = joint.items.num_items, int(joint.seeds_L[[best.leader, *rivals]].min())

    def enough(items: float, seeds: float) -> bool:
        reach = _reach(joint, pair, best.critical_L[rivals], items, seeds)
        return bool((reach <= margin).all())

    items = _first(lambda n: enough(n, num_seeds), num_items, MAX_ITEMS)
    seeds = _first(lambda s: enough(num_items, s), num_seeds, MAX_SEEDS)
    if items is not None or seeds is not None:
        return Need(items=items, seeds=seeds, both=False)
    more = num_seeds
    while more < MAX_SEEDS:
        more *= 2
        items = _first(lambda n, s=more: enough(n, s), num_items, MAX_ITEMS)
        if items is not None:
            return Need(items=items, seeds=more, both=True)
    return Need(items=None, seeds=None, both=False)


def _reach(
    joint: Joint, pair: tuple[np.ndarray, np.ndarray], critical: np.ndarray, items: float, seeds: float
) -> np.ndarray:
    """Half-width of the one-sided bound on a difference, plus what 80 % power takes, at other numbers of both."""
    factor = joint.items.num_items / items
    between, flips, own = joint.items.between_LL, joint.items.flips_L, joint.seeds.variance_L
    first, second = pair
    item_part = np.maximum(between[first, first] + between[second, second] - 2 * between[first, second], 0.0) * factor
    flip_part = flips[first] + flips[second]
    excess = np.maximum(own[first] + own[second] - flip_part, 0.0)
    seed_part = (excess + flip_part * factor) / seeds
    variance = item_part + seed_part + (joint.grain * factor) ** 2
    # More seeds bring more residual degrees of freedom, on top of what the pool lends.
    pool = max(int(joint.seeds.pooled_L.sum()), 2)
    lent = np.where(joint.seeds.pooled_L[first] & joint.seeds.pooled_L[second], MAX_PRIOR_DOF, 0.0)
    seed_dof = np.minimum((seeds - 1) * (pool - 1), lent + (seeds - 1))
    error = np.square(seed_part) / np.maximum(seed_dof, 1.0) + np.square(item_part) / items
    dof = np.maximum(np.square(variance) / np.maximum(error, 1e-300), 1.0)
    return (z_to_t(critical, dof) + z_to_t(POWER_Z, dof)) * np.sqrt(variance)


def _first(enough: Callable[[int], bool], start: int, limit: int) -> int | None:
    """The smallest whole number above `start` and up to `limit` that is enough, where more never hurts."""
    if not enough(limit):
        return None
    low, high = start, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _cost(cost: MethodCost | None, prefer: Prefer) -> tuple[float, float]:
    unknown = float("inf")
    if cost is None or prefer == "quality":
        return (0.0, 0.0) if prefer == "quality" else (unknown, unknown)
    if prefer == "speed":
        return (unknown if cost.step_seconds is None else cost.step_seconds, 0.0)
    params = unknown if cost.adapter_params is None else float(cost.adapter_params)
    return (4 * params if cost.adapter_bytes is None else float(cost.adapter_bytes), params)


_WHY: dict[Prefer, str] = {"quality": "the highest mean", "size": "the smallest", "speed": "the fastest"}


def _needs(need: Need, num_items: int, num_seeds: int) -> str:
    items = "" if need.items is None else f"{_round_up(need.items):,} test items"
    seeds = "" if need.seeds is None else f"{need.seeds} seeds"
    if need.both:
        return f"It needs about {items} and {seeds} together; neither alone is enough."
    if items and seeds:
        return f"It needs about {items} (with {num_seeds} seeds) or {seeds} (with {num_items:,} items)."
    if items:
        return f"It needs about {items}; more seeds alone cannot decide."
    if seeds:
        return f"It needs about {seeds}; more test items alone cannot decide."
    return "No affordable number of test items and seeds would decide; a wider margin would."


def _round_up(number: int) -> int:
    """Two significant digits are all that such an estimate carries."""
    step = 10 ** max(len(str(number)) - 2, 0)
    return -(-number // step) * step


def _plural(number: float, noun: str) -> str:
    return noun if number == 1 else noun + "s"
