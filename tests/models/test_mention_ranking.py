"""Mention ranking: scores, loss and clusters against loops in float64, and that it learns to link what is alike."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from remora.models.mention_ranking import (
    DUMMY,
    MentionRanker,
    antecedent_loss,
    candidate_spans,
    keep_mentions,
    linked_clusters,
)
from remora.tasks.coref_metrics import coref_metrics

SPANS = torch.tensor([[0, 0], [0, 2], [1, 3], [3, 3], [4, 6]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ranker(num_features: int = 6, num_hidden: int = 4) -> MentionRanker:
    return MentionRanker(num_features=num_features, num_hidden=num_hidden, generator=generator()).double()


def words(count: int = 7, num_features: int = 6) -> torch.Tensor:
    return torch.randn(count, num_features, generator=generator(1)).double()


def gelu(value: float) -> float:
    return 0.5 * value * (1.0 + math.erf(value / math.sqrt(2.0)))


def projected(weight: torch.Tensor, word: torch.Tensor) -> list[float]:
    return [gelu(sum(float(w) * float(x) for w, x in zip(row, word, strict=True))) for row in weight]


def dot(first: Sequence[float], second: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))


def through(left: Sequence[float], matrix: torch.Tensor, right: Sequence[float]) -> float:
    return sum(left[i] * float(matrix[i, j]) * right[j] for i in range(len(left)) for j in range(len(right)))


def naive_mention(model: MentionRanker, words_TD: torch.Tensor, span: Sequence[int]) -> float:
    first, last = projected(model.first_HD, words_TD[span[0]]), projected(model.last_HD, words_TD[span[1]])
    ends = dot(first, model.mention_first_H.tolist()) + dot(last, model.mention_last_H.tolist())
    return ends + through(first, model.mention_HH, last)


def naive_pair(model: MentionRanker, words_TD: torch.Tensor, earlier: Sequence[int], query: Sequence[int]) -> float:
    """The sum of four products of first and last words, one for each quarter of the matrix."""
    first, last, num_hidden = model.antecedent_first_HD, model.antecedent_last_HD, len(model.mention_first_H)
    candidate, asking = (
        (projected(first, words_TD[span[0]]), projected(last, words_TD[span[1]])) for span in (earlier, query)
    )
    quarters = [half.split(num_hidden, 1) for half in model.antecedent_KK.split(num_hidden, 0)]
    return sum(through(candidate[i], quarters[i][j], asking[j]) for i in (0, 1) for j in (0, 1))


def test_scores_equal_loops() -> None:
    model, words_TD = ranker(), words()
    with torch.no_grad():
        mentions_M = model.mention_scores(words_TD, SPANS)
        scores_MN = model.antecedent_scores(words_TD, SPANS, mentions_M)
        expected = [naive_mention(model, words_TD, span) for span in SPANS.tolist()]
        assert mentions_M.tolist() == pytest.approx(expected, abs=1e-12)
        assert scores_MN.shape == (5, 6)
        for query, span in enumerate(SPANS.tolist()):
            assert scores_MN[query, DUMMY] == 0.0
            for earlier, other in enumerate(SPANS.tolist()):
                score = float(scores_MN[query, earlier + 1])
                if earlier < query:
                    pair = naive_pair(model, words_TD, other, span)
                    assert score == pytest.approx(expected[query] + expected[earlier] + pair, abs=1e-12)
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


def some_scores(num_mentions: int, seed: int, scale: float = 2.0) -> torch.Tensor:
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


def test_every_weight_has_its_gradient() -> None:
    model, words_TD = ranker(3, 2), words(7, 3)
    clusters_M = torch.tensor([0, 1, 0, -1, 1])
    names = [name for name, _ in model.named_parameters()]

    def loss(*weights: torch.Tensor) -> torch.Tensor:
        state = dict(zip(names, weights, strict=True))

        def run(method: str, *inputs: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(Call(model, method), {f"model.{n}": w for n, w in state.items()}, inputs)

        mentions_M = run("mention_scores", words_TD, SPANS)
        return antecedent_loss(run("antecedent_scores", words_TD, SPANS, mentions_M), clusters_M).sum()

    weights = tuple(parameter.detach().requires_grad_() for parameter in model.parameters())
    assert torch.autograd.gradcheck(loss, weights)
    assert all(float(gradient.norm()) > 1e-6 for gradient in torch.autograd.grad(loss(*weights), weights))


class Call(torch.nn.Module):
    """One method of a ranker as a module's forward."""

    def __init__(self, model: MentionRanker, method: str) -> None:
        super().__init__()
        self.model = model
        self._method = method

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return getattr(self.model, self._method)(*inputs)


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


def test_candidates_stay_in_their_sentence() -> None:
    spans = [(0, 0), (0, 1), (1, 1), (2, 2), (3, 3), (3, 4), (4, 4), (4, 5), (5, 5)]
    assert candidate_spans([2, 1, 3], 2).tolist() == [list(span) for span in spans]
    assert candidate_spans([], 3).shape == (0, 2)


def test_the_best_are_kept_in_the_order_of_the_text() -> None:
    scores_S = torch.tensor([0.5, 2.0, 0.5, -1.0, 3.0])
    assert keep_mentions(scores_S, 3).tolist() == [0, 1, 4]
    assert keep_mentions(scores_S, 9).tolist() == [0, 1, 2, 3, 4]


def test_learns_to_link_what_is_alike() -> None:
    """Words of three kinds and filler; a mention is one word of a kind, and words of a kind belong together."""
    kinds_T = torch.randint(0, 6, (40,), generator=generator(2))
    kinds_D = torch.randn(6, 16, generator=generator(3))
    words_TD = kinds_D[kinds_T] + 0.1 * torch.randn(40, 16, generator=generator(4))
    truth = [[t for t in range(40) if kinds_T[t] == kind] for kind in range(3)]
    model = MentionRanker(num_features=16, num_hidden=16, generator=generator(5))
    spans_S2 = candidate_spans([10, 10, 10, 10], 1)
    clusters_S = torch.where(kinds_T < 3, kinds_T, -1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def scores() -> tuple[torch.Tensor, torch.Tensor]:
        mention_scores_S = model.mention_scores(words_TD, spans_S2)
        kept_M = keep_mentions(mention_scores_S, 30)
        return kept_M, model.antecedent_scores(words_TD, spans_S2[kept_M], mention_scores_S[kept_M])

    def conll_f1() -> float:
        kept_M, scores_MN = scores()
        found = [[int(kept_M[mention]) for mention in cluster] for cluster in linked_clusters(scores_MN)]
        return coref_metrics([(truth, found)])["conll_f1"]

    before = conll_f1()
    for _ in range(100):
        kept_M, scores_MN = scores()
        optimizer.zero_grad()
        antecedent_loss(scores_MN, clusters_S[kept_M]).sum().backward()
        optimizer.step()
    assert before < 0.5
    assert conll_f1() > 0.99
