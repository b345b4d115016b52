"""Column files as tables like those of other formats: a row per document (part), with its sentences and clusters."""

from collections.abc import Iterable

from remora.data.conll import parse_conll
from remora.data.table import Cell, Nested, Table

COLUMNS = ("document", "part", "sentences", "clusters")


def conll_table(raw: bytes, source: str) -> Table:
    """Read the bytes of a column file.

    Args:
        raw: the file, UTF-8.
        source: the file's path, for messages.

    Returns:
        The columns `COLUMNS`; a row is on the line on which its document begins.

    Raises:
        DataError: as `parse_conll`, or the file has no column of words.
    """
    documents = parse_conll(raw, source)
    cells: list[tuple[Cell, ...]] = [
        (
            document.name,
            str(document.part),
            _listed([_listed(words) for words in document.words]),
            _listed([_listed([_listed(map(str, span)) for span in spans]) for spans in document.clusters.values()]),
        )
        for document in documents
    ]
    columns: dict[str, list[Cell]] = dict(zip(COLUMNS, map(list, zip(*cells, strict=True)), strict=True))
    return Table(source=source, columns=columns, lines=[document.line for document in documents])


def _listed(items: Iterable[Cell]) -> Nested:
    return Nested(kind="list", items=tuple(items))
