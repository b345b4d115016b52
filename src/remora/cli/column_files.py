"""Predicted clusters as brackets in the column file that was asked about."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from remora.cli.console import say
from remora.data.conll import Document, Mention, conll_text, read_conll, with_clusters
from remora.data.kinds import Form
from remora.data.read import COLUMN_FILES, data_suffix
from remora.errors import DataError


def column_documents(file: str | None, form: Form) -> tuple[Document, ...]:
    """The documents of the column file that ``--file`` names.

    Raises:
        DataError: it names none, or the adapter is for something else.
    """
    if form != "document":
        raise DataError("--conll has no meaning for this adapter", "it is for adapters of coreference")
    if file is None or data_suffix(Path(file)) not in COLUMN_FILES:
        raise DataError("--conll writes a column file again, and --file is none", "give --file FILE.conll")
    return read_conll(file)


def write_columns(path: Path, documents: Sequence[Document], labels: Iterable[object]) -> None:
    """Write the words and all other columns of documents with predicted brackets.

    Brackets cannot say which of two crossing mentions of one cluster ends where, so the later one is left out.

    Args:
        path: to be written.
        documents: as read.
        labels: clusters of each.
    """
    from remora.results.store import write_atomic

    written: list[Document] = []
    num_left_out = 0
    for document, label in zip(documents, labels, strict=True):
        clusters: list[list[Mention]] = []
        for cluster in label if isinstance(label, tuple) else ():
            kept: list[Mention] = []
            for start, end in sorted(cluster):
                crosses = any(other.start < start < other.end - 1 and other.end < end for other in kept)
                num_left_out += crosses
                kept += [] if crosses else [Mention(start, end)]
            clusters.append(kept)
        written.append(with_clusters(document, clusters))
    write_atomic(path, conll_text(written).encode())
    if num_left_out:
        say(f"note: {num_left_out} mentions that cross another one of their cluster are not in {path}")
