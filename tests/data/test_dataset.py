"""From a path to three checked splits: columns, splits, tasks, notes and every error a user can cause."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from remora.config.schema import DataConfig
from remora.data.check import text_key
from remora.data.dataset import Dataset, load_dataset
from remora.errors import DataError


def write_rows(path: Path, rows: Iterable[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def some_rows(count: int, start: int = 0, labels: tuple[str, ...] = ("a", "b")) -> list[dict[str, object]]:
    return [{"text": f"text {index}", "label": labels[index % len(labels)]} for index in range(start, start + count)]


def load(path: Path, **settings: object) -> Dataset:
    return load_dataset(DataConfig.model_validate({"path": str(path), **settings}))


def kinds(data: Dataset) -> dict[str, int]:
    return {note.kind: note.count for note in data.notes}


def three_files(folder: Path) -> Path:
    write_rows(folder / "train.jsonl", some_rows(60))
    write_rows(folder / "validation.jsonl", some_rows(20, 100))
    write_rows(folder / "test.jsonl", some_rows(30, 200))
    return folder


class TestSplits:
    def test_one_file_is_cut_70_10_20(self, tmp_path: Path) -> None:
        data = load(write_rows(tmp_path / "rows.jsonl", some_rows(200)))
        assert {name: len(split) for name, split in data.splits.items()} == {"train": 140, "validation": 20, "test": 40}
        assert data.label_counts("test") == {"a": 20, "b": 20}
        texts = [texts for split in data.splits.values() for texts in split.texts]
        assert len(texts) == len(set(texts)) == 200
        assert data.train.source == "140 of 200 rows of rows.jsonl"
        assert kinds(data) == {"cut-test": 40, "cut-validation": 20}

    @pytest.mark.parametrize(
        "names",
        [
            ("train", "validation", "test"),
            ("training", "valid", "testing"),
            ("tweets_train", "tweets-val", "tweets.test"),
            ("TRAIN", "dev", "Test"),
        ],
    )
    def test_file_names(self, tmp_path: Path, names: tuple[str, str, str]) -> None:
        for index, name in enumerate(names):
            write_rows(tmp_path / f"{name}.jsonl", some_rows(20 + index, index * 100))
        (tmp_path / "README.md").write_text("no data")
        write_rows(tmp_path / ".train.jsonl", some_rows(3))
        data = load(tmp_path)
        assert [len(split) for split in data.splits.values()] == [20, 21, 22]
        assert not data.notes

    def test_shards_are_joined_in_order(self, tmp_path: Path) -> None:
        for index in range(3):
            write_rows(tmp_path / f"train-0000{index}-of-00003.jsonl", some_rows(10, index * 10))
        write_rows(tmp_path / "test-00000-of-00001.jsonl", some_rows(10, 100))
        write_rows(tmp_path / "validation-00000-of-00001.jsonl", some_rows(10, 200))
        assert load(tmp_path).train.texts == tuple((f"text {index}",) for index in range(30))

    def test_validation_is_cut_before_the_limit(self, tmp_path: Path) -> None:
        write_rows(tmp_path / "train.jsonl", some_rows(300))
        write_rows(tmp_path / "test.jsonl", some_rows(30, 1000))
        full, limited = load(tmp_path), load(tmp_path, train_limit=50)
        assert len(full.validation) == 60
        assert len(full.train) == 240
        assert limited.validation == full.validation
        assert len(limited.train) == 50
        assert set(limited.train.texts) < set(full.train.texts)
        assert kinds(limited)["limit-train"] == 190

    def test_validation_is_at_most_500(self, tmp_path: Path) -> None:
        write_rows(tmp_path / "train.jsonl", some_rows(4000))
        write_rows(tmp_path / "test.jsonl", some_rows(30, 10_000))
        assert len(load(tmp_path).validation) == 500

    def test_without_a_test_file_test_is_cut_from_train(self, tmp_path: Path) -> None:
        write_rows(tmp_path / "train.jsonl", some_rows(100))
        write_rows(tmp_path / "dev.jsonl", some_rows(30, 1000))
        data = load(tmp_path)
        assert (len(data.train), len(data.validation), len(data.test)) == (80, 30, 20)

    def test_explicit_files_win(self, tmp_path: Path) -> None:
        three_files(tmp_path)
        other = write_rows(tmp_path / "elsewhere" / "held_out.jsonl", some_rows(12, 500))
        data = load(tmp_path, test=str(other))
        assert len(data.test) == 12
        assert data.test.source == other.name
        data = load(tmp_path / "train.jsonl", test="test.jsonl", validation="validation.jsonl")
        assert [len(split) for split in data.splits.values()] == [60, 20, 30]

    def test_an_explicit_train_settles_an_ambiguity(self, tmp_path: Path) -> None:
        three_files(tmp_path)
        write_rows(tmp_path / "train.json", some_rows(7))
        with pytest.raises(DataError, match=r"several files could be train: train\.json, train\.jsonl"):
            load(tmp_path)
        assert len(load(tmp_path, train="train.jsonl").test) == 30

    def test_limits_keep_the_classes_in_proportion(self, tmp_path: Path) -> None:
        rows = [
            {"text": f"t{index}", "label": "rare" if index % 50 == 0 else "a" if index % 5 else "b"}
            for index in range(1000)
        ]
        write_rows(tmp_path / "train.jsonl", rows)
        write_rows(tmp_path / "test.jsonl", [{**row, "text": f"x{row['text']}"} for row in rows])
        data = load(tmp_path, train_limit=100, validation_limit=50, test_limit=10)
        assert [len(split) for split in data.splits.values()] == [100, 50, 10]
        assert data.label_counts("train") == {"a": 80, "b": 18, "rare": 2}
        assert data.label_counts("test") == {"a": 7, "b": 2, "rare": 1}
        assert data.splits == load(tmp_path, train_limit=100, validation_limit=50, test_limit=10).splits
        assert data.train != load(tmp_path, train_limit=100, split_seed=1).train

    def test_hashes_follow_texts_labels_and_order(self, tmp_path: Path) -> None:
        data = load(three_files(tmp_path))
        again = load(three_files(tmp_path))
        assert data.hash == again.hash
        rows = some_rows(60)
        for changed in ([*rows[1:], rows[0]], [{"text": "text 0", "label": "b"}, *rows[1:]]):
            write_rows(tmp_path / "train.jsonl", changed)
            other = load(tmp_path)
            assert other.train.hash != data.train.hash
            assert other.test.hash == data.test.hash
            assert other.hash != data.hash


class TestColumns:
    @pytest.mark.parametrize(
        ("columns", "text", "label"),
        [
            (["text", "label"], ("text",), "label"),
            (["id", "Sentence", "Label"], ("Sentence",), "Label"),
            (["label", "sentence1", "sentence2", "idx"], ("sentence1", "sentence2"), "label"),
            (["question", "passage", "label"], ("question", "passage"), "label"),
            (["premise", "hypothesis", "label"], ("premise", "hypothesis"), "label"),
            (["headline", "category"], ("headline",), "category"),
            (["review", "sentiment", "date"], ("review",), "sentiment"),
            (["text", "sentence1", "sentence2", "class"], ("sentence1", "sentence2"), "class"),
        ],
    )
    def test_usual_names(self, tmp_path: Path, columns: list[str], text: tuple[str, ...], label: str) -> None:
        rows = [{name: f"{name} {index}" for name in columns} | {label: "xy"[index % 2]} for index in range(40)]
        data = load(write_rows(tmp_path / "rows.jsonl", rows))
        assert (data.text_columns, data.label_column) == (text, label)
        assert all(len(texts) == len(text) for texts in data.train.texts)

    def test_given_names(self, tmp_path: Path) -> None:
        rows = [{"q": f"q {index}", "a": f"a {index}", "ok": "yn"[index % 2]} for index in range(40)]
        path = write_rows(tmp_path / "rows.jsonl", rows)
        assert load(path, text=["q", "a"], label="ok").text_columns == ("q", "a")
        assert load(path, text="q", label="ok").text_columns == ("q",)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"text": "txt"}, "did you mean 'text'"),
            ({"label": "labl"}, "did you mean 'label'"),
            ({"text": ["text", "text"]}, "two different ones"),
            ({"text": ["text", "label", "other"]}, "names 3 columns"),
            ({"text": "text", "label": "text"}, "both text and label"),
        ],
    )
    def test_wrong_names(self, tmp_path: Path, settings: dict[str, object], words: str) -> None:
        rows = [{**row, "other": "z"} for row in some_rows(40)]
        with pytest.raises(DataError, match=words):
            load(write_rows(tmp_path / "rows.jsonl", rows), **settings)

    @pytest.mark.parametrize(
        ("columns", "words"),
        [
            (["text", "more"], "no label column found among 'text', 'more'"),
            (["one", "two", "label"], "no text column found"),
            (["label"], "no text column found"),
        ],
    )
    def test_nothing_to_find(self, tmp_path: Path, columns: list[str], words: str) -> None:
        rows = [{name: f"{name}{index}" for name in columns} for index in range(40)]
        with pytest.raises(DataError, match=words):
            load(write_rows(tmp_path / "rows.jsonl", rows))

    def test_a_split_without_the_label(self, tmp_path: Path) -> None:
        three_files(tmp_path)
        write_rows(tmp_path / "test.jsonl", [{"text": "t"}])
        with pytest.raises(DataError, match=r"test: there is no column 'label'.*\n.*unlabelled text cannot be scored"):
            load(tmp_path)

    def test_shards_with_other_columns(self, tmp_path: Path) -> None:
        write_rows(tmp_path / "train-1-of-2.jsonl", some_rows(10))
        write_rows(tmp_path / "train-2-of-2.jsonl", [{"sentence": "x", "label": "a"}])
        with pytest.raises(DataError, match=r"train-2-of-2\.jsonl has other columns than"):
            load(tmp_path)


class TestRows:
    def test_all_bad_rows_are_reported_at_once(self, tmp_path: Path) -> None:
        three_files(tmp_path)
        rows = [*some_rows(20), *({"text": f"x{index}", "label": None} for index in range(13))]
        write_rows(tmp_path / "train.jsonl", rows)
        with (tmp_path / "test.jsonl").open("a") as stream:
            stream.write('{"text": 5\n')
        with pytest.raises(DataError) as caught:
            load(tmp_path)
        message = caught.value.message
        assert message.startswith("14 rows cannot be used:")
        assert f"{tmp_path / 'train.jsonl'}:21: no label" in message
        assert f"{tmp_path / 'train.jsonl'}:30: no label" in message
        assert "train.jsonl:31" not in message
        assert message.endswith("and 4 more")
        assert "on_bad_rows=drop" in caught.value.hint
        data = load(tmp_path, on_bad_rows="drop")
        assert kinds(data)["dropped-rows"] == 14
        assert (len(data.train), len(data.test)) == (20, 30)

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            ({"text": "x", "label": ""}, "no label"),
            ({"text": "x", "label": "  "}, "no label"),
            ({"text": "x"}, "no label"),
            ({"label": "a"}, "no value in text column 'text'"),
            ({"text": None, "label": "a"}, "no value in text column 'text'"),
            ({"text": ["x"], "label": "a"}, "text column 'text' holds list"),
            ({"text": "x", "label": {"a": 1}}, "the label is object"),
            ({"text": "x", "label": "\ud800"}, "the label holds half a surrogate pair"),
        ],
    )
    def test_rows_that_cannot_be_used(self, tmp_path: Path, row: dict[str, object], words: str) -> None:
        path = write_rows(tmp_path / "rows.jsonl", [*some_rows(40), row])
        with pytest.raises(DataError, match=rf"1 row cannot be used:\n.*rows\.jsonl:41: {words}"):
            load(path)
        assert kinds(load(path, on_bad_rows="drop"))["dropped-rows"] == 1

    def test_oddities_are_kept_and_counted(self, tmp_path: Path) -> None:
        three_files(tmp_path)
        odd = ["", " \t", "a\0b", "half \ud83d pair", "whole \U0001f600 pair"]
        write_rows(tmp_path / "train.jsonl", [*some_rows(60), *({"text": text, "label": "a"} for text in odd)])
        data = load(tmp_path)
        assert data.train.texts[60:] == (("",), (" \t",), ("a\0b",), ("half \ufffd pair",), ("whole \U0001f600 pair",))
        assert kinds(data) == {"empty-text": 2, "nul": 1, "surrogates": 1, "duplicates": 1}

    def test_repeats_conflicts_and_overlaps_are_counted(self, tmp_path: Path) -> None:
        three_files(tmp_path)
        extra = [{"text": "text  0 ", "label": "a"}, {"text": "text 1", "label": "a"}, {"text": "text 1", "label": "b"}]
        write_rows(tmp_path / "train.jsonl", [*some_rows(60), *extra])
        write_rows(tmp_path / "validation.jsonl", [*some_rows(20, 100), *some_rows(4, 10)])
        write_rows(tmp_path / "test.jsonl", [*some_rows(30, 200), *some_rows(3, 20), *some_rows(5, 100)])
        found = kinds(load(tmp_path))
        assert found == {
            "duplicates": 3,
            "conflicting-labels": 1,
            "overlap-validation": 4,
            "overlap-test": 3,
            "overlap-validation-test": 5,
        }

    def test_pairs_repeat_only_as_pairs(self, tmp_path: Path) -> None:
        rows = [{"sentence1": "same", "sentence2": f"{index}", "label": "ab"[index % 2]} for index in range(40)]
        rows.append({"sentence1": "0", "sentence2": "same", "label": "a"})
        data = load(write_rows(tmp_path / "rows.jsonl", rows))
        assert "duplicates" not in kinds(data)


class TestLabels:
    def test_classes_are_sorted_text(self, tmp_path: Path) -> None:
        data = load(write_rows(tmp_path / "rows.jsonl", some_rows(60, labels=("no", "NA", "007"))))
        assert data.label_names == ("007", "NA", "no")
        assert (data.task, data.metric) == ("classification", "accuracy")
        assert data.metrics == ("accuracy", "macro_f1", "weighted_f1", "matthews")

    @pytest.mark.parametrize(
        ("labels", "task"),
        [
            ([index % 77 for index in range(200)], "classification"),
            ([index % 4 / 2 for index in range(200)], "classification"),
            ([index / 7 for index in range(200)], "regression"),
            ([f"{index / 7}" for index in range(200)], "regression"),
            ([*(index / 7 for index in range(199)), "none"], None),
            ([float(index % 5) for index in range(200)], "classification"),
        ],
    )
    def test_numbers_or_classes(self, tmp_path: Path, labels: list[object], task: str | None) -> None:
        path = write_rows(
            tmp_path / "rows.jsonl", [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)]
        )
        if task is None:
            with pytest.raises(DataError, match="200 different labels in 200 rows"):
                load(path)
            return
        data = load(path)
        assert data.task == task
        assert isinstance(data.train.labels[0], str if task == "classification" else float)
        assert ("task" in kinds(data)) == (task == "regression")

    def test_regression(self, tmp_path: Path) -> None:
        rows = [{"text": f"t{index}", "label": index % 6} for index in range(300)]
        path = write_rows(tmp_path / "rows.jsonl", rows)
        data = load(path, task="regression")
        assert data.label_names == ()
        assert data.metrics == ("pearson", "spearman", "mse")
        assert data.label_counts("train") == {}
        assert sum(data.validation.labels) / 30 == pytest.approx(2.5, abs=0.4)
        write_rows(path, [*rows, {"text": "bad", "label": "five"}, {"text": "worse", "label": "1e999"}])
        with pytest.raises(
            DataError, match=r":301: the label 'five' is not a finite number\n.*:302: the label '1e999'"
        ):
            load(path, task="regression")
        assert kinds(load(path, task="regression", on_bad_rows="drop"))["dropped-rows"] == 2

    def test_a_scale_far_from_the_usual_is_noted(self, tmp_path: Path) -> None:
        rows = [{"text": f"t{index}", "label": 1000.5 + index} for index in range(300)]
        assert "label-scale" in kinds(load(write_rows(tmp_path / "rows.jsonl", rows)))

    @pytest.mark.parametrize("task", ["auto", "regression"])
    def test_one_label_only(self, tmp_path: Path, task: str) -> None:
        path = write_rows(tmp_path / "rows.jsonl", some_rows(60, labels=("1",)))
        with pytest.raises(DataError, match="all 60 rows have the label '1'"):
            load(path, task=task)

    def test_all_labels_missing(self, tmp_path: Path) -> None:
        three_files(tmp_path)
        write_rows(tmp_path / "test.jsonl", [{"text": "x", "label": None}, {"text": "y", "label": ""}])
        for policy in ("error", "drop"):
            with pytest.raises(DataError, match=r"test \(.*test\.jsonl\): column 'label' is empty in all 2 rows"):
                load(tmp_path, on_bad_rows=policy)

    def test_labels_that_train_lacks(self, tmp_path: Path) -> None:
        three_files(tmp_path)
        write_rows(tmp_path / "test.jsonl", [*some_rows(30, 200), {"text": "new", "label": "c"}])
        data = load(tmp_path)
        assert kinds(data) == {"unseen-labels": 1}
        assert data.label_names == ("a", "b", "c")
        assert "test.jsonl:31" in data.notes[0].message
        write_rows(tmp_path / "test.jsonl", some_rows(30, 200, labels=("A", "B")))
        with pytest.raises(DataError, match=r"30 of 30 rows have labels that train lacks: 'A', 'B'"):
            load(tmp_path)

    def test_classes_that_differ_by_case_are_noted(self, tmp_path: Path) -> None:
        data = load(write_rows(tmp_path / "rows.jsonl", some_rows(90, labels=("spam", "Spam", "ham"))))
        assert kinds(data)["near-labels"] == 1

    def test_free_text_as_label(self, tmp_path: Path) -> None:
        rows = [{"text": f"t{index}", "label": f"summary {index} " + "x" * 1000} for index in range(30)]
        with pytest.raises(DataError, match="does not look like classes") as caught:
            load(write_rows(tmp_path / "rows.jsonl", rows))
        assert len(str(caught.value)) < 400

    def test_too_few_rows_to_cut(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"too few to take a (test|validation) split"):
            load(write_rows(tmp_path / "rows.jsonl", some_rows(2)))

    @pytest.mark.parametrize(
        ("metric", "words"),
        [("acuracy", "did you mean accuracy"), ("pearson", "no such metric for classification"), ("f1", "f1/a or")],
    )
    def test_wrong_metrics(self, tmp_path: Path, metric: str, words: str) -> None:
        with pytest.raises(DataError, match=words):
            load(write_rows(tmp_path / "rows.jsonl", some_rows(60)), metric=metric)

    def test_chosen_metrics_come_first(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "rows.jsonl", some_rows(60))
        assert load(path, metric="matthews").metrics == ("matthews", "accuracy", "macro_f1", "weighted_f1")
        assert load(path, metric="f1/b").metric == "f1/b"


class TestPaths:
    def test_near_names(self, tmp_path: Path) -> None:
        three_files(tmp_path / "tweets")
        with pytest.raises(DataError, match=r"did you mean .*tweets\?"):
            load(tmp_path / "tweet")
        with pytest.raises(DataError, match="one of its folders: tweets"):
            load(tmp_path)
        with pytest.raises(DataError, match=r"data\.test: tst\.jsonl: no such file.*\n.*did you mean .*test\.jsonl"):
            load(tmp_path / "tweets", test="tst.jsonl")
        with pytest.raises(DataError, match=r"did you mean helpdesk\?"):
            load_dataset(DataConfig(path="helpdesc"))

    @pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "~no_such_user_here/data.csv"])
    def test_strange_paths(self, path: str) -> None:
        with pytest.raises(DataError, match=r"data\.path"):
            load_dataset(DataConfig(path=path))

    def test_no_training_file(self, tmp_path: Path) -> None:
        write_rows(tmp_path / "test.jsonl", some_rows(10))
        with pytest.raises(DataError, match=r"no training file among test\.jsonl"):
            load(tmp_path)

    def test_one_file_under_two_names(self, tmp_path: Path) -> None:
        three_files(tmp_path)
        with pytest.raises(DataError, match="the same file is train and test"):
            load(tmp_path, test="train.jsonl")

    def test_a_folder_with_one_file_of_any_name(self, tmp_path: Path) -> None:
        write_rows(tmp_path / "mails.jsonl", some_rows(100))
        assert len(load(tmp_path).train) == 70


class TestCards:
    def test_the_folder_name_chooses_a_card_that_fits(self, tmp_path: Path) -> None:
        rows = [
            {"sentence1": f"a{i}", "sentence2": f"b{i}", "label": ("equivalent", "not_equivalent")[i % 2]}
            for i in range(60)
        ]
        write_rows(tmp_path / "mrpc" / "train.jsonl", rows)
        data = load(tmp_path / "mrpc")
        assert (data.card, data.metric, data.metrics[1], data.positive) == ("mrpc", "f1", "accuracy", "equivalent")
        assert load(tmp_path / "mrpc", metric="accuracy").metrics[:2] == ("accuracy", "f1")

    @pytest.mark.parametrize(
        ("rows", "settings"),
        [
            ([{"sentence1": f"a{i}", "sentence2": f"b{i}", "label": "yn"[i % 2]} for i in range(60)], {}),
            ([{"text": f"a{i}", "label": "yn"[i % 2]} for i in range(60)], {}),
            ([{"sentence1": f"a{i}", "sentence2": f"b{i}", "label": i / 7} for i in range(60)], {"task": "regression"}),
        ],
    )
    def test_a_card_that_does_not_fit_is_not_used(
        self, tmp_path: Path, rows: list[dict[str, object]], settings: dict[str, object]
    ) -> None:
        write_rows(tmp_path / "mrpc" / "train.jsonl", rows)
        data = load(tmp_path / "mrpc", **settings)
        assert data.card is None
        assert "card" in kinds(data)
        assert data.metric in ("accuracy", "pearson")

    def test_the_embedded_set(self) -> None:
        data = load_dataset(DataConfig(path="helpdesk"))
        assert data.card == data.name == "helpdesk"
        assert [len(split) for split in data.splits.values()] == [600, 100, 200]
        assert len(data.label_names) == 6


def test_text_keys_ignore_form_and_blanks() -> None:
    assert text_key(("cafe\u0301  x\n", "y")) == text_key(("caf\u00e9 x", " y"))
    assert text_key(("a", "b")) != text_key(("b", "a"))
    assert text_key(("A",)) != text_key(("a",))
