"""From options to a study: the command line says the same things as a study file, so both go through one gate."""

import json
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from remora.cli.console import parse_duration
from remora.config.load import build_study, load_yaml
from remora.config.methods_arg import parse_methods
from remora.config.schema import ROW_SETTINGS, DataConfig, MethodEntry, StudyConfig, StudyKind
from remora.config.tree import Tree, apply_overrides
from remora.errors import ConfigError

_SETTING = re.compile(r"(?:model|data|prompt|generation|protocol|engine)(?:\.\w+)+")
RECIPES = Path(__file__).resolve().parents[1] / "recipes"


def study_name(model: str, data: str) -> str:
    """A name for a study without one: data and model, such as ``mrpc-minilm``.

    Args:
        model: what ``--model`` said.
        data: what ``--data`` said.
    """
    parts = (Path(data.rstrip("/")).name.split(".")[0], Path(model.rstrip("/")).name.split("@")[0])
    words = [re.sub(r"[^A-Za-z0-9_]+", "-", part).strip("-_").lower() for part in parts]
    return "-".join(word[:40].rstrip("-_") for word in words if word) or "study"


def read_methods(text: str, *, full: bool = True) -> tuple[MethodEntry, ...]:
    """Read ``--methods`` against the registry.

    Args:
        text: method ids with settings, such as ``lora,lora:rank=16,alpha=32``.
        full: whether full fine-tuning is among ``all``.

    Raises:
        ConfigError: an unknown method or a malformed setting.
    """
    # The registry imports torch; only commands that are about to train reach this line.
    from remora.methods.registry import list_methods

    methods = list_methods()
    every = [method.name for method in methods if method.in_all and (full or method.name != "full")]
    return parse_methods(text, tuple(method.name for method in methods), every)


def model_settings(model: str) -> dict[str, object]:
    """Split ``--model`` into id and revision; a path that exists is taken whole."""
    name, _, revision = (model, "", "") if Path(model).exists() else model.partition("@")
    return {"id": name, "revision": revision} if revision else {"id": name}


def options_tree(
    *,
    kind: StudyKind,
    model: str,
    data: str,
    methods: Sequence[MethodEntry] = (),
    protocol: dict[str, object] | None = None,
) -> dict[str, object]:
    """The tree a study file would hold for these options.

    Args:
        kind: what sort of study.
        model: ``--model``; an ``@`` separates the revision of a Hub id.
        data: ``--data``.
        methods: rows asked for; none means the default ones.
        protocol: settings of the protocol that were given.
    """
    tree: dict[str, object] = {
        "name": study_name(model, data),
        "kind": kind,
        "model": model_settings(model),
        "data": {"path": data},
        "protocol": dict(protocol or {}),
    }
    if methods:
        tree["methods"] = [entry.model_dump(exclude_defaults=True) for entry in methods]
    return tree


def protocol_settings(
    *, seeds: int | None, margin: float | None, prefer: str | None, budget: str | None, full: bool | None = None
) -> dict[str, object]:
    """The protocol settings that options gave, without those left open."""
    given = {
        "seeds": seeds,
        "margin": margin,
        "prefer": prefer,
        "full": full,
        "budget_seconds": None if budget is None else parse_duration(budget),
    }
    return {name: value for name, value in given.items() if value is not None}


def find_study_file(name: str) -> Path:
    """The file behind ``study.yaml`` or ``recipe:NAME``.

    Raises:
        ConfigError: there is no such file or recipe.
    """
    if name.startswith("recipe:"):
        recipes = {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
        wanted = name.removeprefix("recipe:")
        if wanted not in recipes:
            raise ConfigError(f"there is no recipe {wanted!r:.100}", f"shipped recipes: {', '.join(recipes)}")
        return recipes[wanted]
    path = Path(name)
    if not path.is_file():
        raise ConfigError(
            f"there is no study file {name}", "give the path of a YAML file, or recipe:NAME (see: remora list recipes)"
        )
    return path


def finish_tree(tree: Mapping[str, object] | Tree, overrides: Sequence[str]) -> StudyConfig:
    """Apply ``KEY=VALUE`` settings and check everything at once.

    Raises:
        ConfigError: anything that cannot be right; all of it in one message.
    """
    return check_study(apply_overrides(tree, overrides), "command line")


def load_study(
    name: str,
    overrides: Sequence[str] = (),
    *,
    model: str | None = None,
    data: str | None = None,
    protocol: Mapping[str, object] | None = None,
) -> StudyConfig:
    """Read ``study.yaml`` or ``recipe:NAME`` and put what the command line says on top.

    Args:
        name: the file or recipe.
        overrides: ``KEY=VALUE`` settings; they win over everything.
        model: replaces the base model.
        data: replaces the data.
        protocol: settings of the protocol that options gave.

    Raises:
        ConfigError: no such file, or anything in it that cannot be right.
    """
    with opened_study(name, overrides, model=model, data=data, protocol=protocol) as config:
        return config


@contextmanager
def opened_study(
    name: str,
    overrides: Sequence[str] = (),
    *,
    model: str | None = None,
    data: str | None = None,
    protocol: Mapping[str, object] | None = None,
) -> Generator[StudyConfig]:
    """`load_study`, for a block that does something with the study: errors there say where a setting was written.

    What is wrong with a setting may be seen only beside the data or the model.
    """
    path = find_study_file(name)
    tree = apply_overrides(load_yaml(path), [*given_settings(model, data, protocol), *overrides])
    config = check_study(tree, str(path))
    try:
        yield config
    except ConfigError as error:
        raise ConfigError("\n".join(_placed(line, tree) for line in error.message.split("\n")), error.hint) from error


def _placed(line: str, tree: Tree) -> str:
    """A line of a message that begins with a setting, behind the place where that was written."""
    setting = _SETTING.match(line)
    place = tree.place(tuple(setting[0].split("."))) if setting else ""
    return f"{place}: {line}" if place and not place.startswith("command line") else line


def given_settings(model: str | None, data: str | None, protocol: Mapping[str, object] | None) -> list[str]:
    """What options of the command line gave, as ``KEY=VALUE`` settings."""
    settings = {f"protocol.{key}": value for key, value in (protocol or {}).items()}
    settings |= {f"model.{key}": value for key, value in (model_settings(model) if model else {}).items()}
    settings |= {"data.path": data} if data else {}
    # JSON quotes text, so that a folder called 2024 stays text.
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def check_study(tree: Tree, origin: str) -> StudyConfig:
    """Check a study and the settings of every method in it.

    Args:
        tree: the settings.
        origin: named in messages where a setting has no place of its own.

    Raises:
        ConfigError: all that is wrong, in one message.
    """
    from remora.methods.registry import get_method, list_methods

    known = [method.name for method in list_methods()]
    problems: list[str] = []
    hint = ""
    study: StudyConfig | None = None
    try:
        study = build_study(tree, origin, known)
        entries = study.methods
    except ConfigError as error:
        problems.append(error.message)
        hint = error.hint
        entries = _readable_methods(tree)
    for index, entry in enumerate(entries):
        if entry.id in known:
            settings = {name: value for name, value in entry.settings.items() if name not in ROW_SETTINGS}
            try:
                get_method(entry.id, settings)
            except ConfigError as error:
                place = tree.place(("methods", index)) or origin
                problems.append(f"{place}: methods.{index}: {error.message}")
                hint = "remora list methods --json shows the settings of each method"
    if study is None or problems:
        raise ConfigError("\n".join(problems), hint)
    return study


def _readable_methods(tree: Tree) -> tuple[MethodEntry, ...]:
    """The methods of a study that has faults elsewhere; none when the faults are in the methods."""
    try:
        return build_study({"model": "any", "data": "any", "methods": tree.values.get("methods", [])}).methods
    except ConfigError:
        return ()


def data_settings(data: str, overrides: Sequence[str]) -> DataConfig:
    """The data section alone, from ``--data`` and ``data.KEY=VALUE`` settings.

    Raises:
        ConfigError: a setting that is not about data or cannot be right.
    """
    strangers = [override for override in overrides if not override.startswith("data.")]
    if strangers:
        raise ConfigError(f"{strangers[0]!r} is no setting of the data", "name it like data.label=category")
    # A study needs a model; which one does not matter to the data.
    return build_study(apply_overrides({"model": "any", "data": {"path": data}}, overrides), "command line").data
