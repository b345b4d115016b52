"""The table of the ranks that one training of DyLoRA gave."""

import json
from pathlib import Path

import pytest

from remora.report.write import write_report
from remora.results.store import read_run
from remora.results.summary import summarise
from tests.results.synthetic import ROWS, build_run

LABEL = "lora"


def with_ranks(run_dir: Path, label: str) -> Path:
    """Give the final trials of a row two forms, whose scores differ by seed."""
    for number, trial in enumerate(read_run(run_dir).of(label, "final")):
        path = run_dir / "trials" / trial.trial / "result.json"
        values = json.loads(path.read_text())
        values["variants"] = {
            "rank 1": {"validation": {"accuracy": 0.5}, "test": {"accuracy": 0.4 + number / 100}},
            "rank 8": {"validation": {"accuracy": 0.6}, "test": {"accuracy": 0.7 + number / 100}},
        }
        path.write_text(json.dumps(values))
    return run_dir


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_ranks(build_run(tmp_path_factory.mktemp("runs") / "ranks", rows=ROWS[2:6]), LABEL)


def test_means_and_ranges_over_seeds(run_dir: Path) -> None:
    (row,) = summarise(run_dir).variants
    num_seeds = len(read_run(run_dir).of(LABEL, "final"))
    assert row.label == LABEL
    assert [form.name for form in row.forms] == ["rank 1", "rank 8"]
    assert row.forms[0].validation == 0.5
    assert row.forms[1].test == pytest.approx(0.7 + (num_seeds - 1) / 200)
    assert (row.forms[0].test_low, row.forms[0].test_high) == (0.4, pytest.approx(0.4 + (num_seeds - 1) / 100))


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_the_report_shows_them(run_dir: Path, name: str) -> None:
    summarise(run_dir)
    write_report(run_dir)
    text = (run_dir / name).read_text()
    assert "Smaller forms of the same adapters" in text
    assert "rank 8" in text


def test_there_is_no_section_without_them(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path / "run", rows=ROWS[:3])
    summarise(run_dir)
    write_report(run_dir)
    assert "Smaller forms" not in (run_dir / "report.md").read_text()
