"""Both variance components together: the joint distribution of the methods' mean metrics, pair by pair.

    variance of a mean       =  items between seeds  +  own seed variance / S  +  shared seed variance * (weights)
    variance of a difference =  the same for the pair; what both share (items, data order) cancels

A difference is never taken to be surer than its items alone allow, and one item's worth of variance is added, so that
equal predictions of a few seeds do not look like certainty. Degrees of freedom follow Welch and Satterthwaite.

Source: Satterthwaite 1946, "An approximate distribution of estimates of variance components".
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from remora.study.item_variance import ItemComponent
from remora.study.seed_variance import SeedComponent

Floats = NDArray[np.float64]

# So many degrees of freedom are as good as infinitely many, for which scipy's inverse is not defined.
MANY = 1e9


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Means of L methods with the uncertainty of each and of each difference.

    Args:
        mean_L: means over seeds.
        seeds_L: number of seeds of each method.
        se_L, dof_L: standard error and degrees of freedom of each mean.
        se_LL, dof_LL: of each difference of two means; the diagonal is unused (1 and infinity).
        covariance_LL: positive semi-definite covariance of the means, for correlations between differences.
        items: the item component.
        seeds: the seed component.
        grain: what one item can move the metric by.
    """

    mean_L: Floats
    seeds_L: NDArray[np.intp]
    se_L: Floats
    dof_L: Floats
    se_LL: Floats
    dof_LL: Floats
    covariance_LL: Floats
    items: ItemComponent
    seeds: SeedComponent
    grain: float

    @property
    def difference_LL(self) -> Floats:
        """Row's mean minus column's mean."""
        return self.mean_L[:, None] - self.mean_L


def joint_distribution(
    mean_L: Floats, seeds_L: NDArray[np.intp], items: ItemComponent, seeds: SeedComponent, *, grain: float
) -> Joint:
    """Combine the components.

    Args:
        mean_L: means over seeds.
        seeds_L: number of seeds.
        items: the item component.
        seeds: the seed component.
        grain: what one item can move the metric by (1 / N for accuracy).
    """
    own_L = seeds.variance_L / seeds_L
    shared_LL = seeds.loading_LT @ seeds.loading_LT.T
    between_LL = _positive(items.between_LL)
    extra = grain**2 / 2

    covariance_LL = between_LL + np.diag(own_L + extra) + seeds.order_variance * shared_LL
    shared_L = np.diagonal(shared_LL)
    total_L = np.diagonal(items.total_LL)
    variance_L = np.maximum(np.diagonal(covariance_LL), total_L + extra)
    error_L = (
        np.square(own_L) / seeds.dof_L
        + seeds.order_error * np.square(shared_L)
        + np.square(np.maximum(total_L, np.diagonal(between_LL))) / (items.num_items - 1)
    )

    item_LL, item_total_LL = _of_difference(between_LL), _of_difference(items.total_LL)
    apart_LL = _of_difference(shared_LL)
    own_LL = own_L[:, None] + own_L
    variance_LL = np.maximum(item_LL + own_LL + seeds.order_variance * apart_LL, item_total_LL) + 2 * extra
    # Two methods of the pool share one variance estimate, so its errors add up; others err independently.
    root_L = own_L / np.sqrt(seeds.dof_L)
    both_LL = np.outer(seeds.pooled_L, seeds.pooled_L)
    own_error_LL = np.square(root_L)[:, None] + np.square(root_L) + 2 * both_LL * np.outer(root_L, root_L)
    error_LL = (
        own_error_LL
        + seeds.order_error * np.square(apart_LL)
        + np.square(np.maximum(item_total_LL, item_LL)) / (items.num_items - 1)
    )
    np.fill_diagonal(variance_LL, 1.0)
    np.fill_diagonal(error_LL, 0.0)
    return Joint(
        mean_L=mean_L,
        seeds_L=seeds_L,
        se_L=np.sqrt(variance_L),
        dof_L=_dof(variance_L, error_L),
        se_LL=np.sqrt(variance_LL),
        dof_LL=_dof(variance_LL, error_LL),
        covariance_LL=covariance_LL,
        items=items,
        seeds=seeds,
        grain=grain,
    )


def t_to_z(t: Floats | float, dof: Floats | float) -> Floats:
    """The standard normal deviate with the same tail probability as a Student t."""
    # Far in the tail the probability underflows; nothing depends on how far.
    tail = np.maximum(t_tail(np.abs(np.asarray(t, np.float64)), dof), 1e-300)
    return np.copysign(-special.ndtri(tail), t)


def t_tail(t: Floats, dof: Floats | float) -> Floats:
    """The probability that a Student t exceeds t."""
    return np.asarray(special.stdtr(np.minimum(dof, MANY), -t), dtype=np.float64)


def z_to_t(z: Floats | float, dof: Floats | float) -> Floats:
    """The Student t with the same tail probability as a standard normal deviate >= 0."""
    return np.asarray(-special.stdtrit(np.minimum(dof, MANY), special.ndtr(-np.asarray(z, np.float64))))


def _of_difference(matrix_LL: Floats) -> Floats:
    diagonal_L = np.diagonal(matrix_LL)
    return np.maximum(diagonal_L[:, None] + diagonal_L - 2 * matrix_LL, 0.0)


def _dof(variance: Floats, error: Floats) -> Floats:
    dof = np.divide(np.square(variance), error, out=np.full(variance.shape, np.inf), where=error > 0)
    return np.maximum(dof, 1.0)


def _positive(matrix_LL: Floats) -> Floats:
    """The nearest positive semi-definite matrix; a covariance between seeds need not be one."""
    values, vectors = np.linalg.eigh((matrix_LL + matrix_LL.T) / 2)
    return (vectors * np.maximum(values, 0.0)) @ vectors.T
