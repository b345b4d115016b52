"""docs/statistics.md from what the calibration measured: tables, and the method in plain words."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.aa_studies import Subsampled, Twin
from bench.calibration_cells import CANDIDATES, FOUND, GAP, MARGIN, MOST_ANSWERS, NUM_METHODS, UNREST, Cell, Estimate
from bench.variance_components import VarianceComponents

NOMINAL = 0.05
OFTEN = 0.05
"""Share of studies below which a cell says too seldom that it can decide for its power to be known."""


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """All simulated cells and how they came about."""

    command: str
    source: str
    validation: int
    components: tuple[VarianceComponents, ...]
    cells: tuple[Cell, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "Simulation":
        cells: list[Cell] = []
        for cell in tree["cells"]:
            measured = {name: Estimate(**value) for name, value in cell["measures"].items()}
            fields: dict[str, Any] = {**cell, "measures": measured}
            cells.append(Cell(**fields))
        components = tuple(VarianceComponents(**entry) for entry in tree["components"])
        whole: dict[str, Any] = {**tree, "components": components, "cells": tuple(cells)}
        return Simulation(**whole)


@dataclass(frozen=True, kw_only=True)
class RealStudies:
    """A/A studies on real runs."""

    command: str
    studies: int
    times: int
    twins: tuple[Twin, ...]
    subsampled: tuple[Subsampled, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "RealStudies":
        pairs: list[Twin] = []
        for entry in tree["twins"]:
            fields: dict[str, Any] = {**entry, "pair": tuple(entry["pair"])}
            pairs.append(Twin(**fields))
        parts = tuple(Subsampled(**entry) for entry in tree["subsampled"])
        whole: dict[str, Any] = {**tree, "twins": tuple(pairs), "subsampled": parts}
        return RealStudies(**whole)


def page(simulation: Simulation | None, real: RealStudies | None) -> str:
    """The whole page."""
    commands = [part.command for part in (simulation, real) if part is not None]
    parts = ["# Statistics: what the intervals mean, and how often they are wrong", ""]
    parts += ["Written by", "", "```", *commands, "```", "", METHOD]
    if simulation is not None:
        parts += ["## Simulated studies", "", _setting(simulation), "", *_verdict(simulation.cells), ""]
        for entry in simulation.components:
            cells = [cell for cell in simulation.cells if cell.components == entry.name]
            parts += [f"### Components: {entry.name}", "", _describe(entry), "", *_tables(cells, simulation.validation)]
    if real is not None:
        parts += _real(real)
    return "\n".join(parts).rstrip() + "\n"


METHOD = """## The method in plain words

A study trains every method with S seeds and tests them on the same n items. Two things make its ranking uncertain.
**Seeds**: another seed gives another model. **Items**: another test set gives other scores. Remora estimates both and
adds them.

* **Items.** The covariance of the methods' metrics over test items, from one paired bootstrap shared by all seeds and
  methods (for accuracy and squared error in closed form). It is taken between *different* seeds. Two seeds of a method
  disagree on some items; that is seed noise, and the spread of the seeds already contains it. A bootstrap of the mean
  over few seeds would count it twice, and a bootstrap over the seeds themselves would count too little.
* **Seeds.** Metric = method + seed (shared data order) + rest. What all methods share at a seed cancels in a
  difference; the rest is estimated from the residuals. Two to five seeds say little about one method's variance, so
  the variances are shrunk towards each other (empirical Bayes), after scaling by how often each method's seeds
  disagree on single items. A method whose seeds vary clearly more than all others' keeps its own variance.
* **Together.** The two variances are added; Student t with Welch-Satterthwaite degrees of freedom.
* **Comparisons** with the reference are corrected by Holm. If no reference was named beforehand, the best mean is the
  reference and the correction covers all pairs (max-t), because the data picked it.
* **The best.** Methods that cannot be told from the best form a simultaneous 95 % confidence set (multiple comparisons
  with the best, max-t). The same 95 % event bounds what *each* method loses to the best, all at once, so picking a
  method by its bound, its size or its speed does not spoil the guarantee.
* **Recommendation.** The cheapest method of the set whose bound is within the margin. Otherwise "not decidable", with
  the test items or seeds at which two equal methods would be shown to be within the margin with 80 % probability.
* **Detectable difference.** Each comparison says which true difference it would find with 80 % probability.
* **Winner's optimism.** The highest of several noisy means is too high; by how much is estimated and printed.
* **Not included: tuning.** Intervals are conditional on the hyperparameters that tuning chose. Tuning anew could choose
  others; the table "tuning repeated" shows what that adds.
"""


def _setting(simulation: Simulation) -> str:
    studies = sorted({cell.studies for cell in simulation.cells})
    span = f"{studies[0]:,}" if len(studies) == 1 else f"{studies[0]:,} to {studies[-1]:,}"
    return (
        f"Every cell is {span} simulated studies with {NUM_METHODS} methods (other metrics: {NUM_METHODS // 2}), each "
        f"analysed by the code that Remora itself uses. Variance components: {simulation.source}. "
        "Figures are percentages ± one Monte Carlo standard error unless a column says otherwise."
    )


def _verdict(cells: Sequence[Cell]) -> list[str]:
    ties = [cell for cell in cells if cell.scenario == "tie"]
    lines: list[str] = []
    for key, what in (
        ("alarm_pair", "one comparison"),
        ("alarm_holm", "any comparison, Holm-corrected"),
        ("alarm_set", "a true best left out of the set"),
    ):
        shown = [cell.measures[key] for cell in ties]
        high = max(shown, key=lambda entry: entry.value or 0.0)
        above = sum((e.value or 0.0) > NOMINAL + 2 * (e.se or 0.0) for e in shown)
        lines.append(
            f"* False alarms, tuning fixed, {what}: at most {_percent(high)}; "
            f"{above} of {len(shown)} cells lie above 5 % + 2 standard errors."
        )
    for key, what in (
        ("cover_mean", "a method's mean"),
        ("cover_difference", "a difference"),
        ("cover_all_differences", "all differences at once"),
    ):
        shown = [cell.measures[key] for cell in cells if cell.scenario in ("tie", "gap")]
        low = min(shown, key=lambda entry: 1.0 if entry.value is None else entry.value)
        below = sum((1.0 if e.value is None else e.value) < 0.95 - 2 * (e.se or 0.0) for e in shown)
        lines.append(
            f"* Coverage of the 95 % interval for {what}: at least {_percent(low)}; "
            f"{below} of {len(shown)} cells lie below 95 % - 2 standard errors."
        )
    gaps = [cell for cell in cells if cell.scenario == "gap"]
    known = [(c, c.measures["power_when_able"]) for c in gaps if (c.measures["able"].value or 0.0) >= OFTEN]
    if known:
        cell, low = min(known, key=lambda pair: pair[1].value or 0.0)
        lines.append(
            f"* Power for a true difference of {FOUND:g} points where the comparison says it can find one: at least "
            f"{_percent(low)} (S = {cell.seeds}, n = {cell.items:,}); {len(gaps) - len(known)} of {len(gaps)} cells "
            f"say so never or in less than {100 * OFTEN:g} % of their studies, after a low draw of the variance."
        )
    wrong = max((cell.measures["wrong_advice"] for cell in gaps), key=lambda entry: entry.value or 0.0, default=None)
    if wrong is not None:
        lines.append(
            f"* A method worse than the best by more than the margin was recommended in at most {_percent(wrong)}."
        )
    return lines


def _describe(entry: VarianceComponents) -> str:
    return (
        f"Accuracy {100 * entry.accuracy:.1f} %; one seed's accuracy on endless items varies with standard deviation "
        f"{100 * entry.seed_sd:.2f} points, {100 * entry.order_share:.0f} % of its variance shared by all methods; "
        f"correlation of right answers {entry.between_methods:.2f} between methods and {entry.between_seeds:.2f} "
        "between seeds of one method; standard deviation over methods of the logarithm of the seed deviation "
        f"{entry.seed_sd_spread:.2f}."
    )


def _tables(cells: Sequence[Cell], validation: int) -> list[str]:
    def rows(scenario: str, *keys: str) -> list[list[str]]:
        return [
            [str(cell.seeds), f"{cell.items:,}", *(_show(cell, key) for key in keys)]
            for cell in cells
            if cell.scenario == scenario
        ]

    gap = ", ".join(f"{points:g}" for points in GAP)
    found = f"{FOUND:g} points"
    parts: list[str] = []

    def table(title: str, head: Sequence[str], body: list[list[str]], note: str) -> None:
        if body:
            parts.extend([f"**{title}** {note}", "", *_table(("S", "n", *head), body), ""])

    table(
        "False alarms, tuning fixed.",
        ("one comparison", "any (Holm)", "true best left out", "for contrast: items only"),
        rows("tie", "alarm_pair", "alarm_holm", "alarm_set", "alarm_items_only"),
        "All methods are equal. The last column is a paired test over test items that ignores seeds.",
    )
    table(
        "Coverage of 95 % intervals.",
        ("mean", "difference", "all differences", "all losses to the best"),
        rows("gap", "cover_mean", "cover_difference", "cover_all_differences", "cover_all_losses"),
        f"True points against the reference: {gap}.",
    )
    table(
        "Power.",
        (
            f"says it can find {found}",
            f"finds {found} where it says so",
            f"finds {found}",
            "leaves it out of the best set",
            "detectable, points",
        ),
        rows("gap", "able", "power_when_able", "power", "power_set", "detectable"),
        f"Methods truly {found} worse than the reference, found with Holm over {NUM_METHODS - 1} comparisons.",
    )
    table(
        "Decisions.",
        (
            "decided",
            f"{found} worse left out when decided",
            "wrong advice",
            "decided, all equal",
            "optimism true / said, points",
        ),
        [
            [*row[:5], tie[2], f"{tie[3]} / {tie[4]}"]
            for row, tie in zip(
                rows("gap", "decided", "power_set_when_decided", "wrong_advice"),
                rows("tie", "decided", "optimism_true", "optimism_said"),
                strict=True,
            )
        ],
        f"Margin {MARGIN:g} point. Wrong: a method worse than the best by more than the margin.",
    )
    table(
        "What it asks for.",
        ("names a size we can run", "items, typical", "seeds, typical", "decided at that size"),
        rows("need", "need_reachable", "need_log_items", "need_log_seeds", "need_decided"),
        "All methods equal and not decided; a new study of the size asked for is then run, unless that takes more than "
        f"{MOST_ANSWERS:,} answers per method or no size was named. Sizes are geometric means.",
    )
    worth = ", ".join(f"{points:g}" for points in CANDIDATES)
    table(
        "False alarms, tuning repeated.",
        ("one comparison", "any (Holm)", "left out", "coverage given the tuning", "tuning costs, points"),
        rows("tuned", "alarm_pair", "alarm_holm", "alarm_set", "cover_difference", "tuning_cost"),
        f"Equal methods; each picks one of {len(CANDIDATES)} candidates (truly worth {worth} points) on {validation} "
        "validation items. Claims are about the tuned models, so these are no errors of the intervals, but they are "
        "errors if read as claims about the methods.",
    )
    table(
        "One restless method.",
        ("one comparison", "any (Holm)", "true best left out", "coverage, difference"),
        rows("uneven", "alarm_pair", "alarm_holm", "alarm_set", "cover_difference"),
        f"All equal; the reference's seeds vary {UNREST:g} times as much as the others'. The worst case for pooling.",
    )
    other = [cell for cell in cells if cell.scenario in ("macro_f1", "matthews", "pearson", "spearman")]
    if other:
        body = [
            [cell.scenario, str(cell.seeds), f"{cell.items:,}"]
            + [_show(cell, key) for key in ("alarm_pair", "alarm_holm", "alarm_set", "cover_difference")]
            for cell in other
        ]
        head = ("metric", "S", "n", "one comparison", "any (Holm)", "true best left out", "coverage, difference")
        parts += ["**Other metrics**, by the bootstrap. All methods equal.", "", *_table(head, body), ""]
    return parts


def _real(real: RealStudies) -> list[str]:
    parts = ["## A/A studies on real runs", "", f"{real.studies} studies in which one method was entered twice.", ""]
    for alike, title in ((True, "tuning fixed (both rows have the same hyperparameters)"), (False, "tuning repeated")):
        pairs = [twin for twin in real.twins if twin.tuned_alike == alike]
        if not pairs:
            continue
        alarms = sum(twin.p < NOMINAL for twin in pairs)
        parts += [f"**{title}**: {alarms} false alarms in {len(pairs)} pairs.", ""]
        body = [
            [
                twin.study,
                " / ".join(twin.pair),
                str(twin.seeds),
                f"{twin.items:,}",
                f"{100 * twin.difference:+.2f}",
                f"[{100 * twin.low:+.2f}, {100 * twin.high:+.2f}]",
                f"{twin.p:.3f}",
            ]
            for twin in pairs
        ]
        parts += [*_table(("study", "pair", "S", "n", "difference, points", "95 % interval", "p"), body), ""]
        parts_of = [entry for entry in real.subsampled if entry.tuned_alike == alike]
        if parts_of:
            body = [
                [str(e.seeds), f"{e.items:,}", str(e.pairs), _percent(Estimate(value=e.alarms, se=e.se))]
                for e in parts_of
            ]
            parts += [
                f"{real.times} subsamples of seeds and at most half of the test items of each pair (they overlap; the "
                "error is over pairs):",
                "",
                *_table(("S", "n", "pairs", "false alarms"), body),
                "",
            ]
    return parts


def _show(cell: Cell, key: str) -> str:
    entry = cell.measures.get(key)
    if entry is None or entry.value is None:
        return "-"
    if key.startswith("need_log"):
        return f"{10**entry.value:,.0f}"
    if key in ("detectable", "tuning_cost", "optimism_true", "optimism_said"):
        return f"{entry.value:.2f}"
    return _percent(entry)


def _percent(entry: Estimate) -> str:
    if entry.value is None:
        return "-"
    error = "" if entry.se is None else f" ± {100 * entry.se:.1f}"
    return f"{100 * entry.value:.1f}{error}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(head)
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *body)]
