"""The seed component: how much one trial's metric would move with another seed, pooled over methods.

    m_js = mean_j + order_s + e_js          method j, seed s

Data order at a given seed is the same for all methods, so a part of the seed effect may be shared. It is estimated by
the additive model above and leaves the difference of two methods that ran the same seeds; e_js, the residual, stays.
Few seeds say little about one method's variance, therefore the residual variances are shrunk towards each other:

1. Each method's variance is taken relative to what its own disagreement between seeds on single items predicts
   (`flips`): a method whose seeds answer differently also scores less evenly, and items show that with few seeds.
2. A method whose variance lies clearly above all others' (F test, 1 %, Bonferroni) keeps its own variance and its own
   few degrees of freedom, and leaves the pool.
3. The others are shrunk by empirical Bayes: (d0 * pooled + d * own) / (d0 + d) with d0 + d degrees of freedom, but at
   most those of all residuals together. d0 is estimated and kept between 2 and 4: methods are never quite alike, and
   one variance that happens to be tiny does not make the others unrelated.

Source: Smyth 2004, "Linear models and empirical Bayes methods for assessing differential expression", section 6 (step
3); Henderson 1953, "Estimation of variance and covariance components", method 3 (the shared part).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

OUTLIER_LEVEL = 0.01
MIN_PRIOR_DOF, MAX_PRIOR_DOF = 2.0, 4.0
# Residual degrees of freedom below this are rounding errors.
NO_DOF = 1e-6

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class SeedComponent:
    """Variances of the metric of ONE seed, in squared units of the metric. L methods, T seeds.

    Args:
        variance_L: each method's own part e, shrunk.
        dof_L: its degrees of freedom; infinite where the variance is known to be 0.
        pooled_L: whether the method borrows from the others (True) or stands alone.
        order_variance: variance of the part shared by all pooled methods at one seed.
        order_error: squared standard error of `order_variance`, halved (its square over its degrees of freedom).
        loading_LT: weight of each seed in a pooled method's mean, 0 rows for the others.
        known: whether any seed variance could be estimated at all.
    """

    variance_L: Floats
    dof_L: Floats
    pooled_L: NDArray[np.bool_]
    order_variance: float
    order_error: float
    loading_LT: Floats
    known: bool


@dataclass(frozen=True, kw_only=True)
class _Fit:
    squares_L: Floats
    dof_L: Floats
    order_variance: float
    order_error: float


def seed_component(
    value_R: Floats,
    owner_R: Ints,
    seed_R: Ints,
    flips_L: Floats,
    baseline_L: NDArray[np.bool_],
    *,
    grain: float,
) -> SeedComponent:
    """Estimate the seed component.

    Args:
        value_R: metric of each row, a row being one seed of one method.
        owner_R: method of each row, 0..L-1; every method has a row.
        seed_R: seed of each row, 0..T-1; equal numbers mean the same data order.
        flips_L: variance of one seed's metric predicted by its disagreement with other seeds on single items; 0 where
            a method has one seed.
        baseline_L: methods that are not trained as the others (majority class, untrained): they never enter the pool,
            keep their own variance, and have none with a single seed.
        grain: the step in which the metric moves when one item's outcome changes (1 / N for accuracy).

    Returns:
        The seed component; with one seed per method it is zero and `known` is False.
    """
    num_methods, num_seeds = len(baseline_L), int(seed_R.max()) + 1
    seeds_L = np.bincount(owner_R, minlength=num_methods)
    scale_L = _relative_scale(flips_L, ~baseline_L & (seeds_L > 1), grain)
    pooled_L = ~baseline_L
    variance_L, dof_L = np.zeros(num_methods), np.full(num_methods, np.inf)

    fit = _fit(value_R, owner_R, seed_R, pooled_L)
    while (outlier := _outlier(fit, scale_L, pooled_L & (seeds_L > 1))) is not None:
        pooled_L = pooled_L.copy()
        pooled_L[outlier] = False
        fit = _fit(value_R, owner_R, seed_R, pooled_L)

    total_dof = float(fit.dof_L[pooled_L].sum())
    if total_dof > NO_DOF:
        # A metric moves in steps: a spread of exactly 0 over few seeds still leaves the variance of rounding.
        own_L = np.divide(fit.squares_L, fit.dof_L, out=np.zeros(num_methods), where=fit.dof_L > NO_DOF)
        own_L = (own_L + grain**2 / 6) / scale_L
        shrunk_L, weight_L = _shrink(own_L[pooled_L], fit.dof_L[pooled_L])
        variance_L[pooled_L] = shrunk_L * scale_L[pooled_L]
        dof_L[pooled_L] = np.minimum(weight_L, total_dof)
    for method in np.flatnonzero(~pooled_L & (seeds_L > 1)):
        variance_L[method] = np.var(value_R[owner_R == method], ddof=1)
        dof_L[method] = seeds_L[method] - 1

    loading_LT = np.zeros((num_methods, num_seeds))
    loading_LT[owner_R, seed_R] = 1.0 / seeds_L[owner_R]
    loading_LT[~pooled_L] = 0.0
    return SeedComponent(
        variance_L=variance_L,
        dof_L=dof_L,
        pooled_L=pooled_L,
        order_variance=max(fit.order_variance, 0.0),
        order_error=fit.order_error,
        loading_LT=loading_LT,
        known=total_dof > NO_DOF,
    )


def _relative_scale(flips_L: Floats, informed_L: NDArray[np.bool_], grain: float) -> Floats:
    """Variance predicted by the disagreement of seeds on items, relative to the mean over methods."""
    scale_L = np.ones(len(flips_L))
    if informed_L.any():
        # A quarter of one item's worth keeps a method without any disagreement from counting as exactly stable.
        predicted_L = flips_L[informed_L] + grain**2 / 4
        scale_L[informed_L] = predicted_L / predicted_L.mean()
    return scale_L


def _fit(value_R: Floats, owner_R: Ints, seed_R: Ints, pooled_L: NDArray[np.bool_]) -> _Fit:
    """Least squares of method and seed effects on the rows of the pool, also when some seeds are missing."""
    num_methods = len(pooled_L)
    rows = pooled_L[owner_R]
    value, owner, seed = value_R[rows], owner_R[rows], seed_R[rows]
    method_RX = (owner[:, None] == np.unique(owner)).astype(np.float64)
    seed_RX = (seed[:, None] == np.unique(seed)).astype(np.float64)
    squares0_R, free0_R, _ = _residuals(value, method_RX)
    squares_R, free_R, rank = _residuals(value, np.hstack([method_RX, seed_RX]))
    if free_R.sum() <= NO_DOF:
        # One method, or seeds that no two methods share: nothing can be told apart as shared.
        squares_R, free_R, rank = squares0_R, free0_R, method_RX.shape[1]
    squares_L = _sum_by_method(squares_R, owner, num_methods)
    dof_L = _sum_by_method(free_R, owner, num_methods)
    order_dof = rank - method_RX.shape[1]
    if order_dof <= 0 or free_R.sum() <= NO_DOF:
        return _Fit(squares_L=squares_L, dof_L=dof_L, order_variance=0.0, order_error=0.0)
    residual = float(squares_R.sum() / free_R.sum())
    between = float(squares0_R.sum() - squares_R.sum())
    centred_RX = seed_RX - method_RX @ (method_RX.T @ seed_RX / method_RX.sum(axis=0)[:, None])
    share = float(np.square(centred_RX).sum())
    return _Fit(
        squares_L=squares_L,
        dof_L=dof_L,
        order_variance=(between - order_dof * residual) / share,
        order_error=(between / share) ** 2 / order_dof,
    )


def _sum_by_method(value_R: Floats, owner_R: Ints, num_methods: int) -> Floats:
    return np.asarray(np.bincount(owner_R, value_R, num_methods), dtype=np.float64)


def _residuals(value_R: Floats, design_RX: Floats) -> tuple[Floats, Floats, int]:
    """Squared residuals, their shares of the residual degrees of freedom, and the rank of the design."""
    if not len(value_R):
        return np.zeros(0), np.zeros(0), 0
    left, singular, _ = np.linalg.svd(design_RX, full_matrices=False)
    basis = left[:, singular > 1e-9 * singular[0]]
    residual_R = value_R - basis @ (basis.T @ value_R)
    return np.square(residual_R), 1.0 - np.square(basis).sum(axis=1), basis.shape[1]


def _outlier(fit: _Fit, scale_L: Floats, candidate_L: NDArray[np.bool_]) -> int | None:
    """The method whose relative variance is clearly above the others', if any; at least three stay in the pool."""
    usable = np.flatnonzero(candidate_L & (fit.dof_L > NO_DOF))
    if len(usable) <= 3:
        return None
    squares, dof = fit.squares_L[usable] / scale_L[usable], fit.dof_L[usable]
    worst = int(np.argmax(squares / dof))
    rest, rest_dof = squares.sum() - squares[worst], dof.sum() - dof[worst]
    if rest <= 0.0:
        return None
    ratio = (squares[worst] / dof[worst]) / (rest / rest_dof)
    p_value = float(stats.f.sf(ratio, dof[worst], rest_dof)) * len(usable)
    return int(usable[worst]) if p_value < OUTLIER_LEVEL else None


def _shrink(own_L: Floats, dof_L: Floats) -> tuple[Floats, Floats]:
    """Shrink variances towards a common one.

    Args:
        own_L: each method's own estimate, > 0 where it has degrees of freedom.
        dof_L: degrees of freedom, 0 for a method that only borrows.

    Returns:
        The shrunk variances and their degrees of freedom.
    """
    informed = dof_L > NO_DOF
    own, dof = own_L[informed], dof_L[informed]
    common, prior_dof = float((own * dof).sum() / dof.sum()), MAX_PRIOR_DOF
    if len(own) > 1:
        deviation = np.log(own) - special.digamma(dof / 2) + np.log(dof / 2)
        excess = float(np.var(deviation, ddof=1) - special.polygamma(1, dof / 2).mean())
        if excess > 0.0:
            prior_dof = float(np.clip(2 * _trigamma_inverse(excess), MIN_PRIOR_DOF, MAX_PRIOR_DOF))
            common = float(np.exp(deviation.mean() + special.digamma(prior_dof / 2) - np.log(prior_dof / 2)))
    shrunk = (prior_dof * common + dof_L * np.where(informed, own_L, 0.0)) / (prior_dof + dof_L)
    return shrunk, prior_dof + dof_L


def _trigamma_inverse(value: float) -> float:
    """x with trigamma(x) = value, by Newton's method on 1 / trigamma, which is convex and nearly linear."""
    x = 0.5 + 1.0 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1.0 - trigamma / value) / float(special.polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x
