"""From YAML, a dict and overrides to one checked study: all errors at once, each with its place and a near match."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError

from remora.config.schema import PROMPTED, MethodEntry, PromptConfig, StudyConfig
from remora.config.templates import READY_MADE, column_problems
from remora.config.tree import SHORTHAND, Tree, apply_overrides, parse_tree
from remora.config.yaml12 import Path as KeyPath
from remora.config.yaml12 import to_yaml
from remora.errors import ConfigError

__all__ = ["Tree", "apply_overrides", "build_study", "dump_yaml", "fingerprint", "load_yaml", "read_study"]

Problem = tuple[KeyPath, str]
CLASS_SETTINGS = ("labels", "shots", "calibration")
"""Settings of prompts about classes."""


def load_yaml(path: Path | str) -> Tree:
    """Read a study file.

    Args:
        path: the YAML file.

    Returns:
        Its settings, not yet checked.

    Raises:
        ConfigError: the file cannot be read, or is no YAML mapping.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start + 1})", "save the file as UTF-8") from error
    return parse_tree(text, str(path))


def read_study(path: Path | str) -> StudyConfig:
    """Read and check a study file in one go, such as the ``study.yaml`` of a run directory.

    Args:
        path: the YAML file.

    Returns:
        The resolved study.

    Raises:
        ConfigError: as `load_yaml` and `build_study`.
    """
    return build_study(load_yaml(path), str(path))


def build_study(
    tree: Tree | Mapping[str, object], origin: str = "", known_methods: Iterable[str] | None = None
) -> StudyConfig:
    """Check settings and fill in the defaults.

    Args:
        tree: what `load_yaml` or `apply_overrides` gave, or plain nested dicts. ``model`` and ``data`` may be one word;
            a method may be an id, ``{id: settings}`` or ``{id: ..., label: ..., settings: ...}``.
        origin: named in messages where a setting has no place of its own.
        known_methods: method ids to check against; None leaves that to the caller.

    Returns:
        The resolved study.

    Raises:
        ConfigError: every unknown name, missing or wrong value in one message, each with file and line where known.
    """
    tree = tree if isinstance(tree, Tree) else Tree(values=dict(tree))
    values = dict(tree.values)
    for section, name in SHORTHAND.items():
        if isinstance(values.get(section), str):
            values[section] = {name: values[section]}
    problems: list[Problem] = []
    if "methods" in values:
        values["methods"] = _methods(values["methods"], problems)
    study: StudyConfig | None = None
    try:
        study = StudyConfig.model_validate(values)
    except ValidationError as error:
        problems += [_problem(detail) for detail in error.errors()]
    if study is not None:
        problems += _prompt_problems(study)
    if known_methods is not None:
        problems += _unknown_methods(values.get("methods"), tuple(known_methods))
    if study is None or problems:
        listed = [(tree.place(path) or origin, ".".join(map(str, path)), message) for path, message in problems]
        listed.sort(key=lambda parts: _line_of(parts[0]))
        raise ConfigError("\n".join(": ".join(part for part in parts if part) for parts in listed))
    return study


def _line_of(place: str) -> float:
    """The line a place names, so that messages come in the file's order; the command line comes last."""
    _, _, line = place.rpartition(":")
    return int(line) if line.isdigit() else float("inf")


def _unknown_methods(entries: object, known: tuple[str, ...]) -> list[Problem]:
    problems: list[Problem] = []
    for index, entry in enumerate(cast("list[object]", entries) if isinstance(entries, list | tuple) else []):
        fields: dict[str, object] = entry.model_dump() if isinstance(entry, MethodEntry) else cast("Any", entry)
        name = fields.get("id") if isinstance(fields, dict) else None  # pyright: ignore[reportUnnecessaryIsInstance]
        if isinstance(name, str) and name not in known:
            problems.append((("methods", index), f"unknown method {name!r}{near_match(name, known)}"))
    return problems


def _prompt_problems(study: StudyConfig) -> list[Problem]:
    """Settings of prompts without prompts, and fields of a template that are none of the columns named."""
    prompt, columns, task = study.prompt, study.data.text, study.data.task
    problems = unmeant(study) if task != "auto" else []
    if task == "summarization":
        plain = PromptConfig()
        given = [name for name in CLASS_SETTINGS if getattr(prompt, name) != getattr(plain, name)]
        problems += [(("prompt", name), "has a meaning for classes only, not for summaries") for name in given]
    if problems or not study.prompts:
        return problems
    if prompt.template in READY_MADE or columns is None:
        return []
    return [(("prompt", "template"), problem) for problem in column_problems(prompt.template, columns)]


def unmeant(study: StudyConfig) -> list[Problem]:
    """Settings that mean nothing for the kind of task."""
    problems: list[Problem] = []
    if not study.prompts and "prompt" not in study.idle:
        problems.append((("prompt",), f"has a meaning with data.task={' or '.join(PROMPTED)} only"))
    if study.data.task != "summarization" and "generation" not in study.idle:
        problems.append((("generation",), "has a meaning with data.task=summarization only"))
    return problems


def near_match(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or nothing when no known name is near."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def fingerprint(study: StudyConfig) -> str:
    """SHA-256 of the resolved settings, hexadecimal; the same for the same settings however they were written."""
    settings = study.model_dump(mode="json")
    if study.protocol.stop == "none":  # run directories keep the names they had before there was this setting
        del settings["protocol"]["stop"]
    if study.model.quantization == "none":
        del settings["model"]["quantization"]
    if study.data.local is None:
        del settings["data"]["local"]
    if study.data.tag_scheme == "bio":
        del settings["data"]["tag_scheme"]
    del settings["engine"]["lease_seconds"]  # how long to wait for others is no part of a study
    for section in study.idle:
        del settings[section]
    canonical = json.dumps(settings, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def dump_yaml(study: StudyConfig) -> str:
    """The resolved study as YAML, defaults included; reading it back gives an equal study."""
    values = study.model_dump(mode="json")
    values["methods"] = [
        {key: value for key, value in entry.items() if value is not None and value != {}} for entry in values["methods"]
    ]
    for section in study.idle:
        del values[section]
    return to_yaml(values)


def _methods(value: Any, problems: list[Problem]) -> object:
    """Bring the short forms of methods into the long one."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, list | tuple):
        return value
    entries: list[object] = []
    for index, entry in enumerate(value):
        if isinstance(entry, str):
            name, colon, _ = entry.partition(":")
            if colon:
                problems.append((("methods", index), f"write {entry!r} as `- {name}: {{setting: value}}`"))
            entries.append({"id": name})
        elif isinstance(entry, dict) and len(entry) == 1 and "id" not in entry:
            ((name, settings),) = entry.items()
            entries.append({"id": name, "settings": {} if settings is None else settings})
        else:
            entries.append(entry)
    return entries


def put_problem(tree: Tree, at: KeyPath, detail: Any) -> str:
    """One of pydantic's errors about the settings below a path, with its place."""
    path, message = _problem(detail)
    return ": ".join(part for part in (tree.place((*at, *path)), ".".join(map(str, (*at, *path))), message) if part)


def _problem(detail: Any) -> Problem:
    """One of pydantic's errors in the user's words."""
    path: KeyPath = tuple(detail["loc"])
    kind, value, context = str(detail["type"]), detail["input"], detail.get("ctx", {})
    found = f"found {_shown(value)}"
    if kind == "extra_forbidden":
        return path, f"there is no such setting{_near_setting(path)}"
    if kind == "missing":
        return path, "must be set"
    if kind == "literal_error":
        options = [part.strip("'") for part in str(context["expected"]).replace(" or ", ", ").split(", ")]
        near = near_match(value, options) if isinstance(value, str) else ""
        return path, f"must be one of {', '.join(options)}; {found}{near}"
    if kind == "value_error":
        return path, str(context["error"])
    if kind == "string_type":
        quoted = isinstance(value, int | float) and not isinstance(value, bool)
        return path, f"must be text; {found}" + (f'; write it in quotes: "{value}"' if quoted else "")
    wanted = {
        "int_type": "must be a whole number",
        "float_type": "must be a number",
        "bool_type": "must be true or false",
        "tuple_type": "must be a list",
        "finite_number": "must be a finite number",
        "model_type": "must be settings as `name: value`",
        "dict_type": "must be settings as `name: value`",
        "mapping_type": "must be settings as `name: value`",
        "string_too_short": "must not be empty",
        "too_short": "must not be empty",
        "string_pattern_mismatch": "may hold only letters, digits, dots, hyphens and underscores",
        "greater_than": f"must be greater than {context.get('gt')}",
        "greater_than_equal": f"must be at least {context.get('ge')}",
        "less_than": f"must be less than {context.get('lt')}",
        "less_than_equal": f"must be at most {context.get('le')}",
    }
    return path, f"{wanted.get(kind, str(detail['msg']))}; {found}"


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _near_setting(path: KeyPath) -> str:
    """A near name in the same section, else the same or a near name in another section."""
    name = str(path[-1])
    here = _fields_at(path[:-1])
    near = near_match(name, here)
    if near:
        return near
    elsewhere = {
        field: f"{section}.{field}"
        for section in ("protocol", "data", "model", "engine", "prompt", "generation")
        for field in _fields_at((section,))
    }
    found = get_close_matches(name, elsewhere, n=1)
    if found:
        return f"; did you mean {elsewhere[found[0]]!r}?"
    return f"; there are {', '.join(here)}"


def _fields_at(path: KeyPath) -> tuple[str, ...]:
    """The settings of the section at this path."""
    model: type[BaseModel] = StudyConfig
    for key in path:
        if isinstance(key, int):
            continue
        field = model.model_fields.get(key)
        inner = _section_in(field.annotation) if field else None
        if inner is None:
            return ()
        model = inner
    return tuple(model.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class that an annotation such as ``X | None`` or ``tuple[X, ...]`` is about."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, tuple):
        for part in get_args(annotation):
            inner = _section_in(part)
            if inner is not None:
                return inner
    return None
