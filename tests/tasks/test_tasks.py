"""Losses per example, metrics as scikit-learn and scipy give them, and predictions that collapse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef, precision_score, recall_score

from remora.config.schema import DataConfig
from remora.data.dataset import Split, load_dataset
from remora.tasks import make_task, task_for
from remora.tasks.classification import Classification
from remora.tasks.regression import Regression

THREE = make_task("classification", label_names=("a", "b", "c"), metrics=("macro_f1", "accuracy"))
TWO = make_task("classification", label_names=("no", "yes"), metrics=("f1", "accuracy"), positive="no")
NUMBER = make_task("regression", label_names=(), metrics=("pearson", "spearman", "mse"))


def split_of(*labels: str | float) -> Split:
    return Split(name="test", texts=(("x",),) * len(labels), labels=labels, source="test", hash="0")


def one_hot(indices: list[int], num_outputs: int) -> np.ndarray:
    return np.eye(num_outputs, dtype=np.float32)[indices]


class TestClassification:
    def test_targets_and_back(self) -> None:
        targets = THREE.targets(split_of("c", "a", "b"))
        assert targets.tolist() == [2, 0, 1]
        assert targets.dtype == np.int64
        assert THREE.num_outputs == 3
        assert THREE.decode(one_hot([2, 0, 1], 3)) == ["c", "a", "b"]
        assert THREE.headline == "macro_f1"

    def test_an_unknown_label_is_our_own_bug(self) -> None:
        with pytest.raises(KeyError):
            THREE.targets(split_of("d"))

    def test_the_loss_is_per_example_and_flows_back(self) -> None:
        logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
        targets = torch.tensor([0, 2, 1, 0])
        loss = THREE.loss(logits, targets)
        assert loss.shape == (4,)
        torch.testing.assert_close(loss, -torch.log_softmax(logits, 1)[range(4), targets])
        loss.sum().backward()
        assert logits.grad is not None
        assert logits.grad.abs().min() > 0

    def test_loss_types(self) -> None:
        targets = torch.tensor([1])
        assert THREE.loss(torch.zeros(1, 3, dtype=torch.bfloat16), targets).dtype == torch.float32
        assert THREE.loss(torch.zeros(1, 3, dtype=torch.float64), targets).dtype == torch.float64

    @given(
        rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40),
        classes=st.just(("a", "b", "c")),
    )
    def test_metrics_are_scikit_learns(self, rows: list[tuple[int, int]], classes: tuple[str, ...]) -> None:
        targets, predicted = np.array(rows).T
        found = THREE.metrics(targets, one_hot(predicted.tolist(), 3))
        correlation = matthews_corrcoef(targets, predicted) if len({*targets, *predicted}) > 1 else 0.0
        assert list(found)[:2] == ["macro_f1", "accuracy"]
        assert found["accuracy"] == pytest.approx(np.mean(targets == predicted))
        assert found["macro_f1"] == pytest.approx(f1_score(targets, predicted, average="macro", zero_division=0.0))
        for name, score in (("macro_precision", precision_score), ("macro_recall", recall_score)):
            assert found[name] == pytest.approx(score(targets, predicted, average="macro", zero_division=0.0))
        assert found["weighted_f1"] == pytest.approx(
            f1_score(targets, predicted, average="weighted", zero_division=0.0)
        )
        assert found["matthews"] == pytest.approx(correlation)
        for index, name in enumerate(classes):
            own = f1_score(targets == index, predicted == index, zero_division=0.0)
            assert found[f"f1/{name}"] == pytest.approx(own)
        assert "f1" not in found
        assert all(np.isfinite(value) for value in found.values())

    def test_the_positive_class_is_the_cards_not_the_last(self) -> None:
        targets = np.array([0, 0, 0, 1])
        found = TWO.metrics(targets, one_hot([0, 0, 1, 1], 2))
        assert found["f1"] == found["f1/no"] == pytest.approx(0.8)
        assert (found["precision"], found["recall"]) == pytest.approx((1.0, 2 / 3))
        assert next(iter(found)) == "f1"
        assert found["f1/yes"] == pytest.approx(2 / 3)

    def test_a_class_as_headline(self) -> None:
        task = make_task("classification", label_names=("no", "yes"), metrics=("f1/yes", "accuracy"))
        assert next(iter(task.metrics(np.array([0, 1]), one_hot([0, 1], 2)))) == "f1/yes"

    def test_collapse_is_zero_and_flagged(self) -> None:
        logits = one_hot([1, 1, 1, 1], 2)
        found = TWO.metrics(np.array([0, 1, 1, 0]), logits)
        assert (found["matthews"], found["f1"], found["accuracy"]) == (0.0, 0.0, 0.5)
        assert TWO.is_constant(logits)
        assert not TWO.is_constant(one_hot([0, 1], 2))

    def test_diverged_logits_are_scored_not_fatal(self) -> None:
        logits = np.array([[np.nan, np.nan], [np.inf, -np.inf], [-np.inf, 1]], dtype=np.float32)
        assert TWO.metrics(np.array([1, 0, 1]), logits)["accuracy"] == pytest.approx(2 / 3)
        assert TWO.decode(logits) == ["no", "no", "yes"]


class TestRegression:
    def test_targets_and_back(self) -> None:
        targets = NUMBER.targets(split_of(0.5, 5.0))
        assert targets.tolist() == [0.5, 5.0]
        assert targets.dtype == np.float32
        assert NUMBER.num_outputs == 1
        assert NUMBER.decode(np.array([[0.5], [5.0]])) == [0.5, 5.0]

    def test_the_loss_is_the_squared_error_of_each(self) -> None:
        logits = torch.tensor([[1.0], [2.0]], requires_grad=True)
        loss = NUMBER.loss(logits, torch.tensor([0.0, 5.0]))
        assert loss.tolist() == [1.0, 9.0]
        loss.sum().backward()
        assert logits.grad is not None
        assert logits.grad.tolist() == [[2.0], [-6.0]]
        assert NUMBER.loss(torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2)).dtype == torch.float64
        assert NUMBER.loss(torch.zeros(2, 1, dtype=torch.bfloat16), torch.zeros(2)).dtype == torch.float32

    def test_metrics_are_scipys(self) -> None:
        rng = np.random.default_rng(0)
        targets = rng.normal(size=200).astype(np.float32)
        predicted = targets + rng.normal(size=200)
        found = NUMBER.metrics(targets, predicted[:, None])
        assert list(found) == ["pearson", "spearman", "mse"]
        assert found["pearson"] == pytest.approx(pearsonr(targets, predicted).statistic)
        assert found["spearman"] == pytest.approx(spearmanr(targets, predicted).statistic)
        assert found["mse"] == pytest.approx(np.mean((targets - predicted) ** 2))

    @pytest.mark.parametrize("predicted", [[2.0, 2.0, 2.0], [0.1 + 0.2, 0.3, 0.3], [np.nan, np.nan, np.nan]])
    def test_a_constant_has_no_correlation(self, predicted: list[float]) -> None:
        logits = np.array(predicted)[:, None]
        found = NUMBER.metrics(np.array([0.0, 1.0, 2.0]), logits)
        assert (found["pearson"], found["spearman"]) == (0.0, 0.0)
        assert NUMBER.is_constant(logits)
        assert not NUMBER.is_constant(np.array([[1.0], [1.0001]]))

    def test_constant_targets_and_single_rows(self) -> None:
        assert NUMBER.metrics(np.ones(3), np.array([[1.0], [2.0], [3.0]]))["pearson"] == 0.0
        assert NUMBER.metrics(np.ones(1), np.array([[1.0]]))["spearman"] == 0.0

    @given(
        values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=20),
        shift=st.floats(-1e3, 1e3, width=32),
    )
    def test_never_nan(self, values: list[float], shift: float) -> None:
        targets = np.array(values)
        found = NUMBER.metrics(targets, (targets * 1e-3 + shift)[:, None])
        assert all(np.isfinite(value) for value in found.values())
        assert -1 <= found["pearson"] <= 1 + 1e-9


def test_the_task_of_a_data_set() -> None:
    data = load_dataset(DataConfig(path="helpdesk"))
    task = task_for(data)
    assert isinstance(task, Classification)
    assert task.label_names == data.label_names
    assert task.metrics_names == data.metrics
    perfect = one_hot(task.targets(data.test).tolist(), task.num_outputs)
    assert task.metrics(task.targets(data.test), perfect)["accuracy"] == 1.0
    assert task.decode(perfect) == list(data.test.labels)
    assert isinstance(NUMBER, Regression)
