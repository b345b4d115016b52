"""Data frames and Hub data sets, with stand-ins for packages that need not be installed."""

import sys
from collections.abc import Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from remora.config.schema import DataConfig
from remora.data import hub
from remora.data.cards import load_card
from remora.data.cells import cell_of
from remora.data.dataset import load_dataset
from remora.data.frame import dataset_from_frame
from remora.data.table import Nested
from remora.errors import DataError, ResourceError


class TinyFrame:
    """The two things that pandas and polars frames have in common."""

    def __init__(self, **columns: list[object]) -> None:
        self._columns = columns

    @property
    def columns(self) -> list[str]:
        return list(self._columns)

    def __getitem__(self, name: str) -> Iterator[object]:
        return iter(self._columns[name])


class NAType:
    """Pandas' own missing value has this class name."""


def frame(count: int = 60, prefix: str = "t") -> TinyFrame:
    return TinyFrame(text=[f"{prefix}{i}" for i in range(count)], label=[("no", "NA")[i % 2] for i in range(count)])


class TestFrames:
    def test_one_frame_is_cut(self) -> None:
        data = dataset_from_frame(frame(100))
        assert [len(split) for split in data.splits.values()] == [70, 10, 20]
        assert data.label_names == ("NA", "no")

    def test_three_frames_and_settings(self) -> None:
        config = DataConfig(path="mails", train_limit=30, metric="macro_f1")
        data = dataset_from_frame(frame(), validation=frame(20, "v"), test=frame(10, "x"), config=config)
        assert [len(split) for split in data.splits.values()] == [30, 20, 10]
        assert (data.name, data.metric) == ("mails", "macro_f1")

    def test_a_dict_of_columns(self) -> None:
        columns = {"text": [f"t{i}" for i in range(60)], "label": np.arange(60) % 3}
        assert dataset_from_frame(columns).label_names == ("0", "1", "2")

    def test_missing_values_are_bad_rows(self) -> None:
        rows = frame(40)
        broken = TinyFrame(text=[*rows["text"], "x", "y", None], label=[*rows["label"], float("nan"), NAType(), "no"])
        with pytest.raises(DataError, match=r"3 rows cannot be used:\n  dataframe train row 41: no label"):
            dataset_from_frame(broken)

    def test_no_rows_and_uneven_columns(self) -> None:
        with pytest.raises(DataError, match="no rows"):
            dataset_from_frame(TinyFrame(text=[], label=[]))
        with pytest.raises(DataError, match="different lengths: 1, 2"):
            dataset_from_frame({"text": ["a"], "label": ["a", "b"]})

    def test_pandas_itself(self) -> None:
        pandas = pytest.importorskip("pandas", reason="pandas is not needed by Remora and may be missing")
        rows = pandas.DataFrame({"text": [f"t{i}" for i in range(60)], "label": [1.0, 2.0, 3.0] * 20})
        assert dataset_from_frame(rows).label_names == ("1.0", "2.0", "3.0")


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("NA", "NA"),
        (7, "7"),
        (1.5, "1.5"),
        (np.float32(3.2), "3.2"),
        (np.int64(4), "4"),
        (np.bool_(True), "true"),
        (False, "false"),
        (None, None),
        (float("nan"), None),
        (np.float64("nan"), None),
        (NAType(), None),
        (np.str_("yes"), "yes"),
    ],
)
def test_cells(value: object, cell: str | None) -> None:
    assert cell_of(value) == cell


def test_cells_that_are_no_text() -> None:
    assert cell_of(["x", None]) == Nested(kind="list", items=("x", None))
    assert cell_of(b"x") == Nested(kind="bytes")
    assert cell_of(np.array([1, 2])) == Nested(kind="list", items=("1", "2"))


class HubSplit:
    """The parts of `datasets.Dataset` that are used."""

    def __init__(
        self,
        names: list[str] | None,
        rows: Sequence[tuple[object, ...]],
        columns: tuple[str, ...] = ("sentence", "label"),
    ) -> None:
        self.features = dict.fromkeys(columns, SimpleNamespace()) | {columns[-1]: SimpleNamespace(names=names)}
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, name: str) -> list[object]:
        return [row[list(self.features).index(name)] for row in self._rows]


def install_hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[object, ...]]:
    """A module called ``datasets`` whose ``load_dataset`` gives the answer or raises it; returns its calls."""
    calls: list[tuple[object, ...]] = []

    def load(name: str, config: str | None, *, revision: str | None) -> Any:
        calls.append((name, config, revision))
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = ModuleType("datasets")
    module.__dict__["load_dataset"] = load
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def hub_rows(count: int, prefix: str, label: int | None = None) -> list[tuple[object, object]]:
    return [(f"{prefix}{i}", i % 2 if label is None else label) for i in range(count)]


class TestHub:
    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        for path in ("someone/something", "sst2"):
            with pytest.raises(ResourceError, match=r"needs the package `datasets`\n.*remora\[hub\]"):
                load_dataset(DataConfig(path=path))

    def test_a_card_names_source_and_splits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        names = ["negative", "positive"]
        calls = install_hub(
            monkeypatch,
            {
                "train": HubSplit(names, hub_rows(100, "t")),
                "validation": HubSplit(names, hub_rows(30, "v")),
                "test": HubSplit(names, hub_rows(30, "x", -1)),
            },
        )
        data = load_dataset(DataConfig(path="sst2"))
        assert calls == [("nyu-mll/glue", "sst2", None)]
        assert data.card == "sst2"
        assert data.label_counts("test") == {"negative": 15, "positive": 15}
        assert data.test.source == "nyu-mll/glue:validation"
        assert [len(split) for split in data.splits.values()] == [80, 20, 30]

    def test_a_card_names_labels_and_revision(self, monkeypatch: pytest.MonkeyPatch) -> None:
        card = load_card("financial_tweets")
        assert card is not None
        assert card.hub is not None
        fixed = card.model_copy(update={"hub": card.hub.model_copy(update={"revision": "abc123"})})
        monkeypatch.setattr(hub, "load_card", lambda _name: fixed)
        rows: list[tuple[object, ...]] = [(f"t{i}", i % 3) for i in range(99)]
        answer = {name: HubSplit(None, rows, ("text", "label")) for name in ("train", "validation")}
        calls = install_hub(monkeypatch, answer)
        data = load_dataset(DataConfig(path="financial_tweets"))
        assert calls == [("zeroshot/twitter-financial-news-sentiment", None, "abc123")]
        assert (data.card, data.label_names) == ("financial_tweets", ("bearish", "bullish", "neutral"))
        assert data.test.labels[:3] == ("bearish", "bullish", "neutral")

    def test_a_card_names_columns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        columns = ("question", "passage", "answer")
        rows: list[tuple[object, ...]] = [(f"q{i}", f"p{i}", i % 3 > 0) for i in range(99)]
        install_hub(monkeypatch, {name: HubSplit(None, rows, columns) for name in ("train", "validation")})
        data = load_dataset(DataConfig(path="boolq"))
        assert (data.card, data.label_column, data.positive) == ("boolq", "label", "true")
        assert data.test.texts[:2] == (("q0", "p0"), ("q1", "p1"))
        assert data.test.labels[:2] == ("false", "true")

    def test_a_card_of_summaries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        columns = ("dialogue", "summary")
        rows: list[tuple[object, ...]] = [(f"A: {i}", f"about {i}") for i in range(9)]
        splits = {name: HubSplit(None, rows, columns) for name in ("train", "validation", "test")}
        install_hub(monkeypatch, splits)
        data = load_dataset(DataConfig(path="dialogsum"))
        assert (data.card, data.task, data.text_columns, data.metric) == (
            "dialogsum", "summarization", ("document",), "rouge2",
        )  # fmt: skip
        assert data.test.texts[1] == ("A: 1",)
        assert data.test.labels[1] == '["about 1"]'

    def test_a_card_without_any_source(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = install_hub(monkeypatch, {})
        with pytest.raises(DataError, match="neither rows shipped with Remora nor a copy on the Hub"):
            load_dataset(DataConfig(path="conll2012"))
        assert calls == []

    def test_an_id_with_revision_and_configuration(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = install_hub(monkeypatch, {"train": HubSplit(None, hub_rows(100, "t"))})
        data = load_dataset(DataConfig(path="someone/some.thing@v1.0:small"))
        assert calls == [("someone/some.thing", "small", "v1.0")]
        assert (data.name, data.label_names) == ("some.thing", ("0", "1"))

    def test_unlabelled_test_split(self, monkeypatch: pytest.MonkeyPatch) -> None:
        splits = {"train": HubSplit(["n", "p"], hub_rows(100, "t")), "test": HubSplit(["n", "p"], hub_rows(9, "x", -1))}
        install_hub(monkeypatch, splits)
        with pytest.raises(DataError, match="column 'label' is empty in all 9 rows"):
            load_dataset(DataConfig(path="someone/something"))

    def test_errors_of_the_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for error in (FileNotFoundError("Dataset 'x/y' doesn't exist"), ValueError("BuilderConfig missing"), OSError()):
            install_hub(monkeypatch, error)
            with pytest.raises(DataError, match=r"data\.path: someone/something: "):
                load_dataset(DataConfig(path="someone/something"))
        install_hub(monkeypatch, {"only": HubSplit(None, hub_rows(10, "t"))})
        with pytest.raises(DataError, match=r"no split called train\n.*only"):
            load_dataset(DataConfig(path="someone/something"))

    def test_a_card_without_a_copy_on_the_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        install_hub(monkeypatch, {})
        with pytest.raises(DataError, match="neither rows shipped with Remora nor a copy on the Hub"):
            load_dataset(DataConfig(path="boolq_en"))
