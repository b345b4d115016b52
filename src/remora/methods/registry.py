"""Finds methods: every file of this package, the entry points ``remora.methods``, and files given as plug-ins."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from pydantic import ValidationError

from remora.errors import ConfigError
from remora.methods.base import Method
from remora.methods.plugins import load_plugins

M = TypeVar("M", bound=Method)

_METHODS: dict[str, type[Method]] = {}


def register(name: str) -> Callable[[type[M]], type[M]]:
    """Class decorator that makes a method known under an id (lower-case with hyphens)."""

    def add(cls: type[M]) -> type[M]:
        known = _METHODS.get(name)
        if known is not None and known.__module__ != cls.__module__:
            raise ConfigError(f"two methods are called {name!r}: in {known.__module__} and {cls.__module__}")
        cls.name = name
        _METHODS[name] = cls
        return cls

    return add


@cache
def _discover() -> None:
    import remora.methods as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"remora.methods.{module.name}")
    for point in entry_points(group="remora.methods"):
        point.load()


def list_methods() -> tuple[type[Method], ...]:
    """All known methods, sorted by id."""
    _discover()
    load_plugins()
    return tuple(_METHODS[name] for name in sorted(_METHODS))


def get_method(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """Make a method with its settings.

    Args:
        name: its id.
        settings: values for its Config; missing ones take the defaults.

    Raises:
        ConfigError: unknown id (with near matches) or a setting that does not fit (all of them at once).
    """
    _discover()
    load_plugins()
    if name not in _METHODS:
        near = get_close_matches(name, _METHODS, n=3)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"known methods: {', '.join(sorted(_METHODS))}; --plugin FILE adds others"
        )
        raise ConfigError(f"there is no method {name!r}", hint)
    cls = _METHODS[name]
    try:
        return cls(cls.Config.model_validate(dict(settings or {})))
    except ValidationError as error:
        faults: list[str] = []
        for fault in error.errors():
            key = ".".join(str(part) for part in fault["loc"])
            near = get_close_matches(key, cls.Config.model_fields, n=1)
            also = f" (did you mean {near[0]}?)" if fault["type"] == "extra_forbidden" and near else ""
            faults.append(f"{key}: {fault['msg']}{also}")
        known = ", ".join(cls.Config.model_fields) or "none"
        raise ConfigError(f"settings of method {name!r}: {'; '.join(faults)}", f"its settings: {known}") from None
