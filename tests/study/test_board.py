"""Packs on offer: who takes which, what the coordinator makes of packs that others finish or lose."""

from pathlib import Path
from typing import Any

import pytest

from remora.engine.trial import TrialSpec
from remora.study.board import COORDINATOR, Board
from remora.study.leases import LeaseLostError
from remora.study.oversee import Event, Oversight
from remora.study.packs import PlannedPack
from remora.study.record import record_failure
from remora.study.trials import PlannedTrial


def trial(name: str) -> PlannedTrial:
    spec = TrialSpec(id=name, method="lora", lr=1e-3, settings={"rank": 4}, splits=("validation", "test"))
    return PlannedTrial(spec=spec, label="lora", family="low-rank", purpose="final", hyperparameters={"lr": 1e-3})


def pack(name: str, *trials: str) -> PlannedPack:
    return PlannedPack(id=name, trials=tuple(trial(each) for each in trials), slots=4)


class Stage:
    """A coordinator's stage, and another process that takes part."""

    def __init__(self, run_dir: Path, *packs: PlannedPack, finished: frozenset[str] = frozenset()) -> None:
        self.run_dir = run_dir
        self.board, self.other = Board(run_dir, 60), Board(run_dir, 60)
        self.events: list[Event] = []
        self.dead: list[str] = []
        self.oversight = Oversight(run_dir, self.board, packs, finished, 1, self.events.append, self._lost)

    def _lost(self, lost: PlannedTrial, why: str) -> None:
        self.dead.append(f"{lost.spec.id}: {why}")

    def look(self, **words: str) -> None:
        self.oversight.look(frozenset(), words)

    def offered(self) -> list[list[str]]:
        return [[each.spec.id for each in offer.pack.trials] for offer in self.other.offers()]

    def take(self) -> Any:
        taken = self.other.take()
        assert taken is not None
        return taken


def test_packs_are_taken_in_the_order_of_the_plan_each_by_one(tmp_path: Path) -> None:
    packs = [pack("c1", "a", "b"), pack("b2", "c"), pack("a3", "d")]
    stage = Stage(tmp_path, *packs, finished=frozenset({"a", "c"}))
    assert stage.oversight.left == {"b", "d"}
    first = stage.take()
    assert first.pack == packs[0]  # with the trial that is done: lanes have the neighbours that the plan says
    second = stage.board.take()
    assert second is not None
    assert second.pack == packs[2]
    assert stage.other.take() is None


def test_results_of_others_are_seen_and_their_pack_is_offered_no_more(tmp_path: Path) -> None:
    stage = Stage(tmp_path, pack("p1", "a", "b"))
    taken = stage.take()
    record_failure(tmp_path, trial("a"), "it raised")
    stage.look()
    assert stage.oversight.left == {"b"}
    assert stage.events == [{"event": "finished", "trial": "a", "status": "failed", "metric": None}]
    record_failure(tmp_path, trial("b"), "it raised")
    taken.lease.end("done")
    stage.look()
    assert (stage.oversight.left, stage.offered(), dict(stage.board.leases.numbers())) == (set(), [], {})


def test_a_pack_lost_twice_runs_apart_and_a_trial_lost_again_has_failed(tmp_path: Path) -> None:
    stage = Stage(tmp_path, pack("p1", "a", "b", "c"), pack("p2", "d"))
    stage.take().lease.end("died")
    stage.look()
    taken = stage.take()
    assert taken.pack.id == "p1", "once it goes on as it was"
    record_failure(tmp_path, trial("b"), "it ended before its worker died")
    taken.lease.end("died")
    waiting = stage.take()
    assert waiting.pack.id == "p2", "a pack that is spent is for the coordinator alone"
    stage.look()
    assert stage.offered() == [["a"], ["c"], ["d"]]
    alone = stage.take()
    assert [each.spec.id for each in alone.pack.trials] == ["a"]
    alone.lease.end("died")
    stage.look(**{alone.pack.id: "out of memory"})
    assert stage.dead == ["a: out of memory"]
    assert stage.oversight.left == {"c", "d"}
    waiting.lease.check()


def test_who_holds_a_pack_that_is_withdrawn_finds_out(tmp_path: Path) -> None:
    stage = Stage(tmp_path, pack("p1", "a"))
    taken = stage.take()
    stage.board.close()
    with pytest.raises(LeaseLostError):
        taken.lease.check()
    assert stage.other.take() is None


def test_a_new_coordinator_leaves_packs_with_those_who_train_them(tmp_path: Path) -> None:
    stage = Stage(tmp_path, pack("p1", "a"), pack("p2", "b"), pack("p3", "c"))
    going, dead = stage.take(), stage.take()
    dead.lease.end("died")
    again = Stage(tmp_path, pack("p1", "a"), pack("p2", "b"), pack("p4", "d"))
    going.lease.check()
    assert again.offered() == [["a"], ["b"], ["d"]]
    assert again.board.leases.numbers() == {"p1": [1]}, "what others died of before is counted anew"
    assert again.take().pack.id == "p2"


def test_notes_are_read_once_and_whole(tmp_path: Path) -> None:
    stage = Stage(tmp_path, pack("p1", "a"))
    stage.other.note("a checkpoint is damaged")
    stage.look()
    stage.other.note("and\nanother")
    stage.look()
    stage.look()
    assert [event["text"] for event in stage.events] == ["a checkpoint is damaged", "and\nanother"]


def test_the_coordinators_lease_is_no_pack(tmp_path: Path) -> None:
    stage = Stage(tmp_path, pack("p1", "a"))
    lease = stage.board.leases.take(COORDINATOR)
    assert lease is not None
    stage.board.close()
    Stage(tmp_path, pack("p1", "a"))
    lease.check()
