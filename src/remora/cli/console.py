"""What the commands share in talking to people and programs: data goes to stdout, talk to stderr."""

import json
import re
from collections.abc import Mapping, Sequence

import click

from remora.errors import ConfigError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def say(text: str = "") -> None:
    """Write a line for people (stderr)."""
    click.echo(text, err=True)


def print_json(value: Mapping[str, object] | Sequence[object]) -> None:
    """Write one JSON document to stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False))


def print_jsonl(value: Mapping[str, object]) -> None:
    """Write one JSON object on a line of stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def parse_duration(text: str) -> float:
    """Read a duration such as ``20m``, ``90s`` or ``1h30m``.

    Args:
        text: numbers, each followed by h, m or s.

    Returns:
        Seconds.

    Raises:
        ConfigError: the text is no duration, or not a positive one.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text.strip().lower())
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text.strip().lower() or seconds <= 0:
        raise ConfigError(f"--budget: {text!r} is no duration", "write it like 20m, 90s or 1h30m")
    return seconds


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a plain table: left-aligned columns, two spaces apart.

    Args:
        header: the names of the columns.
        rows: the cells, one sequence as long as the header per row.

    Returns:
        The lines of the table, without a closing line break.
    """
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (header, *rows)]
    return "\n".join(line.rstrip() for line in lines)
