"""What commands do with a recipe of several studies: check all of them, plan, run, print."""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from remora.cli.console import print_json, say
from remora.cli.signals import Terminated
from remora.errors import ConfigError
from remora.results.wording import duration, size

if TYPE_CHECKING:
    from remora.config.schema import StudyConfig
    from remora.study.progress import Progress
    from remora.study.recipe import RecipeResult
    from remora.study.recipe_file import Recipe


def several_studies(path: Path) -> bool:
    """Whether a file is a recipe of several studies."""
    from remora.config.load import load_yaml
    from remora.study.recipe_file import is_recipe

    return is_recipe(load_yaml(path))


def read_recipe(
    path: Path,
    overrides: Sequence[str],
    *,
    small: bool = False,
    model: str | None = None,
    data: str | None = None,
    protocol: Mapping[str, object] | None = None,
    only: Sequence[str] = (),
) -> tuple["Recipe", dict[str, "StudyConfig"]]:
    """A recipe and its checked studies.

    Args:
        path: its file.
        overrides: ``KEY=VALUE`` for all studies, ``studies.NAME.KEY=VALUE`` for one.
        small: whether to take its small form.
        model: replaces the base model of all studies.
        data: see `load_recipe`.
        protocol: settings of the protocol that options gave.
        only: names of the studies to take; see `load_recipe`.

    Raises:
        ConfigError: anything in any study that cannot be right.
    """
    from remora.cli.build import check_study, given_settings
    from remora.study.recipe_file import load_recipe

    given = given_settings(model, None, protocol)
    recipe = load_recipe(path, small=small, overrides=[*given, *overrides], data=data, only=only)
    configs: dict[str, StudyConfig] = {}
    faults: list[ConfigError] = []
    for name, tree in recipe.studies.items():
        try:
            configs[name] = check_study(tree, f"{path} study {name}")
        except ConfigError as error:
            faults.append(error)
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(f.message for f in faults)), faults[0].hint)
    return recipe, configs


def execute_recipe(
    path: Path,
    overrides: Sequence[str],
    *,
    small: bool,
    model: str | None,
    data: str | None,
    protocol: Mapping[str, object],
    only: Sequence[str],
    out: Path | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Plan or run all studies of a recipe; see `read_recipe` for the arguments. Returns the exit code."""
    recipe, configs = read_recipe(path, overrides, small=small, model=model, data=data, protocol=protocol, only=only)
    if dry_run:
        print_plan(configs, as_json=as_json)
        return 0
    from remora.study.recipe import run_recipe, usual_folder

    full = full_forms(path, recipe, configs)
    folder = out if out is not None else usual_folder(recipe, configs)
    return _run(lambda progress: run_recipe(recipe, configs, full, folder, progress=progress), recipe, folder, as_json)


def full_forms(path: Path, recipe: "Recipe", configs: Mapping[str, "StudyConfig"]) -> dict[str, "StudyConfig"]:
    """For each study the one of the recipe's full form that it stands for: of the same name, else the nearest.

    Args:
        path: the recipe's file.
        recipe: as it is run.
        configs: its checked studies.
    """
    from remora.study.recipe import differences

    whole, full = read_recipe(path, ())
    found: dict[str, StudyConfig] = {}
    for entry, names in recipe.entries.items():
        alike = [full[name] for name in whole.entries[entry]]
        for name in (name for name in names if name in configs):
            config = configs[name]
            found[name] = full.get(name) or min(alike, key=lambda each: len(differences(each, config)))
    return found


def resume_recipe(folder: Path, *, as_json: bool) -> int:
    """Go on with a recipe's folder. Returns the exit code."""
    from remora.study.recipe import run_recipe

    recipe, configs = _begun(folder)
    return _run(lambda progress: run_recipe(recipe, configs, {}, folder, progress=progress), recipe, folder, as_json)


def take_part_in_recipe(folder: Path, *, as_json: bool) -> int:
    """Train packs of the studies in a recipe's folder beside others. Returns the exit code."""
    from remora.study.recipe import join_recipe

    recipe, configs = _begun(folder)
    return _run(lambda progress: join_recipe(configs, folder, progress), recipe, folder, as_json)


def _begun(folder: Path) -> tuple["Recipe", dict[str, "StudyConfig"]]:
    from remora.results.recipe_schema import RECIPE_FILE, RecipeRun
    from remora.results.store import read_record
    from remora.study.recipe import SETTINGS_FILE

    begun = read_record(folder / RECIPE_FILE, RecipeRun)
    recipe, configs = read_recipe(folder / SETTINGS_FILE, ())
    return replace(recipe, name=begun.name, small=begun.small), configs


def print_plan(configs: Mapping[str, "StudyConfig"], *, as_json: bool) -> None:
    """Print what the studies would cost, one by one and together."""
    from remora.cli import outcome
    from remora.study.api import plan_study

    plans = {name: plan_study(config) for name, config in configs.items()}
    trials, seconds = sum(plan.num_trials for plan in plans.values()), sum(plan.seconds for plan in plans.values())
    peak = max(plan.peak_bytes for plan in plans.values())
    if as_json:
        studies = {name: outcome.plan_json(plan) for name, plan in plans.items()}
        print_json({"trials": trials, "seconds": seconds, "peak_bytes": peak, "studies": studies})
        return
    for name, plan in plans.items():
        click.echo(f"{name}: {outcome.plan_text(plan)}")
    click.echo(f"all: {trials} trials, estimated {duration(seconds)}, estimated peak memory {size(peak)}")


def _run(run: Callable[["Progress"], "RecipeResult"], recipe: "Recipe", folder: Path, as_json: bool) -> int:
    from remora.cli import outcome
    from remora.cli.progress import choose_progress

    progress = choose_progress(silent=as_json)
    try:
        with _saying_how_to_go_on(folder):
            result = run(progress)
    finally:
        progress.finished()
    report = folder / "report.html"
    if as_json:
        studies = [outcome.outcome_json(study.summary, study.run_dir) for study in result.studies.values()]
        print_json({"recipe": recipe.name, "run_dir": str(folder), "report": str(report), "studies": studies})
    else:
        for name, study in result.studies.items():
            click.echo(f"{name}:\n{study.table()}\n")
        click.echo(f"report: {report}")
    return result.exit_code


@contextmanager
def _saying_how_to_go_on(folder: Path) -> Generator[None]:
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        say(f"stopped. Finished trials are kept; to go on: remora resume {json.dumps(str(folder))}")
        raise
