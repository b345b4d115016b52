"""Coreference in CoNLL-2012 column files, in and out: documents, parts, sentences, words, bracketed mentions.

One word a line, columns apart by blanks or tabs, a blank line behind every sentence, and every part of a document
between ``#begin document (NAME); part 000`` and ``#end document``. The last column holds the brackets that open ``(7``,
close ``7)`` or open and close ``(7)`` a mention of cluster 7 at this word, with ``|`` between them, or ``-``. Mentions
may nest and cross, and a cluster may hold one mention only. Sentences differ in the number of columns (one for each
predicate); within a sentence it is fixed. What is read is written with the same bytes, also where a file has brackets
in an order of its own.

Pradhan et al. 2012, "CoNLL-2012 shared task: modeling multilingual unrestricted coreference in OntoNotes", section 4.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from remora.data.read import read_bytes
from remora.data.table import place_of, shown
from remora.errors import DataError

_BEGIN = re.compile(r"#\s*begin document \((.*)\);?(?:\s+part\s+(\d+))?\s*")
_END = re.compile(r"#\s*end document\s*")
# Blanks and tabs only: a word may hold a no-break space or another character that Unicode counts as blank.
_BLANK = " \t"
_BLANKS = re.compile(f"[{_BLANK}]+")
_BRACKET = re.compile(r"(\()?(\d+)(\))?")
_WORD_COLUMN = 3
_NOTHING = "-"


class Mention(NamedTuple):
    """Words ``start`` to ``end`` (exclusive), counted from 0 through the whole document."""

    start: int
    end: int


class Bracket(NamedTuple):
    """What one bracket says: a mention of a cluster opens at this word, closes, or both."""

    cluster: str
    opens: bool
    closes: bool

    def __str__(self) -> str:
        return f"{'(' * self.opens}{self.cluster}{')' * self.closes}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A word's line.

    Args:
        before: everything before the coreference column, with its blanks.
        brackets: the coreference column, in the file's order.
        after: blanks at the end of the line.
    """

    before: str
    brackets: tuple[Bracket, ...]
    after: str = ""

    @property
    def columns(self) -> list[str]:
        """All columns but the coreference column."""
        return _BLANKS.split(self.before.strip(_BLANK))

    def __str__(self) -> str:
        return f"{self.before}{'|'.join(map(str, self.brackets)) or _NOTHING}{self.after}"


@dataclass(frozen=True, kw_only=True)
class Document:
    """One part of a document, which is scored by itself.

    Args:
        name: the document's name.
        part: the part's number; 0 when the file names none.
        sentences: the rows of each sentence.
        clusters: cluster name to mentions, clusters and mentions in the order in which they open.
        begin: the line that begins it, as the file has it.
        blank_end: whether a blank line stands behind the last sentence.
        place: the file and line of its beginning, for messages.
        line: that line, counted from 1.
    """

    name: str
    part: int
    sentences: tuple[tuple[Row, ...], ...]
    clusters: Mapping[str, tuple[Mention, ...]]
    begin: str
    blank_end: bool
    place: str
    line: int

    @property
    def words(self) -> tuple[tuple[str, ...], ...]:
        """The words of each sentence.

        Raises:
            DataError: the file has no column of words, as files made for scoring alone.
        """
        if any(len(row.columns) <= _WORD_COLUMN for rows in self.sentences for row in rows):
            raise DataError(
                f"{self.place}: the document has no column of words",
                "the words are the fourth column: document, part, word number, word, ..., coreference",
            )
        return tuple(tuple(row.columns[_WORD_COLUMN] for row in rows) for rows in self.sentences)

    def __str__(self) -> str:
        sentences = ["".join(f"{row}\n" for row in rows) for rows in self.sentences]
        return f"{self.begin}\n" + "\n".join(sentences) + "\n" * self.blank_end + "#end document\n"


def read_conll(path: Path | str) -> tuple[Document, ...]:
    """Read a column file, also gzip-compressed.

    Args:
        path: the file.

    Returns:
        Its documents (parts), in order.

    Raises:
        DataError: the file cannot be read, or a line is wrong: rows outside a document, no end line, a row with another
            number of columns than its sentence, brackets that are broken, never open or never close.
    """
    return parse_conll(read_bytes(Path(path)), str(path))


def parse_conll(raw: bytes, source: str) -> tuple[Document, ...]:
    """Read the bytes of a column file.

    Args:
        raw: the file, UTF-8.
        source: the file's path, for messages.

    Returns:
        Its documents (parts), in order.

    Raises:
        DataError: as `read_conll`.
    """
    try:
        lines = raw.removeprefix(b"\xef\xbb\xbf").decode().split("\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{place_of(source, line)}: not UTF-8", "save the file as UTF-8") from error
    documents: list[Document] = []
    places: dict[tuple[str, int], str] = {}
    reader: _Reader | None = None
    for number, text in enumerate(lines, start=1):
        line, place = text.removesuffix("\r"), place_of(source, number)
        begin = _BEGIN.fullmatch(line)
        if reader is None and begin:
            reader = _Reader(begin, place, number)
            other = places.setdefault((reader.name, reader.part), place)
            if other != place:
                raise DataError(
                    f"{place}: document {shown(reader.name)} part {reader.part} is also at {other}",
                    "give each document or part once",
                )
        elif begin or line.startswith("#begin"):
            raise DataError(f"{place}: {_misplaced_begin(reader)}", "write '#begin document (NAME); part 000'")
        elif reader is not None and _END.fullmatch(line):
            documents.append(reader.document())
            reader = None
        elif reader is not None:
            reader.add(line, place)
        elif line.strip():
            raise DataError(f"{place}: no document begins before this line", "write '#begin document (NAME); part 000'")
    if reader is not None:
        raise DataError(
            f"{place_of(source, len(lines))}: the file ends within the document that begins at {reader.place}",
            "end it with '#end document'; the file may be cut short",
        )
    if not documents:
        raise DataError(f"{source}: no document in this file", "a document begins with '#begin document (NAME)'")
    return tuple(documents)


def conll_text(documents: Iterable[Document]) -> str:
    """The text of a column file.

    Args:
        documents: in order.

    Returns:
        The lines, each with a line feed; equal to the file the documents were read from, up to line ends.
    """
    return "".join(map(str, documents))


def with_clusters(document: Document, clusters: Iterable[Collection[Mention]]) -> Document:
    """The same words with other mentions, such as a system's.

    Args:
        document: gives words and all other columns.
        clusters: are named 0, 1, ... in this order; a cluster without mentions is left out.

    Returns:
        The document.

    Raises:
        DataError: two mentions of one cluster cross, which brackets cannot express.
    """
    num_words = sum(map(len, document.sentences))
    opening: list[list[tuple[int, Bracket]]] = [[] for _ in range(num_words)]
    closing: list[list[tuple[int, Bracket]]] = [[] for _ in range(num_words)]
    named = [
        (str(index), sorted(set(cluster), key=_by_opening)) for index, cluster in enumerate(filter(None, clusters))
    ]
    for name, mentions in named:
        _refuse_crossing(document, mentions)
        for start, end in mentions:
            assert 0 <= start < end <= num_words, (start, end, num_words)
            # Longer mentions open first, those that opened last close first.
            opening[start].append((-end, Bracket(name, opens=True, closes=end == start + 1)))
            if end > start + 1:
                closing[end - 1].append((-start, Bracket(name, opens=False, closes=True)))
    # Closing ones come first: one cluster may close a mention and open the next at the same word.
    cells = iter([*sorted(closes), *sorted(opens)] for closes, opens in zip(closing, opening, strict=True))
    sentences = tuple(
        tuple(replace(row, brackets=tuple(bracket for _, bracket in next(cells))) for row in rows)
        for rows in document.sentences
    )
    named.sort(key=lambda cluster: (*_by_opening(cluster[1][0]), cluster[0]))
    return replace(document, sentences=sentences, clusters={name: tuple(mentions) for name, mentions in named})


def _by_opening(mention: Mention) -> tuple[int, int]:
    return mention.start, -mention.end


def _refuse_crossing(document: Document, mentions: Sequence[Mention]) -> None:
    """Refuse mentions of one cluster that overlap by more than a word without one holding the other."""
    for index, first in enumerate(mentions):
        for second in mentions[index + 1 :]:
            if first.start < second.start < first.end - 1 and first.end < second.end:
                raise DataError(
                    f"{document.place}: mentions {tuple(first)} and {tuple(second)} of one cluster cross",
                    "column files cannot tell which bracket closes which; keep one of the two",
                )


def _misplaced_begin(reader: "_Reader | None") -> str:
    if reader is None:
        return "this line does not name its document"
    return f"the document that begins at {reader.place} has no end line"


class _Reader:
    """The document that is being read."""

    def __init__(self, begin: re.Match[str], place: str, line: int) -> None:
        self.name = begin[1]
        self.part = int(begin[2] or 0)
        self.place = place
        self._line = line
        self._begin = begin[0]
        self._sentences: list[list[Row]] = [[]]
        self._num_columns = 0
        self._num_words = 0
        # Cluster name to the words at which a mention opened, with their places; mentions by the order of opening.
        self._open: dict[str, list[tuple[int, int, str]]] = {}
        self._clusters: dict[str, dict[int, Mention]] = {}
        self._num_opened = 0

    def add(self, line: str, place: str) -> None:
        """Take a word's line, or the blank line behind a sentence."""
        text = line.rstrip(_BLANK)
        if not text:
            if self._sentences[-1]:
                self._sentences.append([])
                self._num_columns = 0
            return
        cut = max(map(text.rfind, _BLANK)) + 1
        before, cell, after = text[:cut], text[cut:], line[len(text) :]
        num_columns = len(_BLANKS.split(text.lstrip(_BLANK)))
        if num_columns < 2 or num_columns != (self._num_columns or num_columns):
            expected = f"{self._num_columns} as in its sentence" if self._num_columns else "at least 2"
            raise DataError(
                f"{place}: {num_columns} column{'s' * (num_columns > 1)}, expected {expected}",
                "all words of a sentence have the same columns, the last one for coreference ('-' for nothing)",
            )
        self._num_columns = num_columns
        row = Row(before=before, brackets=self._brackets(cell, place), after=after)
        for bracket in row.brackets:
            self._take(bracket, place)
        self._sentences[-1].append(row)
        self._num_words += 1

    def _brackets(self, cell: str, place: str) -> tuple[Bracket, ...]:
        if cell == _NOTHING:
            return ()
        brackets: list[Bracket] = []
        at = 0
        while at < len(cell):
            at += bool(brackets) and cell[at] == "|"
            found = _BRACKET.match(cell, at)
            if found is None or not (found[1] or found[3]):
                raise DataError(
                    f"{place}: broken brackets {shown(cell)} in the coreference column",
                    "write (7 where a mention of cluster 7 opens, 7) where it closes, (7) for one word, - for nothing",
                )
            brackets.append(Bracket(found[2], bool(found[1]), bool(found[3])))
            at = found.end()
        return tuple(brackets)

    def _take(self, bracket: Bracket, place: str) -> None:
        opened = self._open.setdefault(bracket.cluster, [])
        if bracket.opens:
            opened.append((self._num_opened, self._num_words, place))
            self._clusters.setdefault(bracket.cluster, {})
            self._num_opened += 1
        if bracket.closes:
            if not opened:
                raise DataError(
                    f"{place}: {shown(str(bracket))} closes a mention of cluster {bracket.cluster} that is not open"
                )
            rank, start, _ = opened.pop()
            self._clusters[bracket.cluster][rank] = Mention(start, self._num_words + 1)

    def document(self) -> Document:
        """The finished document."""
        for cluster, opened in self._open.items():
            if opened:
                raise DataError(f"{opened[-1][2]}: the mention of cluster {cluster} that opens here is never closed")
        if not self._num_words:
            raise DataError(f"{self.place}: the document has no words")
        blank_end = not self._sentences[-1]
        return Document(
            name=self.name,
            part=self.part,
            sentences=tuple(tuple(rows) for rows in self._sentences if rows),
            clusters={
                name: tuple(mention for _, mention in sorted(ranked.items())) for name, ranked in self._clusters.items()
            },
            begin=self._begin,
            blank_end=blank_end,
            place=self.place,
            line=self._line,
        )
