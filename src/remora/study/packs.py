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
"""Beyond four lanes a CPU gains little; small models on a GPU wait for the host to launch work, which lanes share."""
_CPU_PACKS = 2
"""On a CPU packs come in pairs: the plan must not depend on the number of workers, yet feed two to the end."""


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


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How trials are put into packs.

    Args:
        slots: lanes that fill one pass: beyond that, joining stops paying.
        multiple: the number of packs is one of its multiples, where there are trials enough.
    """

    slots: int
    multiple: int = 1


def packing(engine: EngineConfig, batch_size: int, mean_tokens: float) -> Packing:
    """What suits texts of some length; `engine.lanes` settles it."""
    if engine.lanes is not None:
        return Packing(slots=engine.lanes)
    device = "cuda" if engine.device == "cuda" else "cpu"
    slots = max(1, min(_MOST_LANES[device], round(engine.pass_tokens / (batch_size * mean_tokens))))
    return Packing(slots=slots, multiple=_CPU_PACKS if device == "cpu" else 1)


def plan_packs(trials: Sequence[PlannedTrial], how: Packing) -> tuple[PlannedPack, ...]:
    """Group the trials of one stage into packs.

    Args:
        trials: all of the stage, finished ones too, so that the plan does not depend on when a study was stopped.
        how: lanes and packs.

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
        packs += [_pack(some, how.slots) for some in (*_evenly(rivals, how), *_evenly(single, how))]
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


def _evenly(units: Sequence[tuple[PlannedTrial, ...]], how: Packing) -> Iterator[tuple[PlannedTrial, ...]]:
    """As few packs as have a slot for every trial (more trials than slots only in a single unit), of equal size."""
    if not units:
        return
    most = max(1, how.slots // max(len(unit) for unit in units))
    number = -(-len(units) // most)
    number = min(len(units), -(-number // how.multiple) * how.multiple)
    size, more = divmod(len(units), number)
    at = 0
    while at < len(units):
        stop = at + size + (more > 0)
        more -= 1
        yield tuple(chain.from_iterable(units[at:stop]))
        at = stop


def _pack(trials: tuple[PlannedTrial, ...], slots: int) -> PlannedPack:
    text = "\n".join([str(slots), *(trial.spec.id for trial in trials)])
    return PlannedPack(id=hashlib.blake2b(text.encode(), digest_size=6).hexdigest(), trials=trials, slots=slots)
