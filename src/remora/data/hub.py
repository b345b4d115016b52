"""Data sets of the Hugging Face Hub, through the optional package ``datasets``; never code from the Hub."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from remora.config.schema import DataConfig
from remora.data.cards import Card, HubSource, load_card
from remora.data.cells import cell_of
from remora.data.sources import SPLITS
from remora.data.table import Cell, Table
from remora.errors import DataError, ResourceError

_OTHER_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


def read_hub(config: DataConfig) -> tuple[str, dict[str, list[Table]], Card | None]:
    """Read a Hub id ``owner/name[@revision][:configuration]``, or the Hub source that a card names.

    Args:
        config: ``data.path`` is the id or the card's name.

    Returns:
        The data set's name, its tables by split, and the card.

    Raises:
        ResourceError: the package ``datasets`` is not installed.
        DataError: the Hub does not have it or cannot be reached.
    """
    card = load_card(config.path)
    source = _parse_id(config.path) if card is None else card.hub
    if source is None:
        raise DataError(
            f"data.path: the card {config.path!r} has neither rows shipped with Remora nor a copy on the Hub",
            "give its folder: data.local=FOLDER",
        )
    try:
        hub: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise ResourceError(
            f"data.path: {config.path} is on the Hugging Face Hub, which needs the package `datasets`",
            "pip install 'remora[hub]', or give a local file or folder",
        ) from error
    try:
        found: Any = hub.load_dataset(source.id, source.config, revision=source.revision)
    except (OSError, ValueError, RuntimeError) as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"data.path: {config.path}: {message}", "check the id and the connection") from error
    tables: dict[str, list[Table]] = {}
    for split in SPLITS:
        names = (source.splits[split],) if split in source.splits else () if source.splits else _OTHER_NAMES[split]
        present = [name for name in names if name in found]
        if present:
            table = _table(f"{source.id}:{present[0]}", found[present[0]], source)
            tables[split] = [table if card is None else _with_our_labels(table, card.label, source.labels)]
    if "train" not in tables:
        raise DataError(f"data.path: {config.path}: no split called train", f"it has {', '.join(found)}")
    return card.name if card else source.id.split("/")[1], tables, card


def _parse_id(text: str) -> HubSource:
    rest, _, configuration = text.partition(":")
    name, _, revision = rest.partition("@")
    return HubSource(id=name, config=configuration or None, revision=revision or None)


def _table(place: str, rows: Any, source: HubSource) -> Table:
    ours = {theirs: name for name, theirs in source.columns.items()}
    columns: dict[str, list[Cell]] = {}
    for name, feature in rows.features.items():
        names: Sequence[str] | None = getattr(feature, "names", None)
        values = list(rows[name])
        if names is None:
            cells: list[Cell] = [cell_of(value) for value in values]
        else:  # a class label: stored as numbers, -1 where there is none
            cells = [str(names[value]) if value is not None and value >= 0 else None for value in values]
        columns[ours.get(str(name), str(name))] = cells
    return Table(source=place, columns=columns, lines=range(1, len(rows) + 1), unit="row")


def _with_our_labels(table: Table, label: str, names: Mapping[str, str]) -> Table:
    """The table with the card's class names; values that the card does not name stay and are found out later."""
    if label not in table.columns or not names:
        return table
    cells: list[Cell] = [names.get(cell, cell) if isinstance(cell, str) else cell for cell in table.columns[label]]
    return replace(table, columns={**table.columns, label: cells})
