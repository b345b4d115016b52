"""Reports of studies whose every text was written by a stranger: nothing runs, and the bytes are always the same."""

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remora.report.tables import to_csv
from remora.report.write import write_report
from tests.faults.effort import examples
from tests.report.test_write import ACTIVE, Page
from tests.results.synthetic import ROWS, build_run

EVIL = "=<script>alert('x')</script><img src=//x onerror=alert(1)>[a](javascript:alert(1))|`x`\u202e{{7*7}}\x1b[2J\n# h"
FREE_TEXT = {
    *("command", "created", "cuts", "note", "notes", "message", "reductions", "versions", "error", "stream", "cpu"),
    *("source", "revision", "text_columns", "label_column", "accelerator", "architecture", "torch", "hyperparameters"),
}
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def poisoned(value: Any, *, free: bool = False) -> Any:
    """A record with `EVIL` in place of every text that is not one of a closed list."""
    if isinstance(value, dict):
        return {key: poisoned(part, free=free or key in FREE_TEXT) for key, part in value.items()}
    if isinstance(value, list):
        return [poisoned(part, free=free) for part in value]
    return EVIL if free and isinstance(value, str) else value


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = build_run(tmp_path_factory.mktemp("runs") / "run", rows=ROWS[:6], num_seeds=2, num_test=60)
    files = [found / "study.json", found / "data.json", found / "costs.json", *found.glob("trials/*/result.json")]
    for path in files:
        values = poisoned(json.loads(path.read_text()))
        if path.name == "study.json":
            values["model"]["name"] = values["name"] = EVIL
        if path.name == "data.json":
            values["name"] = EVIL
        if path.name == "result.json" and values["seed"] == 1 and values["purpose"] == "final":
            values |= {"status": "failed", "error": EVIL, "metrics": {}}
        path.write_text(json.dumps(values))
    write_report(found)
    return found


def test_the_page_holds_no_markup_of_a_stranger(run_dir: Path) -> None:
    source = (run_dir / "report.html").read_text()
    page = Page(source)
    assert "alert('x')" in "".join(page.text)  # it is shown, as text
    assert not page.tags & {"script", "link", "iframe", "img", "object", "embed", "base", "form", "foreignobject"}
    assert not page.handlers
    assert all(link.startswith("#") for link in page.links)
    for character in ("\u202e", "\x1b"):
        assert character not in source


def test_the_check_sees_what_is_not_escaped() -> None:
    page = Page(EVIL)
    assert "script" in page.tags
    assert "src" in ACTIVE
    assert page.links
    assert page.handlers


def test_markdown_and_figures_hold_none_either(run_dir: Path) -> None:
    text = (run_dir / "report.md").read_text()
    assert "alert('x')" in text
    for figure in (run_dir / "figures").iterdir():
        assert "<script" not in figure.read_text()
    assert "<" not in text.replace("&lt;", "")
    assert "](javascript" not in text.replace("\\]", "")
    assert "\n# h" not in text
    assert "\x1b" not in text


def test_no_cell_of_the_table_is_a_formula(run_dir: Path) -> None:
    with (run_dir / "results.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert any("alert('x')" in cell for row in rows for cell in row)
    for row in rows:
        for cell in row:
            assert not cell.startswith(FORMULA) or float(cell) < 0


TEXTS = st.one_of(
    st.text(max_size=30),
    st.builds(
        "".join, st.lists(st.sampled_from([*FORMULA, " ", "'", '"', ",", "\ufeff", "\0", "1", "A1"]), max_size=5)
    ),
)


@given(texts=st.lists(TEXTS, min_size=1, max_size=5), numbers=st.lists(st.floats(allow_nan=False) | st.integers()))
@settings(max_examples=examples(300, 20_000))
def test_cells_are_neutral_and_nothing_is_lost(texts: list[str], numbers: list[float]) -> None:
    size = min(len(texts), len(numbers))
    texts, numbers = [text.replace("\0", "") for text in texts[:size]], numbers[:size]
    rows = list(csv.reader(io.StringIO(to_csv({"text": texts, "number": numbers}), newline="")))
    assert rows[0] == ["text", "number"]
    for row, text, number in zip(rows[1:], texts, numbers, strict=True):
        assert not row[0].lstrip(" \ufeff").startswith(FORMULA)
        assert text in (row[0], row[0][1:])
        assert type(number)(row[1]) == number


def test_the_same_bytes_whatever_the_environment(run_dir: Path, tmp_path: Path) -> None:
    code = "import pathlib, sys, remora.report.write as r; r.write_report(pathlib.Path(sys.argv[1]))"

    def digests(**environment: str) -> dict[str, str]:
        command = [sys.executable, "-c", code, str(run_dir)]
        subprocess.run(command, env={**os.environ, **environment}, cwd=tmp_path, check=True)
        files = [path for path in run_dir.rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    one = digests(PYTHONHASHSEED="1", LC_ALL="C", TZ="Asia/Tokyo", PYTHONUTF8="0", COLUMNS="40")
    assert digests(PYTHONHASHSEED="2", LC_ALL="tr_TR.UTF-8", TZ="UTC", NO_COLOR="1") == one
    assert len(one) > 20
