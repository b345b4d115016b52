"""Settings as plain values that remember where each was written, so that an error can point to file and line."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from remora.config.yaml12 import Path, YamlError, parse_text, parse_value
from remora.errors import ConfigError

SHORTHAND = {"model": "id", "data": "path"}
"""Sections that may be written as one word, and the setting that the word is."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Nested dicts and lists, and per setting the place it was written at.

    Args:
        values: the settings.
        places: path of keys and indices to a place such as ``study.yaml:12``.
    """

    values: dict[str, object]
    places: Mapping[Path, str] = field(default_factory=dict[Path, str])

    def place(self, path: Path) -> str:
        """Where a setting, or the nearest thing around it, was written; empty when unknown."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return ""


def parse_tree(text: str, origin: str) -> Tree:
    """Parse YAML text whose top level is a mapping.

    Args:
        text: the YAML.
        origin: the file's name, for messages.

    Returns:
        The tree.

    Raises:
        ConfigError: broken YAML, a key written twice, a tag, or a top level that is no mapping; with line numbers.
    """
    try:
        values, lines = parse_text(text)
    except YamlError as problem:
        listed = [
            f"{origin}:{line}: {message}" if line else f"{origin}: {message}" for line, message in problem.problems
        ]
        raise ConfigError("\n".join(listed), "see https://yaml.org for the syntax") from problem
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: expected settings as `name: value`, found a single value or a list")
    return Tree(values=values, places={path: f"{origin}:{line}" for path, line in lines.items()})


def subtree(tree: Tree, path: Path) -> Tree:
    """The settings below a path that holds a mapping; empty where there is nothing."""
    value: Any = tree.values
    for part in path:
        value = value.get(part, {}) if isinstance(value, dict) else {}
    places = {known[len(path) :]: place for known, place in tree.places.items() if known[: len(path)] == path}
    return Tree(values=_spelled_out(value) if isinstance(value, dict) else {}, places=places)


def _spelled_out(values: Mapping[str, object]) -> dict[str, object]:
    """Sections written as one word as the mapping they stand for, so that two of them can be put together."""
    return {name: _section(name, value) for name, value in values.items()}


def _section(name: str, value: object) -> object:
    return {SHORTHAND[name]: value} if name in SHORTHAND and isinstance(value, str) else value


def put_over(tree: Tree, over: Tree) -> Tree:
    """Settings with others on top: mappings are put together, everything else is replaced."""
    values, places = _copy(tree.values), dict(tree.places)
    assert isinstance(values, dict)
    _lay(values, over.values, over.places, places, ())
    return Tree(values=values, places=places)


def _lay(
    below: dict[str, object], values: Mapping[str, object], new: Mapping[Path, str], places: dict[Path, str], at: Path
) -> None:
    for name, value in values.items():
        path, under = (*at, name), below.get(name)
        if isinstance(under, dict) and isinstance(value, Mapping):
            _lay(under, value, new, places, path)
            continue
        below[name] = _copy(value)
        for known in [known for known in places if known[: len(path)] == path]:
            del places[known]
        places |= {known: place for known, place in new.items() if known[: len(path)] == path}


def apply_overrides(tree: Tree | Mapping[str, object], overrides: Iterable[str]) -> Tree:
    """Set values by dotted names, such as ``data.train_limit=1000``; the value is typed as a YAML scalar or [list].

    Args:
        tree: the settings so far; not changed.
        overrides: assignments; later ones win.

    Returns:
        The new tree.

    Raises:
        ConfigError: an assignment cannot be read or goes through something that has no parts; all such are listed.
    """
    tree = tree if isinstance(tree, Tree) else Tree(values=dict(tree))
    values: object = _copy(tree.values)
    places = dict(tree.places)
    problems: list[str] = []
    for override in overrides:
        name, equals, text = override.partition("=")
        parts = name.strip().split(".")
        if not equals or not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in parts):
            problems.append(f"{override!r}: expected name=value, such as data.train_limit=1000")
            continue
        try:
            value = parse_value(text)
        except YamlError as problem:
            problems.append(f"{override!r}: {problem.problems[0][1]}")
            continue
        path = _assign(values, parts, value)
        if path is None:
            problems.append(f"{override!r}: {name} goes through a setting that has no parts")
            continue
        for known in [known for known in places if known[: len(path)] == path]:
            del places[known]
        places[path] = f"command line, {override}"
    if problems:
        raise ConfigError("\n".join(problems))
    assert isinstance(values, dict)
    return Tree(values=values, places=places)


def _copy(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _copy(part) for key, part in value.items()}
    return [_copy(part) for part in value] if isinstance(value, list | tuple) else value


def _assign(values: object, parts: list[str], value: object) -> Path | None:
    """Set the value in place; returns the path with list indices as numbers, or None where it does not fit."""
    path: list[str | int] = []
    here: Any = values
    for depth, part in enumerate(parts):
        key: Any = part
        if isinstance(here, list) and part.isdigit() and int(part) < len(here):
            key = int(part)
        elif not isinstance(here, dict):
            return None
        path.append(key)
        if depth == len(parts) - 1:
            here[key] = value
        elif isinstance(here, dict) and here.get(part) is None:
            here[part] = {}
        elif depth == 0 and part in SHORTHAND and isinstance(here[key], str):
            here[key] = {SHORTHAND[part]: here[key]}
        here = here[key]
    return tuple(path)
