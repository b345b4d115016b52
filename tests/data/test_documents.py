"""Documents with clusters: column files and JSON lines alike, told by file and line, read in windows, nothing lost."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remora.config.schema import DataConfig
from remora.data.clusters import MentionRules, spans_of
from remora.data.conll import Mention, conll_text, read_conll, with_clusters
from remora.data.dataset import Dataset, load_dataset
from remora.data.frame import dataset_from_frame
from remora.data.kinds import answer, cells
from remora.data.tokenize import TextEncoder
from remora.data.windows import windows
from remora.errors import DataError
from tests.documents import column_file, documents, tiny_tokenizer, write_jsonl


def load(path: Path, **settings: Any) -> Dataset:
    return load_dataset(DataConfig(path=str(path), **settings))


def test_columns_and_json_lines_are_the_same_documents(tmp_path: Path) -> None:
    rows = documents(20)
    lines = load(write_jsonl(tmp_path / "d.jsonl", rows))
    columns = load(column_file(tmp_path / "e.v4_gold_conll", rows))
    packed = tmp_path / "f.conll.gz"
    packed.write_bytes(gzip.compress(column_file(tmp_path / "f.conll", rows).read_bytes()))
    pairs = {name: [row[name] for row in rows] for name in ("sentences", "clusters")}
    assert lines.task == columns.task == "coreference"
    assert lines.hash == columns.hash == load(packed).hash == dataset_from_frame(pairs).hash
    assert lines.metrics == ("conll_f1", "muc_f1", "b_cubed_f1", "ceaf_e_f1", "mention_f1")
    assert lines.mentions == MentionRules(singletons=True, max_width=2)
    text, label = lines.train.texts[0], lines.train.labels[0]
    assert cells(text, "document")[0] == [sentence.split(" ") for sentence in text]
    assert json.loads(json.dumps(spans_of(label))) == answer(label, "document")


def test_spans_may_be_counted_within_sentences(tmp_path: Path) -> None:
    """As LitBank's files have them: sentence, first word, last word + 1."""
    rows = documents(20)
    for row in rows:
        starts = np.cumsum([0, *map(len, row["sentences"])])
        row["clusters"] = [
            [[s := int(np.searchsorted(starts, a, "right")) - 1, a - int(starts[s]), b - int(starts[s])] for a, b in c]
            for c in row["clusters"]
        ]
    assert len(rows[0]["clusters"][0][0]) == 3
    twin = load(write_jsonl(tmp_path / "e.jsonl", documents(20)))
    assert load(write_jsonl(tmp_path / "d.jsonl", rows)).hash == twin.hash


def test_singletons_are_as_train_has_them(tmp_path: Path) -> None:
    rows = [{**row, "clusters": [c for c in row["clusters"] if len(c) > 1]} for row in documents(20)]
    data = load(write_jsonl(tmp_path / "d.jsonl", rows))
    assert data.mentions == MentionRules(singletons=False, max_width=1)
    rows[0]["sentences"][0] += ["x"] * 40
    shift = [[[a + 40 * (a >= 6), b + 40 * (b > 6)] for a, b in c] for c in rows[0]["clusters"]]
    rows[0]["clusters"] = [*shift, [[6, 40], [7, 46]]]
    data = load(write_jsonl(tmp_path / "d.jsonl", rows))
    assert data.mentions == MentionRules(singletons=False, max_width=30)
    assert [note.count for note in data.notes if note.kind == "long-mentions"] == [2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clusters": None}, "no clusters"),
        ({"clusters": "x"}, "column 'clusters' holds text, not a list of clusters"),
        ({"clusters": [[]]}, "cluster 1 of 1 in column 'clusters' is no list of mentions"),
        ({"clusters": [[[0, 1], [0, 99]]]}, "mention [0, 99] of cluster 1 in column 'clusters' is no span of words"),
        ({"clusters": [[[1, 1]]]}, "mention [1, 1] of cluster 1 in column 'clusters' is no span of words"),
        ({"clusters": [[[9, 0, 1]]]}, "mention [9, 0, 1] of cluster 1 in column 'clusters' is no span of words"),
        ({"clusters": [[[0, 1], [2, 3]], [[0, 1]]]}, "mention [0, 1] occurs twice in column 'clusters'"),
        ({"sentences": []}, "no sentence in column 'sentences'"),
        ({"sentences": [["a"], []]}, "sentence 2 of 2: no word in column 'sentences'"),
        ({"sentences": [["a b"]]}, "sentence 1 of 1: the word 'a b' in column 'sentences' holds a blank"),
    ],
)
def test_bad_rows_are_told_with_their_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = documents(20)
    rows[5] = {**rows[5], **change}
    path = write_jsonl(tmp_path / "d.jsonl", rows)
    with pytest.raises(DataError) as caught:
        load(path)
    assert f"{path}:6: " in caught.value.message
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\t(0)\n", "\t(0\n", "the mention of cluster 0 that opens here is never closed"),
        ("\t(0)\n", "\t0))\n", "broken brackets '0))'"),
        ("\t1\t", "\t", "5 columns, expected 6"),
    ],
)
def test_damaged_column_files_are_told_with_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = column_file(tmp_path / "d.conll", documents(20))
    text = path.read_text()
    at = text.index(old)
    path.write_text(text[:at] + new + text[at + len(old) :])
    with pytest.raises(DataError) as caught:
        load(path)
    assert caught.value.message.startswith(f"{path}:{text.count(chr(10), 0, at) + 1}: ")
    assert message in caught.value.message


def test_of_two_forms_of_the_same_documents_the_columns_are_read(tmp_path: Path) -> None:
    rows = documents(20)
    for split, part in (("train", rows[:16]), ("test", rows[16:])):
        column_file(tmp_path / f"{split}.conll", part)
        write_jsonl(tmp_path / f"{split}.jsonl", part)
    data = load(tmp_path)
    assert (data.splits["test"].source, len(data.test)) == ("test.conll", 4)


def test_windows_hold_whole_sentences_and_lose_nothing() -> None:
    assert windows([0, 4, 7], list(range(10)), 10, 20) == ([(0, 10)], 0)
    assert windows([0, 4, 7], list(range(10)), 10, 7) == ([(0, 7), (7, 10)], 0)
    assert windows([0, 4, 7], list(range(10)), 10, 4) == ([(0, 4), (4, 7), (7, 10)], 0)
    assert windows([0, 4, 7], list(range(10)), 10, 3) == ([(0, 3), (3, 4), (4, 7), (7, 10)], 1)
    # One sentence of words with two tokens each, and one word of six.
    assert windows([0], [0, 2, 4], 6, 3) == ([(0, 2), (2, 4), (4, 6)], 1)
    assert windows([0], [0], 6, 4) == ([(0, 4), (4, 6)], 1)


def test_every_word_is_read_once_in_some_window() -> None:
    rows = [tuple(" ".join(words) for words in row["sentences"]) for row in documents(6)]
    encoder = TextEncoder(tokenizer := tiny_tokenizer())
    whole = encoder.encode_texts(rows, 64, 0, "document")
    assert whole.joints is not None
    assert whole.places is not None
    assert whole.joints.tolist() == list(range(7))
    for number, sentences in enumerate(rows):
        expected = tokenizer(" ".join(sentences).split(" "), is_split_into_words=True)
        assert whole.ids[number].tolist() == expected["input_ids"]
        firsts = [expected.word_ids().index(word) for word in range(len(" ".join(sentences).split(" ")))]
        assert whole.places[number].tolist() == firsts
    for most, room in ((14, 0), (12, 3), (5, 0)):
        cut = encoder.encode_texts(rows, most, room, "document")
        assert cut.joints is not None
        assert cut.places is not None
        assert max(map(len, cut.ids)) <= most - room
        assert cut.num_truncated == 0
        assert (cut.num_split > 0) == (most < 14)
        for number in range(len(rows)):
            parts = range(cut.joints[number], cut.joints[number + 1])
            assert len(parts) > 1
            assert [token for part in parts for token in cut.ids[part][1:-1]] == whole.ids[number][1:-1].tolist()
            read = [cut.ids[part][place] for part in parts for place in cut.places[part]]
            assert read == whole.ids[number][whole.places[number]].tolist()


def test_a_word_longer_than_a_window_is_read_at_its_beginning() -> None:
    encoder = TextEncoder(tiny_tokenizer(letters=True))
    encoded = encoder.encode_texts([("a bcdefghijk l",)], 6, 0, "document")
    assert encoded.joints is not None
    assert encoded.places is not None
    assert [len(places) for places in encoded.places] == [1, 1, 1]
    assert encoded.num_truncated == 1


def test_the_cache_gives_windows_back(tmp_path: Path) -> None:
    data = load(write_jsonl(tmp_path / "d.jsonl", documents(20)))
    encoder = TextEncoder(tiny_tokenizer())
    first = encoder.encode_split(data.train, 9, 0, "document")
    again = TextEncoder(tiny_tokenizer()).encode_split(data.train, 9, 0, "document")
    assert first.places is not None
    assert again.places is not None
    assert first.joints is not None
    assert again.joints is not None
    assert first is not again
    assert len(again) == len(data.train)
    assert again.joints.tolist() == first.joints.tolist()
    assert [row.tolist() for row in again.ids] == [row.tolist() for row in first.ids]
    assert [row.tolist() for row in again.places] == [row.tolist() for row in first.places]
    assert (again.num_split, again.num_truncated) == (first.num_split, 0)
    assert first.num_split > 0


@pytest.mark.real
def test_litbank_is_read_cut_into_windows_and_written_again(shared_data: Path) -> None:
    folder = shared_data / "litbank_coref"
    data = load_dataset(DataConfig(path="litbank_coref", local=str(folder), train_limit=4))
    assert data.card == "litbank_coref"
    assert {name: split.source.split(",")[0] for name, split in data.splits.items()} == {
        name: f"{name}.conll.gz" for name in ("train", "validation", "test")
    }
    assert data.mentions == MentionRules(singletons=True, max_width=30)
    lines = gzip.decompress((folder / "test.jsonl.gz").read_bytes()).decode().splitlines()
    encoded = TextEncoder(tiny_tokenizer()).encode_split(data.test, 128, 0, "document")
    assert encoded.places is not None
    raw = gzip.decompress((folder / "test.conll.gz").read_bytes()).decode()
    columns = read_conll(folder / "test.conll.gz")
    assert conll_text(columns) == raw.replace("\r\n", "\n")
    for number, (line, text, label, document) in enumerate(
        zip(lines, data.test.texts, data.test.labels, columns, strict=True)
    ):
        row = json.loads(line)
        assert [sentence.split(" ") for sentence in text] == row["sentences"]
        assert sum(map(len, spans_of(label))) == sum(map(len, row["clusters"]))
        assert sorted(map(sorted, spans_of(label))) == sorted(sorted(map(tuple, c)) for c in document.clusters.values())
        # What is written of a label is read as the same clusters.
        again = with_clusters(document, [[Mention(*span) for span in c] for c in spans_of(label)])
        assert sorted(map(sorted, again.clusters.values())) == sorted(map(sorted, document.clusters.values()))
        assert encoded.joints is not None
        windows_of = range(encoded.joints[number], encoded.joints[number + 1])
        assert sum(len(encoded.places[window]) for window in windows_of) == sum(map(len, row["sentences"]))
