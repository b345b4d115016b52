"""Commands that run studies: demo, compare, train, run, resume."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from remora.cli import options
from remora.cli.console import print_json, say
from remora.cli.signals import Terminated

if TYPE_CHECKING:
    from remora.config.schema import StudyConfig

DEMO_NEXT = "remora compare --model minilm --data YOUR.csv"


@click.command()
@options.study_outputs
@options.overrides_argument
def demo(*, out: Path | None, dry_run: bool, as_json: bool, overrides: tuple[str, ...]) -> int:
    """Compare methods on the embedded model and data, in a few minutes on two cores.

    Runs the shipped recipe `demo`: the real model minilm (extra `demo`) on 900 messages to a help desk, eight
    methods and the baselines, two seeds.
    """
    from remora.cli.build import load_study

    return execute(load_study("recipe:demo", overrides), out, dry_run=dry_run, as_json=as_json, next_command=DEMO_NEXT)


@click.command()
@options.model_option
@options.data_option
@click.option("--methods", help="Such as lora,lora:rank=16,alpha=32,dora; or all [default: the eleven most used].")
@options.protocol_options
@click.option("--no-full", is_flag=True, help="Leave the full fine-tuning baseline out.")
@options.study_outputs
@options.overrides_argument
def compare(
    *,
    model: str,
    data: str,
    methods: str | None,
    seeds: int | None,
    margin: float | None,
    prefer: str | None,
    budget: str | None,
    no_full: bool,
    out: Path | None,
    dry_run: bool,
    as_json: bool,
    overrides: tuple[str, ...],
) -> int:
    """Compare fine-tuning methods on your data under a fair protocol.

    Settings that have no option are given as KEY=VALUE, such as data.train_limit=1000 protocol.epochs=2.
    """
    from remora.cli.build import finish_tree, options_tree, protocol_settings, read_methods

    entries = read_methods(methods, full=not no_full) if methods else ()
    if no_full and any(entry.id == "full" for entry in entries):
        raise click.UsageError("--methods names full, --no-full leaves it out; drop one of them")
    protocol = protocol_settings(
        seeds=seeds, margin=margin, prefer=prefer, budget=budget, full=False if no_full else None
    )
    tree = options_tree(kind="compare", model=model, data=data, methods=entries, protocol=protocol)
    return execute(finish_tree(tree, overrides), out, dry_run=dry_run, as_json=as_json)


@click.command()
@options.model_option
@options.data_option
@click.option("--method", required=True, help="A method id, with settings if you like: lora:rank=16.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Final trials.")
@options.budget_option
@options.study_outputs
@options.overrides_argument
def train(
    *,
    model: str,
    data: str,
    method: str,
    seeds: int,
    budget: str | None,
    out: Path | None,
    dry_run: bool,
    as_json: bool,
    overrides: tuple[str, ...],
) -> int:
    """Train one method, its learning rate tuned, and keep the adapter."""
    from remora.cli.build import finish_tree, options_tree, protocol_settings, read_methods

    entries = read_methods(method)
    if len(entries) != 1:
        raise click.UsageError("--method takes one method; use `remora compare --methods` for several")
    protocol = protocol_settings(seeds=seeds, margin=None, prefer=None, budget=budget, full=False)
    tree = options_tree(kind="train", model=model, data=data, methods=entries, protocol=protocol)
    return execute(finish_tree(tree, overrides), out, dry_run=dry_run, as_json=as_json)


@click.command()
@click.argument("study", metavar="STUDY.YAML|recipe:NAME")
@click.option("--model", help="Take this base model in place of the study's.")
@click.option(
    "--data", help="Take these data in place of the study's; for a recipe, a folder that has its data sets by name."
)
@click.option("--small", is_flag=True, help="The recipe's small form, which a small machine runs.")
@options.only_option
@options.protocol_options
@options.study_outputs
@options.overrides_argument
def run(
    *,
    study: str,
    model: str | None,
    data: str | None,
    small: bool,
    only: tuple[str, ...],
    seeds: int | None,
    margin: float | None,
    prefer: str | None,
    budget: str | None,
    out: Path | None,
    dry_run: bool,
    as_json: bool,
    overrides: tuple[str, ...],
) -> int:
    """Run a study file or a shipped recipe.

    For a recipe of several studies, KEY=VALUE is a setting of all, studies.NAME.KEY=VALUE of one.
    """
    from remora.cli.build import find_study_file, opened_study, protocol_settings
    from remora.cli.recipes import execute_recipe, several_studies
    from remora.errors import ConfigError

    protocol = protocol_settings(seeds=seeds, margin=margin, prefer=prefer, budget=budget)
    path = find_study_file(study)
    if several_studies(path):
        return execute_recipe(
            path,
            overrides,
            small=small,
            model=model,
            data=data,
            protocol=protocol,
            only=only,
            out=out,
            dry_run=dry_run,
            as_json=as_json,
        )
    if small or only:
        raise ConfigError(f"{study} is one study", "leave --small and --only out")
    with opened_study(study, overrides, model=model, data=data, protocol=protocol) as config:
        return execute(config, out, dry_run=dry_run, as_json=as_json)


@click.command()
@click.argument("run_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@options.plugin_option
@options.json_option
def resume(*, run_dir: Path, as_json: bool) -> int:
    """Go on with a run directory: finished trials are kept, the rest is run."""
    from remora.cli.build import load_study
    from remora.cli.recipes import resume_recipe
    from remora.errors import ConfigError

    if (run_dir / "recipe.yaml").is_file():
        return resume_recipe(run_dir, as_json=as_json)
    path = run_dir / "study.yaml"
    if not path.is_file():
        raise ConfigError(f"{run_dir} holds no study.yaml", "give the run directory that a study wrote")
    return execute(load_study(str(path)), run_dir, dry_run=False, as_json=as_json)


def execute(
    config: "StudyConfig", out: Path | None, *, dry_run: bool, as_json: bool, next_command: str | None = None
) -> int:
    """Say what a study will cost, run it, print what came out.

    Args:
        config: the study.
        out: its run directory, or None for the usual one.
        dry_run: stop after the plan.
        as_json: print JSON on stdout.
        next_command: what to suggest at the end; by default how to predict with the result.

    Returns:
        The exit code.
    """
    from remora.cli import outcome
    from remora.cli.progress import choose_progress
    from remora.study.api import plan_study, run_study

    if dry_run:
        plan = plan_study(config)
        if as_json:
            print_json(outcome.plan_json(plan))
        else:
            click.echo(outcome.plan_text(plan))
        return 0
    progress = choose_progress(silent=as_json)
    try:
        result = run_study(config, out, progress=progress)
    except (KeyboardInterrupt, Terminated):
        progress.finished()
        say(how_to_go_on(config, out))
        raise
    finally:
        progress.finished()
    if as_json:
        print_json(outcome.outcome_json(result.summary, result.run_dir))
    else:
        command = next_command or outcome.predict_command(result.run_dir, result.summary.data.task)
        outcome.print_outcome(result.summary, result.run_dir, command)
    return result.exit_code


def how_to_go_on(config: "StudyConfig", out: Path | None) -> str:
    """What to type after a study was stopped."""
    from remora.config.load import fingerprint
    from remora.methods.plugins import named_plugins

    run_dir = out if out is not None else Path("runs") / f"{config.name}-{fingerprint(config)[:8]}"
    if not (run_dir / "study.yaml").is_file():
        return "stopped before the first trial"
    command = [
        "remora",
        "resume",
        str(run_dir),
        *(part for file in named_plugins() for part in ("--plugin", str(file))),
    ]
    return f"stopped. Finished trials are kept; to go on: {shlex.join(command)}"
