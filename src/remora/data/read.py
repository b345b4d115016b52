"""One door for every file format: CSV, TSV, JSON, JSON Lines, CoNLL columns (also as gzip) and Parquet, literally."""

import gzip
import zlib
from io import BytesIO
from pathlib import Path

from remora.data.delimited import read_delimited
from remora.data.json_rows import read_json, read_json_lines
from remora.data.table import Table
from remora.errors import DataError
from remora.pickles import is_pickle

SUFFIXES = (".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson", ".parquet", ".pq", ".conll", "_conll")
"""What a data file's name may end with; the text formats also with ``.gz`` behind. OntoNotes has ``.v4_gold_conll``."""
COLUMN_FILES = (".conll", "_conll")

_LARGEST_RATIO = 200
_HARMLESS_BYTES = 2**26


def most_bytes(packed: int) -> int:
    """What a file may unpack to before it counts as made to fill memory; text seldom shrinks to a twentieth.

    Args:
        packed: bytes of the file.
    """
    return max(_HARMLESS_BYTES, _LARGEST_RATIO * packed)


def data_suffix(path: Path) -> str | None:
    """The format's suffix of a data file's name, without ``.gz``; None when it is no data file."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def read_table(path: Path | str) -> Table:
    """Read a data file.

    Args:
        path: the file; its suffix names the format.

    Returns:
        The table; rows that could not be read are in ``bad``.

    Raises:
        DataError: the file is missing, damaged, of an unknown format, not UTF-8 as a whole, or has no header or rows.
    """
    path = Path(path)
    suffix = data_suffix(path)
    if suffix is None:
        hint = f"use one of {', '.join(SUFFIXES)} (text formats also .gz)"
        if is_pickle(path):
            hint = (
                f"such files can run code when opened; convert it yourself where you trust it, to Parquet say; {hint}"
            )
        raise DataError(f"{path}: not a data file Remora reads", hint)
    if suffix in (".parquet", ".pq"):
        from remora.data.parquet import read_parquet  # pyarrow takes a moment to import; only Parquet needs it

        return read_parquet(path)
    raw = read_bytes(path)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: the file is UTF-16", "save it as UTF-8")
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if not raw.strip():
        raise DataError(f"{path}: the file is empty")
    source = str(path)
    if suffix in (".jsonl", ".ndjson"):
        table = read_json_lines(raw, source)
    elif suffix in COLUMN_FILES:
        from remora.data.conll_rows import conll_table  # column files are also read by themselves, through this module

        table = conll_table(raw, source)
    elif suffix == ".json":
        table = read_json(raw, source)
    else:
        table = read_delimited(raw, source, tabs=suffix != ".csv")
    if not table.num_rows and table.bad:  # without rows nobody would get to their faults: there may be no columns
        first = table.bad[0]
        raise DataError(f"{first.place}: {first.message}; not one of the file's {len(table.bad)} rows can be read")
    if not table.num_rows:
        raise DataError(f"{path}: no rows")
    return table


def read_bytes(path: Path) -> bytes:
    """The file's bytes, decompressed when they are gzip (told by the first two bytes, whatever the name says).

    Raises:
        DataError: the file cannot be read, or the compressed data are damaged or cut short (with the line).
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not raw.startswith(b"\x1f\x8b"):
        if path.name.lower().endswith(".gz"):
            raise DataError(f"{path}: named .gz but not gzip-compressed", "rename it, or fetch it again")
        return raw
    parts: list[bytes] = []
    left = most_bytes(len(raw))
    with gzip.GzipFile(fileobj=BytesIO(raw)) as stream:
        try:
            while part := stream.read1(1 << 16):
                parts.append(part)
                left -= len(part)
                if left < 0:
                    raise DataError(
                        f"{path}: {len(raw)} bytes unpack to more than {most_bytes(len(raw))}",
                        "such files are made to fill memory; unpack it yourself where you know that it is none",
                    )
        except (EOFError, OSError, zlib.error) as error:
            line = sum(part.count(b"\n") for part in parts) + 1
            raise DataError(
                f"{path}:{line}: the gzip data end or break here: {error}", "fetch the file again"
            ) from error
    return b"".join(parts)
