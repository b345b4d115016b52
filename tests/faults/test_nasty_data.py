"""A table of nasty data files: each gives exactly the right rows, or one error that says what and where."""

import gzip
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from remora.errors import DataError
from tests.faults.data_reading import rows_of
from tests.faults.effort import tally

GOOD = [("one", "a"), ("two", "b")]
BIG = "x" * 10_000_000
CSV = b"text,label\none,a\ntwo,b\n"


def parquet(columns: dict[str, Any], **settings: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, **settings)
    return stream.getvalue()


PARQUET = parquet({"text": ["one", "two"], "label": ["a", "b"]})

# name of the file -> content, and the rows or a pattern of the error ({} is the file's path)
NASTY: dict[str, tuple[bytes, list[tuple[str, ...]] | str]] = {
    # Encodings
    "bom.csv": (b"\xef\xbb\xbf" + CSV, GOOD),
    "bom-twice.csv": (b"\xef\xbb\xbf\xef\xbb\xbf" + CSV, GOOD),
    "utf16.csv": (CSV.decode().encode("utf-16"), "{}: the file is UTF-16"),
    "utf32.csv": (CSV.decode().encode("utf-32"), "{}: the file is UTF-16"),
    "utf16-without-mark.csv": (CSV.decode().encode("utf-16-le"), "no label column|no text column"),
    "latin1.csv": ("text,label\none,a\ncafé,b\n".encode("latin-1"), "{}:3: not UTF-8"),
    "latin1-header.csv": ("text,étiquette\none,a\n".encode("latin-1"), "{}:1: .*columns are not UTF-8"),
    "overlong.csv": (b"text,label\none,a\n\xc0\xaf,b\n", "{}:3: not UTF-8"),
    "surrogate-bytes.csv": (b"text,label\n\xed\xa0\x80,a\n", "{}:2: not UTF-8"),
    "latin1.jsonl": (b'{"text": "one", "label": "a"}\n{"text": "\xe9", "label": "b"}\n', "{}:2: not UTF-8"),
    "latin1.json": (b'[{"text": "one", "label": "a"},\n{"text": "\xe9", "label": "b"}]', "{}:2: not UTF-8"),
    # Line ends
    "crlf.csv": (CSV.replace(b"\n", b"\r\n"), GOOD),
    "cr.csv": (CSV.replace(b"\n", b"\r"), GOOD),
    "mixed-ends.csv": (b"text,label\r\none,a\ntwo,b\r", GOOD),
    "no-last-end.csv": (CSV.rstrip(b"\n"), GOOD),
    "blank-lines.csv": (b"\n\r\n" + CSV.replace(b"\n", b"\n\n"), GOOD),
    "unicode-ends.jsonl": (
        '{"text": "one\u2028\x85\u2029", "label": "a"}\n{"text": "two", "label": "b"}'.encode(),
        [("one\u2028\x85\u2029", "a"), ("two", "b")],
    ),
    # Quotes and cells
    "quotes.csv": (b'text,label\n"a ""b"", c",x\n"l1\nl2",y\n', [('a "b", c', "x"), ("l1\nl2", "y")]),
    "open-quote.csv": (b'text,label\none,a\n"two,b\nthree,c\n', "{}:3: a quote is opened here and never closed"),
    "after-quote.csv": (b'text,label\n"one"x,a\n', "{}:2: broken quotes"),
    "ragged-short.csv": (b"text,label\none,a\ntwo\n", "{}:3: 1 cells where the header has 2"),
    "ragged-long.csv": (b"text,label\none, or two,a\n", "{}:2: 3 cells where the header has 2"),
    "semicolons.csv": (CSV.replace(b",", b";"), GOOD),
    "quoted-tsv.tsv": (b'text\tlabel\n"one"\ta\n"say ""hi"""\tb\n', [("one", "a"), ('say "hi"', "b")]),
    "lone-quote.tsv": (b'text\tlabel\n"one\ta\ntwo"\tb\n', [('"one', "a"), ('two"', "b")]),
    "nul.csv": (b"text,label\no\0ne,a\ntwo,b\n", [("o\0ne", "a"), ("two", "b")]),
    "nul-label.csv": (b"text,label\none,a\0\n", [("one", "a\0")]),
    "big-cell.csv": (f'text,label\n"{BIG}",a\n'.encode(), [(BIG, "a")]),
    "big-cell.jsonl": (json.dumps({"text": BIG, "label": "a"}).encode(), [(BIG, "a")]),
    "controls.csv": (b"text,label\n\x1b[2J\x07,a\n", [("\x1b[2J\x07", "a")]),
    # Headers
    "empty.csv": (b"", "{}: the file is empty"),
    "blank.csv": (b" \n\t\r\n", "{}: the file is empty"),
    "separators-only.csv": (b"\x1c\x1d\x1e", "{}: no rows"),
    "no-rows.csv": (b"text,label\n", "{}: no rows"),
    "no-header.csv": (b"a fine day,a\na bad day,b\n", "no label column|no text column"),
    "twice.csv": (b"text,label,text\none,a,x\n", "{}:1: the header names 'text' twice"),
    "unnamed-twice.csv": (b",text,label,\nx,one,a,y\n", [("one", "a")]),
    "case.csv": (b"Text , LABEL\none,a\n", [("one", "a")]),
    "many-columns.csv": (
        ",".join(["text", "label", *(f"c{n}" for n in range(50_000))]).encode() + b"\none,a" + b"," * 50_000 + b"\n",
        [("one", "a")],
    ),
    # Values that others turn into something else
    "literal.csv": (
        b"text,label\nNA,None\nnull,yes\nnan,007\n1e5,1.0\n",
        [("NA", "None"), ("null", "yes"), ("nan", "007"), ("1e5", "1.0")],
    ),
    "missing-label.csv": (b"text,label\none,a\ntwo,\n", "{}:3: no label"),
    "mixed-types.jsonl": (
        b'{"text": 1, "label": true}\n{"text": 2.50, "label": 1}\n{"text": "3", "label": "01"}\n',
        [("1", "true"), ("2.50", "1"), ("3", "01")],
    ),
    "long-number.jsonl": (b'{"text": ' + b"9" * 5000 + b', "label": "a"}', [("9" * 5000, "a")]),
    # JSON
    "nested.jsonl": (b'{"text": ["one"], "label": "a"}\n', "{}:1: text column 'text' holds list"),
    "nested-label.jsonl": (b'{"text": "one", "label": {"a": 1}}', "is empty in all 1 rows"),
    "key-twice.jsonl": (b'{"text": "one", "label": "a", "label": "b"}\n', "{}:1: the name 'label' occurs twice"),
    "half-pair.jsonl": (b'{"text": "one\\ud800", "label": "a"}\n', [("one\ufffd", "a")]),
    "half-pair-label.jsonl": (
        b'{"text": "one", "label": "a"}\n{"text": "two", "label": "\\ud800"}\n',
        "{}:2: the label holds half a surrogate pair",
    ),
    "deep.jsonl": (b'{"text": "one", "label": "a"}\n' + b"[" * 100_000, "{}:2: not valid JSON: nested too deeply"),
    "deep.json": (b"[" * 100_000, "{}:1: not valid JSON: nested too deeply"),
    "cut.jsonl": (b'{"text": "one", "label": "a"}\n{"text": "tw', "{}:2: not valid JSON"),
    "cut.json": (b'[{"text": "one", "label": "a"},\n', "{}: not valid JSON: the list is never closed"),
    "no-comma.json": (b'[{"text": "one", "label": "a"}\n{"text": "two", "label": "b"}]', "{}:2: .*expected a comma"),
    "tail.json": (b'[{"text": "one", "label": "a"}]\n[]', "{}:2: something follows"),
    "scalar.json": (b"5", "{}: expected a list of objects"),
    "lines.json": (b'{"text": "one", "label": "a"}\n{"text": "two", "label": "b"}\n', GOOD),
    "columns.json": (b'{"text": ["one", "two"], "label": ["a"]}', "{}: expected a list of objects"),
    # gzip
    "packed.csv.gz": (gzip.compress(CSV), GOOD),
    "packed-under-another-name.csv": (gzip.compress(CSV), GOOD),
    "two-members.csv.gz": (gzip.compress(CSV[:17]) + gzip.compress(CSV[17:]), GOOD),
    "not-packed.csv.gz": (CSV, "{}: named .gz but not gzip"),
    "cut.csv.gz": (gzip.compress(CSV * 500)[:-20], "{}:\\d+: the gzip data end or break here"),
    "damaged.csv.gz": (gzip.compress(CSV)[:-8] + b"\0" * 8, "{}:\\d+: the gzip data end or break here"),
    "bomb.csv.gz": (gzip.compress(b"text,label\n" + b"a" * 2**27, 9), "{}: \\d+ bytes unpack to more than"),
    # Parquet
    "plain.parquet": (PARQUET, GOOD),
    "cut.parquet": (PARQUET[:-30], "{}: cannot be read as Parquet"),
    "head-only.parquet": (b"PAR1", "{}: cannot be read as Parquet"),
    "damaged.parquet": (PARQUET[:20] + b"\xff" * 20 + PARQUET[40:], "{}: cannot be read as Parquet"),
    "csv.parquet": (CSV, "{}: cannot be read as Parquet"),
    "no-rows.parquet": (parquet({"text": pa.array([], "str"), "label": pa.array([], "str")}), "{}: no rows"),
    "bomb.parquet": (
        parquet({"text": pa.array(["x" * 1000] * 200_000), "label": ["a"] * 200_000}, compression="zstd"),
        "{}: \\d+ bytes unpack to more than",
    ),
    "not-text.parquet": (
        parquet({"text": pa.array([b"one", b"\xff"], pa.binary()).view(pa.string()), "label": ["a", "b"]}),
        "{} row 2: column 'text' is not UTF-8",
    ),
    "types.parquet": (
        parquet(
            {
                "text": ["one", "two"],
                "label": pa.array([1, 2], pa.int8()),
                "when": pa.array([1, 2], pa.timestamp("ns")),
                "late": pa.array([2**60, 1], pa.timestamp("ms")),
                "list": [[1], []],
                "price": [Decimal("1.50"), None],
            }
        ),
        [("one", "1"), ("two", "2")],
    ),
    "dictionary.parquet": (
        parquet({"text": pa.array(["one", "two"]).dictionary_encode(), "label": pa.array(["a", "b"])}),
        GOOD,
    ),
}  # fmt: skip


def test_the_table_is_long_enough() -> None:
    assert len(NASTY) >= 60


@pytest.mark.parametrize("name", NASTY)
def test_nasty_files(name: str, tmp_path: Path) -> None:
    content, expected = NASTY[name]
    path = tmp_path / name
    path.write_bytes(content)
    if isinstance(expected, list):
        assert rows_of(path) == expected
    else:
        with pytest.raises(DataError, match=expected.replace("{}", ".*" + name.replace(".", r"\."))) as caught:
            rows_of(path)
        assert len(str(caught.value)) < 2000
        assert "\x1b" not in str(caught.value)
    tally("nasty data files", 1)
