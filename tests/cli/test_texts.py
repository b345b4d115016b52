import io
import json
from pathlib import Path

import pytest

from remora.cli.texts import texts_from_file, texts_from_lines, texts_from_options, texts_from_stream
from remora.errors import DataError


def test_options_alone_and_in_pairs() -> None:
    assert texts_from_options(["a", "b"], []) == ["a", "b"]
    assert texts_from_options(["a", "b"], ["x", "y"]) == [("a", "x"), ("b", "y")]
    with pytest.raises(DataError, match="2 --text but 1 --pair"):
        texts_from_options(["a", "b"], ["x"])


def test_every_plain_line_is_a_text() -> None:
    assert texts_from_stream(io.StringIO("one\n\n{two\n"), ("text",)) == ["one", "", "{two"]


def test_json_lines_give_the_columns() -> None:
    lines = [json.dumps({"id": 1, "text": "NA"}), "", json.dumps({"text": "yes", "id": 2})]
    assert texts_from_lines(lines, ("text",), "x") == ["NA", "yes"]
    assert texts_from_lines(['{"a": "1", "b": "2"}'], ("a", "b"), "x") == [("1", "2")]


@pytest.mark.parametrize(
    ("lines", "columns", "message"),
    [
        (['{"text": "a"}', "b"], ("text",), "in:2: no JSON object"),
        (['{"sentence": "a"}'], ("text",), "in:1: there is no 'text'; found sentence"),
        (['{"text": 7}'], ("text",), "in:1: 'text' is no text"),
        (["a", "b"], ("premise", "hypothesis"), "pairs of texts"),
    ],
)
def test_lines_that_cannot_be_used(lines: list[str], columns: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        texts_from_lines(lines, columns, "in")


def test_tables_are_read_literally(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,other\nNA,1\n"a, b",2\n007,3\n')
    assert texts_from_file(path, ("text",)) == ["NA", "a, b", "007"]
    assert texts_from_file(path, ("text", "other")) == [("NA", "1"), ("a, b", "2"), ("007", "3")]


def test_text_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffena\r\ndva\r\n".encode())
    assert texts_from_file(path, ("text",)) == ["ena", "dva"]
    path.write_bytes(b"a\xff")
    with pytest.raises(DataError, match="not UTF-8 at byte 1"):
        texts_from_file(path, ("text",))


def test_missing_file_and_missing_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.csv"):
        texts_from_file(tmp_path / "no.csv", ("text",))
    path = tmp_path / "a.csv"
    path.write_text("message\nhello\n")
    with pytest.raises(DataError, match="there is no 'text'; found message") as caught:
        texts_from_file(path, ("text",))
    assert "--column" in caught.value.hint
