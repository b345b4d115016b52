"""Coreference metrics: MUC, B-cubed, CEAFe and the mean of their F1, the CoNLL score, as the reference scorer has them.

A mention is found when both its boundaries are right. Numerators and denominators are summed over documents before they
are divided. Entities of one mention (singletons) count like any other where the files have them, as LitBank's do and
OntoNotes' do not; MUC counts links and cannot see them. A response that names a mention of the key twice keeps it in
the first of its entities.

MUC: Vilain et al. 1995, "A model-theoretic coreference scoring scheme", MUC-6. B-cubed: Bagga and Baldwin 1998,
"Algorithms for scoring coreference chains", LREC workshop. CEAFe: Luo 2005, "On coreference resolution performance
metrics", HLT-EMNLP, similarity phi_4. Treatment of mentions that one side lacks: Pradhan et al. 2014, "Scoring
coreference partitions of predicted mentions: a reference implementation", ACL.
"""

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from remora.data.table import shown
from remora.errors import DataError

METRICS: tuple[str, ...] = ("muc", "b_cubed", "ceaf_e")
MENTION = "mention"
"""Mentions found, whatever entity they are in; no part of the CoNLL score."""

Entities = Iterable[Collection[Hashable]]
# K entities of the key, R entities of the response


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What one metric counts; tallies of several documents are added before anything is divided.

    Args:
        recall_hits: numerator of the recall.
        recall_total: its denominator.
        precision_hits: numerator of the precision.
        precision_total: its denominator.
    """

    recall_hits: float = 0.0
    recall_total: float = 0.0
    precision_hits: float = 0.0
    precision_total: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            recall_hits=self.recall_hits + other.recall_hits,
            recall_total=self.recall_total + other.recall_total,
            precision_hits=self.precision_hits + other.precision_hits,
            precision_total=self.precision_total + other.precision_total,
        )

    @property
    def recall(self) -> float:
        """Recall; 0 where the key has nothing to find."""
        return self.recall_hits / self.recall_total if self.recall_total else 0.0

    @property
    def precision(self) -> float:
        """Precision; 0 where the response has nothing."""
        return self.precision_hits / self.precision_total if self.precision_total else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of both; 0 where both are 0."""
        both = self.recall + self.precision
        return 2.0 * self.recall * self.precision / both if both else 0.0


def tally(key: Entities, response: Entities) -> dict[str, Tally]:
    """Count one document.

    Args:
        key: the true entities, each a collection of mentions; any hashable mentions, such as spans.
        response: the entities found.

    Returns:
        A tally for each of `METRICS` and for `MENTION`.

    Raises:
        DataError: the key has a mention twice.
    """
    keys, responses = [list(entity) for entity in key if entity], list(response)
    key_of = {mention: index for index, entity in enumerate(keys) for mention in entity}
    if len(key_of) < sum(map(len, keys)):
        listed = [mention for entity in keys for mention in entity]
        repeated = next(mention for mention in listed if listed.count(mention) > 1)
        raise DataError(
            f"the key has the mention {shown(repeated)} twice", "a mention belongs to one entity; mend the key"
        )
    responses = _first_claims(responses, key_of)
    shared_KR = np.zeros((len(keys), len(responses)))
    for index, entity in enumerate(responses):
        for mention in entity:
            if mention in key_of:
                shared_KR[key_of[mention], index] += 1.0
    size_K1 = np.array([[len(entity)] for entity in keys], dtype=float).reshape(-1, 1)
    size_1R = np.array([[len(entity) for entity in responses]], dtype=float)
    # Mentions that two entities share hang together by one link less than there are mentions.
    links = float(np.maximum(shared_KR - 1.0, 0.0).sum())
    similarity_KR = 2.0 * shared_KR / (size_K1 + size_1R)  # phi_4 of Luo 2005, equation 9
    similarity = float(similarity_KR[linear_sum_assignment(similarity_KR, maximize=True)].sum())
    return {
        "muc": Tally(
            recall_hits=links,
            recall_total=float((size_K1 - 1.0).sum()),
            precision_hits=links,
            precision_total=float((size_1R - 1.0).sum()),
        ),
        "b_cubed": Tally(
            recall_hits=float((shared_KR**2 / size_K1).sum()),
            recall_total=float(size_K1.sum()),
            precision_hits=float((shared_KR**2 / size_1R).sum()),
            precision_total=float(size_1R.sum()),
        ),
        "ceaf_e": Tally(
            recall_hits=similarity,
            recall_total=float(len(keys)),
            precision_hits=similarity,
            precision_total=float(len(responses)),
        ),
        MENTION: Tally(
            recall_hits=float(shared_KR.sum()),
            recall_total=float(size_K1.sum()),
            precision_hits=float(shared_KR.sum()),
            precision_total=float(size_1R.sum()),
        ),
    }


def _first_claims(response: Sequence[Collection[Hashable]], key_mentions: Collection[Hashable]) -> list[list[Hashable]]:
    """Leave repeats of key mentions out, and entities that are empty then.

    A repeated mention that is not in the key stays: it is wrong each time, which is how the reference scorer counts it.
    """
    seen: set[Hashable] = set()
    kept: list[list[Hashable]] = []
    for entity in response:
        mentions: list[Hashable] = []
        for mention in entity:
            if mention not in seen or mention not in key_mentions:
                mentions.append(mention)
            seen.add(mention)
        if mentions:
            kept.append(mentions)
    return kept


def coref_metrics(documents: Iterable[tuple[Entities, Entities]]) -> dict[str, float]:
    """Score several documents together.

    Args:
        documents: key and response of each.

    Returns:
        ``conll_f1`` first, then ``muc_recall``, ``muc_precision``, ``muc_f1`` and the same of ``b_cubed``, ``ceaf_e``
        and ``mention``, all between 0 and 1.

    Raises:
        DataError: a key has a mention twice.
    """
    totals = dict.fromkeys((*METRICS, MENTION), Tally())
    for key, response in documents:
        for name, counted in tally(key, response).items():
            totals[name] += counted
    scores = {"conll_f1": sum(totals[name].f1 for name in METRICS) / len(METRICS)}
    for name, total in totals.items():
        scores |= {f"{name}_recall": total.recall, f"{name}_precision": total.precision, f"{name}_f1": total.f1}
    return scores
