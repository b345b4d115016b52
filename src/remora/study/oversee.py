"""What the coordinator does while packs are trained: sees what was finished elsewhere, and what becomes of lost packs.

A pack that lost its worker goes on as it was, from its checkpoint; a second loss takes it apart, so that a trial that
kills its worker takes no other along; a trial that is lost once more has failed.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from remora.results.store import is_finished, read_result
from remora.study.board import Board, Offer
from remora.study.packs import PlannedPack, isolated
from remora.study.trials import PlannedTrial

Event = dict[str, Any]
_LIVES = 2
"""Workers that a pack may cost before its trials run apart; apart, each may cost one more."""


class Oversight:
    """The coordinator's view of one stage.

    Args:
        run_dir: of the study.
        board: where the packs are offered.
        packs: of the stage, in order.
        finished: ids of trials that need no training.
        threads: of a worker.
        on_event: told what happened.
        on_death: told of trials that were lost once too often.

    Attributes:
        left: ids of the trials that are to be trained.
        done: ids of the others.
    """

    def __init__(
        self,
        run_dir: Path,
        board: Board,
        packs: Sequence[PlannedPack],
        finished: frozenset[str],
        threads: int,
        on_event: Callable[[Event], None],
        on_death: Callable[[PlannedTrial, str], None],
    ) -> None:
        waiting = [pack for pack in packs if any(trial.spec.id not in finished for trial in pack.trials)]
        self.left = {trial.spec.id for pack in waiting for trial in pack.trials} - finished
        self.done: set[str] = set(finished)
        self._run_dir = run_dir
        self._board = board
        self._on_event = on_event
        self._on_death = on_death
        self._since: dict[str, float] = {}
        board.open(waiting, lives=_LIVES, threads=threads)

    def hear(self, event: Event) -> None:
        """Take in an event of a worker."""
        if event["event"] == "finished":
            self._finish(event["trial"])
        self._on_event(event)

    def look(self, here: AbstractSet[str], last_words: Mapping[str, str]) -> None:
        """Take in what the run directory says.

        Args:
            here: ids of the packs that this process's own workers have; they tell of themselves.
            last_words: what workers of this process said that died, by pack.
        """
        for text in self._board.notes():
            self._on_event({"event": "warning", "text": text})
        numbers = self._board.leases.numbers()
        for offer in self._board.offers():
            standing = self._board.leases.standing(offer.pack.id, numbers)
            if offer.pack.id in here or standing is None:
                continue
            self._see_results(offer)
            waiting = [trial for trial in offer.pack.trials if trial.spec.id in self.left]
            if not waiting:
                self._board.withdraw(offer.pack.id)
            elif self._board.is_spent(offer, numbers):
                self._take_apart(offer, waiting, last_words.get(offer.pack.id, "its worker elsewhere was lost"))
            elif standing.state == "done" and self._is_late(offer):
                self._board.leases.forget(offer.pack.id)  # done, it says, and no results came: anyone may take it

    def _see_results(self, offer: Offer) -> None:
        for trial in offer.pack.trials:
            name = trial.spec.id
            if name in self.left and is_finished(self._run_dir, name):
                status = read_result(self._run_dir, name).status
                self.hear({"event": "finished", "trial": name, "status": status, "metric": None})

    def _take_apart(self, offer: Offer, waiting: Sequence[PlannedTrial], why: str) -> None:
        if offer.lives == _LIVES:
            self._board.replace(offer, isolated(waiting, offer.pack.parts), lives=1)
            return
        self._board.withdraw(offer.pack.id)
        for trial in waiting:
            self._on_death(trial, why)
            self._finish(trial.spec.id)

    def _is_late(self, offer: Offer) -> bool:
        since = self._since.setdefault(offer.pack.id, time.monotonic())
        return time.monotonic() - since > self._board.leases.patience

    def _finish(self, trial: str) -> None:
        self.left.discard(trial)
        self.done.add(trial)
