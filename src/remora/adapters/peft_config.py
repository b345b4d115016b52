"""``adapter_config.json`` as peft wrote it: what kind of adapter, on which base, at which modules."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remora.adapters.record import PEFT_CONFIG
from remora.errors import AdapterError, ConfigError
from remora.methods.peft_settings import PeftSettings, matches_end

_COMMON = ("inference_mode", "auto_mapping", "peft_version")


@dataclass(frozen=True, kw_only=True)
class PeftFile:
    """An adapter's configuration.

    Args:
        path: of the file.
        peft_type: kind of adapter.
        base: name of the base model, empty where the file names none; `revision` of it.
        content: the keys that say what the adapter computes.
        targets: the modules it changes, as ends of names or a regular expression; None for prompts.
        excluded: modules that `targets` do not mean.
        layers: indices to which `targets` are limited, and the names of `stacks` these count in.
        saved: ends of the names of modules that it holds whole.
    """

    path: Path
    peft_type: str
    base: str
    revision: str | None
    content: dict[str, Any]
    targets: str | tuple[str, ...] | None
    excluded: str | tuple[str, ...]
    layers: tuple[int, ...]
    stacks: tuple[str, ...]
    saved: tuple[str, ...]

    def settings(self) -> PeftSettings:
        """The keys that a method must understand."""
        return PeftSettings({"peft_type": self.peft_type, **self.content})

    def changed(self, names: Iterable[str]) -> list[str]:
        """Those of a model's modules that the adapter changes, as peft decides it.

        Args:
            names: full names of all modules.
        """
        return [name for name in names if self._is_target(name)]

    def holds_whole(self, tensor: str) -> bool:
        """Whether a tensor of the model belongs to a module that the adapter holds whole."""
        parts = tensor.split(".")
        return any(".".join(parts[:end]).endswith(self.saved) for end in range(1, len(parts)))

    def _is_target(self, name: str) -> bool:
        if self.targets is None or _named(self.excluded, name):
            return False
        if any(re.match(rf"(^|.*\.){re.escape(module)}($|\..*)", name) for module in self.saved):
            return False
        if not _named(self.targets, name):
            return False
        if isinstance(self.targets, str) or not self.layers or name in self.targets:
            return True
        stacks = [re.escape(stack) for stack in self.stacks] or [r"[^.]*"]
        found = next(filter(None, (re.match(rf"(?:^|.*?\.){stack}\.(\d+)\.", name) for stack in stacks)), None)
        return found is not None and int(found[1]) in self.layers


def read_peft_config(folder: Path, task: str = "SEQ_CLS") -> PeftFile:
    """Read the configuration of an adapter that another program wrote.

    Args:
        folder: of the adapter.
        task: peft's name of the one that it must be for, if it names any.

    Raises:
        AdapterError: no such file, damaged, or an adapter for another task.
    """
    path = folder / PEFT_CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path} cannot be read: {error}", "the folder is incomplete or damaged") from error
    if not isinstance(content, dict) or not isinstance(content.get("peft_type"), str):
        raise AdapterError(f"{path} names no peft_type", "is this an adapter written by peft?")
    given = content.pop("task_type", None)
    if given not in (None, task):
        wanted = "classification (SEQ_CLS)" if task == "SEQ_CLS" else task
        raise AdapterError(f"{path}: the adapter is for {given}, not for {wanted}")
    try:
        return _parsed(path, PeftSettings(content))
    except ConfigError as error:
        raise AdapterError(f"{path}: {error.message}", "the file is damaged") from error


def _parsed(path: Path, given: PeftSettings) -> PeftFile:
    given.skip(*_COMMON)
    stacks = given.names("layers_pattern") or ()
    saved = given.names("modules_to_save") or ()
    return PeftFile(
        path=path,
        peft_type=given.peft_type,
        base=given.take("base_model_name_or_path", str, ""),
        revision=given.take("revision", str, "") or None,
        targets=given.names("target_modules"),
        excluded=given.names("exclude_modules") or (),
        layers=_numbers(given.take("layers_to_transform", object, [])),
        stacks=(stacks,) if isinstance(stacks, str) else stacks,
        saved=tuple(dict.fromkeys((saved,) if isinstance(saved, str) else saved)),
        content=given.rest(),
    )


def _named(patterns: str | Sequence[str], name: str) -> bool:
    if isinstance(patterns, str):
        return matches_end(patterns, name) if patterns else False
    return any(name == pattern or name.endswith(f".{pattern}") for pattern in patterns)


def _numbers(value: object) -> tuple[int, ...]:
    given = value if isinstance(value, list) else [value]
    found = tuple(number for number in given if isinstance(number, int))
    if len(found) < len(given):
        raise ConfigError(f"layers_to_transform is {value!r}, expected numbers of layers")
    return found
