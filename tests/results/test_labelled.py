"""The file of labels: texts that a spreadsheet would run are neutral in CSV and untouched in JSON Lines."""

import csv
import io
import json

from remora.results.labelled import labelled_text

TEXTS = (("=HYPERLINK(1)", "plain"), ("fine", "\t@SUM(A1)"))
LABELS = ("+good", "bad")
SCORES = ({"+good": 0.75, "bad": 0.25}, {"+good": 0.5, "bad": 0.5})


def test_csv_cells_and_column_names_are_neutral_and_numbers_stay_numbers() -> None:
    content = labelled_text(("=text", "more"), TEXTS, LABELS, SCORES, ("-x", "bad"), "csv")
    head, *rows = csv.reader(io.StringIO(content, newline=""))
    assert head == ["'=text", "more", "label", "confidence", "score:+good", "score:bad", "truth"]
    assert rows == [
        ["'=HYPERLINK(1)", "plain", "'+good", "0.75", "0.75", "0.25", "'-x"],
        ["fine", "'\t@SUM(A1)", "bad", "0.5", "0.5", "0.5", "bad"],
    ]


def test_json_lines_hold_texts_as_they_were_read() -> None:
    content = labelled_text(("=text", "more"), TEXTS, LABELS, SCORES, None, "jsonl")
    first, second = map(json.loads, content.splitlines())
    assert (first["=text"], first["label"], first["scores"]) == ("=HYPERLINK(1)", "+good", dict(SCORES[0]))
    assert second["more"] == "\t@SUM(A1)"
