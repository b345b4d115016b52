"""What a report is made of, before it is HTML or Markdown: sections of text, tables, pictures and code, as plain data.

All strings are plain text; escaping is the business of the writer that knows its format.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph; quiet ones are set smaller."""

    kind: ClassVar[str] = "text"
    text: str
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A small tag beside a row's name; `warn` sets it in the colour of warnings."""

    text: str
    warn: bool = False


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row: its name (with the full name as `title` where it was shortened), marks, cells; `style` best or aside."""

    head: str
    cells: Sequence[str]
    title: str = ""
    marks: Sequence[Mark] = ()
    style: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Column heads, the first one over the row names."""

    kind: ClassVar[str] = "table"
    heads: Sequence[str]
    rows: Sequence[TableRow]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn figure by its name, what it shows in a few words, and its caption."""

    kind: ClassVar[str] = "picture"
    name: str
    shows: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Names with their values."""

    kind: ClassVar[str] = "pairs"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Bullets:
    """A list; each item has an optional bold beginning."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A name with its value, such as a learning rate with its score; `style` is chosen, stopped, lost or empty."""

    name: str
    value: str
    note: str = ""
    style: str = ""


@dataclass(frozen=True, kw_only=True)
class ChipRow:
    """The chips of one row of the comparison."""

    head: str
    chips: Sequence[Chip]
    title: str = ""
    marks: Sequence[Mark] = ()


@dataclass(frozen=True, kw_only=True)
class ChipTable:
    """A table whose cells are chips: everything that was tried, or set."""

    kind: ClassVar[str] = "chips"
    heads: tuple[str, str]
    rows: Sequence[ChipRow]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a matrix; `share` between 0 and 1 sets its shade."""

    text: str
    share: float


@dataclass(frozen=True, kw_only=True)
class MatrixRow:
    """A row of a matrix."""

    head: str
    cells: Sequence[Cell]
    title: str = ""
    marks: Sequence[Mark] = ()


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A shaded matrix with names on both sides."""

    kind: ClassVar[str] = "matrix"
    corner: str
    heads: Sequence[str]
    rows: Sequence[MatrixRow]


@dataclass(frozen=True, kw_only=True)
class Code:
    """Lines to copy."""

    kind: ClassVar[str] = "code"
    title: str
    code: str
    language: str


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A number of the verdict."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The numbers of the verdict, side by side."""

    kind: ClassVar[str] = "facts"
    items: Sequence[Fact]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The verdict in large letters."""

    kind: ClassVar[str] = "answer"
    text: str


Block = Text | Heading | Table | Picture | Pairs | Bullets | ChipTable | Matrix | Code | Facts | Answer


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report; `style` is "open" for a verdict that could not be reached."""

    id: str
    title: str
    blocks: Sequence[Block]
    style: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole report."""

    title: str
    eyebrow: str
    subtitle: str
    sections: Sequence[Section]
    footer: str
