"""Writes the report of a run directory. Reads only files, so it runs again without training, with the same bytes."""

from pathlib import Path

from remora.report.drawings import draw_all
from remora.report.html import to_html
from remora.report.markdown import FIGURES, to_markdown
from remora.report.page import build_page
from remora.report.tables import to_csv, to_parquet, trial_table
from remora.results.store import read_run, within, write_atomic, write_record
from remora.results.summary import SUMMARY_FILE, summary_of
from remora.results.summary_schema import StudySummary

HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"
CSV_FILE = "results.csv"
PARQUET_FILE = "results.parquet"


def write_report(run_dir: Path, summary: StudySummary | None = None) -> tuple[Path, ...]:
    """Write results.json, report.html, report.md with its figures, results.csv and results.parquet.

    Args:
        run_dir: a run directory.
        summary: its summary, when `summarise` has just made it; otherwise it is made here.

    Returns:
        The files written, report.html first.

    Raises:
        DataError: the run directory is broken or has no finished final trial.
    """
    run = read_run(run_dir)
    if summary is None:
        summary = summary_of(run)
        write_record(run_dir / SUMMARY_FILE, summary)
    drawn = draw_all(summary)
    page = build_page(summary, drawn)
    table = trial_table(run, summary)
    content = {
        HTML_FILE: to_html(page, drawn).encode(),
        MARKDOWN_FILE: to_markdown(page).encode(),
        **{f"{FIGURES}/{name}.svg": svg.encode() for name, svg in drawn.items()},
        CSV_FILE: to_csv(table).encode(),
        PARQUET_FILE: to_parquet(table),
    }
    for name, data in content.items():
        write_atomic(within(run_dir, *name.split("/")), data)
    return tuple(run_dir / name for name in (*content, SUMMARY_FILE))
