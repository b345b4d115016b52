"""Commands for several machines: take part in a study by its run directory, and write a job array for SLURM."""

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import click

from remora.cli import options
from remora.cli.console import print_json

if TYPE_CHECKING:
    from remora.config.schema import StudyConfig


@click.command()
@click.argument("run_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@options.plugin_option
@options.json_option
def worker(*, run_dir: Path, as_json: bool) -> int:
    """Take part in a study by its run directory, which all machines share; ends when the study is complete.

    Trains packs that nobody has. Plans nothing while another process does (remora run, remora resume, another worker);
    when that one is gone, one of the workers goes on in its place. The results are those of a single machine.
    """
    from remora.cli import outcome
    from remora.cli.build import load_study
    from remora.cli.progress import choose_progress
    from remora.cli.recipes import take_part_in_recipe
    from remora.errors import ConfigError
    from remora.study.join import join_study

    if (run_dir / "recipe.yaml").is_file():
        return take_part_in_recipe(run_dir, as_json=as_json)
    path = run_dir / "study.yaml"
    if not path.is_file():
        raise ConfigError(f"{run_dir} holds no study.yaml", "give the run directory that a study wrote")
    progress = choose_progress(silent=as_json)
    try:
        result = join_study(load_study(str(path)), run_dir, progress)
    finally:
        progress.finished()
    if as_json:
        print_json(outcome.outcome_json(result.summary, result.run_dir))
    else:
        outcome.print_outcome(
            result.summary, result.run_dir, outcome.predict_command(result.run_dir, result.summary.data.task)
        )
    return result.exit_code


@click.command()
@click.argument("study", metavar="STUDY.YAML|recipe:NAME")
@click.option("--model", help="Take this base model in place of the study's.")
@click.option("--data", help="Take these data in place of the study's; see remora run.")
@click.option("--small", is_flag=True, help="The recipe's small form.")
@options.only_option
@options.protocol_options
@options.plugin_option
@options.out_option
@click.option("--partition", help="Of the cluster.")
@click.option("--time", help="Limit of a task, as SLURM writes it, such as 04:00:00; then it is queued again.")
@click.option("--cpus-per-task", "cpus", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--gpus", type=click.IntRange(min=0), default=0, help="Of a task.")
@click.option("--mem", help="Memory of a task, as SLURM writes it, such as 8G.")
@click.option("--tasks", type=click.IntRange(min=1), help="Of the array [default: packs of the largest stage].")
@click.option("--at-once", type=click.IntRange(min=1), help="Most tasks that run at a time.")
@click.option(
    "--container",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="An Apptainer image in which tasks run; see containers/remora.def.",
)
@click.option("--submit", is_flag=True, help="Hand the script to sbatch.")
@options.json_option
@options.overrides_argument
def slurm(
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
    partition: str | None,
    time: str | None,
    cpus: int,
    gpus: int,
    mem: str | None,
    tasks: int | None,
    at_once: int | None,
    container: Path | None,
    submit: bool,
    as_json: bool,
    overrides: tuple[str, ...],
) -> None:
    """Write a SLURM job array that runs a study file or a recipe, and submit it if told so.

    The run directory must lie on a disk that all nodes share. Tasks that are preempted, or reach their time limit, go
    on where they were; one that fails can be queued again: scontrol requeue JOB_TASK.
    """
    from remora.cli.build import protocol_settings
    from remora.methods.plugins import named_plugins
    from remora.results.store import write_atomic
    from remora.study.slurm import LOGS, SCRIPT, ArrayJob, files_of, num_packs

    protocol = protocol_settings(seeds=seeds, margin=margin, prefer=prefer, budget=budget)
    run_dir, configs = _prepare(
        study,
        overrides,
        small=small,
        model=model,
        data=data,
        protocol=protocol,
        only=only,
        out=out,
        cpus=cpus,
        gpus=gpus,
    )
    job = ArrayJob(
        name=run_dir.name,
        run_dir=run_dir,
        tasks=tasks or max(num_packs(config) for config in configs),
        at_once=at_once,
        cpus=cpus,
        gpus=gpus,
        partition=partition,
        time=time,
        memory=mem,
        container=container,
        binds=[path for config in configs for path in files_of(config)],
        plugins=named_plugins(),
    )
    script = run_dir / SCRIPT
    write_atomic(script, job.script().encode())
    (run_dir / LOGS).mkdir(exist_ok=True)  # SLURM makes no folder for its logs
    number = _submit(script) if submit else None
    if as_json:
        print_json({"run_dir": str(run_dir), "script": str(script), "tasks": job.tasks, "job": number})
        return
    click.echo(
        f"{script}: {job.tasks} tasks, as many as there are packs in the largest stage" if tasks is None else script
    )
    click.echo(f"submit: sbatch {script}" if number is None else f"submitted: job {number}")


def _prepare(
    study: str,
    overrides: tuple[str, ...],
    *,
    small: bool,
    model: str | None,
    data: str | None,
    protocol: dict[str, object],
    only: tuple[str, ...],
    out: Path | None,
    cpus: int,
    gpus: int,
) -> tuple[Path, list["StudyConfig"]]:
    """Write what the tasks read; returns the run directory, absolute, and the settings of its studies."""
    from functools import partial

    from remora.cli.build import find_study_file, opened_study
    from remora.cli.progress import choose_progress
    from remora.cli.recipes import full_forms, read_recipe, several_studies
    from remora.errors import ConfigError
    from remora.study.api import usual_run_dir
    from remora.study.prepare import prepare_study
    from remora.study.recipe import prepare_recipe, usual_folder
    from remora.study.slurm import for_tasks

    progress, settle = choose_progress(silent=True), partial(for_tasks, cpus=cpus, gpus=gpus)
    path = find_study_file(study)
    if several_studies(path):
        recipe, configs = read_recipe(
            path, overrides, small=small, model=model, data=data, protocol=protocol, only=only
        )
        full = full_forms(path, recipe, configs)
        folder = (out if out is not None else usual_folder(recipe, configs)).absolute()
        return folder, list(prepare_recipe(recipe, configs, full, folder, settle, progress).values())
    if small or only:
        raise ConfigError(f"{study} is one study", "leave --small and --only out")
    with opened_study(study, overrides, model=model, data=data, protocol=protocol) as config:
        folder = (out if out is not None else usual_run_dir(config)).absolute()
        return folder, [prepare_study(config, folder, settle, progress)]


def _submit(script: Path) -> str:
    """Hand a script to sbatch; returns the number of the job.

    Raises:
        ResourceError: there is no sbatch here, or it refuses.
    """
    from remora.errors import ResourceError

    try:
        done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ResourceError("there is no sbatch on this machine", f"where there is: sbatch {script}") from None
    if done.returncode != 0:
        raise ResourceError(f"sbatch: {done.stderr.strip()}", f"the script is {script}")
    return done.stdout.strip().split(";")[0]
