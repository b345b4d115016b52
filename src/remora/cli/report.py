"""Command that writes the report of a run directory again, from its files alone."""

from pathlib import Path

import click

from remora.cli import options
from remora.cli.console import print_json


@click.command()
@click.argument("run_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@options.json_option
def report(*, run_dir: Path, as_json: bool) -> None:
    """Write results.json, report.html, report.md and the result tables of a run directory again.

    Reads only files: nothing is trained, so it also works while a study is still running.
    """
    from remora.cli import outcome
    from remora.report.write import write_report
    from remora.results.summary import summarise

    summary = summarise(run_dir)
    written = write_report(run_dir, summary)
    if as_json:
        print_json(outcome.outcome_json(summary, run_dir))
        return
    for path in written:
        click.echo(path)
