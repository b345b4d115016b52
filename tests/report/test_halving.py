"""What the report, the tables and the terminal say of trials that halving stopped."""

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from remora.report.terminal import render_rows
from remora.report.write import write_report
from remora.results.store import read_run
from remora.results.summary import summarise
from tests.results.halved import HALF, NUM_STEPS, QUARTER, halve
from tests.results.synthetic import ROWS, build_run

STOPPED = "2 at 25 % and 1 at 50 % of the steps"
SAVED = "It saved 681 of 1 368 tuning steps, 50 %."


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = halve(build_run(tmp_path_factory.mktemp("runs") / "halved", rows=ROWS[:5]))
    write_report(run_dir)
    return run_dir


def printed(run_dir: Path) -> str:
    text = io.StringIO()
    Console(width=140, file=text).print(render_rows(summarise(run_dir)))
    return " ".join(text.getvalue().split())


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_the_report_says_per_row_what_was_stopped_and_what_that_saved(halved: Path, name: str) -> None:
    text = (halved / name).read_text().replace("\u2009", " ")
    assert 3 * (2 * (NUM_STEPS - QUARTER) + NUM_STEPS - HALF) == 681
    assert text.count(f"stopped: {STOPPED}") == 3, "one mark for each tuned row"
    assert text.count(SAVED) == 2, "with the tuning and in the protocol"
    assert text.count("stopped at 25 %") == 6
    assert text.count("stopped at 50 %") == 3
    assert "3 tuning (and 9 stopped by halving)" in text.replace("\\", "")


def test_every_trial_says_where_it_was_stopped(halved: Path) -> None:
    with (halved / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    stopped = {row["trial"]: float(row["stopped_at"]) for row in rows if row["stopped_at"]}
    assert sorted(stopped.values()) == [QUARTER / NUM_STEPS] * 6 + [HALF / NUM_STEPS] * 3
    assert set(stopped) == {trial.trial for trial in read_run(halved).trials if trial.status == "stopped"}
    assert all(row["validation_accuracy"] == "" for row in rows if row["stopped_at"])


def test_the_terminal_says_it_once_for_rows_alike(halved: Path) -> None:
    assert f"tuning trials stopped: {STOPPED} in every row" in printed(halved)


def test_the_terminal_names_rows_that_differ(tmp_path: Path) -> None:
    run_dir = halve(build_run(tmp_path / "run", rows=ROWS[2:5]))
    first = read_run(run_dir).of("lora", "tuning")
    gone = next(trial for trial in first if trial.status == "stopped" and trial.steps == QUARTER)
    (run_dir / "trials" / gone.trial / "result.json").unlink()
    text = printed(run_dir)
    assert "tuning trials stopped: 1 at 25 % and 1 at 50 % of the steps (lora)" in text
    assert f"tuning trials stopped: {STOPPED} (" in text


def test_without_halving_nothing_is_said(comparison: Path) -> None:
    for name in ("report.html", "report.md"):
        text = (comparison / name).read_text()
        assert "halving" not in text
        assert "stopped at" not in text
    assert "stopped" not in printed(comparison)
