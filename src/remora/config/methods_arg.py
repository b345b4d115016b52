"""Methods with settings on one line: ``full,lora,lora:rank=16,alpha=32,dora``."""

import re
from collections.abc import Sequence

from remora.config.load import near_match
from remora.config.schema import MethodEntry
from remora.config.yaml12 import YamlError, parse_value
from remora.errors import ConfigError

EVERY = "all"
_TYPED = frozenset({"peft"})
"""Methods whose first setting may be the bare value of `type`: ``peft:LOKR``."""

_SETTING = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)", re.DOTALL)
_CLOSES = {"[": "]", "{": "}", "(": ")", '"': '"', "'": "'"}


def parse_methods(text: str, known_ids: Sequence[str], every: Sequence[str] | None = None) -> tuple[MethodEntry, ...]:
    """Read methods separated by commas; settings follow a colon up to the next method id.

    Args:
        text: such as ``lora:rank=16,alpha=32,dora,peft:LOKR``. A value is a YAML scalar or a bracketed list; the
            setting ``label`` names the row. The word ``all`` stands for every method, with its defaults.
        known_ids: the methods that exist.
        every: those that ``all`` stands for; by default all known ones.

    Returns:
        One entry per row, in order.

    Raises:
        ConfigError: every unknown method, stray setting, setting given twice and unclosed bracket in one message.
    """
    problems: list[str] = []
    rows: list[tuple[str, dict[str, object], bool]] = []
    for piece in _pieces(text, problems):
        setting = _SETTING.fullmatch(piece)
        if setting is None or ":" in setting[1]:
            name, colon, first = (part.strip() for part in piece.partition(":"))
            if not name:
                problems.append("a method's name is missing" + (f" before {piece.strip()!r}" if piece.strip() else ""))
                continue
            if name == EVERY and not colon:
                rows += [(known, {}, False) for known in (known_ids if every is None else every)]
                continue
            if name not in known_ids:
                problems.append(_unknown(name, known_ids, bool(rows) and rows[-1][2]))
            rows.append((name, {}, bool(colon)))
            if colon:
                setting = _SETTING.fullmatch(f"type={first}" if name in _TYPED and "=" not in first else first)
                if setting is None:
                    problems.append(f"{name}: expected name=value after the colon, found {first!r}")
        elif not rows or not rows[-1][2]:
            where = f"write {rows[-1][0]}:{piece.strip()}" if rows else "name the method first"
            problems.append(f"the setting {piece.strip()!r} belongs to no method; {where}")
            continue
        if setting is not None:
            _add(rows[-1], setting[1], setting[2], problems)
    if problems:
        raise ConfigError(
            "\n".join(f"--methods: {problem}" for problem in problems),
            "write methods like full,lora,lora:rank=16,alpha=32,dora (see: remora list methods)",
        )
    entries: list[MethodEntry] = []
    for name, settings, _ in rows:
        label = settings.pop("label", None)
        entries.append(MethodEntry(id=name, label=None if label is None else str(label), settings=settings))
    return tuple(entries)


def _unknown(name: str, known_ids: Sequence[str], after_settings: bool) -> str:
    near = near_match(name, known_ids)
    lists = "; write a list as name=[a,b]" if after_settings and not near else ""
    return f"unknown method {name!r}{near}{lists}"


def _add(row: tuple[str, dict[str, object], bool], name: str, text: str, problems: list[str]) -> None:
    if name in row[1]:
        problems.append(f"{row[0]}: {name} is given twice")
    if not text.strip():
        problems.append(f"{row[0]}: {name} has no value")
    try:
        row[1][name] = parse_value(text)
    except YamlError as error:
        problems.append(f"{row[0]}: {name}={text}: {error.problems[0][1]}")


def _pieces(text: str, problems: list[str]) -> list[str]:
    """Cut at the commas that stand outside brackets and quotes."""
    pieces = [""]
    awaited: list[str] = []
    for character in text:
        quoted = bool(awaited) and awaited[-1] in "\"'"
        if awaited and character == awaited[-1]:
            awaited.pop()
        elif character in _CLOSES and not quoted and (character not in "\"'" or pieces[-1].rstrip()[-1:] in "=[,{:"):
            awaited.append(_CLOSES[character])
        if character == "," and not awaited:
            pieces.append("")
        else:
            pieces[-1] += character
    if awaited:
        problems.append(f"{awaited[-1]} is missing at the end of {pieces[-1].strip()!r}")
    return pieces
