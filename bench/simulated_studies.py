"""Simulated studies whose truth is known, with variance components as in real ones.

Method j with seed s answers item i right when  z_ijs < threshold_j + shift_js.  z is standard normal and made of an
item's difficulty (shared by all), the item's affinity to the method, and a part of its own for each seed; the shift is
the seed's effect on quality, a part of which all methods share (data order).

Shapes: N items, M methods, S seeds.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from bench.variance_components import VarianceComponents
from remora.study.statistics import StudyScores

Floats = NDArray[np.float64]


class World:
    """Draws studies with given components.

    Args:
        components: see `VarianceComponents`.
    """

    def __init__(self, components: VarianceComponents) -> None:
        self.components = components
        level = float(special.ndtri(components.accuracy))
        self._methods = latent_correlation(components.accuracy, components.between_methods)
        self._seeds = max(latent_correlation(components.accuracy, components.between_seeds), self._methods)
        # A shift on the latent scale moves accuracy by the normal density at the threshold.
        self._shift = components.seed_sd / float(stats.norm.pdf(level))

    def latent(self, num_items: int, num_methods: int, num_seeds: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """(M, S, N) standard normal latents, correlated over methods and seeds, independent over items."""
        item = rng.standard_normal(num_items, dtype=np.float32)
        affinity = rng.standard_normal((num_methods, 1, num_items), dtype=np.float32)
        own = rng.standard_normal((num_methods, num_seeds, num_items), dtype=np.float32)
        own *= np.float32(np.sqrt(1 - self._seeds))
        own += np.float32(np.sqrt(self._seeds - self._methods)) * affinity
        own += np.float32(np.sqrt(self._methods)) * item
        return own

    def shifts(self, unrest_M: Floats, num_seeds: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """(M, S) effects of the seeds on the latent scale, and the M variances that they are drawn from.

        `unrest_M` multiplies each method's own seed standard deviation.
        """
        num_methods = len(unrest_M)
        share, spread = self.components.order_share, self.components.seed_sd_spread
        own_M = unrest_M * np.exp(rng.normal(-(spread**2), spread, num_methods)) * np.sqrt(1 - share) * self._shift
        shared_S = rng.normal(0.0, np.sqrt(share) * self._shift, num_seeds)
        shift_MS = own_M[:, None] * rng.standard_normal((num_methods, num_seeds)) + shared_S
        return shift_MS, np.square(own_M) + share * self._shift**2

    def wrong(
        self,
        accuracy_M: Floats,
        num_items: int,
        num_seeds: int,
        rng: np.random.Generator,
        unrest_M: Floats | None = None,
    ) -> NDArray[np.int8]:
        """Whether each method with each seed gets each item wrong.

        Args:
            accuracy_M: the true accuracy of each method, over all seeds and items.
            num_items: N.
            num_seeds: S.
            rng: source.
            unrest_M: factors on the methods' own seed standard deviations; 1 when None.

        Returns:
            (M, S, N) zeros and ones.
        """
        unrest = np.ones(len(accuracy_M)) if unrest_M is None else unrest_M
        shift_MS, variance_M = self.shifts(unrest, num_seeds, rng)
        # With random shifts the mean over seeds is the normal integral at threshold / sqrt(1 + variance).
        threshold_M = special.ndtri(accuracy_M) * np.sqrt(1 + variance_M)
        latent = self.latent(num_items, len(accuracy_M), num_seeds, rng)
        limit = (threshold_M[:, None] + shift_MS).astype(np.float32)
        return (latent >= limit[:, :, None]).astype(np.int8)

    def study(
        self,
        accuracy_M: Floats,
        num_items: int,
        num_seeds: int,
        rng: np.random.Generator,
        unrest_M: Floats | None = None,
    ) -> StudyScores:
        """A study scored by accuracy; labels are `labels(M)`, the arguments those of `wrong`."""
        wrong = self.wrong(accuracy_M, num_items, num_seeds, rng, unrest_M)
        predictions = dict(zip(labels(len(accuracy_M)), wrong, strict=True))
        return StudyScores(metric="accuracy", targets=np.zeros(num_items, np.int8), predictions=predictions)

    def study_with_metric(
        self, metric: str, num_methods: int, num_items: int, num_seeds: int, rng: np.random.Generator
    ) -> StudyScores:
        """A study of equally good methods under any metric: two unequal classes, or a noisy score of a target."""
        predictions: NDArray[np.generic]
        if metric in ("pearson", "spearman"):
            targets = rng.standard_normal(num_items)
            shift_MS, _ = self.shifts(np.ones(num_methods), num_seeds, rng)
            noise = self.latent(num_items, num_methods, num_seeds, rng) * np.exp(shift_MS)[:, :, None]
            predictions = targets + 0.6 * noise
        else:
            targets = (rng.random(num_items) < 0.3).astype(np.int8)
            accuracy_M = np.full(num_methods, self.components.accuracy)
            predictions = np.bitwise_xor(self.wrong(accuracy_M, num_items, num_seeds, rng), targets)
        rows = dict(zip(labels(num_methods), predictions, strict=True))
        return StudyScores(metric=metric, targets=targets, predictions=rows)

    def tuned(self, accuracy_C: Floats, num_methods: int, num_items: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """Which of C candidates each of M methods takes after one trial of each on shared validation items.

        Args:
            accuracy_C: true accuracies of the candidates, the same for each method.
            num_methods: M.
            num_items: validation items.
            rng: source.
        """
        wrong = self.wrong(np.tile(accuracy_C, num_methods), num_items, 1, rng)
        score_MC = 1 - wrong.mean(axis=(1, 2)).reshape(num_methods, len(accuracy_C))
        return np.argmax(score_MC, axis=1)


def labels(num_methods: int) -> tuple[str, ...]:
    """Names of the simulated methods; the first is the reference."""
    return tuple(f"m{j}" for j in range(num_methods))


def latent_correlation(probability: float, correlation: float) -> float:
    """The correlation of two standard normals whose exceedances of one threshold have the correlation given.

    Args:
        probability: of staying below the threshold, in (0, 1).
        correlation: of the two outcomes, in [0, 1].
    """
    if correlation <= 0:
        return 0.0
    level = float(special.ndtri(probability))
    goal = probability**2 + correlation * probability * (1 - probability)

    def excess(rho: float) -> float:
        # P(both below) for equal thresholds, by Owen's T function.
        slope = np.sqrt((1 - rho) / (1 + rho))
        return float(probability - 2 * special.owens_t(level, slope)) - goal

    top = 1 - 1e-9
    return top if excess(top) <= 0 else float(optimize.root_scalar(excess, bracket=(0.0, top)).root)


def offsets(points: Sequence[float], accuracy: float) -> Floats:
    """True accuracies that lie the given points above (or below) an accuracy."""
    return accuracy + np.asarray(points, dtype=np.float64) / 100
