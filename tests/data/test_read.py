"""Readers: values stay literal, every damaged row or file is named with its line, nothing is lost in silence."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from remora.data.read import data_suffix, read_table
from remora.data.table import Nested, Table
from remora.errors import DataError

LABELS = ["NA", "None", "yes", "007", "null", "1.0", "1e3", "nan", "true", " x ", "-"]


def table_of(folder: Path, name: str, content: bytes) -> Table:
    path = folder / name
    path.write_bytes(content)
    return read_table(path)


def rows_of(table: Table) -> list[tuple[object, ...]]:
    return list(zip(*table.columns.values(), strict=True))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl"])
def test_labels_that_look_like_something_else_stay_text(tmp_path: Path, kind: str, packed: bool) -> None:
    rows = [{"text": f"t{index}", "label": label} for index, label in enumerate(LABELS)]
    mark = {"csv": ",", "tsv": "\t"}.get(kind)
    if mark:
        content = "\n".join([f"text{mark}label", *(f"{row['text']}{mark}{row['label']}" for row in rows)])
    elif kind == "json":
        content = json.dumps(rows)
    else:
        content = "\n".join(map(json.dumps, rows))
    data = gzip.compress(content.encode()) if packed else content.encode()
    table = table_of(tmp_path, f"rows.{kind}" + (".gz" if packed else ""), data)
    assert table.columns == {"text": [row["text"] for row in rows], "label": LABELS}
    assert not table.bad


def test_numbers_in_json_keep_their_spelling(tmp_path: Path) -> None:
    content = b'{"text": "a", "label": 1.50}\n{"text": "b", "label": 1}\n{"text": "c", "label": 1e-4}\n'
    content += (
        b'{"text": 12345678901234567890123, "label": true}\n{"text": "e", "label": null}\n{"text": "f", "label": NaN}'
    )
    table = table_of(tmp_path, "rows.jsonl", content)
    assert table.columns["label"] == ["1.50", "1", "1e-4", "true", None, None]
    assert table.columns["text"][3] == "12345678901234567890123"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"\xef\xbb\xbftext,label\r\nfirst,a\r\nsecond,b\r\n"),
        ("b.csv", b"text,label\rfirst,a\rsecond,b"),
        ("c.csv", b"text;label\nfirst;a\nsecond;b\n"),
        ("d.csv", b"\ntext,label\n\nfirst,a\n\nsecond,b\n\n"),
        ("e.csv", b'"text","label"\n"first","a"\n"second","b"'),
        ("f.tsv", b"text\tlabel\r\nfirst\ta\r\nsecond\tb\r\n"),
        ("g.tsv", b'"text"\t"label"\n"first"\t"a"\n"second"\t"b"\n'),
        ("h.jsonl", b'\xef\xbb\xbf{"text": "first", "label": "a"}\r\n\r\n{"text": "second", "label": "b"}\r\n'),
        ("i.json", b'\xef\xbb\xbf [\n{"text": "first", "label": "a"},\n{"text": "second", "label": "b"}\n]\n'),
        ("j.json", b'{"text": ["first", "second"], "label": ["a", "b"]}'),
        ("k.json", b'{"text": "first", "label": "a"}\n{"text": "second", "label": "b"}\n'),
        ("l.ndjson", b'{"text": "first", "label": "a"}\n{"label": "b", "text": "second"}'),
        ("m.CSV", b"text,label\nfirst,a\nsecond,b\n"),
        ("n.csv", gzip.compress(b"text,label\nfirst,a\nsecond,b\n", mtime=0)),
    ],
)
def test_the_same_two_rows_in_many_forms(tmp_path: Path, name: str, content: bytes) -> None:
    table = table_of(tmp_path, name, content)
    assert table.columns == {"text": ["first", "second"], "label": ["a", "b"]}
    assert not table.bad


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    text = "one\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven"
    content = json.dumps({"text": text, "label": "a"}, ensure_ascii=False) + "\n" + '{"text": "b", "label": "b"}'
    # Control characters below U+0020 must be escaped in JSON; the others stand as they are.
    table = table_of(tmp_path, "rows.jsonl", content.replace("\x0b", "\\u000b").encode())
    assert table.columns["text"] == [text, "b"]
    assert list(table.lines) == [1, 2]


def test_a_carriage_return_between_json_tokens_ends_no_line(tmp_path: Path) -> None:
    table = table_of(tmp_path, "rows.jsonl", b'{"text": "a",\r"label": "b"}\r\n{"text": "c", "label": "d"}')
    assert rows_of(table) == [("a", "b"), ("c", "d")]
    assert not table.bad


def test_a_quoted_csv_cell_may_hold_lines_and_the_next_row_knows_its_line(tmp_path: Path) -> None:
    table = table_of(tmp_path, "rows.csv", b'text,label\n"one\r\ntwo, ""three""",a\nnext,b\n')
    assert table.columns["text"] == ['one\r\ntwo, "three"', "next"]
    assert table.place(1) == f"{tmp_path / 'rows.csv'}:4"


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl"])
def test_a_cell_of_a_megabyte_and_nul_bytes(tmp_path: Path, name: str) -> None:
    big = "word " * 250_000
    content = {
        "rows.csv": f'text,label\n"{big}",a\nx\0y,b\n',
        "rows.tsv": f"text\tlabel\n{big}\ta\nx\0y\tb\n",
        "rows.jsonl": json.dumps({"text": big, "label": "a"}) + '\n{"text": "x\\u0000y", "label": "b"}\n',
    }[name]
    assert table_of(tmp_path, name, content.encode()).columns["text"] == [big, "x\0y"]


def test_glue_style_tsv_keeps_its_single_quotes(tmp_path: Path) -> None:
    content = b'text\tlabel\n"I never said that\ta\nShe said "no" twice\tb\n"Go!"\ta\nend"\tb\n'
    table = table_of(tmp_path, "rows.tsv", content)
    assert table.columns["text"] == ['"I never said that', 'She said "no" twice', '"Go!"', 'end"']


def test_quotes_in_tsv_that_need_not_be_there_are_text(tmp_path: Path) -> None:
    table = table_of(tmp_path, "rows.tsv", b'text\tlabel\n"Go!"\ta\nhe went\tb\n')
    assert table.columns["text"] == ['"Go!"', "he went"]


def test_tsv_with_real_quoting_is_unquoted(tmp_path: Path) -> None:
    table = table_of(tmp_path, "rows.tsv", b'text\tlabel\n"a\tb"\tx\n"say ""hi"""\ty\n')
    assert table.columns["text"] == ["a\tb", 'say "hi"']


GOOD_A, GOOD_B = b'{"text": "good", "label": "a"}', b'{"text": "good", "label": "b"}'


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"text,label\ngood,a\nshort\nlong,b,c\ngood,b\n", "1 cells where the header has 2"),
        ("b.csv", b'text,label\ngood,a\n"x"y,a\ngood,b\n', "broken quotes"),
        ("c.csv", b"text,label\ngood,a\nb\xff\xfed,b\ngood,b\n", "not UTF-8"),
        ("d.tsv", b"text\tlabel\ngood\ta\nx\ty\tz\ngood\tb\n", "3 cells where the header has 2"),
        ("e.jsonl", GOOD_A + b'\n\n{"text": "x" "label"}\n' + GOOD_B, "not valid JSON"),
        ("f.jsonl", GOOD_A + b"\n\n\xff\n" + GOOD_B, "not UTF-8"),
        ("g.jsonl", GOOD_A + b'\n\n["x", "y"]\n' + GOOD_B, "a list"),
        ("h.jsonl", GOOD_A + b"\n\n17\n" + GOOD_B, "a single value"),
        ("i.jsonl", GOOD_A + b'\n\n{"text": "x", "label": "a", "label": "b"}\n' + GOOD_B, "twice"),
        ("j.jsonl", GOOD_A + b"\n\n" + b"[" * 100_000 + b"\n" + GOOD_B, "nested too deeply"),
        ("k.json", b"[" + GOOD_A + b",\n\nnull,\n" + GOOD_B + b"]", "null"),
    ],
)
def test_bad_rows_are_named_and_the_good_ones_kept(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    table = table_of(tmp_path, name, content)
    assert table.columns["text"] == ["good", "good"]
    assert table.columns["label"] == ["a", "b"]
    assert table.bad[0].place == f"{tmp_path / name}:3"
    assert words in table.bad[0].message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "empty"),
        ("b.csv", b" \n\n", "empty"),
        ("c.csv", b"text,label\n", "no rows"),
        ("d.jsonl", b"\n\n", "empty"),
        ("e.json", b"[]", "no rows"),
        ("f.csv", b"text,text,label\na,b,c\n", "'text' twice"),
        ("g.csv", b'text,label\na,b\n"never closed,c\nd,e\nf,g\n', ":3: a quote is opened here and never closed"),
        ("h.csv", "text,label\na,b\n".encode("utf-16"), "UTF-16"),
        ("i.json", b'[{"text": "a", "label": "b"},\n{"text": "a" "label": "b"}]', ":2: not valid JSON"),
        ("j.json", b'[{"text": "a", "label": "b"}', "never closed"),
        ("k.json", b'[{"text": "a", "label": "b"}] x', ":1: something follows"),
        ("l.json", b'[{"text": "a"}\n{"text": "b"}]', ":2: not valid JSON: expected a comma"),
        ("m.json", b'{"text": "a", "label": "b"}', "expected a list of objects"),
        ("n.json", b'{"text": ["a"], "label": ["b", "c"]}', "expected a list of objects"),
        ("o.json", b'"text"', "expected a list of objects"),
        ("p.json", b'[{"text": "a\xff"}]', ":1: not UTF-8"),
        ("q.csv.gz", b"text,label\n", "not gzip-compressed"),
        ("r.xlsx", b"PK", "not a data file"),
        ("s.parquet", b"PAR1 this is no parquet file", "cannot be read as Parquet"),
        ("t.json", b"[" * 200_000, "nested too deeply"),
    ],
)
def test_files_that_cannot_be_read_at_all(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    with pytest.raises(DataError) as caught:
        table_of(tmp_path, name, content)
    assert words in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_a_cut_or_damaged_gzip_file_names_the_line(tmp_path: Path) -> None:
    content = "".join(f'{{"text": "row {index} {index * 7919 % 104729}", "label": "a"}}\n' for index in range(20_000))
    packed = gzip.compress(content.encode(), mtime=0)
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz:\d{3,}: the gzip data end or break here"):
        table_of(tmp_path, "cut.jsonl.gz", packed[: len(packed) // 2])
    damaged = bytearray(packed)
    damaged[-6] ^= 0xFF  # the checksum
    with pytest.raises(DataError, match="the gzip data end or break here"):
        table_of(tmp_path, "damaged.jsonl.gz", bytes(damaged))
    with pytest.raises(DataError, match=r"head\.jsonl\.gz:1: the gzip data"):
        table_of(tmp_path, "head.jsonl.gz", packed[:12])


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path / "none.parquet"):
        with pytest.raises(DataError, match="cannot be read"):
            read_table(path)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path / "folder.csv")


def test_parquet_scalars_become_their_spelling(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table(
        {
            "text": pa.array(["NA", None, "c"]),
            "wide": pa.array(["1", "2", "3"], pa.large_string()),
            "whole": pa.array([1, 2, None], pa.int8()),
            "narrow": pa.array([3.2, 5.0, float("nan")], pa.float32()),
            "double": pa.array([3.2, 5.0, 1e-9]),
            "truth": pa.array([True, False, None]),
            "coded": pa.array(["x", "y", "x"]).dictionary_encode(),
            "list": pa.array([[1], [], None]),
            "nothing": pa.nulls(3),
        }
    )
    pq.write_table(table, path)
    read = read_table(path)
    assert read.columns["text"] == ["NA", None, "c"]
    assert read.columns["wide"] == ["1", "2", "3"]
    assert read.columns["whole"] == ["1", "2", None]
    assert read.columns["narrow"] == ["3.2", "5.0", None]
    assert read.columns["double"] == ["3.2", "5.0", "1e-09"]
    assert read.columns["truth"] == ["true", "false", None]
    assert read.columns["coded"] == ["x", "y", "x"]
    assert isinstance(read.columns["list"][0], Nested)
    assert read.columns["nothing"] == [None, None, None]
    assert read.place(2) == f"{path} row 3"


def test_parquet_bytes_that_are_no_text_are_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    broken = pa.StringArray.from_buffers(3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffc"))
    pq.write_table(pa.table({"text": broken, "label": ["x", "y", "z"]}), path)
    table = read_table(path)
    assert rows_of(table) == [("a", "x"), ("c", "z")]
    assert [row.place for row in table.bad] == [f"{path} row 2"]
    assert list(table.lines) == [1, 3]


def test_parquet_without_rows_or_with_twin_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match="no rows"):
        read_table(path)
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    with pytest.raises(DataError, match=r"same name|cannot be read"):
        read_table(path)


def test_the_csv_module_is_left_as_it_was(tmp_path: Path) -> None:
    before = csv.field_size_limit(1000)
    try:
        table_of(tmp_path, "rows.csv", b"text,label\na,b\n")
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.csv", ".csv"), ("a.JSONL.GZ", ".jsonl"), ("train.parquet", ".parquet"), ("README.md", None), ("csv", None)],
)
def test_suffixes(name: str, suffix: str | None) -> None:
    assert data_suffix(Path(name)) == suffix
