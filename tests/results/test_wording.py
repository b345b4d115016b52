import pytest

from remora.results import wording
from remora.results.names import markdown, shown


@pytest.mark.parametrize(
    ("value", "text"), [(0.9123, "91.2"), (-0.05, "−5.0"), (-0.0001, "0.0"), (1.0, "100.0"), (None, "–")]
)
def test_points(value: float | None, text: str) -> None:
    assert wording.points(value) == text


def test_an_error_measure_is_not_points() -> None:
    assert wording.points(0.91234, "mse") == "0.9123"
    assert wording.interval(0.5, 1.25, "mse") == "0.5 to 1.25"


@pytest.mark.parametrize(("value", "text"), [(0.004, "+0.4"), (-0.0123, "−1.2"), (0.0001, "0.0"), (-0.0001, "0.0")])
def test_signed(value: float, text: str) -> None:
    assert wording.signed(value) == text


@pytest.mark.parametrize(("value", "text"), [(5e-4, "5e-4"), (1.5e-3, "1.5e-3"), (0.1, "1e-1"), (3.16e-5, "3.16e-5")])
def test_rate(value: float, text: str) -> None:
    assert wording.rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(812, "812"), (2310, "2\u2009310"), (36864, "36.9 k"), (22713216, "22.7 M"), (999_999, "1000 k")],
)
def test_count(value: int, text: str) -> None:
    assert wording.count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "12.3 ms"),
        (3.42, "3.42 s"),
        (59.0, "59 s"),
        (125, "2 min 05 s"),
        (3599.9, "1 h 00 min"),
        (4800, "1 h 20 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(12, "12 B"), (161_234, "161 kB"), (1_240_000_000, "1.24 GB")])
def test_size(size: int, text: str) -> None:
    assert wording.size(size) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"), [(1, 50, "1/50"), (100, 100, "as many"), (3, 2, "1.5 times"), (6, 10, "60 %")]
)
def test_share(part: float, whole: float, text: str) -> None:
    assert wording.share(part, whole) == text


def test_listing() -> None:
    assert wording.listing(["a"]) == "a"
    assert wording.listing(["a", "b", "c"]) == "a, b and c"
    assert wording.listing([]) == ""


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("a\nb\tc", "a b c"),
        ("\x1b[31mred", "\ufffd[31mred"),
        ("\u202ereversed", "\ufffdreversed"),
        ("", "(empty)"),
        ("x" * 50, "x" * 9 + "…"),
    ],
)
def test_shown(text: str, result: str) -> None:
    assert shown(text, 10 if text.startswith("xx") else 60) == result


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("<b>|x|", "&lt;b&gt;\\|x\\|"),
        ("*a* _b_ `c`", "\\*a\\* \\_b\\_ \\`c\\`"),
        ("- item", "\\- item"),
        ("1. item", "1\\. item"),
        ("95.2", "95.2"),
        ("[a](javascript:b)", "\\[a\\](javascript:b)"),
    ],
)
def test_markdown(text: str, result: str) -> None:
    assert markdown(text) == result
