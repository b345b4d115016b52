"""What the statistics say, keyed by row label: the one place that talks to `remora.study.statistics`."""

from collections.abc import Mapping
from dataclasses import dataclass

from remora.results.summary_schema import Versus


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Intervals, the confidence set of the best, comparisons and the recommendation.

    Args:
        intervals: label -> (mean, low, high), fractions; low and high are None where they cannot be had.
        best: the row with the best mean among those that can be chosen.
        best_set: the simultaneous 95 % confidence set of the best; empty when it cannot be had.
        eligible: members of `best_set` shown to be within the margin of the best.
        recommended: the row to take, None when the data does not decide.
        decidable: whether the data decides.
        reason: one line from the statistics.
        optimism: how much the best mean flatters its row.
        need_items: test items that would decide.
        need_seeds: seeds that would decide.
        versus: label -> comparison with the reference.
        seed_sd: pooled standard deviation over seeds.
        seed_df: its degrees of freedom.
        item_sd: standard error that comes from the finite test set.
    """

    intervals: Mapping[str, tuple[float, float | None, float | None]]
    best: str | None
    best_set: tuple[str, ...]
    eligible: tuple[str, ...]
    recommended: str | None
    decidable: bool
    reason: str
    optimism: float | None
    need_items: int | None
    need_seeds: int | None
    versus: Mapping[str, Versus]
    seed_sd: float | None
    seed_df: float | None
    item_sd: float | None
