"""Which methods may be the best: a simultaneous 95 % confidence set, and how much each method may lose to the best.

Multiple comparisons with the best (Hsu). For each method k as a candidate for the best, c_k is the 95 % quantile of

    max over i of (noise_i - noise_k) / se_ik                                     (max-t, joint normal, simulated)

k is in the set when no other mean is above its own by more than c_k standard errors. With 95 % probability, for the
true best k all of mean_i - mean_k stay within c_k standard errors of the truth; then the set holds the true best and,
for every method i at once,

    best - i  <=  max over k in the set of (mean_k - mean_i + c_k * se_ik)        ("loss", at least 0)

so a method picked for its small loss, by whatever rule, is within that loss of the best with the same 95 %.

Source: Hsu 1984, "Constrained simultaneous confidence intervals for multiple comparisons with the best"; Hsu 1996,
"Multiple Comparisons", chapter 4. Each t is taken to the normal scale by its own degrees of freedom.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from remora.study.joint import Joint, t_to_z, z_to_t

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BestSet:
    """The confidence set of the best among L methods.

    Args:
        member_L: whether a method may be the best; False for methods that do not compete.
        loss_L: upper bound on what a method loses to the best, >= 0, in units of the metric; infinite for methods
            that do not compete.
        critical_L: c_k, on the normal scale; 0 for methods that do not compete or have no rival.
        p_L: the level at which a method would leave the set.
        leader: the competing method with the highest mean, or None when nothing competes.
    """

    member_L: NDArray[np.bool_]
    loss_L: Floats
    critical_L: Floats
    p_L: Floats
    leader: int | None


def best_set(joint: Joint, compete_L: NDArray[np.bool_], noise_DL: Floats, *, level: float) -> BestSet:
    """Find the set.

    Args:
        joint: means and errors of L methods; larger means are better.
        compete_L: the methods among which the best is sought.
        noise_DL: D draws of the errors of the means, from `draw_noise`.
        level: error probability, 0.05 for 95 %.
    """
    num_methods = len(joint.mean_L)
    rivals = np.flatnonzero(compete_L)
    member_L, p_L = np.zeros(num_methods, np.bool_), np.zeros(num_methods)
    loss_L, critical_L = np.full(num_methods, np.inf), np.zeros(num_methods)
    if not len(rivals):
        return BestSet(member_L=member_L, loss_L=loss_L, critical_L=critical_L, p_L=p_L, leader=None)
    for k in rivals:
        others = rivals[rivals != k]
        if not len(others):
            member_L[k], p_L[k] = True, 1.0
            continue
        worst_D = standardised(noise_DL[:, others] - noise_DL[:, [k]]).max(axis=1)
        critical_L[k] = max(float(np.quantile(worst_D, 1 - level)), 0.0)
        t_O = (joint.mean_L[others] - joint.mean_L[k]) / joint.se_LL[others, k]
        observed = float(t_to_z(t_O, joint.dof_LL[others, k]).max())
        member_L[k] = observed <= critical_L[k]
        p_L[k] = float(np.mean(worst_D >= observed))
    leader = int(rivals[np.argmax(joint.mean_L[rivals])])
    member_L[leader] = True
    members = np.flatnonzero(member_L)
    for i in rivals:
        others = members[members != i]
        reach_O = z_to_t(critical_L[others], joint.dof_LL[others, i]) * joint.se_LL[others, i]
        gap_O = joint.mean_L[others] - joint.mean_L[i] + reach_O
        loss_L[i] = max(0.0, float(gap_O.max())) if len(others) else 0.0
    return BestSet(member_L=member_L, loss_L=loss_L, critical_L=critical_L, p_L=p_L, leader=leader)


def draw_noise(joint: Joint, draws: int, rng: np.random.Generator) -> Floats:
    """(draws, L) errors of the means, jointly normal with the covariance of both components."""
    values, vectors = np.linalg.eigh(joint.covariance_LL)
    root_LL = vectors * np.sqrt(np.maximum(values, 0.0))
    return rng.standard_normal((draws, len(values))) @ root_LL.T


def standardised(noise_DX: Floats) -> Floats:
    """Noise divided by its own standard deviation, column by column; a column without noise is 0."""
    spread_X = np.sqrt(np.square(noise_DX).mean(axis=0))
    return np.divide(noise_DX, spread_X, out=np.zeros_like(noise_DX), where=spread_X > 0)


def simultaneous_critical(noise_DL: Floats, reference: int | None, *, level: float) -> tuple[float, Floats]:
    """The two-sided max-t critical value of all comparisons with one method, or of all pairs.

    Args:
        noise_DL: from `draw_noise`.
        reference: a method fixed before the data were seen; None when it was picked for its mean, then every pair
            counts (any method could have been picked).
        level: error probability.

    Returns:
        The critical value on the normal scale, and the D maxima it comes from.
    """
    num_methods = noise_DL.shape[1]
    if reference is None:
        first, second = np.triu_indices(num_methods, 1)
    else:
        second = np.delete(np.arange(num_methods), reference)
        first = np.full(len(second), reference)
    if not len(first):
        return 0.0, np.zeros(len(noise_DL))
    largest_D = np.abs(standardised(noise_DL[:, first] - noise_DL[:, second])).max(axis=1)
    return float(np.quantile(largest_D, 1 - level)), largest_D


def optimism(joint: Joint, best: BestSet, noise_DL: Floats) -> float:
    """By how much the highest mean is expected to flatter its method: parametric bootstrap over the set's members.

    The members' means are first shrunk towards each other by the part of their spread that noise explains; otherwise
    the bootstrap would take the winner's lead for real and understate its luck.

    Args:
        joint: means and errors.
        best: the set.
        noise_DL: from `draw_noise`.

    Returns:
        The expected excess of the highest mean over its method's true value, >= 0, in units of the metric.
    """
    members = np.flatnonzero(best.member_L)
    if len(members) < 2:
        return 0.0
    mean_M = joint.mean_L[members]
    pairs = joint.se_LL[np.ix_(members, members)][np.triu_indices(len(members), 1)]
    noise = float(np.mean(np.square(pairs)) / 2)
    spread = float(np.var(mean_M, ddof=1))
    keep = max(0.0, 1.0 - noise / spread) if spread > 0 else 0.0
    true_M = mean_M.mean() + np.sqrt(keep) * (mean_M - mean_M.mean())
    noise_DM = noise_DL[:, members]
    seen_DM = true_M + noise_DM
    winner_D = np.argmax(seen_DM, axis=1)
    luck = np.take_along_axis(noise_DM, winner_D[:, None], axis=1)
    return max(0.0, float(luck.mean()))
