"""What an ``adapter_config.json`` of peft says, taken key by key: what no method takes must say nothing.

peft ignores keys it does not know. Here a key that may change what an adapter computes is either understood or refused.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from remora.errors import ConfigError

T = TypeVar("T")


class PeftSettings:
    """The keys of one file.

    Args:
        content: of ``adapter_config.json``.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._left = dict(content)
        self.peft_type = str(self._left.pop("peft_type", None))

    def take(self, key: str, kind: type[T], default: T) -> T:
        """The value of a key, or the default where it is missing or null.

        Raises:
            ConfigError: a value of another kind.
        """
        value: Any = self._left.pop(key, None)
        if value is None:
            return default
        if kind is float and isinstance(value, int):
            value = cast(Any, float(value))
        if not isinstance(value, kind):
            raise ConfigError(f"{key} is {value!r}, expected {kind.__name__}")
        return value

    def at(self, key: str, module: str, default: T, kind: type[T]) -> T:
        """The value that a pattern such as ``rank_pattern`` has for a module.

        Args:
            key: of the pattern, an object from module names (ends of names, or regular expressions) to values.
            module: its full name.
            default: for modules that nothing in the pattern matches.
            kind: of the values.
        """
        pattern: dict[str, Any] = self.take(key, dict, {})
        for name, value in pattern.items():
            if matches_end(rf"(.*\.)?({name})", module):
                return PeftSettings({key: value}).take(key, kind, default)
        return default

    def names(self, key: str) -> str | tuple[str, ...] | None:
        """Modules as peft names them: ends of their names, or a regular expression; None where the key is unset.

        Raises:
            ConfigError: neither.
        """
        value = self._left.pop(key, None)
        if value is None or isinstance(value, str):
            return value
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise ConfigError(f"{key} is {shown(value)}, expected names of modules")
        return tuple(value)

    def skip(self, *keys: str) -> None:
        """Leave keys aside that say nothing about a trained adapter."""
        for key in keys:
            self._left.pop(key, None)

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Make sure that keys are unset.

        Args:
            reasons: what an adapter with the key does that is not supported, by key.

        Raises:
            ConfigError: one is set.
        """
        for key, reason in reasons.items():
            value = self._left.pop(key, None)
            if not says_nothing(value):
                raise ConfigError(f"{key} is {shown(value)}: {reason}, which Remora does not do")

    def rest(self) -> dict[str, Any]:
        """The keys that nobody took."""
        return dict(self._left)

    def finish(self) -> None:
        """Make sure that nothing is left that says something.

        Raises:
            ConfigError: a key that nobody understood is set.
        """
        for key, value in self._left.items():
            if not says_nothing(value):
                raise ConfigError(f"{key} is {shown(value)}: Remora does not know what this changes")


def says_nothing(value: object) -> bool:
    """Whether a key is as good as absent."""
    return value is None or value is False or value in ("none", "", [], {})


def shown(value: object) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def matches_end(patterns: str | Sequence[str], module: str) -> bool:
    """Whether a module is among those that peft means by ends of names, or by a regular expression given as one string.

    Raises:
        ConfigError: no regular expression.
    """
    if not isinstance(patterns, str):
        return any(module.endswith(pattern) for pattern in patterns)
    try:
        return re.fullmatch(patterns, module) is not None
    except re.error as error:
        raise ConfigError(f"{shown(patterns)} is no regular expression: {error}") from error
