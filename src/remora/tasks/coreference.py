"""Coreference: the mentions of a document and which of them mean the same, by ranking antecedents from their ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from remora.data.clusters import MentionRules, Span, sentence_lengths, spans_of, written
from remora.data.coref_metrics import coref_metrics
from remora.data.dataset import Split
from remora.data.kinds import TaskName
from remora.models.mention_ranking import (
    NUM_OUTPUTS,
    antecedent_loss,
    antecedent_scores,
    is_span,
    keep_mentions,
    linked_clusters,
    mention_scores,
    word_parts,
)
from remora.tasks.base import Array, Task, finite, ordered

if TYPE_CHECKING:
    from remora.models.head_steps import HeadKind

# B documents, W words of the longest, G the longest row of a document's targets, C outputs of a word
_NONE = -1
_SENTENCES, _FIRSTS, _LASTS, _CLUSTERS = range(4)
_NEVER = -1e4
_READABLE = "cpu"


@dataclass(frozen=True, kw_only=True)
class Coreference(Task):
    """Clusters of mentions. The head's outputs of a word are those of `models.mention_ranking`, at first sub-tokens.

    The loss of a document is the sum over the mentions that are kept, 2 for every 5 words, as in Joshi et al. 2019 and
    Kirstain et al. 2021 (0.4 for each); where there are entities of one mention, plus the cross entropy of all spans as
    mentions or not. The mean of a batch is over its words. An entity of one mention is a kept span that is linked to
    nothing and has f_m > 0.

    Args:
        rules: what mentions are like in train.
        metrics_names: metrics, headline first.
    """

    name: ClassVar[TaskName] = "coreference"
    head: ClassVar["HeadKind"] = "coreference"
    scores_answers: ClassVar[bool] = False
    rules: MentionRules
    metrics_names: tuple[str, ...] = ("conll_f1", "muc_f1", "b_cubed_f1", "ceaf_e_f1", "mention_f1")

    @property
    def num_outputs(self) -> int:
        """The parts of a word."""
        return NUM_OUTPUTS

    def targets(self, split: Split) -> Array:
        """(B, 4, G) int64: of each word the sentence; of each mention first word, last word, cluster; -1 behind."""
        documents: list[list[list[int]]] = []
        for texts, label in zip(split.texts, split.labels, strict=True):
            sentences = np.repeat(np.arange(len(texts)), sentence_lengths(texts)).tolist()
            mentions = [(start, end - 1, number) for number, c in enumerate(spans_of(label)) for start, end in c]
            documents.append([sentences, *([mention[part] for mention in mentions] for part in range(3))])
        longest = max(len(row) for document in documents for row in document)
        targets_B4G = np.full((len(documents), 4, longest), _NONE, dtype=np.int64)
        for number, document in enumerate(documents):
            for part, row in enumerate(document):
                targets_B4G[number, part, : len(row)] = row
        return targets_B4G

    def constant(self, train_B: Array, targets_B: Array) -> Array:
        """No mention at all (B, W, C)."""
        num_words = int((targets_B[:, _SENTENCES] >= 0).sum(axis=1).max(initial=1))
        logits_BWC = np.zeros((len(targets_B), num_words, NUM_OUTPUTS), np.float32)
        logits_BWC[:, :, 0] = _NEVER
        return logits_BWC

    def loss(self, logits_BC: Tensor, targets_B: Tensor) -> Tensor:
        """The sum over mentions, and over spans, of every document (B,)."""
        logits_BWC = logits_BC.to(torch.promote_types(logits_BC.dtype, torch.float32))
        return torch.stack([self._loss(*document) for document in zip(logits_BWC, targets_B, strict=True)])

    def _loss(self, logits_WC: Tensor, targets_4G: Tensor) -> Tensor:
        sentence_W = functional.pad(targets_4G[_SENTENCES], (0, len(logits_WC)), value=_NONE)[: len(logits_WC)]
        if sentence_W.device.type == _READABLE:  # elsewhere the number of words would have to be waited for
            sentence_W = sentence_W[: int((sentence_W >= 0).sum())]
        there_W = sentence_W >= 0
        outputs_WC = logits_WC[: len(sentence_W)].masked_fill(~there_W[:, None], 0.0)
        ranking = _ranked(outputs_WC, sentence_W, self.rules.max_width)
        gold_S = _true_clusters(targets_4G, ranking.scores_WE.shape)
        clusters_M = gold_S[ranking.kept_M].masked_fill(~ranking.real_M, _NONE)
        losses_M = antecedent_loss(ranking.choices_MN, clusters_M)
        loss = losses_M.masked_fill(~ranking.real_M, 0.0).sum()
        if not self.rules.singletons:
            return loss
        scores_S = ranking.scores_WE.flatten()
        span_S = is_span(scores_S)
        known_S = functional.binary_cross_entropy_with_logits(
            scores_S.masked_fill(~span_S, 0.0), (gold_S >= 0).to(scores_S), reduction="none"
        )
        return loss + known_S.masked_fill(~span_S, 0.0).sum()

    def clusters(self, outputs_WC: Array, lengths: Sequence[int]) -> list[list[Span]]:
        """The clusters of a document.

        Args:
            outputs_WC: (W, C); W may be more than the document has words.
            lengths: words of each sentence.
        """
        sentence_T = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
        ranking = _ranked(torch.from_numpy(finite(outputs_WC[: len(sentence_T)])), sentence_T, self.rules.max_width)
        kept_M = ranking.kept_M[ranking.real_M]
        width = ranking.scores_WE.shape[1]
        spans = [(at // width, at // width + at % width + 1) for at in kept_M.tolist()]
        found = linked_clusters(ranking.choices_MN[: len(spans), : len(spans) + 1])
        if self.rules.singletons:
            linked = {mention for cluster in found for mention in cluster}
            alone = (ranking.scores_WE.flatten()[kept_M] > 0).tolist()
            found += [[mention] for mention, is_one in enumerate(alone) if is_one and mention not in linked]
        return [[spans[mention] for mention in cluster] for cluster in found]

    def decode(self, logits_BC: Array, texts: Sequence[Sequence[str]] | None = None) -> list[str]:
        """The clusters of every document as JSON, in the order of the text.

        Args:
            logits_BC: (B, W, C).
            texts: the sentences of every document.
        """
        assert texts is not None, "where sentences end is not in the logits"
        return [
            written(self.clusters(outputs_WC, sentence_lengths(sentences)))
            for outputs_WC, sentences in zip(logits_BC, texts, strict=True)
        ]

    def metrics(self, targets_B: Array, logits_BC: Array) -> dict[str, float]:
        """The CoNLL score and what it is the mean of, and F1 of mentions; 0 where undefined."""
        documents: list[tuple[list[list[Span]], list[list[Span]]]] = []
        for targets_4G, outputs_WC in zip(targets_B, logits_BC, strict=True):
            sentence = targets_4G[_SENTENCES]
            lengths = np.bincount(sentence[sentence >= 0]).tolist()
            documents.append((_gold(targets_4G), self.clusters(outputs_WC, lengths)))
        return ordered(coref_metrics(documents), self.metrics_names)

    def is_constant(self, logits_BC: Array) -> bool:
        """Whether no word begins or ends a mention more than any other, as in `constant`."""
        outputs_BWC = finite(logits_BC)
        there_BW = outputs_BWC.max(axis=2) > -1e29
        return len(np.unique(outputs_BWC[there_BW], axis=0)) <= 1


@dataclass(frozen=True, kw_only=True)
class _Ranking:
    """All spans of a document and the choices of those that are kept; see `models.mention_ranking`."""

    scores_WE: Tensor
    kept_M: Tensor
    real_M: Tensor
    choices_MN: Tensor


def _ranked(outputs_WC: Tensor, sentence_W: Tensor, max_width: int) -> _Ranking:
    words = word_parts(outputs_WC)
    scores_WE = mention_scores(words, sentence_W, max_width)
    scores_S, width = scores_WE.flatten(), scores_WE.shape[1]
    num_kept = ((sentence_W >= 0).sum() * 2 // 5).clamp(min=1)
    kept_M, real_M = keep_mentions(scores_S, num_kept, max(1, len(sentence_W) * 2 // 5))
    first_M = kept_M // width
    choices_MN = antecedent_scores(words, first_M, first_M + kept_M % width, scores_S[kept_M], real_M)
    return _Ranking(scores_WE=scores_WE, kept_M=kept_M, real_M=real_M, choices_MN=choices_MN)


def _true_clusters(targets_4G: Tensor, shape: torch.Size) -> Tensor:
    """(S,) the true cluster of every span, -1 for those that are no mentions."""
    num_words, width = shape
    first_G, last_G, cluster_G = targets_4G[_FIRSTS], targets_4G[_LASTS], targets_4G[_CLUSTERS]
    extra_G = last_G - first_G
    place_G = torch.where((cluster_G >= 0) & (extra_G < width), first_G * width + extra_G, num_words * width)
    # One place more takes what is no candidate.
    return cluster_G.new_full((num_words * width + 1,), _NONE).scatter(0, place_G, cluster_G)[:-1]


def _gold(targets_4G: Array) -> list[list[Span]]:
    clusters: dict[int, list[Span]] = {}
    for first, last, cluster in targets_4G[1:, targets_4G[_CLUSTERS] >= 0].T.tolist():
        clusters.setdefault(cluster, []).append((first, last + 1))
    return list(clusters.values())
