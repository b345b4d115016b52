"""ROUGE-1, ROUGE-2 and ROUGE-L of summaries, as the package rouge-score computes them: F1 of each example, and means.

ROUGE-N compares n-grams, ROUGE-L the longest common subsequence of the whole texts, line breaks being blanks like any
other. Texts are lower-cased, and everything but the letters a to z and digits parts words, so figures for languages
with other letters do not mean much. Published figures mostly stem words first (Porter), which is the default here;
without stemming they come out lower. Of several references the best one counts, for each metric by itself.

Lin 2004, "ROUGE: a package for automatic evaluation of summaries", sections 2 and 3.
"""

import importlib
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from remora.errors import ResourceError

METRICS = ("rouge1", "rouge2", "rougeL")


def rouge_f1(
    summaries: Sequence[str], references: Sequence[Sequence[str]], *, stemming: bool = True
) -> dict[str, list[float]]:
    """Score summaries one by one.

    Args:
        summaries: the generated texts (n,).
        references: for each the true summaries (n,), at least one.
        stemming: whether words are compared by their Porter stems.

    Returns:
        For each of `METRICS` the F1 of every summary (n,), between 0 and 1; 0 where a text has no words.

    Raises:
        ResourceError: the package rouge-score is not installed.
    """
    assert not any(isinstance(texts, str) or not texts for texts in references), "a list of references for each summary"
    try:
        package: Any = importlib.import_module("rouge_score.rouge_scorer")
    except ImportError as error:
        raise ResourceError("ROUGE needs the package `rouge-score`", "pip install 'remora[summarization]'") from error
    scorer = package.RougeScorer(list(METRICS), use_stemmer=stemming)
    scores = [scorer.score_multi(list(texts), summary) for summary, texts in zip(summaries, references, strict=True)]
    return {name: [float(score[name].fmeasure) for score in scores] for name in METRICS}


def rouge_metrics(
    summaries: Sequence[str], references: Sequence[Sequence[str]], *, stemming: bool = True
) -> dict[str, float]:
    """The means of `rouge_f1` over summaries, which takes the same arguments.

    Returns:
        For each of `METRICS` the mean F1, between 0 and 1; 0 without summaries.

    Raises:
        ResourceError: the package rouge-score is not installed.
    """
    by_example = rouge_f1(summaries, references, stemming=stemming)
    return {name: fmean(values) if values else 0.0 for name, values in by_example.items()}
