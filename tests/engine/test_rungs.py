"""Successive halving as a rule about numbers: where the rungs are, who goes on, what a recorded decision is worth."""

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remora.engine.rungs import Halving, Rung, merit, num_kept, rung_shares, rung_steps, trained_share

FOUR = ("a", "b", "c", "d")
SCORES = {"a": 0.5, "b": 0.9, "c": 0.7, "d": 0.6}


def arrive(halving: Halving, scores: dict[str, float], step: int, losses: dict[str, float] | None = None) -> None:
    for trial, score in scores.items():
        loss = 1.0 if losses is None else losses[trial]
        halving.arrive(trial, step=step, num_steps=40, score=score, loss=loss)


def went_on(halving: Halving) -> set[str]:
    decided = halving.decide()
    kept = {trial for trial, rung in decided.items() if trial in rung.went_on}
    assert all(set(rung.went_on) == kept for rung in decided.values())
    assert set(halving.running) == kept
    return kept


@pytest.mark.parametrize(
    ("trials", "shares", "kept"),
    [
        (0, (), []),
        (1, (), []),
        (2, (0.5,), [1]),
        (3, (0.25, 0.5), [2, 1]),
        (4, (0.25, 0.5), [2, 1]),
        (8, (0.25, 0.5), [4, 2]),
    ],
)
def test_where_the_rungs_are(trials: int, shares: tuple[float, ...], kept: list[int]) -> None:
    assert rung_shares(trials) == shares
    assert [num_kept(trials, rung) for rung in range(len(shares))] == kept


def test_rungs_are_steps_before_the_last_and_each_once() -> None:
    assert rung_steps(4, 40) == (10, 20)
    assert rung_steps(4, 57) == (15, 29)
    assert rung_steps(4, 2) == (1,)
    assert rung_steps(4, 1) == ()
    assert rung_steps(2, 40) == (20,)


def test_what_halving_leaves_of_the_steps() -> None:
    assert trained_share(1) == 1
    assert trained_share(2) == (2 * 0.5 + 1 * 0.5) / 2
    assert trained_share(4) == (4 * 0.25 + 2 * 0.25 + 1 * 0.5) / 4


def test_the_better_half_goes_on_twice() -> None:
    halving = Halving(FOUR, 500)
    assert [step for step in range(41) if halving.due(step, 40)] == [10, 20]
    arrive(halving, SCORES, 10)
    assert went_on(halving) == {"b", "c"}
    arrive(halving, {"c": 0.8, "b": 0.7}, 20)
    assert went_on(halving) == {"c"}


def test_nothing_is_decided_before_all_have_arrived() -> None:
    halving = Halving(FOUR, 500)
    arrive(halving, {"a": 0.1, "b": 0.2, "d": 0.3}, 10)
    assert halving.decide() == {}
    arrive(halving, {"c": 0.4}, 10)
    assert went_on(halving) == {"c", "d"}
    assert halving.decide() == {}


@pytest.mark.parametrize("order", list(permutations(FOUR)))
def test_who_arrives_first_does_not_matter(order: tuple[str, ...]) -> None:
    halving = Halving(FOUR, 500)
    arrive(halving, {trial: SCORES[trial] for trial in order}, 10)
    decided = halving.decide()
    assert list(decided) == list(FOUR)
    assert all(rung.went_on == {"b": 0.9, "c": 0.7} for rung in decided.values())


def test_ties_go_to_the_lower_loss_then_to_the_first() -> None:
    same = dict.fromkeys(FOUR, 0.5)
    halving = Halving(FOUR, 500)
    arrive(halving, same, 10, {"a": 0.9, "b": 0.4, "c": 0.5, "d": 0.4})
    assert went_on(halving) == {"b", "d"}
    arrive(halving, {"d": 0.5, "b": 0.5}, 20)
    assert went_on(halving) == {"b"}


def test_few_validation_rows_are_compared_by_loss() -> None:
    halving = Halving(FOUR, 99)
    arrive(halving, SCORES, 10, {"a": 0.1, "b": 0.9, "c": 0.8, "d": 0.2})
    assert went_on(halving) == {"a", "d"}


def test_numbers_that_are_not_finite_are_the_worst() -> None:
    worst = merit(math.nan, math.nan, 500)
    assert worst == merit(-math.inf, math.inf, 500) == merit(math.nan, None, 500)
    assert worst < merit(-1.0, math.nan, 500) < merit(-1.0, 3.0, 500)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_trial_that_diverged_takes_no_place(when: str) -> None:
    halving = Halving(FOUR, 500)
    if when == "before":
        halving.leave("a")
    arrive(halving, {"b": 0.9, "c": 0.7, "d": 0.6}, 10)
    if when == "after":
        assert halving.decide() == {}
        halving.leave("a")
    assert went_on(halving) == {"b", "c"}
    halving.leave("b")
    arrive(halving, {"c": 0.1}, 20)
    assert went_on(halving) == {"c"}


def test_all_trials_diverged() -> None:
    halving = Halving(FOUR, 500)
    for trial in FOUR:
        halving.leave(trial)
        assert halving.decide() == {}


def test_a_recorded_decision_is_taken_over_whatever_the_scores_are_now() -> None:
    first = Rung(step=10, num_steps=40, score=0.5, loss=1.0, went_on={"b": 0.9, "d": 0.8})
    halving = Halving(FOUR, 500, {"a": [first]})
    arrive(halving, {"b": 0.2, "c": 0.99, "d": 0.1}, 10)
    decided = halving.decide()
    assert decided["c"] == Rung(step=10, num_steps=40, score=0.99, loss=1.0, went_on=first.went_on)
    arrive(halving, {"b": 0.2, "d": 0.3}, 20)
    assert went_on(halving) == {"d"}


def test_a_finished_rival_without_rungs_counts_as_the_worst() -> None:
    halving = Halving(FOUR, 500, {"a": [], "b": []})
    arrive(halving, {"c": 0.2, "d": 0.1}, 10)
    assert went_on(halving) == {"c", "d"}


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9), st.data())
def test_an_interruption_changes_no_decision(scores: list[float], data: st.DataObject) -> None:
    """Whichever trials were written before a stop, those trained again come to the same end."""
    trials = tuple(f"t{n}" for n in range(len(scores)))
    of = dict(zip(trials, scores, strict=True))

    def train(halving: Halving) -> dict[str, list[Rung]]:
        rungs: dict[str, list[Rung]] = {trial: [] for trial in halving.running}
        for step in rung_steps(len(trials), 40):
            arrive(halving, {trial: of[trial] for trial in halving.running}, step)
            for trial, rung in halving.decide().items():
                rungs[trial].append(rung)
        return rungs

    whole = train(Halving(trials, 500))
    written = data.draw(st.sets(st.sampled_from(trials), max_size=len(trials) - 1))
    again = train(Halving(trials, 500, {trial: whole[trial] for trial in written}))
    assert {**again, **{trial: whole[trial] for trial in written}} == whole
