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

    Reads only files: nothing is trained, so it also works while a study is still running. Of a recipe's folder, the
    reports of all its studies and its own.
    """
    from remora.cli import outcome
    from remora.report.recipe import write_recipe_report
    from remora.report.write import write_report
    from remora.results.recipe_schema import RECIPE_FILE, RecipeRun
    from remora.results.store import read_record, within
    from remora.results.summary import SUMMARY_FILE, summarise

    if (run_dir / RECIPE_FILE).is_file():
        studies = read_record(run_dir / RECIPE_FILE, RecipeRun).studies
        done = [within(run_dir, name) for name in studies if within(run_dir, name, SUMMARY_FILE).is_file()]
        summaries = {folder: summarise(folder) for folder in done}
        paths = [path for folder, summary in summaries.items() for path in write_report(folder, summary)]
        paths = [*write_recipe_report(run_dir), *paths]
        if as_json:
            listed = [outcome.outcome_json(summary, folder) for folder, summary in summaries.items()]
            print_json({"run_dir": str(run_dir), "report": str(paths[0]), "studies": listed})
            return
        click.echo("\n".join(map(str, paths)))
        return
    summary = summarise(run_dir)
    written = write_report(run_dir, summary)
    if as_json:
        print_json(outcome.outcome_json(summary, run_dir))
        return
    for path in written:
        click.echo(path)
