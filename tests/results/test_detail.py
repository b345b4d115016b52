import numpy as np
import pytest
from sklearn import metrics as sk

from remora.results.detail import class_detail, confusion, is_constant, scatter_detail
from remora.results.predictions import SplitPredictions

NAMES = ("a", "b", "c")


def seeds(num: int, num_rows: int = 60) -> list[SplitPredictions]:
    rng = np.random.Generator(np.random.Philox(3))
    targets = tuple(str(x) for x in rng.choice(NAMES, num_rows))
    found: list[SplitPredictions] = []
    for _ in range(num):
        guesses = tuple(t if rng.random() < 0.7 else str(rng.choice(NAMES)) for t in targets)
        found.append(SplitPredictions(targets=targets, predictions=guesses, scores=np.zeros((num_rows, 3))))
    return found


def test_scores_agree_with_scikit_learn() -> None:
    parts = seeds(3)
    detail = class_detail("lora", "why", parts, NAMES)
    expected = np.mean(
        [
            sk.precision_recall_fscore_support(p.targets, p.predictions, labels=NAMES, zero_division=0)[:3]
            for p in parts
        ],
        axis=0,
    )
    for place, item in enumerate(detail.classes):
        assert (item.precision, item.recall, item.f1) == pytest.approx(tuple(expected[:, place]))
        assert item.support == parts[0].targets.count(item.label)
    means = np.mean([sk.confusion_matrix(p.targets, p.predictions, labels=NAMES) for p in parts], axis=0)
    np.testing.assert_allclose(detail.confusion, means, atol=1e-6)


def test_a_class_nobody_predicts_scores_zero() -> None:
    part = SplitPredictions(targets=("a", "b"), predictions=("a", "a"), scores=np.zeros((2, 2)))
    detail = class_detail("lora", "why", [part], ("a", "b"))
    assert [item.f1 for item in detail.classes] == pytest.approx([2 / 3, 0.0])
    assert detail.classes[1].precision == 0


def test_a_test_label_that_training_lacks_gets_its_own_row() -> None:
    part = SplitPredictions(targets=("a", "new"), predictions=("a", "a"), scores=np.zeros((2, 1)))
    detail = class_detail("lora", "why", [part], ("a",))
    assert [item.label for item in detail.classes] == ["a", "new"]
    assert confusion(part, ("a", "new")).tolist() == [[1, 0], [1, 0]]


def test_scatter_is_bounded_and_means_over_seeds() -> None:
    targets = tuple(float(i) for i in range(3000))
    parts = [
        SplitPredictions(targets=targets, predictions=tuple(t + d for t in targets), scores=np.zeros((3000, 1)))
        for d in (0.0, 1.0)
    ]
    detail = scatter_detail("lora", "why", parts)
    assert len(detail.scatter) == 1000
    assert detail.scatter[0] == (0.0, 0.5)
    assert detail.scatter[-1] == (2999.0, 2999.5)


@pytest.mark.parametrize(("guesses", "constant"), [(("a", "a"), True), (("a", "b"), False), (("a",), False)])
def test_constant(guesses: tuple[str, ...], constant: bool) -> None:
    part = SplitPredictions(targets=("a",) * len(guesses), predictions=guesses, scores=np.zeros((len(guesses), 2)))
    assert is_constant(part) is constant
