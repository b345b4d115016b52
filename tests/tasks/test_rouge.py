"""ROUGE: equal to rouge-score with and without stemming, and to its definition on words that need no stemming."""

import gzip
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer

from remora.errors import ResourceError
from remora.tasks.rouge import METRICS, rouge_f1, rouge_metrics

SUMMARIES = ["The cats sat on the mat.", "He runs\nand jumped", "", "nothing alike"]
REFERENCES = [["A cat sits on mats."], ["He ran and jumps."], ["Not empty."], ["Something else"]]


@pytest.mark.parametrize("stemming", [True, False])
def test_equals_rouge_score(stemming: bool) -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemming)
    theirs = [scorer.score(texts[0], summary) for summary, texts in zip(SUMMARIES, REFERENCES, strict=True)]
    ours = rouge_f1(SUMMARIES, REFERENCES, stemming=stemming)
    means = rouge_metrics(SUMMARIES, REFERENCES, stemming=stemming)
    assert tuple(ours) == tuple(means) == METRICS
    for name in METRICS:
        assert ours[name] == [score[name].fmeasure for score in theirs]
        assert means[name] == pytest.approx(sum(score[name].fmeasure for score in theirs) / 4)


def test_stemming_is_the_default_and_tells_apart_what_it_should() -> None:
    assert rouge_f1(SUMMARIES, REFERENCES) == rouge_f1(SUMMARIES, REFERENCES, stemming=True)
    # "cat(s)", "on", "mat(s)" of six and five words; without stems "on" alone.
    assert rouge_f1(SUMMARIES, REFERENCES)["rouge1"][0] == pytest.approx(2 * (3 / 6) * (3 / 5) / (3 / 6 + 3 / 5))
    unstemmed = rouge_f1(SUMMARIES, REFERENCES, stemming=False)["rouge1"][0]
    assert unstemmed == pytest.approx(2 * (1 / 6) * (1 / 5) / (1 / 6 + 1 / 5))


def naive_f1(hits: int, num_summary: int, num_reference: int) -> float:
    return 2.0 * hits / (num_summary + num_reference) if hits else 0.0


def longest_common(first: list[str], second: list[str]) -> int:
    if not first or not second:
        return 0
    if first[0] == second[0]:
        return 1 + longest_common(first[1:], second[1:])
    return max(longest_common(first[1:], second), longest_common(first, second[1:]))


def test_equals_the_definition() -> None:
    pairs = [("a b c d e", "b a c e d e"), ("x y x y x", "y x x z"), ("p q", "q p")]
    scores = rouge_f1([summary for summary, _ in pairs], [[reference] for _, reference in pairs])
    for index, (summary, reference) in enumerate(pairs):
        words, others = summary.split(), reference.split()
        for n in (1, 2):
            grams, wanted = (Counter(zip(*(text[i:] for i in range(n)), strict=False)) for text in (words, others))
            hits = (grams & wanted).total()
            assert scores[f"rouge{n}"][index] == pytest.approx(naive_f1(hits, grams.total(), wanted.total()))
        hits = longest_common(words, others)
        assert scores["rougeL"][index] == pytest.approx(naive_f1(hits, len(words), len(others)))


def test_the_best_reference_counts_for_each_metric() -> None:
    same_words, same_order = "c b a", "a b x y z"
    both = rouge_f1(["a b c"], [[same_words, same_order]])
    assert both["rouge1"] == rouge_f1(["a b c"], [[same_words]])["rouge1"] == [1.0]
    assert both["rougeL"] == rouge_f1(["a b c"], [[same_order]])["rougeL"] == [0.5]


def test_nothing_to_score() -> None:
    assert rouge_metrics([], []) == dict.fromkeys(METRICS, 0.0)


def test_bare_texts_as_references_are_refused() -> None:
    with pytest.raises(AssertionError, match="a list of references"):
        rouge_f1(["a"], ["a"])


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(ResourceError, match=r"needs the package `rouge-score`\n.*remora\[summarization\]"):
        rouge_metrics(["a"], [["a"]])


@pytest.mark.real
@pytest.mark.parametrize("stemming", [True, False])
def test_real_summaries(shared_data: Path, stemming: bool) -> None:
    """The second reference of a dialogue scored against the first, and against the first and third."""
    raw = gzip.decompress((shared_data / "dialogsum" / "test.jsonl.gz").read_bytes()).decode()
    references = [json.loads(line)["references"] for line in raw.split("\n")[:40]]
    summaries = [texts[1] for texts in references]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemming)
    for chosen in ([[texts[0]] for texts in references], [[texts[0], texts[2]] for texts in references]):
        theirs = [scorer.score_multi(texts, summary) for summary, texts in zip(summaries, chosen, strict=True)]
        for name, values in rouge_f1(summaries, chosen, stemming=stemming).items():
            assert values == [score[name].fmeasure for score in theirs]
            assert 0.05 < sum(values) / len(values) < 0.95
