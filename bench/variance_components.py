"""Variance components of a comparison: the numbers a simulation needs, read from a file or fitted on real runs.

    python -m bench.variance_components RUN_DIR... --out bench/results/variance_components.json

Fitted per data set on the trained rows within 10 points of the best, on whether each test item was answered right.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import special

from bench.run_scores import RunScores, read_scores
from remora.errors import DataError
from remora.study.item_variance import item_component, row_covariance, stack_rows
from remora.study.seed_variance import seed_component

COMPARABLE = 0.10


@dataclass(frozen=True, kw_only=True)
class VarianceComponents:
    """How right answers vary over items, methods and seeds.

    Args:
        name: of the data set.
        accuracy: mean accuracy of the methods.
        seed_sd: standard deviation of one seed's accuracy on endless test items, a fraction.
        order_share: share of its variance common to all methods at one seed.
        between_methods: correlation of "right" on one item between two methods (different seeds).
        between_seeds: the same between two seeds of one method.
        seed_sd_spread: standard deviation over methods of the logarithm of seed_sd.
    """

    name: str
    accuracy: float
    seed_sd: float
    order_share: float
    between_methods: float
    between_seeds: float
    seed_sd_spread: float


def read_components(path: Path) -> tuple[str, tuple[VarianceComponents, ...]]:
    """The source line and the component sets of a file.

    Raises:
        DataError: the file is missing or does not fit.
    """
    try:
        tree = json.loads(path.read_text())
        return str(tree["source"]), tuple(VarianceComponents(**entry) for entry in tree["sets"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no file of variance components: {error}", "see bench/variance_components.py"
        ) from error


def fit(runs: Sequence[RunScores]) -> VarianceComponents:
    """Fit the components of one data set on its runs.

    Args:
        runs: studies of one classification data set with at least 2 methods of at least 2 seeds each.

    Returns:
        Means over the studies; `order_share` and the standard deviations through their variances.

    Raises:
        DataError: nothing can be estimated.
    """
    found = [parts for run in runs if (parts := _parts(run)) is not None]
    if not found:
        raise DataError(f"{runs[0].name}: needs 2 methods with 2 finished seeds each", "give a study with more seeds")
    accuracy, excess, order, methods, seeds, spread = np.mean(found, axis=0)
    return VarianceComponents(
        name=runs[0].name,
        accuracy=round(float(accuracy), 4),
        seed_sd=round(float(np.sqrt(max(excess, 0.0))), 5),
        order_share=round(float(np.clip(order / excess, 0.0, 0.9)) if excess > 0 else 0.0, 3),
        between_methods=round(float(min(methods, seeds)), 3),
        between_seeds=round(float(seeds), 3),
        seed_sd_spread=round(float(np.sqrt(max(spread, 0.0))), 3),
    )


def _parts(run: RunScores) -> tuple[float, float, float, float, float, float] | None:
    """Accuracy, seed variance without flips, shared part, two correlations, variance of log seed sd, of one study."""
    trained = {label: rows for label, rows in run.right.items() if label not in run.scores.baselines and len(rows) > 1}
    top = max((float(rows.mean()) for rows in trained.values()), default=0.0)
    trained = {label: rows for label, rows in trained.items() if rows.mean() >= top - COMPARABLE}
    if len(trained) < 2:
        return None
    right_RN, owner_R = stack_rows(list(trained.values()))
    names = [seed for label in trained for seed in run.scores.seeds[label]]
    index = {seed: place for place, seed in enumerate(dict.fromkeys(names))}
    seed_R = np.array([index[seed] for seed in names])
    num_methods, num_items = len(trained), right_RN.shape[1]
    truth = np.ones(num_items, np.int64)
    covariance_RR = row_covariance("accuracy", truth, right_RN, draws=0, rng=np.random.default_rng(0))
    items = item_component(covariance_RR, owner_R, seed_R, num_methods, num_items)
    value_R = right_RN.mean(axis=1)
    nobody = np.zeros(num_methods, np.bool_)
    seeds = seed_component(value_R, owner_R, seed_R, items.flips_L, nobody, grain=1 / num_items)

    spread_R = np.sqrt(np.maximum(np.diagonal(covariance_RR), 1e-300))
    correlation_RR = covariance_RR / np.outer(spread_R, spread_R)
    other_seed = seed_R[:, None] != seed_R
    same_method = owner_R[:, None] == owner_R
    own_L = np.array([np.var(value_R[owner_R == m], ddof=1) for m in range(num_methods)]) + (1 / num_items) ** 2 / 6
    dof_L = np.bincount(owner_R) - 1
    log_L = np.log(own_L) - special.digamma(dof_L / 2) + np.log(dof_L / 2)
    # The logarithm of a variance is twice that of a standard deviation.
    spread = (np.var(log_L, ddof=1) - special.polygamma(1, dof_L / 2).mean()) / 4
    pooled = seeds.pooled_L
    excess = float(seeds.variance_L[pooled].mean() + seeds.order_variance - items.flips_L[pooled].mean())
    return (
        float(value_R.mean()),
        excess,
        seeds.order_variance,
        float(correlation_RR[~same_method & other_seed].mean()),
        float(correlation_RR[same_method & other_seed].mean()),
        float(spread),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories of comparisons")
    parser.add_argument("--out", type=Path, default=Path("bench/results/variance_components.json"))
    arguments = parser.parse_args()
    by_name: dict[str, list[RunScores]] = {}
    for path in arguments.runs:
        run = read_scores(path)
        if run.right:
            by_name.setdefault(run.name, []).append(run)
        else:
            print(f"{path}: {run.name} is no classification data set, left out")
    sets = [fit(runs) for runs in by_name.values()]
    tree = {
        "schema": 1,
        "source": f"fitted on {sum(map(len, by_name.values()))} real studies",
        "sets": [asdict(entry) for entry in sets],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(tree, indent=1) + "\n")
    for entry in sets:
        print(entry)


if __name__ == "__main__":
    main()
