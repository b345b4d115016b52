import dataclasses
from pathlib import Path

import pytest

from remora.report.write import write_report
from remora.results.summary import summarise
from remora.results.summary_schema import StudySummary
from tests.results.synthetic import ROWS, build_run

EVIL = "<script>alert(1)</script>"
HOSTILE_CLASSES = (EVIL, "a|b", "*x* _y_", "=1+1", "\u202eabc", "\"q\" & 's'")


@pytest.fixture(scope="session")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reported comparison of 13 rows and 3 seeds; only to be read."""
    run_dir = build_run(tmp_path_factory.mktemp("runs") / "comparison", margin=5, prefer="size")
    write_report(run_dir)
    return run_dir


@pytest.fixture(scope="session")
def summary(comparison: Path) -> StudySummary:
    """Its summary."""
    return summarise(comparison)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reported comparison whose names are written to break out of every format."""
    names = {
        "lora": EVIL,
        "dora": "$x_{|`*a*`",
        "vera": "=cmd()|' /C calc'!A1",
        "ia3": "lora:rank=16,alpha=32,targets=q",
    }
    rows = tuple(dataclasses.replace(row, label=names.get(row.label, row.label)) for row in ROWS)
    run_dir = build_run(
        tmp_path_factory.mktemp("runs") / "hostile", rows=rows, label_names=HOSTILE_CLASSES, name="<b>data</b>"
    )
    write_report(run_dir)
    return run_dir


@pytest.fixture(scope="session")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reported regression study without full fine-tuning and without costs."""
    run_dir = build_run(
        tmp_path_factory.mktemp("runs") / "regression",
        rows=(*ROWS[:3], *ROWS[4:7]),
        task="regression",
        metric="pearson",
        metrics=("pearson", "spearman"),
        costs=False,
    )
    write_report(run_dir)
    return run_dir
