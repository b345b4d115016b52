"""Which trials train together: a deterministic function of the configuration, never of timing."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        packs of equal size. A trial that is the only one is cut into parts.
    """
    alone = [trial for trial in trials if not get_method(trial.spec.method).shares_base]
    shared = [trial for trial in trials if get_method(trial.spec.method).shares_base]
    packs = [_pack((trial,), 1) for trial in alone]
    if shared:
        size, more = divmod(len(shared), -(-len(shared) // slots))
        at = 0
        while at < len(shared):
            stop = at + size + (more > 0)
            more -= 1
            packs.append(_pack(tuple(shared[at:stop]), slots))
            at = stop
    return tuple(packs) if len(trials) != 1 else tuple(replace(pack, parts=LONE_PARTS) for pack in packs)


def _pack(trials: tuple[PlannedTrial, ...], slots: int) -> PlannedPack:
    text = "\n".join([str(slots), *(trial.spec.id for trial in trials)])
    return PlannedPack(id=hashlib.blake2b(text.encode(), digest_size=6).hexdigest(), trials=trials, slots=slots)
