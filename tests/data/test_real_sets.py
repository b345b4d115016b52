"""The real data sets: counts, classes, headline metrics, repeats and overlaps as their own description states."""

import re
from pathlib import Path

import pytest

from remora.config.schema import DataConfig
from remora.data.cards import card_names, load_card
from remora.data.conll import read_conll
from remora.data.dataset import Dataset, load_dataset
from remora.data.summaries import references, usual_sentences

pytestmark = pytest.mark.real

# name: rows of train, validation, test; headline metric; duplicates, conflicting texts, test texts also in train.
# Duplicates of ag_news and financial_tweets are more than stated there, since blanks do not tell texts apart here.
FACTS = {
    "sst2": ((66849, 500, 872), "accuracy", 371, 5, 0),
    "cola": ((8051, 500, 1043), "matthews", 19, 11, 18),
    "mrpc": ((3168, 500, 408), "f1", 0, 0, 0),
    "rte": ((1992, 498, 277), "accuracy", 2, 0, 0),
    "stsb": ((5249, 500, 1500), "pearson", 43, 4, 6),
    "imdb": ((5000, 1000, 5000), "accuracy", 0, 0, 0),
    "ag_news": ((8776, 1000, 7600), "accuracy", 1, 1, 0),
    "financial_tweets": ((9043, 500, 2388), "macro_f1", 6, 0, 1),
    "commonsense_qa": ((9241, 500, 1221), "accuracy", 0, 0, 0),
    "gap": ((2000, 454, 2000), "accuracy", 0, 0, 0),
    "sst5": ((8544, 1101, 2210), "accuracy", 10, 0, 2),
    "boolq_en": ((1816, 454, 1000), "accuracy", 0, 0, 0),
    "boolq": ((1816, 454, 1000), "accuracy", 0, 0, 0),
    "boolq_sl": ((8927, 500, 3270), "accuracy", 34, 0, 29),
    "conll2012": ((80, 10, 10), "conll_f1", 0, 0, 0),
    "litbank_coref": ((80, 10, 10), "conll_f1", 0, 0, 0),
    "xsum": ((700, 100, 200), "rouge2", 0, 0, 0),
    "dialogsum": ((12460, 500, 500), "rouge2", 595, 588, 0),
}


# Of card and folder names; a card with no folder of its own is tested on that of another.
FOLDERS = {"boolq": "boolq_en", "xsum": "xsum_small", "conll2012": "litbank_coref"}


def load(folder: Path, **settings: object) -> Dataset:
    return load_dataset(DataConfig.model_validate({"path": str(folder), **settings}))


@pytest.mark.parametrize("name", FACTS)
def test_counts(shared_data: Path, name: str) -> None:
    sizes, metric, duplicates, conflicting, overlap = FACTS[name]
    data = load_dataset(DataConfig(path=name, local=str(shared_data / FOLDERS.get(name, name))))
    assert data.name == name
    assert tuple(len(split) for split in data.splits.values()) == sizes
    assert data.card == name
    assert data.metric == metric
    counts = {note.kind: note.count for note in data.notes}
    assert counts.get("duplicates", 0) == duplicates
    assert counts.get("conflicting-labels", 0) == conflicting
    assert counts.get("overlap-test", 0) == overlap


def test_every_card_without_rows_of_its_own_is_checked_here() -> None:
    assert {*FACTS, "helpdesk"} == set(card_names())


def test_each_test_dialogue_has_three_references_and_all_other_rows_one(shared_data: Path) -> None:
    data = load_dataset(DataConfig(path="dialogsum", local=str(shared_data / "dialogsum")))
    numbers = {name: {len(references(label)) for label in split.labels} for name, split in data.splits.items()}
    assert numbers == {"train": {1}, "validation": {1}, "test": {3}}
    assert references(data.test.labels[0])[0].startswith("Ms. Dawson helps #Person1# to write a memo")
    assert usual_sentences(data.train.labels) == 2


def test_the_card_of_conll2012_fits_documents_of_column_files(shared_data: Path) -> None:
    card = load_card("conll2012")
    assert card is not None
    assert (card.hub, card.text, card.label) == (None, ("sentences",), "clusters")
    (first, *_) = read_conll(shared_data / FOLDERS["conll2012"] / "test.conll.gz")
    assert first.sentences
    assert first.clusters


@pytest.mark.parametrize("name", card_names())
def test_cards_name_real_classes(name: str) -> None:
    card = load_card(name)
    assert card is not None
    assert card.name == name
    assert card.positive is None or card.positive in card.labels
    assert (card.metric == "f1") <= (card.positive is not None)
    assert card.hub is None or re.fullmatch("[0-9a-f]{40}|None", str(card.hub.revision))
    assert card.licence
    assert card.citation


def test_class_counts_of_cola(shared_data: Path) -> None:
    data = load(shared_data / "cola", train_limit=1000, test_limit=100)
    assert data.label_counts("train") == {"acceptable": 704, "unacceptable": 296}
    assert data.label_counts("test") == {"acceptable": 69, "unacceptable": 31}
    assert data.label_counts("validation") == {"acceptable": 353, "unacceptable": 147}


def test_stsb_scores_are_spread_alike_in_every_part(shared_data: Path) -> None:
    data = load(shared_data / "stsb", train_limit=1000)
    means = [sum(split.labels) / len(split) for split in (data.train, data.validation)]
    assert means == pytest.approx([2.70, 2.70], abs=0.08)
    assert data.task == "regression"


def test_a_card_gives_way_to_another_task(shared_data: Path) -> None:
    data = load(shared_data / "stsb", task="classification")
    assert (data.card, data.task, data.metric) == (None, "classification", "accuracy")
    assert [note.message for note in data.notes if note.kind == "card"] == [
        "the card 'stsb' has another task or other classes and is not used"
    ]
