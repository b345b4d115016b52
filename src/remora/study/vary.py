"""One entry of a recipe as several studies: `vary` names settings, and each combination of their values is a study.

A setting's values are a list, or named: ``vary: {model: {7b: huge/base, 1b: {id: tiny/base, revision: x}}}``. A study
is called after its entry and the names of its values, ``lora-7b-500``. Of several layers of settings the last one that
has `vary` decides what is varied.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from remora.config.tree import Tree, put_over, subtree
from remora.errors import ConfigError

VARY = "vary"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def varied(name: str, layers: Sequence[Tree]) -> dict[str, Tree]:
    """The studies of an entry by name; the entry itself where nothing is varied.

    Args:
        name: of the entry.
        layers: its settings, later ones over earlier ones.

    Raises:
        ConfigError: `vary` is no list or no names for each setting, or a value has no name that a study can have.
    """
    study, vary = Tree(values={}), Tree(values={})
    for layer in layers:
        study = put_over(study, Tree(values=_without(layer.values), places=layer.places))
        vary = layer if VARY in layer.values else vary
    if VARY not in vary.values:
        return {name: study}
    settings: object = vary.values[VARY]
    if not isinstance(settings, Mapping):
        raise _wrong(vary, (VARY,))
    axes = [_axis(vary, str(key), values) for key, values in cast("Mapping[str, object]", settings).items()]
    found: dict[str, Tree] = {}
    for chosen in itertools.product(*axes):
        whole = study
        for _, layer in chosen:
            whole = put_over(whole, layer)
        full_name = "-".join([name, *(part for part, _ in chosen)])
        if full_name in found:
            raise ConfigError(f"{vary.place((VARY,))}: {VARY} makes two studies with the name {full_name}")
        found[full_name] = whole
    return found


def _without(values: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if key != VARY}


def _axis(tree: Tree, setting: str, values: object) -> list[tuple[str, Tree]]:
    """The values of a setting, each with its name, as settings to be laid over a study."""
    if isinstance(values, Mapping):
        named: list[tuple[Any, object]] = [*cast("Mapping[str, object]", values).items()]
    elif isinstance(values, list):
        named = [(value, value) for value in cast("list[object]", values)]
    else:
        raise _wrong(tree, (VARY, setting))
    found: list[tuple[str, Tree]] = []
    for number, (key, value) in enumerate(named):
        name = str(key)
        at = (VARY, setting, key if isinstance(values, Mapping) else number)
        if not _PLAIN.fullmatch(name):
            raise ConfigError(
                f"{tree.place(at)}: {VARY}.{setting}: {name!r:.60} cannot be part of a study's name",
                f"give the value a name of letters, digits and hyphens: {setting}: {{short: {name}}}",
            )
        found.append((name, _layer(tree, setting.split("."), value, at)))
    return found


def _layer(tree: Tree, parts: Sequence[str], value: object, at: tuple[str | int, ...]) -> Tree:
    """Settings that hold the value at a dotted name, with the place it was written at."""
    values: object = value
    for part in reversed(parts):
        values = {part: values}
    whole = Tree(values=cast("dict[str, object]", values), places={tuple(parts): tree.place(at)})
    return subtree(whole, ())


def _wrong(tree: Tree, at: tuple[str, ...]) -> ConfigError:
    place = ".".join(at)
    return ConfigError(
        f"{tree.place(at)}: {place} must give a list of values for each setting, or values by name",
        "such as vary: {data.train_limit: [50, 500]}",
    )
