"""Tagged words: spans as an independent reading of CoNLL's rules has them, scores, losses, words that are not read."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from remora.data.dataset import Split
from remora.data.kinds import ABSENT
from remora.data.spans import count_spans, spans
from remora.results.predictions import SplitPredictions
from remora.results.span_detail import span_counts, span_detail
from remora.study.weighted_metrics import weighted_metric
from remora.tasks import make_task
from remora.tasks.token_classification import TokenClassification

TAGS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
TASK = TokenClassification(label_names=TAGS)
SENTENCES = st.lists(st.sampled_from(TAGS), min_size=1, max_size=8)


def naive_spans(tags: list[str]) -> set[tuple[str, int, int]]:
    """By the two questions that CoNLL's script asks: does a chunk end before this word, does one begin with it."""
    found: set[tuple[str, int, int]] = set()
    before, before_type, begun = "O", "", 0
    for place, tag in enumerate([*tags, "O"]):
        now, now_type = tag[0], tag[2:]
        ends = before in "BI" and (now in "BO" or before_type != now_type)
        begins = now in "BI" and (now == "B" or before == "O" or before_type != now_type)
        if ends:
            found.add((before_type, begun, place))
        if begins:
            begun = place
        before, before_type = now, now_type
    return found


def split_of(*labels: str) -> Split:
    texts = tuple(tuple(f"w{i}" for i in range(len(label.split(" ")))) for label in labels)
    return Split(name="test", texts=texts, labels=labels, source="test", hash="0")


def one_hot(rows: list[list[str]], width: int | None = None) -> np.ndarray:
    """Logits that say these tags, absent behind the last word that is read."""
    wide = width or max(map(len, rows))
    logits = np.full((len(rows), wide, len(TAGS)), ABSENT, np.float32)
    for i, row in enumerate(rows):
        logits[i, : len(row)] = np.eye(len(TAGS))[[TAGS.index(tag) for tag in row]]
    return logits


@given(tags=SENTENCES)
def test_spans_are_those_of_conlls_rules(tags: list[str]) -> None:
    assert set(spans(tags)) == naive_spans(tags)
    assert len(spans(tags)) == len(set(spans(tags)))


def test_spans_of_tags_out_of_order() -> None:
    assert spans(["I-PER", "I-LOC", "B-LOC", "I-LOC", "O", "I-LOC"]) == [
        ("PER", 0, 1),
        ("LOC", 1, 2),
        ("LOC", 2, 4),
        ("LOC", 5, 6),
    ]


@given(rows=st.lists(st.tuples(SENTENCES, st.randoms(use_true_random=False)), min_size=1, max_size=6))
def test_metrics_are_those_of_spans_as_wholes(rows: list) -> None:
    true = [tags for tags, _ in rows]
    guessed = [[rng.choice([tag, *TAGS]) for tag in tags] for tags, rng in rows]
    metrics = TASK.metrics(TASK.targets(split_of(*map(" ".join, true))), one_hot(guessed))
    gold = {(i, span) for i, tags in enumerate(true) for span in naive_spans(tags)}
    found = {(i, span) for i, tags in enumerate(guessed) for span in naive_spans(tags)}
    right = len(gold & found)
    assert metrics["span_precision"] == pytest.approx(right / len(found) if found else 0.0)
    assert metrics["span_recall"] == pytest.approx(right / len(gold) if gold else 0.0)
    assert metrics["span_f1"] == pytest.approx(2 * right / (len(gold) + len(found)) if gold or found else 0.0)
    people = [{entry for entry in part if entry[1][0] == "PER"} for part in (gold, found)]
    both = len(people[0]) + len(people[1])
    assert metrics["f1/PER"] == pytest.approx(2 * len(people[0] & people[1]) / both if both else 0.0)
    words = [a == b for row, other in zip(true, guessed, strict=True) for a, b in zip(row, other, strict=True)]
    assert metrics["token_accuracy"] == pytest.approx(np.mean(words))
    assert list(metrics)[:4] == ["span_f1", "span_precision", "span_recall", "token_accuracy"]


def test_words_that_are_not_read_are_missed() -> None:
    split = split_of("B-PER O B-LOC I-LOC", "O B-PER")
    targets = TASK.unread(TASK.targets(split), np.array([3, 2]))
    assert targets.tolist() == [[1, 4, 0, -2 - 2], [4, 1, -1, -1]]
    logits = one_hot([["B-PER", "O", "B-LOC"], ["O", "B-PER"]])
    assert TASK.decode(logits, split.texts) == ["B-PER O B-LOC O", "O B-PER"]
    metrics = TASK.metrics(targets, logits)
    assert metrics["span_recall"] == pytest.approx(2 / 3)
    assert metrics["span_precision"] == pytest.approx(2 / 3)
    assert metrics["token_accuracy"] == pytest.approx(5 / 6)
    loss = TASK.loss(torch.from_numpy(logits), torch.from_numpy(targets))
    one = -float(torch.log_softmax(torch.eye(5)[0], 0)[0])
    assert loss.tolist() == pytest.approx([3 * one, 2 * one])


def test_a_task_from_a_card_and_its_constant_answer() -> None:
    task = make_task("token-classification", label_names=TAGS, metrics=("f1/PER", "span_f1"))
    split = split_of("O B-PER O", "O")
    targets = task.targets(split)
    assert list(task.metrics(targets, task.constant(targets, targets)))[:2] == ["f1/PER", "span_f1"]
    assert task.decode(task.constant(targets, targets), split.texts) == ["O O O", "O"]
    assert task.is_constant(task.constant(targets, targets))
    assert not task.is_constant(one_hot([["O", "B-PER"]]))


def part_of(true: list[str], guessed: list[str]) -> SplitPredictions:
    return SplitPredictions(targets=tuple(true), predictions=tuple(guessed), scores=np.zeros((len(true), 1)))


def test_the_bootstrap_sees_whole_sentences() -> None:
    """A weighting of sentences gives the F1 of a data set in which each stands as often as it says."""
    true = ["B-PER O", "B-LOC I-LOC O", "O O", "B-PER B-LOC"]
    guessed = [["B-PER O", "B-LOC O O", "O B-PER", "B-PER B-LOC"], ["O O", "B-LOC I-LOC O", "O O", "B-PER O"]]
    weights = np.array([[1, 1, 1, 1], [0, 3, 1, 0], [2, 0, 0, 2]])
    for metric in ("span_f1", "span_precision", "span_recall", "token_accuracy", "f1/PER"):
        counts = np.stack([span_counts(metric, part_of(true, row)) for row in guessed])
        found = weighted_metric(metric, counts[0]["true"], counts, weights)
        for b, row in enumerate(weights):
            for s, said in enumerate(guessed):
                chosen = np.repeat(np.arange(4), row)
                targets = TASK.targets(split_of(*(true[i] for i in chosen)))
                expected = TASK.metrics(targets, one_hot([said[i].split(" ") for i in chosen], targets.shape[1]))
                assert found[b, s] == pytest.approx(expected[metric])


def test_a_closer_look_by_type() -> None:
    true = ["B-PER O", "B-LOC I-LOC O", "O O"]
    look = span_detail("x", "best", [part_of(true, ["B-PER O", "B-LOC O O", "O B-PER"])], TAGS)
    assert [(each.label, each.precision, each.recall, each.support) for each in look.classes] == [
        ("LOC", 0.0, 0.0, 1),
        ("PER", 0.5, 1.0, 1),
    ]
    assert look.outside is not None
    assert look.confusion == ((1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.0, 1.0, 3.0))
    assert count_spans([(["B-PER"], ["B-PER"])]) == {"PER": (1, 1, 1)}
