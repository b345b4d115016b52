import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from remora.report.canvas import drawing
from remora.report.pareto import COSTS, front, pareto
from remora.report.placement import Box, place_labels
from remora.results.summary_schema import StudySummary

FRAME = Box(left=0, bottom=0, width=360, height=240)


def test_labels_of_a_crowd_do_not_touch() -> None:
    # Thirteen methods: a column of seven with the same cost, some nearly equal, the rest alone.
    anchors = [(180.0, 200.0 - 6 * i) for i in range(7)] + [
        (60, 40),
        (64, 44),
        (250, 205),
        (340, 210),
        (100, 120),
        (20, 10),
    ]
    sizes = [(60.0, 10.0)] * len(anchors)
    boxes = place_labels(anchors, sizes, FRAME)
    for one, other in itertools.combinations(boxes, 2):
        assert one.overlap(other) == 0
    assert all(box.outside(FRAME) == 0 for box in boxes)


def test_a_lonely_label_stands_at_its_right() -> None:
    (box,) = place_labels([(100, 100)], [(30, 10)], FRAME)
    assert box.left > 100
    assert box.bottom == 95


def test_at_the_right_edge_it_stands_at_the_left() -> None:
    (box,) = place_labels([(350, 100)], [(30, 10)], FRAME)
    assert box.left + box.width < 350


@given(st.lists(st.tuples(st.floats(0, 360), st.floats(0, 240)), min_size=1, max_size=13))
def test_placing_is_deterministic_and_total(anchors: list[tuple[float, float]]) -> None:
    sizes = [(40.0, 10.0)] * len(anchors)
    assert place_labels(anchors, sizes, FRAME) == place_labels(anchors, sizes, FRAME)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(pairs: list[tuple[int, int]]) -> None:
    found = front(pairs)
    for index, (cost, quality) in enumerate(pairs):
        beaten = any((c <= cost and q > quality) or (c < cost and q >= quality) for c, q in pairs)
        if index in found:
            assert not beaten
        elif not beaten:
            assert pairs[index] in [pairs[i] for i in found]  # a twin stands for it
    assert [pairs[i][0] for i in found] == sorted(pairs[i][0] for i in found)


@pytest.mark.parametrize("cost", COSTS)
def test_thirteen_rows_are_labelled_without_overlap(summary: StudySummary, cost: str) -> None:
    with drawing():
        figure = pareto(summary, cost)
        assert figure is not None
        figure.draw_without_rendering()
        # Of the text alone, without the line that leads to its point.
        boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]
    assert len(boxes) == 11
    for one, other in itertools.combinations(boxes, 2):
        wide = min(one.x1, other.x1) - max(one.x0, other.x0)
        high = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert wide <= 1 or high <= 1.5, (one, other)
