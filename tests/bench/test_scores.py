"""Scores and intervals of the parity check."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from bench.scores import accuracy, difference, f1_of


def runs(rng: np.random.Generator, targets: np.ndarray, rate: float, num_seeds: int = 5) -> list[np.ndarray]:
    """Predictions that are right with probability `rate`."""
    return [np.where(rng.random(len(targets)) < rate, targets, 1 - targets) for _ in range(num_seeds)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(7))


def test_f1_agrees_with_scikit_learn(rng: np.random.Generator) -> None:
    targets, guesses = rng.integers(0, 2, 50), rng.integers(0, 2, 50)
    for positive in (0, 1):
        assert f1_of(positive)(targets, guesses) == pytest.approx(f1_score(targets, guesses, pos_label=positive))
    assert f1_of(2)(targets, guesses) == 0


def test_the_narrow_interval_is_welchs(rng: np.random.Generator) -> None:
    targets = rng.integers(0, 2, 300)
    ours, theirs = runs(rng, targets, 0.8), runs(rng, targets, 0.75, num_seeds=4)
    found = difference(accuracy, targets, ours, theirs, num_draws=50)
    a, b = ([accuracy(targets, run) for run in side] for side in (ours, theirs))
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.wide_low < found.low < found.mean < found.high < found.wide_high
    assert (found.joint_low, found.joint_high) == (found.low, found.high)
    family = difference(accuracy, targets, ours, theirs, family=6, num_draws=50)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(1 - 0.05 / 6)
    assert (family.joint_low, family.joint_high) == pytest.approx((expected.low, expected.high))


def test_equal_sides_differ_by_nothing(rng: np.random.Generator) -> None:
    targets = rng.integers(0, 2, 100)
    same = [targets] * 3
    found = difference(accuracy, targets, same, same, num_draws=20)
    assert (found.mean, found.low, found.high, found.wide_low, found.wide_high) == (0, 0, 0, 0, 0)


def test_a_real_difference_is_seen(rng: np.random.Generator) -> None:
    targets = rng.integers(0, 2, 2000)
    found = difference(accuracy, targets, runs(rng, targets, 0.9), runs(rng, targets, 0.8), num_draws=50)
    assert found.wide_low > 0.05
