"""Mention ranking: scores, loss and clusters against loops in float64."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from remora.models.mention_ranking import (
    DUMMY,
    MENTION_FEATURES,
    NUM_OUTPUTS,
    PAIR_FEATURES,
    antecedent_loss,
    antecedent_scores,
    keep_mentions,
    linked_clusters,
    mention_scores,
    word_parts,
)

LENGTHS = [4, 1, 3]
SENTENCE = torch.tensor([0, 0, 0, 0, 1, 2, 2, 2])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outputs(count: int = 8, seed: int = 1) -> Tensor:
    return torch.randn(count, NUM_OUTPUTS, generator=generator(seed)).double()


def naive_parts(row: list[float]) -> dict[str, list[float]]:
    """The vectors of a word by the letters of the module's formulas."""
    sizes = {"a": 1, "b": 1, "u": 64, "w": 64, "l": 64, "m": 64, "r": 64, "t": 64}
    ends = [0]
    for size in sizes.values():
        ends.append(ends[-1] + size)
    return {name: row[start:end] for name, (start, end) in zip(sizes, pairwise(ends), strict=True)}


def dot(first: list[float], second: list[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))


def naive_mention(words: list[dict[str, list[float]]], span: tuple[int, int]) -> float:
    first, last = words[span[0]], words[span[1]]
    return first["a"][0] + last["b"][0] + dot(first["u"], last["w"]) / 8


def naive_pair(words: list[dict[str, list[float]]], earlier: tuple[int, int], query: tuple[int, int]) -> float:
    """The four products of an end of the one and an end of the other."""
    left = (words[earlier[0]]["l"], words[earlier[1]]["m"])
    right = (words[query[0]]["r"], words[query[1]]["t"])
    return sum(dot(a, b) for a in left for b in right) / 8


def naive_spans(lengths: list[int], max_width: int) -> list[tuple[int, int]]:
    """First and last word of all spans that stay in a sentence."""
    found: list[tuple[int, int]] = []
    start = 0
    for length in lengths:
        end = start + length
        found += [(first, last) for first in range(start, end) for last in range(first, min(first + max_width, end))]
        start = end
    return found


def test_there_are_as_many_outputs_as_parts_have_features() -> None:
    assert (MENTION_FEATURES, PAIR_FEATURES, NUM_OUTPUTS) == (64, 64, 2 + 6 * 64)


@pytest.mark.parametrize("max_width", [1, 2, 3, 30])
def test_scores_equal_loops(max_width: int) -> None:
    rows = outputs()
    words = [naive_parts(row) for row in rows.tolist()]
    scores_TE = mention_scores(word_parts(rows), SENTENCE, max_width)
    width = scores_TE.shape[1]
    assert width == min(max_width, 8)
    spans = naive_spans(LENGTHS, max_width)
    for first in range(8):
        for more in range(width):
            found = float(scores_TE[first, more])
            if (first, first + more) in spans:
                assert found == pytest.approx(naive_mention(words, (first, first + more)), abs=1e-12)
            else:
                assert found == -math.inf
    first_M, last_M = torch.tensor([0, 0, 1, 5, 7]), torch.tensor([0, 2, 1, 6, 7])
    own_M = torch.tensor([naive_mention(words, span) for span in zip(first_M.tolist(), last_M.tolist(), strict=True)])
    real_M = torch.tensor([True, True, True, True, False])
    scores_MN = antecedent_scores(word_parts(rows), first_M, last_M, own_M.double(), real_M)
    assert scores_MN.shape == (5, 6)
    mentions = list(zip(first_M.tolist(), last_M.tolist(), strict=True))
    for query, span in enumerate(mentions[:4]):
        assert scores_MN[query, DUMMY] == 0.0
        for earlier, other in enumerate(mentions):
            score = float(scores_MN[query, earlier + 1])
            if earlier < query:
                expected = float(own_M[query] + own_M[earlier]) + naive_pair(words, other, span)
                assert score == pytest.approx(expected, abs=1e-6)
            else:
                assert score == -math.inf


def naive_loss(scores: list[list[float]], clusters: list[int]) -> list[float]:
    losses: list[float] = []
    for query, row in enumerate(scores):
        true = [n for n in range(query) if clusters[n] == clusters[query] != -1]
        choices = [DUMMY, *(n + 1 for n in range(query))]
        total = sum(math.exp(row[choice]) for choice in choices)
        right = sum(math.exp(row[choice]) for choice in ([n + 1 for n in true] or [DUMMY]))
        losses.append(-math.log(right / total))
    return losses


def some_scores(num_mentions: int, seed: int, scale: float = 2.0) -> Tensor:
    scores_MN = scale * torch.randn(num_mentions, num_mentions + 1, generator=generator(seed)).double()
    scores_MN[:, DUMMY] = 0.0
    later_MM = torch.ones(num_mentions, num_mentions, dtype=torch.bool).triu()
    scores_MN[:, 1:] = scores_MN[:, 1:].masked_fill(later_MM, float("-inf"))
    return scores_MN


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=7), st.integers(0, 99))
def test_loss_equals_loops(clusters: list[int], seed: int) -> None:
    scores_MN = some_scores(len(clusters), seed)
    losses_M = antecedent_loss(scores_MN, torch.tensor(clusters))
    assert losses_M.tolist() == pytest.approx(naive_loss(scores_MN.tolist(), clusters), abs=1e-12)


def test_loss_of_large_scores_and_low_precision() -> None:
    scores_MN = some_scores(5, 3, scale=500.0)
    clusters_M = torch.tensor([0, 0, -1, 1, 0])
    assert antecedent_loss(scores_MN, clusters_M).isfinite().all()
    rounded_MN = some_scores(5, 3).bfloat16()
    losses_M = antecedent_loss(rounded_MN, clusters_M)
    assert losses_M.dtype == torch.float32
    assert losses_M.tolist() == pytest.approx(naive_loss(rounded_MN.tolist(), clusters_M.tolist()), abs=1e-5)


def naive_clusters(scores: list[list[float]]) -> list[list[int]]:
    """Groups joined again and again until no best choice crosses them."""
    groups = [{mention} for mention in range(len(scores))]
    for mention, row in enumerate(scores):
        best = max(range(mention + 1), key=lambda choice: row[choice])
        if best != DUMMY:
            joined = [group for group in groups if mention in group or best - 1 in group]
            groups = [group for group in groups if group not in joined] + [set[int]().union(*joined)]
    return sorted(sorted(group) for group in groups if len(group) > 1)


@given(st.integers(0, 8), st.integers(0, 999))
def test_clusters_equal_joined_groups(num_mentions: int, seed: int) -> None:
    scores_MN = some_scores(num_mentions, seed)
    assert linked_clusters(scores_MN) == naive_clusters(scores_MN.tolist())


def test_a_score_of_zero_links_nothing() -> None:
    assert linked_clusters(torch.tensor([[0.0, -math.inf, -math.inf], [0.0, 0.0, -math.inf]])) == []


def test_the_best_are_kept_in_the_order_of_the_text() -> None:
    scores_S = torch.tensor([0.5, 2.0, 0.5, -math.inf, 3.0])

    def kept(num_kept: int, most: int) -> list[int]:
        indices_M, real_M = keep_mentions(scores_S, torch.tensor(num_kept), most)
        assert len(indices_M) == min(most, 5)
        assert real_M.tolist() == sorted(real_M.tolist(), reverse=True)
        return indices_M[real_M].tolist()

    assert kept(3, 3) == [0, 1, 4]
    assert kept(3, 5) == [0, 1, 4]
    assert kept(9, 9) == [0, 1, 2, 4]
