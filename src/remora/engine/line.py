"""The trials of a pack in line for a lane: those that go on from a rung first, then those not yet begun."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from remora.engine.checkpoint import State, joined
from remora.engine.lanes import Lane
from remora.engine.rungs import Halving
from remora.engine.trial import TrialSpec
from remora.methods.registry import get_method


class Line:
    """Who trains next; a context manager, so that nobody is left waiting when a pack is given up.

    Args:
        specs: trained in this order.
        begin: makes the lane of a trial, from the state it was in if there is one.
        halvings: rivals that wait for each other at their rungs; those that still run are all among `specs`.
        folder: on whose disk lanes that train the base's own weights wait.
        saved: what `saved` gave, to go on from there.
    """

    def __init__(
        self,
        specs: Sequence[TrialSpec],
        begin: Callable[[TrialSpec, State | None], Lane],
        halvings: Sequence[Halving],
        folder: Path | None,
        saved: State | None = None,
    ) -> None:
        self._queue = deque(specs)
        self._begin = begin
        self._halvings = halvings
        self._of = {trial: halving for halving in halvings for trial in halving.running}
        self._folder = folder
        self._waiting: dict[str, Lane] = {}
        self._ready: deque[Lane] = deque()
        assert set(self._of) <= {spec.id for spec in specs}, "rivals must share a pack"
        if saved is not None:
            self._take_up({spec.id: spec for spec in specs}, saved)

    def saved(self) -> State:
        """Who waits for what, lanes included."""
        places = {
            "queue": [spec.id for spec in self._queue],
            "waiting": list(self._waiting),
            "ready": [lane.spec.id for lane in self._ready],
            "halvings": [halving.saved() for halving in self._halvings],
        }
        lanes = {lane.spec.id: lane.saved() for lane in (*self._waiting.values(), *self._ready)}
        return joined({"places": State(facts=places), "lanes": joined(lanes)})

    def _take_up(self, specs: Mapping[str, TrialSpec], saved: State) -> None:
        places, lanes = saved.facts["places"], saved.part("lanes")
        for halving, facts in zip(self._halvings, places["halvings"], strict=True):
            halving.take_up(facts)
        self._queue = deque(specs[name] for name in places["queue"])
        back = {name: self._begin(specs[name], lanes.part(name)) for name in (*places["waiting"], *places["ready"])}
        self._waiting = {name: back[name] for name in places["waiting"]}
        self._ready = deque(back[name] for name in places["ready"])
        for lane in back.values():
            lane.park(self._folder)

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        for lane in (*self._waiting.values(), *self._ready):
            lane.drop()

    def __bool__(self) -> bool:
        """Whether anyone is left, waiting ones included."""
        return bool(self._queue or self._ready or self._waiting)

    def next(self, beside: Sequence[Lane]) -> Lane | None:
        """The lane to train next.

        Args:
            beside: lanes in training; one that trains the base's own weights has the pack for itself.

        Returns:
            None when nobody is in line, or whoever is first cannot train beside the others.
        """
        if self._ready:
            shares_base = self._ready[0].method.shares_base
        elif self._queue:
            shares_base = get_method(self._queue[0].method).shares_base
        else:
            return None
        if beside and not (shares_base and beside[0].method.shares_base):
            return None
        if not self._ready:
            return self._begin(self._queue.popleft(), None)
        lane = self._ready.popleft()
        lane.fetch()
        return lane

    def at_rung(self, lane: Lane) -> bool:
        """Whether a lane must wait now."""
        halving = self._of.get(lane.spec.id)
        return halving is not None and halving.due(lane.step, lane.num_steps)

    def wait(self, lane: Lane, score: float, loss: float) -> None:
        """Let a lane wait at its rung, with its validation score and loss."""
        name = lane.spec.id
        self._of[name].arrive(name, step=lane.step, num_steps=lane.num_steps, score=score, loss=loss)
        self._waiting[name] = lane
        lane.park(self._folder)

    def leave(self, lane: Lane) -> None:
        """A lane has ended; its rivals wait for it no longer."""
        if lane.spec.id in self._of:
            self._of[lane.spec.id].leave(lane.spec.id)

    def stopped(self) -> Iterator[Lane]:
        """Take the decisions that are due; the lanes that train on are put in line, the others given back."""
        for halving in self._halvings:
            decided = halving.decide()
            for trial, rung in decided.items():
                self._waiting[trial].rungs.append(rung)
                if trial in rung.went_on:
                    self._ready.append(self._waiting.pop(trial))
            for trial in [name for name in decided if name in self._waiting]:
                lane = self._waiting.pop(trial)
                lane.fetch()
                lane.status = "stopped"
                yield lane
