"""Which trials train together: a deterministic function of the configuration, never of timing."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from remora.config.schema import EngineConfig
from remora.methods.registry import get_method
from remora.study.trials import PlannedTrial

LONE_PARTS = 2
"""Passes of a trial that has the machine to itself; fixed, as the sums of gradients depend on it."""

_MOST_LANES = {"cpu": 4, "cuda": 64}
"""On a CPU even eight trials make two packs: the plan must not depend on the number of workers, yet feed two. Small
models on a GPU wait for the host to launch work, which many lanes share."""


@dataclass(frozen=True, kw_only=True)
class PlannedPack:
    """Trials for one worker.

    Args:
        id: hash of the trials' ids.
        trials: in the order in which they enter.
        slots: lanes at a time.
        parts: passes that a lone lane's step is cut into, so that they can run side by side.
    """

    id: str
    trials: tuple[PlannedTrial, ...]
    slots: int
    parts: int = 1


def lanes_per_pack(engine: EngineConfig, batch_size: int, mean_tokens: float) -> int:
    """Lanes that fill one pass: beyond that, joining stops paying."""
    if engine.lanes is not None:
        return engine.lanes
    most = _MOST_LANES["cuda" if engine.device == "cuda" else "cpu"]
    return max(1, min(most, round(engine.pass_tokens / (batch_size * mean_tokens))))


def plan_packs(trials: Sequence[PlannedTrial], slots: int) -> tuple[PlannedPack, ...]:
    """Group the trials of one stage into packs.

    Args:
        trials: all of the stage, finished ones too, so that the plan does not depend on when a study was stopped.
        slots: lanes that fill a pass.

    Returns:
        First, each alone, the trials that change the base's own weights (the longest); then the others, in order, in
        packs of equal size over one base each, rivals together. A trial that is the only one is cut into parts.
    """
    units = inseparable(trials)
    packs = [_pack(unit, 1) for unit in units if not get_method(unit[0].spec.method).shares_base]
    shared = [unit for unit in units if get_method(unit[0].spec.method).shares_base]
    for quantization in dict.fromkeys(unit[0].quantization for unit in shared):
        own = [unit for unit in shared if unit[0].quantization == quantization]
        rivals, single = [unit for unit in own if unit[0].rivals], [unit for unit in own if not unit[0].rivals]
        packs += [_pack(some, slots) for some in (*_evenly(rivals, slots), *_evenly(single, slots))]
    return tuple(packs) if len(trials) != 1 else tuple(replace(pack, parts=LONE_PARTS) for pack in packs)


def isolated(trials: Sequence[PlannedTrial], parts: int) -> list[PlannedPack]:
    """Packs of as few trials as can be, for those whose worker died: one that kills it takes no other along."""
    return [replace(_pack(unit, 1), parts=parts) for unit in inseparable(trials)]


def inseparable(trials: Sequence[PlannedTrial]) -> list[tuple[PlannedTrial, ...]]:
    """Trials that must share a pack: rivals, which wait for each other; every other one by itself. Order is kept."""
    units: dict[tuple[str, ...], list[PlannedTrial]] = {}
    for trial in trials:
        units.setdefault(trial.rivals or (trial.spec.id,), []).append(trial)
    return [tuple(unit) for unit in units.values()]


def _evenly(units: Sequence[tuple[PlannedTrial, ...]], slots: int) -> Iterator[tuple[PlannedTrial, ...]]:
    """As few packs as have a slot for every trial (more trials than slots only in a single unit), of equal size."""
    if not units:
        return
    most = max(1, slots // max(len(unit) for unit in units))
    size, more = divmod(len(units), -(-len(units) // most))
    at = 0
    while at < len(units):
        stop = at + size + (more > 0)
        more -= 1
        yield tuple(chain.from_iterable(units[at:stop]))
        at = stop


def _pack(trials: tuple[PlannedTrial, ...], slots: int) -> PlannedPack:
    text = "\n".join([str(slots), *(trial.spec.id for trial in trials)])
    return PlannedPack(id=hashlib.blake2b(text.encode(), digest_size=6).hexdigest(), trials=trials, slots=slots)
