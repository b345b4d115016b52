"""Command that checks a study file without running it."""

import click

from remora.cli import options
from remora.cli.console import print_json


@click.command()
@click.argument("study", metavar="STUDY.YAML|recipe:NAME")
@options.plugin_option
@options.json_option
@options.overrides_argument
def validate(*, study: str, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Check a study file: all errors at once, with file and line; if there are none, show what it would cost.

    Reads the data and the model too, so bad rows and unknown columns are found as well.
    """
    from remora.cli import outcome
    from remora.cli.build import find_study_file, opened_study
    from remora.cli.recipes import print_plan, read_recipe, several_studies
    from remora.study.api import plan_study

    path = find_study_file(study)
    if several_studies(path):
        print_plan(read_recipe(path, overrides)[1], as_json=as_json)
        return
    with opened_study(study, overrides) as config:
        plan = plan_study(config)
    if as_json:
        print_json({"study": study, "ok": True, "plan": outcome.plan_json(plan)})
        return
    click.echo(f"{study}: ok")
    click.echo(outcome.plan_text(plan))
