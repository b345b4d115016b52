"""The embedded help desk messages: counts, schema, and that they were written singly."""

import json
import re
from collections import Counter
from itertools import combinations

import pytest

from remora.config.schema import DataConfig
from remora.data.cards import embedded_folder, load_card
from remora.data.dataset import load_dataset

ROWS = {"train": 600, "validation": 100, "test": 200}
SHARES = {
    "technical_problem": 0.19,
    "billing": 0.18,
    "delivery": 0.18,
    "account_access": 0.16,
    "refund_return": 0.15,
    "cancellation": 0.14,
}


def read(split: str) -> list[dict[str, str]]:
    folder = embedded_folder("helpdesk")
    assert folder is not None
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict[str, str]]]:
    return {split: read(split) for split in ROWS}


@pytest.fixture(scope="module")
def texts(splits: dict[str, list[dict[str, str]]]) -> list[str]:
    return [row["text"] for rows in splits.values() for row in rows]


def words(text: str) -> list[str]:
    """The words without case and punctuation."""
    return re.sub(r"[^\w\s]", "", text.lower()).split()


def test_schema(splits: dict[str, list[dict[str, str]]]) -> None:
    for rows in splits.values():
        for row in rows:
            assert set(row) == {"text", "label"}
            assert row["label"] in SHARES
            assert row["text"] == row["text"].strip()
            assert row["text"].isprintable()


def test_counts_are_stratified(splits: dict[str, list[dict[str, str]]]) -> None:
    for split, size in ROWS.items():
        expected = {label: round(share * size) for label, share in SHARES.items()}
        assert Counter(row["label"] for row in splits[split]) == expected
        assert sum(expected.values()) == size


def test_messages_are_short_and_of_many_lengths(texts: list[str]) -> None:
    lengths = sorted(len(text.split()) for text in texts)
    assert lengths[0] >= 3
    assert lengths[-1] <= 45
    assert len(set(lengths)) > 30


def test_all_distinct(texts: list[str]) -> None:
    repeated = [key for key, count in Counter(" ".join(words(text)) for text in texts).items() if count > 1]
    assert not repeated


def test_no_near_duplicates(texts: list[str]) -> None:
    """No two messages, in one split or in two, share more than 60 % of their words."""
    bags = [frozenset(words(text)) for text in texts]
    close = [
        (texts[i], texts[j])
        for i, j in combinations(range(len(texts)), 2)
        if len(bags[i] & bags[j]) > 0.6 * len(bags[i] | bags[j])
    ]
    assert not close


@pytest.mark.parametrize(("length", "limit"), [(3, 9), (4, 3), (6, 1)])
@pytest.mark.parametrize("end", ["opening", "close"])
def test_no_templates(texts: list[str], length: int, limit: int, end: str) -> None:
    """Hardly any two messages open or close with the same words."""
    listed = [words(text) for text in texts]
    parts = [each[:length] if end == "opening" else each[-length:] for each in listed if len(each) >= length]
    most = Counter(tuple(part) for part in parts).most_common(1)
    assert most[0][1] <= limit, most


def test_misleading_words_are_frequent(splits: dict[str, list[dict[str, str]]]) -> None:
    """A word that belongs to one intent is no safe sign of it, and most messages do without it."""
    signs = {
        "refund_return": "refund|return|money back",
        "cancellation": "cancel",
        "account_access": "account|password|log ?in",
        "delivery": "deliver|parcel|courier",
        "billing": "bill|invoice|charge",
    }
    rows = [row for listed in splits.values() for row in listed]
    for label, sign in signs.items():
        with_sign = [row["label"] == label for row in rows if re.search(sign, row["text"].lower())]
        assert with_sign.count(False) >= 20, label
        assert with_sign.count(True) <= 0.6 * sum(row["label"] == label for row in rows), label


def test_no_personal_data(texts: list[str]) -> None:
    """No mail addresses, links, phone numbers or order numbers."""
    suspect = [text for text in texts if re.search(r"\S@\S|https?:|www\.|\d{5,}|\d[\d -]{7,}\d", text)]
    assert not suspect


def test_loads_by_name_as_its_card_says() -> None:
    card = load_card("helpdesk")
    assert card is not None
    dataset = load_dataset(DataConfig(path="helpdesk"))
    assert dataset.card == "helpdesk"
    assert dataset.task == card.task == "classification"
    assert dataset.metric == card.metric == "accuracy"
    assert set(dataset.label_names) == set(card.labels) == set(SHARES)
    assert {name: len(split.texts) for name, split in dataset.splits.items()} == ROWS
    assert not dataset.notes


def test_card_explains_every_label() -> None:
    card = load_card("helpdesk")
    assert card is not None
    for label in card.labels:
        assert f"- {label}:" in card.notes
