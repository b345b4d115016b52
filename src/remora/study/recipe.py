"""Runs the studies of a recipe one after another, each in a run directory of its own, and writes one report of all."""

import hashlib
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remora.config.load import dump_yaml, fingerprint
from remora.config.schema import StudyConfig
from remora.config.tree import parse_tree
from remora.config.yaml12 import to_yaml
from remora.errors import ConfigError
from remora.report.recipe import write_recipe_report
from remora.results.recipe_schema import RECIPE_FILE, RecipeRun
from remora.results.store import read_record, write_atomic, write_record
from remora.study.api import StudyResult
from remora.study.coordinator import coordinating
from remora.study.join import join_study
from remora.study.machine import num_gpus
from remora.study.prepare import prepare_study
from remora.study.processes import starting
from remora.study.progress import Progress
from remora.study.recipe_file import Recipe

SETTINGS_FILE = "recipe.yaml"
_NOT_TOLD = ("engine.", "name", "data.local")
"""Settings that say where and how a study runs, not what it is."""


@dataclass(frozen=True, kw_only=True)
class RecipeResult:
    """A finished recipe.

    Args:
        folder: where its report is.
        studies: the results by name.
    """

    folder: Path
    studies: Mapping[str, StudyResult]

    @property
    def exit_code(self) -> int:
        """The highest of the studies'."""
        return max(study.exit_code for study in self.studies.values())


def usual_folder(recipe: Recipe, configs: Mapping[str, StudyConfig]) -> Path:
    """``runs/<name>-<hash8>``, the hash over all settings of all studies."""
    whole = hashlib.sha256("".join(fingerprint(config) for config in configs.values()).encode()).hexdigest()
    return Path("runs") / f"{recipe.name}{'-small' if recipe.small else ''}-{whole[:8]}"


def run_recipe(
    recipe: Recipe,
    configs: Mapping[str, StudyConfig],
    full: Mapping[str, StudyConfig],
    out: Path | None = None,
    *,
    progress: Progress,
) -> RecipeResult:
    """Run all studies, or finish what was stopped.

    Args:
        recipe: what they belong to.
        configs: the checked settings of each study.
        full: the recipe's own, to say what differs.
        out: folder; by default `usual_folder`.
        progress: told what happens.

    Raises:
        RemoraError: as `run_study`; or the folder holds another recipe.
    """
    folder = out if out is not None else usual_folder(recipe, configs)
    with coordinating(folder, _patience(configs), progress):
        _write_settings(recipe, configs, full, folder)
        return _run_studies(configs, folder, progress, again=True)


def prepare_recipe(
    recipe: Recipe,
    configs: Mapping[str, StudyConfig],
    full: Mapping[str, StudyConfig],
    folder: Path,
    settle: Callable[[StudyConfig], StudyConfig],
    progress: Progress,
) -> Mapping[str, StudyConfig]:
    """Write the settings of studies that other processes will run; see `run_recipe` and `prepare_study`.

    Returns:
        The settings written, by name.
    """
    with coordinating(folder, _patience(configs), progress, afterwards="released"):
        settled = {name: prepare_study(each, folder / name, settle, progress) for name, each in configs.items()}
        _write_settings(recipe, settled, full, folder)
    return settled


def join_recipe(configs: Mapping[str, StudyConfig], folder: Path, progress: Progress) -> RecipeResult:
    """Take part in the studies of a recipe's folder until all are complete; see `join_study`.

    Args:
        configs: the checked settings of each study.
        folder: with the recipe's settings.
        progress: told what this process does.
    """
    return _run_studies(configs, folder, progress, again=False)


def _run_studies(configs: Mapping[str, StudyConfig], folder: Path, progress: Progress, *, again: bool) -> RecipeResult:
    """All studies in turn; of each, whoever is first coordinates, and others may take part."""
    results: dict[str, StudyResult] = {}
    on_gpus = any(num_gpus(config.engine) is not None for config in configs.values())
    with starting(on_gpus) as start:
        for number, (name, config) in enumerate(configs.items(), 1):
            progress.note(f"study {number} of {len(configs)}: {name}")
            results[name] = join_study(config, folder / name, progress, again=again, start=start)
            write_recipe_report(folder)
    return RecipeResult(folder=folder, studies=results)


def _write_settings(
    recipe: Recipe, configs: Mapping[str, StudyConfig], full: Mapping[str, StudyConfig], folder: Path
) -> None:
    """recipe.yaml and recipe.json.

    Raises:
        ConfigError: the folder holds another recipe.
    """
    changes = {name: differences(full[name], config) for name, config in configs.items() if name in full}
    command = shlex.join(["remora", *sys.argv[1:]]) if sys.argv and sys.argv[0].endswith("remora") else ""
    run = RecipeRun(
        name=recipe.name,
        info=recipe.info,
        small=recipe.small,
        command=command,
        studies=tuple(configs),
        changes=changes,
    )
    path = folder / RECIPE_FILE
    if path.is_file():
        begun = read_record(path, RecipeRun)
        if (begun.name, begun.studies) != (run.name, run.studies):
            raise ConfigError(f"{folder} holds the recipe {begun.name}", "give another --out")
        if not changes:  # resumed from its own settings, which do not know what they differ from
            run = begun
    write_atomic(folder / SETTINGS_FILE, settings_text(recipe, configs).encode())
    write_record(path, run)


def _patience(configs: Mapping[str, StudyConfig]) -> float:
    return max(config.engine.lease_seconds for config in configs.values())


def settings_text(recipe: Recipe, configs: Mapping[str, StudyConfig]) -> str:
    """All studies with all their settings, as a recipe file."""
    studies = {name: parse_tree(dump_yaml(config), name).values for name, config in configs.items()}
    return to_yaml({"recipe": recipe.info.model_dump(mode="json"), "studies": studies})


def differences(full: StudyConfig, config: StudyConfig) -> tuple[str, ...]:
    """Settings in which a study differs from the recipe's full form, such as ``protocol.epochs: 40, here 4``."""
    before, after = (_flat(each.model_dump(mode="json")) for each in (full, config))
    found = [name for name in after if before.get(name) != after[name] and not name.startswith(_NOT_TOLD)]
    lines = [f"{name}: {_said(before.get(name))}, here {_said(after[name])}" for name in found if name != "methods"]
    if "methods" in found:
        rows = [{entry.row_label for entry in each.methods} for each in (full, config)]
        left_out, added = sorted(rows[0] - rows[1]), sorted(rows[1] - rows[0])
        lines += [f"rows left out: {', '.join(left_out)}"] if left_out else []
        lines += [f"rows of its own: {', '.join(added)}"] if added else []
        if not left_out and not added:
            lines.append("settings of rows: see its study.yaml")
    return tuple(lines)


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return flat


def _said(value: object) -> str:
    return "not set" if value is None else str(value)
