"""Cuts and subsamples as properties: disjoint, stratified, reproducible, repeated texts together, limits nested."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remora.config.schema import DataConfig
from remora.data.check import Rows, text_key
from remora.data.labels import decide_labels
from remora.data.order import permutation
from remora.data.partition import partition
from remora.data.split import cut, number_strata, subsample
from remora.errors import DataError

seeds = st.integers(min_value=0, max_value=2**40)


@st.composite
def rows_with_repeats(draw: st.DrawFn) -> tuple[list[int], list[str]]:
    """Group ids (most single, some repeated) and a class per row; the rows of a group may disagree."""
    num_groups = draw(st.integers(min_value=1, max_value=60))
    groups = list(range(num_groups)) + draw(st.lists(st.integers(min_value=0, max_value=num_groups - 1), max_size=20))
    labels = draw(st.lists(st.sampled_from("aaaabbc"), min_size=len(groups), max_size=len(groups)))
    order = draw(st.permutations(range(len(groups))))
    return [groups[row] for row in order], [labels[row] for row in order]


@given(rows=rows_with_repeats(), share=st.floats(min_value=0.05, max_value=0.5), seed=seeds)
def test_a_cut_takes_whole_groups_and_enough_of_them(
    rows: tuple[list[int], list[str]], share: float, seed: int
) -> None:
    groups, labels = rows
    count = max(1, round(share * len(groups)))
    chosen = cut(groups, labels, count, seed)
    rest = [row for row in range(len(groups)) if row not in set(chosen)]
    assert chosen == sorted(set(chosen))
    assert not {groups[row] for row in chosen} & {groups[row] for row in rest}
    assert chosen == cut(groups, labels, count, seed)
    first_label = dict(zip(reversed(groups), reversed(labels), strict=True))
    assert {first_label[groups[row]] for row in rest} == set(first_label.values()), "a class vanished from the rest"
    largest = max(Counter(groups).values())
    if len(chosen) < count:  # only when all but one group of every class is taken
        assert len({groups[row] for row in rest}) == len(set(first_label.values()))
    assert len(chosen) < count + largest


@given(
    sizes=st.lists(st.integers(min_value=10, max_value=200), min_size=2, max_size=5),
    share=st.floats(min_value=0.1, max_value=0.4),
    seed=seeds,
)
def test_a_cut_without_repeats_is_exact_and_in_proportion(sizes: list[int], share: float, seed: int) -> None:
    labels = [name for name, size in zip("abcde", sizes, strict=False) for _ in range(size)]
    count = round(share * len(labels))
    chosen = cut(list(range(len(labels))), labels, count, seed)
    assert len(chosen) == count
    found = Counter(labels[row] for row in chosen)
    for name, size in zip("abcde", sizes, strict=False):
        assert abs(found[name] - count * size / len(labels)) < 1


@given(labels=st.lists(st.sampled_from("aaaaaabbbc"), min_size=1, max_size=120), seed=seeds, data=st.data())
def test_subsamples_are_nested_exact_and_in_proportion(labels: list[str], seed: int, data: st.DataObject) -> None:
    small = data.draw(st.integers(min_value=1, max_value=len(labels)))
    large = data.draw(st.integers(min_value=small, max_value=len(labels) + 5))
    inner, outer = subsample(labels, small, seed), subsample(labels, large, seed)
    assert inner == sorted(set(inner)) == subsample(labels, small, seed)
    assert (len(inner), len(outer)) == (small, min(large, len(labels)))
    assert set(inner) <= set(outer)
    sizes, found = Counter(labels), Counter(labels[row] for row in inner)
    if small >= len(sizes):
        assert set(found) == set(sizes)
    for name, size in sizes.items():
        assert abs(found[name] - small * size / len(labels)) <= len(sizes)


def test_another_seed_chooses_other_rows() -> None:
    labels = ["a", "b"] * 100
    assert cut(list(range(200)), labels, 40, 0) != cut(list(range(200)), labels, 40, 1)
    assert subsample(labels, 40, 0) != subsample(labels, 40, 1)


def test_a_limit_below_the_number_of_classes_keeps_the_largest() -> None:
    labels = [*"aabbbbbbbbcccc"]
    for seed in range(5):
        assert [labels[row] for row in subsample(labels, 1, seed)] == ["b"]
        assert {labels[row] for row in subsample(labels, 2, seed)} == {"b", "c"}


def test_a_choice_is_the_same_on_every_machine() -> None:
    """Changing this changes every study's data: raise it deliberately."""
    labels = ["a", "b", "b"] * 10
    assert cut(list(range(30)), labels, 6, 0) == CUT
    assert subsample(labels, 6, 0) == SUBSAMPLE


def test_number_strata_are_bins_of_equal_size() -> None:
    values = np.random.default_rng(0).exponential(size=1000).tolist()
    assert set(Counter(number_strata(values)).values()) == {100}
    assert len(set(number_strata([1.0] * 50))) == 1


@settings(max_examples=60)
@given(
    labels=st.lists(st.sampled_from("ab"), min_size=40, max_size=80),
    repeats=st.lists(st.integers(min_value=0, max_value=39), max_size=15),
    seed=st.integers(min_value=0, max_value=1000),
    missing=st.sampled_from([("validation",), ("test",), ("validation", "test")]),
)
def test_no_text_is_in_two_parts(labels: list[str], repeats: list[int], seed: int, missing: tuple[str, ...]) -> None:
    texts = [(f"text {index}",) for index in range(len(labels))]
    train = Rows(texts=texts, labels=labels, places=["x"] * len(labels))
    for row in repeats:
        train.texts.append((f" text  {row}",))
        train.labels.append(labels[row])
        train.places.append("x")
    other = Rows(texts=[("other",), ("another",)], labels=["a", "b"], places=["x", "x"])
    rows = {"train": train} | {name: other for name in ("validation", "test") if name not in missing}
    if len(set(labels)) < 2:
        return
    decided = decide_labels(rows, "auto", "error")
    config = DataConfig(path="x", split_seed=seed)
    try:
        parts, _ = partition(rows, decided, config, dict.fromkeys(("train", "validation", "test"), "x"))
    except DataError as error:  # one class has so few rows that none is left for train
        assert "one label" in str(error)  # noqa: PT017
        return
    keys = {name: {text_key(row) for row in parts[name].texts} for name in ("train", *missing)}
    names = list(keys)
    for index, name in enumerate(names):
        for later in names[index + 1 :]:
            assert not keys[name] & keys[later]
    assert sum(len(parts[name].texts) for name in names) == len(train)
    total = len(train)
    if missing == ("validation",):
        assert len(parts["validation"].texts) >= min(500, 0.2 * total)
    if missing == ("validation", "test"):
        assert len(parts["test"].texts) >= 0.2 * total
        assert len(parts["validation"].texts) >= 0.1 * total


class TestOrder:
    def test_every_example_once_and_another_order_each_epoch(self) -> None:
        orders = [permutation(3, epoch, 50) for epoch in range(3)]
        assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
        assert len({tuple(order.tolist()) for order in orders}) == 3
        assert permutation(3, 1, 50).tolist() == orders[1].tolist()
        assert permutation(4, 1, 50).tolist() != orders[1].tolist()
        assert orders[0].dtype == np.int64

    @pytest.mark.parametrize("n", [0, 1])
    def test_tiny(self, n: int) -> None:
        assert permutation(0, 0, n).tolist() == list(range(n))

    def test_it_is_the_same_on_every_machine(self) -> None:
        assert permutation(0, 0, 10).tolist() == ORDER


CUT = [1, 2, 6, 24, 25, 29]
SUBSAMPLE = [1, 8, 9, 15, 23, 28]
ORDER = [9, 7, 6, 8, 4, 0, 1, 2, 5, 3]
