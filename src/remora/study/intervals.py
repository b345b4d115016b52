"""Intervals for a single mean, on a scale on which its error is more nearly symmetric.

Fractions (accuracy, F1) use the logit, correlations (Pearson, Spearman, Matthews) Fisher's z, squared errors the
logarithm; the standard error is carried over by the slope. The interval never leaves the metric's range.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from remora.study.joint import t_tail, z_to_t

CORRELATIONS = ("pearson", "spearman", "matthews")

Floats = NDArray[np.float64]
Scale = tuple[Callable[[float], float], Callable[[float], float], Callable[[float], float]]

_FRACTION: Scale = (lambda x: float(special.logit(x)), lambda y: float(special.expit(y)), lambda x: 1 / (x * (1 - x)))
_CORRELATION: Scale = (lambda x: float(np.arctanh(x)), lambda y: float(np.tanh(y)), lambda x: 1 / (1 - x * x))
_POSITIVE: Scale = (lambda x: float(np.log(x)), lambda y: float(np.exp(min(y, 700.0))), lambda x: 1 / x)


def mean_interval(
    metric: str, mean: float, se: float, dof: float, grain: float, *, level: float
) -> tuple[float, float]:
    """A two-sided interval for a mean metric.

    Args:
        metric: name of the metric.
        mean, se, dof: estimate, standard error, degrees of freedom.
        grain: what one item can move the metric by; a mean closer than half of it to the end of the range is moved
            there for the slope.
        level: error probability.

    Returns:
        Low and high, which include the mean.
    """
    if metric == "mse":
        (forward, back, slope), low_end, high_end = _POSITIVE, 0.0, np.inf
    elif metric in CORRELATIONS:
        (forward, back, slope), low_end, high_end = _CORRELATION, -1.0, 1.0
    else:
        (forward, back, slope), low_end, high_end = _FRACTION, 0.0, 1.0
    if se == 0.0:
        return mean, mean
    edge = max(grain / 2, 1e-12)
    inside = float(np.clip(mean, low_end + edge, high_end - edge))
    reach = float(z_to_t(-float(special.ndtri(level / 2)), dof)) * se * slope(inside)
    centre = forward(inside)
    return min(mean, back(centre - reach)), max(mean, back(centre + reach))


def two_sided_p(t: Floats, dof: Floats) -> Floats:
    """Two-sided p-values of Student t statistics."""
    return 2 * t_tail(np.abs(t), dof)
