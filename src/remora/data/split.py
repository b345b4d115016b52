"""Stratified cuts and subsamples that depend only on rows and a seed; rows with the same text stay together."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from remora.seeds import fold, numpy_rng


def cut(groups: Sequence[Hashable], strata: Sequence[Hashable], count: int, seed: int) -> list[int]:
    """Choose rows to set aside: at least ``count`` where possible, whole groups only, each stratum in its proportion.

    Every stratum keeps at least one group behind, so that no class vanishes from the rest.

    Args:
        groups: per row, what rows that must stay together share (their text).
        strata: per row, what is kept in proportion (its class); a group counts as its first row's stratum.
        count: how many rows are wanted.
        seed: chooses the rows.

    Returns:
        Row indices in ascending order; more than ``count`` only where whole groups do not fit exactly,
        fewer only where the strata have no more groups to give.
    """
    members: defaultdict[Hashable, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    pools: defaultdict[Hashable, list[list[int]]] = defaultdict(list)
    for rows in members.values():
        pools[strata[rows[0]]].append(rows)
    # One group is held back per stratum: the smallest, so that as much as possible is free to choose.
    free: dict[Hashable, list[list[int]]] = {}
    for number, (stratum, pool) in enumerate(sorted(pools.items(), key=lambda item: str(item[0]))):
        order = numpy_rng(seed, "cut", number).permutation(len(pool))
        shuffled = [pool[index] for index in order]
        held = min(range(len(shuffled)), key=lambda index: len(shuffled[index]))
        free[stratum] = [rows for index, rows in enumerate(shuffled) if index != held]
    sizes = {stratum: sum(map(len, pools[stratum])) for stratum in free}
    quotas = _largest_remainder(sizes, count)
    chosen: list[int] = []
    left: list[list[int]] = []
    for stratum, pool in free.items():
        room = quotas[stratum]
        for rows in pool:
            if len(rows) <= room:
                chosen.extend(rows)
                room -= len(rows)
            else:
                left.append(rows)
    for rows in sorted(left, key=len):
        if len(chosen) >= count:
            break
        chosen.extend(rows)
    return sorted(chosen)


def _largest_remainder(sizes: dict[Hashable, int], count: int) -> dict[Hashable, int]:
    """Share ``count`` out in proportion to the sizes, in whole numbers that sum to it."""
    total = sum(sizes.values())
    exact = {stratum: count * size / total for stratum, size in sizes.items()}
    quotas = {stratum: int(share) for stratum, share in exact.items()}
    by_remainder = sorted(exact, key=lambda stratum: quotas[stratum] - exact[stratum])
    for stratum in by_remainder[: count - sum(quotas.values())]:
        quotas[stratum] += 1
    return quotas


def subsample(strata: Sequence[Hashable], limit: int, seed: int) -> list[int]:
    """Choose ``limit`` rows with the strata in proportion, at least one of each while the limit allows it.

    A smaller limit chooses a subset of what a larger one chooses.

    Args:
        strata: per row, what is kept in proportion.
        limit: how many rows are wanted.
        seed: chooses the rows.

    Returns:
        Row indices in ascending order, ``min(limit, number of rows)`` of them.
    """
    sizes = Counter(strata)
    seen: Counter[Hashable] = Counter()
    keys: list[tuple[float, int, int, int]] = []
    for position, row in enumerate(numpy_rng(seed, "subsample").permutation(len(strata)).tolist()):
        stratum = strata[row]
        rank = seen[stratum]
        seen[stratum] += 1
        # Ranks spread evenly over a stratum; the first of each (0) comes before all others, larger strata first.
        keys.append((rank / sizes[stratum], -sizes[stratum], position, row))
    keys.sort()
    return sorted(key[-1] for key in keys[:limit])


def number_strata(values: Sequence[float], num_bins: int = 10) -> list[int]:
    """Strata for numbers: bins of about equal size by quantile."""
    edges = np.quantile(np.asarray(values, dtype=np.float64), np.linspace(0, 1, num_bins + 1)[1:-1])
    return np.searchsorted(edges, values, side="right").tolist()


def split_seed(seed: int, split: str) -> int:
    """The seed of the cut or subsample that makes ``split``."""
    return fold(seed, "split", split)
