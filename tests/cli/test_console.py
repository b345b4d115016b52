import json

import pytest

from remora.cli.console import format_table, parse_duration, print_json
from remora.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"), [("20m", 1200), ("90s", 90), ("1h30m", 5400), ("0.5h", 1800), (" 2H ", 7200)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "20 m", "m20", "-5m", "0s", "20minutes", "1d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="--budget"):
        parse_duration(text)


def test_table_is_aligned_and_has_no_trailing_blanks() -> None:
    assert format_table(("name", "n"), [("a", "1"), ("longer", "")]) == "name    n\na       1\nlonger"


def test_json_goes_to_stdout_and_keeps_letters(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"label": "čas", "value": 1.5})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"label": "čas", "value": 1.5}
    assert "čas" in captured.out
    assert captured.err == ""


def test_json_refuses_what_is_not_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        print_json({"value": float("nan")})
