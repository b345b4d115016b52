"""Data set cards: one YAML file per known data set with its columns, metric, licence and where it can be had."""

import functools
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError

from remora.config.schema import Names, Settings, TaskKind
from remora.config.tree import parse_tree
from remora.errors import DataError

CardTask = Literal[
    "classification", "regression", "multiple-choice", "coreference", "pronoun-resolution", "summarization"
]
"""What a data set is for; see `Card.kind`."""


class HubSource(Settings):
    """Where the Hugging Face Hub has the data set."""

    id: str
    config: str | None = None
    revision: str | None = None
    """A commit or tag; None takes the newest."""
    splits: Mapping[str, str] = Field(default_factory=dict[str, str])
    """Our split names to the Hub's; GLUE's test has no labels, so its validation split is our test."""
    columns: Mapping[str, str] = Field(default_factory=dict[str, str])
    """Our column names to the Hub's, where they differ."""
    labels: Mapping[str, str] = Field(default_factory=dict[str, str])
    """The Hub's labels to ours, where they differ."""


class Card(Settings):
    """What is known about a data set.

    ``labels`` empty means not fixed. ``positive`` is the class that F1 is about. ``roles`` are further columns that the
    task needs, by what they hold.
    """

    name: str
    version: int
    title: str
    task: CardTask
    text: Names
    label: str
    roles: Mapping[str, str] = Field(default_factory=dict[str, str])
    labels: Annotated[tuple[str, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)] = ()
    metric: str
    metrics: Annotated[tuple[str, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)] = ()
    positive: str | None = None
    hub: HubSource | None = None
    source: str
    licence: str
    citation: str
    notes: str = ""

    @property
    def kind(self) -> TaskKind:
        """The kind of task of its studies; pronouns are resolved by classification, see `remora.data.gap`."""
        return "classification" if self.task == "pronoun-resolution" else self.task


def cards_folder() -> Path:
    """The folder of the shipped cards."""
    return Path(str(files("remora"))) / "datasets"


def card_names() -> tuple[str, ...]:
    """The names of all shipped cards, sorted."""
    folder = cards_folder()
    flat = {path.stem for path in folder.glob("*.yaml")}
    embedded = {path.parent.name for path in folder.glob("*/*.yaml")}
    return tuple(sorted(flat | embedded))


@functools.cache
def load_card(name: str) -> Card | None:
    """The card of this name, or None when there is none.

    Raises:
        DataError: the card's file is wrong.
    """
    if name not in card_names():
        return None
    folder = cards_folder()
    path = folder / f"{name}.yaml"
    if not path.is_file():
        path = min((folder / name).glob("*.yaml"))
    try:
        return Card.model_validate(parse_tree(path.read_text("utf-8"), str(path)).values)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def embedded_folder(name: str) -> Path | None:
    """The folder of a data set whose rows are shipped with Remora (``helpdesk``), or None."""
    folder = cards_folder() / name
    return folder if name in card_names() and folder.is_dir() else None
