"""Recipes of several studies: what a publication compared, as study files that share settings, and what it found.

A recipe file holds `recipe` (what it is about, and what was published), `shared` settings of all its studies, the
`studies` by name, and `small`, which has `recipe`, `shared` and `studies` of its own that make it fit on a small
machine (an entry that is ``null`` there is left out). A study's settings are `shared`, then its own, then the small
ones in the same order, then the command line's. An entry may stand for several studies, see `remora.study.vary`.
"""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from remora.config.load import load_yaml, put_problem
from remora.config.schema import ROW_SETTINGS
from remora.config.tree import Tree, apply_overrides, put_over, subtree
from remora.errors import ConfigError
from remora.results.recipe_schema import RecipeInfo
from remora.study.vary import varied

SECTIONS = ("recipe", "shared", "studies", "small")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe's studies as settings that are not yet checked.

    Args:
        name: of the recipe.
        info: what it is about.
        small: whether this is its small form.
        studies: settings by name of the study.
        entries: the names of the studies that each entry of the file stands for.
    """

    name: str
    info: RecipeInfo
    small: bool
    studies: Mapping[str, Tree]
    entries: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


def is_recipe(tree: Tree) -> bool:
    """Whether settings are those of several studies."""
    return "studies" in tree.values


def studies_of(path: Path) -> Mapping[str, Tree]:
    """The settings of the studies of a file that is a recipe, or of the one study that it is."""
    tree = load_yaml(path)
    return load_recipe(path).studies if is_recipe(tree) else {path.stem: tree}


def load_recipe(
    path: Path,
    *,
    small: bool = False,
    overrides: Iterable[str] = (),
    data: str | None = None,
    only: Sequence[str] = (),
) -> Recipe:
    """Read a recipe of several studies.

    Args:
        path: its file.
        small: whether to take its small form.
        overrides: ``KEY=VALUE`` for all studies, ``studies.NAME.KEY=VALUE`` for one, or for those of one entry. With
            ``protocol.mode=fair`` the recipe's learning rates are left out, so that every row is tuned.
        data: in place of the studies' data: a folder with a folder NAME, or a sample NAME_small, for each data set
            that they name, or what all of them shall run on where they name one.
        only: names of the studies or entries to take, perhaps with ``*``; all where empty.

    Raises:
        ConfigError: the file is no recipe, has no small form, an override or `only` is for no study of it, or data are
            missing.
    """
    tree = load_yaml(path)
    _refuse_strangers(tree, (), SECTIONS, path)
    _refuse_strangers(tree, ("small",), SECTIONS[:-1], path)
    if small and "small" not in tree.values:
        raise ConfigError(f"{path.name} has no small form", "leave --small out")
    forms: tuple[tuple[str, ...], ...] = ((), ("small",)) if small else ((),)
    by_entry: dict[str, dict[str, Tree]] = {}
    left_out = [name for name, value in subtree(tree, ("small", "studies")).values.items() if small and value is None]
    for entry in subtree(tree, ("studies",)).values:
        if entry in left_out:
            by_entry[entry] = {}
            continue
        places = [(*form, *part) for form in forms for part in (("shared",), ("studies", entry))]
        by_entry[entry] = varied(entry, [subtree(tree, place) for place in places])
    entries = {entry: tuple(found) for entry, found in by_entry.items()}
    raw = {name: study for found in by_entry.values() for name, study in found.items()}
    if len(raw) < sum(map(len, by_entry.values())):
        raise ConfigError(f"{path}: two studies of the recipe have the same name")
    common, own = _by_study(overrides, entries)
    studies: dict[str, Tree] = {}
    for name, study in raw.items():
        study = put_over(Tree(values={"name": f"{path.stem}-{name}", "kind": "compare"}), _with_grids(study))
        studies[name] = _with_overrides(study, [*common, *own[name]])
    studies = {name: studies[name] for name in _chosen(only, entries)}
    if data is not None:
        studies = {name: _with_data(study, data, studies.values()) for name, study in studies.items()}
    info = _info(tree, forms, entries)
    return Recipe(name=path.stem, info=info, small=small, studies=studies, entries=entries)


def _refuse_strangers(tree: Tree, at: tuple[str, ...], known: Sequence[str], path: Path) -> None:
    strangers = [name for name in subtree(tree, at).values if name not in known]
    if strangers:
        place = tree.place((*at, strangers[0])) or str(path)
        whose = "the small form of a recipe" if at else "a recipe"
        raise ConfigError(f"{place}: {whose} has no section {strangers[0]!r}", f"it has {', '.join(known)}")


def _info(tree: Tree, forms: Sequence[tuple[str, ...]], entries: Mapping[str, tuple[str, ...]]) -> RecipeInfo:
    """What the recipe is about; its figures name single studies."""
    whole = Tree(values={})
    for form in forms:
        whole = put_over(whole, subtree(tree, (*form, "recipe")))
    try:
        info = RecipeInfo.model_validate(whole.values)
    except ValidationError as error:
        placed = Tree(values={}, places={("recipe", *path): place for path, place in whole.places.items()})
        raise ConfigError("\n".join(put_problem(placed, ("recipe",), detail) for detail in error.errors())) from error
    pictures = [
        picture.model_copy(
            update={"studies": tuple(name for each in picture.studies for name in entries.get(each, (each,)))}
        )
        for picture in info.pictures
    ]
    return info.model_copy(update={"pictures": tuple(pictures)})


def _chosen(only: Sequence[str], entries: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The names of the studies that are asked for, in the recipe's order."""
    every = [name for names in entries.values() for name in names]
    wanted: set[str] = set()
    for pattern in only:
        found = set(entries.get(pattern, ())) or {name for name in every if fnmatchcase(name, pattern)}
        if not found:
            raise ConfigError(f"the recipe has no study {pattern!r}", f"its studies are {', '.join(every)}")
        wanted |= found
    return [name for name in every if name in wanted or not only]


def _by_study(
    overrides: Iterable[str], entries: Mapping[str, tuple[str, ...]]
) -> tuple[list[str], dict[str, list[str]]]:
    common: list[str] = []
    own: dict[str, list[str]] = {name: [] for names in entries.values() for name in names}
    for override in overrides:
        if not override.startswith("studies."):
            common.append(override)
            continue
        name, _, setting = override.removeprefix("studies.").partition(".")
        meant = entries.get(name, (name,) if name in own else ())
        if not meant or not setting:
            raise ConfigError(
                f"{override!r}: the recipe has no study {name!r}",
                f"write studies.NAME.KEY=VALUE for {', '.join(own)}",
            )
        for each in meant:
            own[each].append(setting)
    return common, own


def _with_grids(study: Tree) -> Tree:
    """Every method that has a `grid` as one row for each combination; ``{setting}`` in its label is the value."""
    methods = study.values.get("methods")
    if not isinstance(methods, list):
        return study
    rows: list[object] = []
    for index, entry in enumerate(cast("list[Any]", methods)):
        if not isinstance(entry, dict) or "grid" not in entry:
            rows.append(entry)
            continue
        whole = cast("dict[str, Any]", entry)
        grid: object = whole["grid"]
        if not isinstance(grid, dict) or not all(isinstance(values, list) for values in cast("Any", grid).values()):
            place = study.place(("methods", index, "grid"))
            raise ConfigError(f"{place}: grid must give a list of values for each setting, such as rank: [4, 8]")
        values = cast("dict[str, list[object]]", grid)
        rest = {key: value for key, value in whole.items() if key != "grid"}
        for chosen in itertools.product(*values.values()):
            point = dict(zip(values, chosen, strict=True))
            row = {**rest, "settings": {**rest.get("settings", {}), **point}}
            if isinstance(rest.get("label"), str):
                row["label"] = _filled(rest["label"], point)
            rows.append(row)
    return Tree(values={**study.values, "methods": rows}, places=study.places)


def _filled(label: str, point: Mapping[str, object]) -> str:
    for setting, value in point.items():
        label = label.replace(f"{{{setting}}}", str(value))
    return label


def _with_overrides(study: Tree, overrides: list[str]) -> Tree:
    before, after = _mode(study), apply_overrides(study, overrides)
    if before == "published" and _mode(after) == "fair":
        after = apply_overrides(_without_rates(study), overrides)
    return after


def _mode(study: Tree) -> object:
    protocol = study.values.get("protocol")
    return protocol.get("mode", "fair") if isinstance(protocol, dict) else "fair"


def _without_rates(study: Tree) -> Tree:
    values = dict(study.values)
    protocol = cast("dict[str, object]", values["protocol"])
    values["protocol"] = {key: value for key, value in protocol.items() if key != "lr"}
    rows: list[object] = []
    for entry in cast("list[Any]", values.get("methods", [])):
        if isinstance(entry, dict) and isinstance(entry.get("settings"), dict):
            kept = {key: value for key, value in entry["settings"].items() if key != ROW_SETTINGS[0]}
            entry = {**entry, "settings": kept}
        rows.append(entry)
    values["methods"] = rows
    return Tree(values=values, places=study.places)


def _with_data(study: Tree, data: str, studies: Iterable[Tree]) -> Tree:
    """The study on a copy of its own data set where the folder has one, else on data that replace the only ones."""
    named = {_data_path(each) for each in studies}
    name = str(_data_path(study))
    folders = [Path(data) / name, Path(data) / f"{name}_small"]
    inside = next((folder for folder in folders if folder.is_dir()), None)
    if inside is not None:
        return apply_overrides(study, [f"data.local={json.dumps(str(inside))}"])
    if len(named) > 1:
        raise ConfigError(
            f"{data} has no folder {name}, and the recipe's studies run on {', '.join(sorted(map(str, named)))}",
            f"give a folder that has these, or data for each study: studies.NAME.data.path={data}",
        )
    return apply_overrides(study, [f"data.path={json.dumps(data)}"])


def _data_path(study: Tree) -> object:
    section = study.values.get("data")
    return section.get("path") if isinstance(section, dict) else section
