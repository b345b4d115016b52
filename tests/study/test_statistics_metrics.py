"""Weighted metrics equal scikit-learn's and scipy's, also on resampled items; the item covariance is a bootstrap's."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from remora.errors import ConfigError
from remora.seeds import numpy_rng
from remora.study.item_variance import item_component, row_covariance
from remora.study.weighted_metrics import CLASSIFICATION, REGRESSION, weighted_metric

REFERENCE = {
    "accuracy": lambda y, p: sk.accuracy_score(y, p),
    "macro_f1": lambda y, p: sk.f1_score(y, p, average="macro", zero_division=0),
    "weighted_f1": lambda y, p: sk.f1_score(y, p, average="weighted", zero_division=0),
    "f1": lambda y, p: sk.f1_score(y, p, labels=[1], average="macro", zero_division=0),
    "matthews": lambda y, p: sk.matthews_corrcoef(y, p),
    "pearson": lambda y, p: stats.pearsonr(y, p).statistic,
    "spearman": lambda y, p: stats.spearmanr(y, p).statistic,
    "mse": lambda y, p: sk.mean_squared_error(y, p),
}


def world(metric: str, num_items: int = 60, num_rows: int = 3, num_classes: int = 4):
    rng = numpy_rng(3, metric)
    if metric in CLASSIFICATION:
        targets = rng.integers(0, num_classes, num_items)
        wrong = rng.random((num_rows, num_items)) < 0.3
        return targets, np.where(wrong, rng.integers(0, num_classes, (num_rows, num_items)), targets)
    # One decimal, so that ties occur.
    targets = rng.standard_normal(num_items).round(1)
    return targets, (targets + 0.7 * rng.standard_normal((num_rows, num_items))).round(1)


@pytest.mark.parametrize("metric", CLASSIFICATION + REGRESSION)
def test_a_weighted_metric_equals_the_reference_on_repeated_items(metric: str):
    targets, predictions = world(metric)
    rng = numpy_rng(4)
    weights = np.vstack([np.ones(len(targets), np.int64), rng.multinomial(len(targets), [1 / 60] * 60, size=5)])
    values = weighted_metric(metric, targets, predictions, weights)
    assert values.shape == (6, 3)
    for b, weight in enumerate(weights):
        items = np.repeat(np.arange(len(targets)), weight)
        expected = [REFERENCE[metric](targets[items], row[items]) for row in predictions]
        np.testing.assert_allclose(values[b], expected, rtol=0, atol=1e-12)


def test_two_classes_and_a_chosen_positive_class():
    targets, predictions = world("f1", num_classes=2)
    ones = np.ones((1, len(targets)))
    for positive in (0, 1):
        expected = [sk.f1_score(targets, row, pos_label=positive) for row in predictions]
        for name in ("f1", "f1/yes"):
            found = weighted_metric(name, targets, predictions, ones, positive=positive)
            np.testing.assert_allclose(found[0], expected)


@pytest.mark.parametrize("metric", CLASSIFICATION + REGRESSION)
def test_constant_predictions_are_defined(metric: str):
    targets, predictions = world(metric)
    constant = np.full_like(predictions, 1)
    value = weighted_metric(metric, targets, constant, np.ones((1, len(targets))))
    assert np.isfinite(value).all()
    if metric in ("matthews", "pearson", "spearman"):
        assert (value == 0).all()


def test_an_unknown_metric_is_refused():
    with pytest.raises(ConfigError, match="bleu"):
        weighted_metric("bleu", np.zeros(2), np.zeros((1, 2)), np.ones((1, 2)))


@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_the_closed_form_is_the_limit_of_the_bootstrap(metric: str):
    targets, predictions = world(metric, num_items=200)
    exact = row_covariance(metric, targets, predictions, draws=0, rng=numpy_rng(0))
    picks = numpy_rng(5).integers(0, 200, size=(40_000, 200))
    score = (predictions == targets) if metric == "accuracy" else np.square(predictions - targets)
    drawn = np.stack([row[picks].mean(axis=1) for row in score])
    np.testing.assert_allclose(np.cov(drawn) * 200 / 199, exact, rtol=0.06, atol=0.02 * exact.max())


def test_the_bootstrap_of_a_correlation_agrees_with_its_large_sample_variance():
    rng = numpy_rng(6)
    targets = rng.standard_normal(1000)
    predictions = np.stack([0.6 * targets + 0.8 * rng.standard_normal(1000)])
    variance = row_covariance("pearson", targets, predictions, draws=2000, rng=rng)[0, 0]
    r = float(np.corrcoef(targets, predictions[0])[0, 1])
    assert variance == pytest.approx((1 - r * r) ** 2 / 1000, rel=0.15)


def test_the_item_component_leaves_the_disagreement_of_seeds_out():
    # Items are right with probability 0.9 each, independently for every seed: all variance is disagreement of seeds.
    rng = numpy_rng(7)
    right = (rng.random((6, 4000)) < 0.9).astype(np.int64)
    covariance = row_covariance("accuracy", np.ones(4000, np.int64), right, draws=0, rng=rng)
    owner, seed = np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)
    items = item_component(covariance, owner, seed, 2, 4000)
    one_seed = 0.9 * 0.1 / 4000
    assert items.flips_L == pytest.approx(one_seed, rel=0.1)
    assert np.diagonal(items.total_LL) == pytest.approx(one_seed / 3, rel=0.1)
    assert np.abs(items.between_LL).max() < 0.05 * one_seed


def test_the_item_component_keeps_what_all_seeds_share():
    rng = numpy_rng(8)
    right = np.tile((rng.random(4000) < 0.9).astype(np.int64), (6, 1))
    covariance = row_covariance("accuracy", np.ones(4000, np.int64), right, draws=0, rng=rng)
    items = item_component(covariance, np.repeat([0, 1], 3), np.tile([0, 1, 2], 2), 2, 4000)
    assert items.between_LL == pytest.approx(np.full((2, 2), covariance[0, 0]))
    assert items.flips_L == pytest.approx(0.0, abs=1e-18)
