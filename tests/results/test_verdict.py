import dataclasses
from pathlib import Path

import pytest

from remora.results.store import read_run
from remora.results.summary import summarise, summary_of
from remora.results.verdict import plural_points, two_digits
from tests.results.synthetic import ROWS, FakeRow, build_run

FULL, LORA = ROWS[3], ROWS[4]


def verdict(tmp_path: Path, rows: tuple[FakeRow, ...], **settings: object) -> str:
    return summarise(build_run(tmp_path / "run", rows=rows, **settings)).recommendation.text  # type: ignore[arg-type]


def test_ties_are_told_with_their_means(comparison: Path) -> None:
    summary = summary_of(read_run(comparison))
    text = summary.recommendation.text
    assert "cannot be told apart in accuracy (95 % confidence" in text
    for label in summary.recommendation.best_set:
        assert label in text
    majority = summary.row("majority").mean
    assert majority is not None
    assert f"most frequent label scores {100 * majority:.1f}" in text


def test_an_undecided_study_says_what_would_decide(comparison: Path) -> None:
    advice = summary_of(read_run(comparison)).recommendation
    assert not advice.decidable
    assert advice.label is None
    assert "cannot be decided to within 1 point: that needs about" in advice.text
    assert any(step.startswith("accept a wider margin: --margin") for step in advice.next_steps)


def test_a_margin_that_calls_everything_equal_is_no_advice(tmp_path: Path) -> None:
    advice = summarise(build_run(tmp_path / "run", rows=(FULL, LORA), num_seeds=2, num_test=12)).recommendation
    assert not advice.decidable
    assert not any("--margin" in step for step in advice.next_steps)


@pytest.mark.parametrize(
    ("prefer", "why"), [("size", "it trains the fewest parameters"), ("speed", "it has the shortest training step")]
)
def test_the_cheapest_within_the_margin_is_taken(tmp_path: Path, prefer: str, why: str) -> None:
    small = dataclasses.replace(LORA, method="vera", label="VeRA", params=(6144, 2310, 0), step_seconds=0.1)
    text = verdict(tmp_path, (FULL, LORA, small), margin=20, prefer=prefer, num_test=1000)
    assert "Take VeRA (lr 1e-3): of the 3 shown to lose less than 20 points to the best, " + why in text
    assert "1/2687 of what full trains" in text
    assert "100 ms per step against 410 ms" in text


@pytest.mark.parametrize(("trials", "told"), [(0, True), (4, False)])
def test_a_comparison_without_tuning_is_called_so(tmp_path: Path, trials: int, told: bool) -> None:
    run = read_run(build_run(tmp_path / "run", rows=(FULL, LORA)))
    protocol = run.study.protocol.model_copy(update={"tuning_trials": trials})
    study = run.study.model_copy(update={"protocol": protocol})
    text = summary_of(dataclasses.replace(run, study=study)).recommendation.text
    assert ("No learning rate was tuned" in text) is told


def test_one_clear_winner_and_how_far_behind_the_next_is(tmp_path: Path) -> None:
    weak = dataclasses.replace(LORA, method="bitfit", label="BitFit", skill=1.2, params=(454_264, 2310, 0))
    text = verdict(tmp_path, (FULL, weak), num_test=1000)
    assert "full is the best of 2" in text
    assert "points behind full at 1/50 of its parameters" in text
    assert "Take full (lr 5e-5)." in text


def test_methods_that_learnt_nothing_are_called_so(tmp_path: Path) -> None:
    stuck = dataclasses.replace(LORA, skill=-9.0)
    text = verdict(tmp_path, (ROWS[0], stuck, dataclasses.replace(stuck, method="dora", label="dora")))
    assert "None is clearly better than always answering the most frequent label" in text


def test_a_single_method_is_only_described(tmp_path: Path) -> None:
    text = verdict(tmp_path, (LORA,))
    assert text.startswith("On helpdesk, lora reaches ")
    assert "Take" not in text


def test_nothing_finished(tmp_path: Path) -> None:
    lost = dataclasses.replace(LORA, diverged_seeds=(0, 1, 2))
    assert "nothing to compare" in verdict(tmp_path, (lost,))


def test_names_in_the_text_cannot_carry_control_characters(tmp_path: Path) -> None:
    text = verdict(tmp_path, (dataclasses.replace(LORA, label="lo\x1b[31mra"),))
    assert "\x1b" not in text


@pytest.mark.parametrize(("value", "rounded"), [(7, 7), (96, 96), (1871, 1900), (3079, 3100), (100, 100)])
def test_two_digits(value: int, rounded: int) -> None:
    assert two_digits(value) == rounded


def test_plural_points() -> None:
    assert [plural_points(value) for value in (1, 1.04, 0.5, 2)] == ["1 point", "1 point", "0.5 points", "2 points"]
