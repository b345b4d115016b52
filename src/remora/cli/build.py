"""From options to a study: the command line says the same things as a study file, so both go through one gate."""

import re
from collections.abc import Sequence
from pathlib import Path

from remora.cli.console import parse_duration
from remora.config.load import apply_overrides, build_study, load_yaml
from remora.config.methods_arg import parse_methods
from remora.config.schema import MethodEntry, StudyConfig, StudyKind
from remora.errors import ConfigError

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


def study_name(model: str, data: str) -> str:
    """A name for a study without one: data and model, such as ``mrpc-minilm``.

    Args:
        model: what ``--model`` said.
        data: what ``--data`` said.
    """
    parts = (Path(data.rstrip("/")).name.split(".")[0], Path(model.rstrip("/")).name.split("@")[0])
    words = [re.sub(r"[^A-Za-z0-9_]+", "-", part).strip("-_").lower() for part in parts]
    return "-".join(word for word in words if word) or "study"


def read_methods(text: str) -> tuple[MethodEntry, ...]:
    """Read ``--methods`` against the registry.

    Args:
        text: method ids with settings, such as ``lora,lora:rank=16,alpha=32``.

    Raises:
        ConfigError: an unknown method or a malformed setting.
    """
    # The registry imports torch; only commands that are about to train reach this line.
    from remora.methods.registry import list_methods

    return parse_methods(text, tuple(method.name for method in list_methods()))


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
        methods: rows asked for; none means all methods.
        protocol: settings of the protocol that were given.
    """
    name, _, revision = model.partition("@") if not Path(model).exists() else (model, "", "")
    tree: dict[str, object] = {
        "name": study_name(model, data),
        "kind": kind,
        "model": {"id": name, **({"revision": revision} if revision else {})},
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
        path = RECIPES / f"{name.removeprefix('recipe:')}.yaml"
        if path.parent != RECIPES or not path.is_file():
            known = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
            raise ConfigError(f"there is no recipe {name.removeprefix('recipe:')!r}", f"shipped recipes: {known}")
        return path
    path = Path(name)
    if not path.is_file():
        raise ConfigError(
            f"there is no study file {name}", "give the path of a YAML file, or recipe:NAME (see: remora list recipes)"
        )
    return path
