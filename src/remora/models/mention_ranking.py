"""Mention ranking for coreference: which spans are mentions, which earlier mention each refers to, and the clusters.

Every span q within a sentence is scored as a mention, the best are kept, and each of those chooses among the earlier
ones and a dummy that stands for "no antecedent":

    f(c, q) = f_m(c) + f_m(q) + f_a(c, q),  f(dummy, q) = 0,  P(c | q) = softmax over c of f(c, q)

The loss is the negative log of the probability of all true antecedents together. f_m and f_a look at the first word s
and the last word e of a span only, and all that a head says of a word are the parts of one vector:

    f_m(q) = a(s_q) + b(e_q) + u(s_q) . w(e_q) / sqrt(H)
    f_a(c, q) = (l(s_c) + m(e_c)) . (r(s_q) + t(e_q)) / sqrt(K)

a and b are numbers, u and w have H features, l, m, r and t have K. This is the bilinear form over both ends of both
spans, at most of rank K, so that nothing but the head is learnt and it works word by word.

Ranking and loss: Lee, He and Zettlemoyer 2018, "Higher-order coreference resolution with coarse-to-fine inference",
NAACL, section 2. Scores from ends: Kirstain, Ram and Levy 2021, "Coreference resolution without span representations",
ACL, section 3. Where entities of one mention are to be found, f_m alone decides, and learns from every span: Zhang et
al. 2018, "Neural coreference resolution with deep biaffine attention by joint mention detection and mention
clustering", ACL, section 2.
"""
# T words, C outputs of a word, E most words of a span, S = T E spans, M kept mentions, N = M + 1 choices

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

DUMMY = 0
"""The choice that stands for no antecedent; choice n + 1 is mention n."""

MENTION_FEATURES = 64
PAIR_FEATURES = 64
_PARTS = (1, 1, MENTION_FEATURES, MENTION_FEATURES, PAIR_FEATURES, PAIR_FEATURES, PAIR_FEATURES, PAIR_FEATURES)
NUM_OUTPUTS = sum(_PARTS)
"""C, the outputs of a head of which the parts of a word are made."""


@dataclass(frozen=True)
class WordParts:
    """What a head says of the words of a document.

    Args:
        first: a (T, 1), of words that begin a span.
        last: b (T, 1), of words that end one.
        first_features: u (T, H).
        last_features: w (T, H).
        antecedent_first: l (T, K), of words that begin the earlier of two mentions.
        antecedent_last: m (T, K).
        query_first: r (T, K), of words that begin the later one.
        query_last: t (T, K).
    """

    first: Tensor
    last: Tensor
    first_features: Tensor
    last_features: Tensor
    antecedent_first: Tensor
    antecedent_last: Tensor
    query_first: Tensor
    query_last: Tensor


def word_parts(outputs_TC: Tensor) -> WordParts:
    """The named parts of a head's outputs."""
    return WordParts(*outputs_TC.split(_PARTS, dim=1))


def mention_scores(words: WordParts, sentence_T: Tensor, max_width: int) -> Tensor:
    """Score all spans of up to ``max_width`` words that stay in one sentence.

    Args:
        words: of a document.
        sentence_T: the sentence of each word (T,), int64; below 0 where there is no word.
        max_width: the most words of a span, at least 1.

    Returns:
        f_m (T, E): column n is the span of n + 1 words that begins with the row's; -inf where there is no such span. E
        is `max_width`, or T where that is less.
    """
    num_words = len(sentence_T)
    columns: list[Tensor] = []
    for more in range(min(max_width, num_words)):
        first, last = slice(0, num_words - more), slice(more, None)
        product_T = (words.first_features[first] * words.last_features[last]).sum(1) * MENTION_FEATURES**-0.5
        score_T = words.first[first, 0] + words.last[last, 0] + product_T
        inside_T = (sentence_T[first] == sentence_T[last]) & (sentence_T[first] >= 0)
        score_T = score_T.masked_fill(~inside_T, float("-inf"))
        columns.append(functional.pad(score_T, (0, more), value=float("-inf")))
    return torch.stack(columns, 1)


def is_span(scores: Tensor) -> Tensor:
    """Which scores are those of spans; not a number is one too, so that a loss tells of it."""
    return scores != float("-inf")


def keep_mentions(scores_S: Tensor, num_kept: Tensor | int, most: int) -> tuple[Tensor, Tensor]:
    """The best spans; shapes depend on no value, so that a device need not be read.

    Args:
        scores_S: f_m of all spans (S,), in the order of the text; -inf where there is none.
        num_kept: how many to keep (); all when there are fewer.
        most: no less than `num_kept`.

    Returns:
        Their indices (M,), in the order of the text, and which of these are meant (M,): the first ones; the others are
        0. Of equal scores the earlier span is kept.
    """
    best_M = scores_S.detach().argsort(descending=True, stable=True)[:most]
    wanted_M = (torch.arange(len(best_M), device=best_M.device) < num_kept) & is_span(scores_S.detach()[best_M])
    indices_M = best_M.masked_fill(~wanted_M, len(scores_S)).sort().values
    real_M = indices_M < len(scores_S)
    return indices_M.masked_fill(~real_M, 0), real_M


def antecedent_scores(
    words: WordParts, first_M: Tensor, last_M: Tensor, mention_scores_M: Tensor, real_M: Tensor
) -> Tensor:
    """Score every mention's choices.

    Args:
        words: of a document.
        first_M: first word of the kept mentions (M,), int64, in the order of the text.
        last_M: last word, inclusive.
        mention_scores_M: their f_m (M,).
        real_M: which of them are meant (M,).

    Returns:
        f (M, N): column `DUMMY` is 0, column n + 1 is mention n as antecedent, -inf where that is not earlier or
        not meant.
    """
    antecedent_MK = words.antecedent_first[first_M] + words.antecedent_last[last_M]
    query_MK = words.query_first[first_M] + words.query_last[last_M]
    own_M = mention_scores_M.masked_fill(~real_M, 0.0)
    pair_MM = query_MK @ antecedent_MK.T * PAIR_FEATURES**-0.5 + own_M[:, None] + own_M[None, :]  # row q, column c
    earlier_MM = torch.ones_like(pair_MM, dtype=torch.bool).tril(-1) & real_M[None, :]
    return functional.pad(pair_MM.masked_fill(~earlier_MM, float("-inf")), (1, 0))


def antecedent_loss(scores_MN: Tensor, clusters_M: Tensor) -> Tensor:
    """The marginal negative log-likelihood of the true antecedents.

    Args:
        scores_MN: what `antecedent_scores` gives (M, N), any float type; computed in float32 at least.
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
        scores_MN: what `antecedent_scores` gives (M, N).

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
