"""Mention ranking for coreference: which spans are mentions, which earlier mention each refers to, and the clusters.

Every span q within a sentence is scored as a mention, the best are kept, and each of those chooses among the earlier
ones and a dummy that stands for "no antecedent":

    f(c, q) = f_m(c) + f_m(q) + f_a(c, q),  f(dummy, q) = 0,  P(c | q) = softmax over c of f(c, q)

The loss is the negative log of the probability of all true antecedents together. f_m and f_a look at the first and the
last word of a span only: with s = gelu(W_s x) for first and e = gelu(W_e x) for last words,

    f_m(q) = v_s s_q + v_e e_q + s_q B_m e_q,  f_a(c, q) = [s'_c; e'_c] B_a [s'_q; e'_q]

where f_a has projections of its own. Entities of one mention cannot be found this way.

Ranking and loss: Lee, He and Zettlemoyer 2018, "Higher-order coreference resolution with coarse-to-fine inference",
NAACL, section 2.
Scores from ends: Kirstain, Ram and Levy 2021, "Coreference resolution without span representations", ACL, section 3.
"""
# T words, D features of a word, H features of the scorers, S candidate spans, M kept mentions, N = M + 1 choices

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

DUMMY = 0
"""The choice that stands for no antecedent; choice n + 1 is mention n."""


class MentionRanker(nn.Module):
    """The scorers f_m and f_a.

    Args:
        num_features: D, the width of the word vectors.
        num_hidden: H, the width of each projection.
        generator: draws the initial weights.
    """

    def __init__(self, *, num_features: int, num_hidden: int, generator: torch.Generator) -> None:
        super().__init__()

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) / shape[-1] ** 0.5)

        self.first_HD = drawn(num_hidden, num_features)
        self.last_HD = drawn(num_hidden, num_features)
        self.antecedent_first_HD = drawn(num_hidden, num_features)
        self.antecedent_last_HD = drawn(num_hidden, num_features)
        self.mention_first_H = drawn(num_hidden)
        self.mention_last_H = drawn(num_hidden)
        self.mention_HH = drawn(num_hidden, num_hidden)
        self.antecedent_KK = drawn(2 * num_hidden, 2 * num_hidden)

    def mention_scores(self, words_TD: Tensor, spans_S2: Tensor) -> Tensor:
        """Score spans as mentions.

        Args:
            words_TD: word vectors (T, D).
            spans_S2: first word and last word (inclusive) of each span (S, 2), int64.

        Returns:
            f_m (S,).
        """
        first_SH = functional.gelu(words_TD @ self.first_HD.T)[spans_S2[:, 0]]
        last_SH = functional.gelu(words_TD @ self.last_HD.T)[spans_S2[:, 1]]
        ends_S = first_SH @ self.mention_first_H + last_SH @ self.mention_last_H
        return ends_S + ((first_SH @ self.mention_HH) * last_SH).sum(1)

    def antecedent_scores(self, words_TD: Tensor, spans_M2: Tensor, mention_scores_M: Tensor) -> Tensor:
        """Score every mention's choices.

        Args:
            words_TD: word vectors (T, D).
            spans_M2: first and last word of the kept mentions (M, 2), int64, in the order of the text.
            mention_scores_M: their f_m (M,).

        Returns:
            f (M, N): column `DUMMY` is 0, column n + 1 is mention n as antecedent, -inf where that is not earlier.
        """
        first_MH = functional.gelu(words_TD @ self.antecedent_first_HD.T)[spans_M2[:, 0]]
        last_MH = functional.gelu(words_TD @ self.antecedent_last_HD.T)[spans_M2[:, 1]]
        ends_MK = torch.cat((first_MH, last_MH), 1)
        pair_MM = ends_MK @ self.antecedent_KK.T @ ends_MK.T  # row q, column c
        pair_MM = pair_MM + mention_scores_M[:, None] + mention_scores_M[None, :]
        earlier_MM = torch.ones_like(pair_MM, dtype=torch.bool).tril(-1)
        return functional.pad(pair_MM.masked_fill(~earlier_MM, float("-inf")), (1, 0))


def candidate_spans(sentence_lengths: Sequence[int], max_width: int) -> Tensor:
    """All spans of up to ``max_width`` words that stay in one sentence.

    Args:
        sentence_lengths: the words of each sentence.
        max_width: the most words of a span, at least 1.

    Returns:
        First and last word (inclusive), counted through the document (S, 2), int64, by first word, then last.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for length in sentence_lengths:
        end = start + length
        spans += [(first, last) for first in range(start, end) for last in range(first, min(first + max_width, end))]
        start = end
    return torch.tensor(spans, dtype=torch.int64).reshape(-1, 2)


def keep_mentions(scores_S: Tensor, num_kept: int) -> Tensor:
    """The best spans.

    Args:
        scores_S: f_m of all candidates (S,), in the order of the text.
        num_kept: how many to keep; all when there are fewer.

    Returns:
        Their indices (M,), in the order of the text; of equal scores the earlier span is kept.
    """
    best_M = scores_S.detach().argsort(descending=True, stable=True)[:num_kept]
    return best_M.sort().values


def antecedent_loss(scores_MN: Tensor, clusters_M: Tensor) -> Tensor:
    """The marginal negative log-likelihood of the true antecedents.

    Args:
        scores_MN: what `MentionRanker.antecedent_scores` gives (M, N), any float type; computed in float32 at least.
        clusters_M: the true cluster of each kept mention (M,), int64; -1 for a span that is no mention.

    Returns:
        Losses (M,). A mention without an earlier one of its cluster among the kept has the dummy as its truth.
    """
    scores_MN = scores_MN.to(torch.promote_types(scores_MN.dtype, torch.float32))
    true_MM = (clusters_M[:, None] == clusters_M[None, :]).tril(-1) & (clusters_M >= 0)[:, None]
    true_MN = torch.cat((~true_MM.any(1, keepdim=True), true_MM), 1)
    return scores_MN.logsumexp(1) - scores_MN.masked_fill(~true_MN, float("-inf")).logsumexp(1)


def linked_clusters(scores_MN: Tensor) -> list[list[int]]:
    """The clusters that follow from every mention's best choice.

    Args:
        scores_MN: what `MentionRanker.antecedent_scores` gives (M, N).

    Returns:
        Clusters of two mentions or more, as indices of kept mentions in ascending order, by first mention; of equal
        scores the dummy is chosen, then the earliest mention.
    """
    cluster_of: dict[int, list[int]] = {}
    for mention, choice in enumerate(scores_MN.detach().argmax(1).tolist()):
        # The antecedent is earlier, so it is in its cluster already.
        cluster_of[mention] = [] if choice == DUMMY else cluster_of[choice - 1]
        cluster_of[mention].append(mention)
    firsts = {cluster[0]: cluster for cluster in cluster_of.values()}
    return [firsts[first] for first in sorted(firsts) if len(firsts[first]) > 1]
