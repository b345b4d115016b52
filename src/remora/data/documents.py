"""Documents with clusters as whole splits: what train shows of mentions, and which of them no candidate can be."""

from collections.abc import Mapping

from remora.data.check import Note, Rows
from remora.data.clusters import MentionRules, sentence_lengths, spans_of
from remora.errors import DataError

MOST_WIDTH = 30
"""Words of the longest span that is looked at. Lee et al. 2017, "End-to-end neural coreference resolution", EMNLP, look
at 10; Joshi et al. 2019 and Kirstain et al. 2021 at 30. Of LitBank's mentions 1 in 500 is longer."""


def mention_rules(rows: Mapping[str, Rows]) -> tuple[MentionRules, tuple[Note, ...]]:
    """What train shows of mentions.

    Args:
        rows: the checked rows of each split.

    Returns:
        The rules, and counted remarks.

    Raises:
        DataError: nothing is annotated in train.
    """
    train = [cluster for label in rows["train"].labels for cluster in spans_of(label)]
    if not train:
        raise DataError("train: no document has a cluster", "there is nothing to learn; check data.label")
    widest = max(end - start for cluster in train for start, end in cluster)
    alone = sum(len(cluster) == 1 for cluster in train)
    if len(train) == alone:
        raise DataError("train: every cluster has one mention only", "there is nothing to link; check data.label")
    rules = MentionRules(singletons=alone > 0, max_width=min(widest, MOST_WIDTH))
    found = f"{alone} of {len(train)} entities of train have one mention"
    told = "such entities are predicted" if alone else "an entity has two mentions or more"
    notes = [Note(kind="task", message=f"{found}: {told}", count=alone)]
    beyond = sum(_beyond(part, rules) for part in rows.values())
    if beyond:
        message = f"{beyond} mentions are longer than {rules.max_width} words or go beyond their sentence; they are"
        notes.append(Note(kind="long-mentions", message=f"{message} never found and count as missed", count=beyond))
    return rules, tuple(notes)


def _beyond(part: Rows, rules: MentionRules) -> int:
    """Mentions that are no candidates."""
    count = 0
    for texts, label in zip(part.texts, part.labels, strict=True):
        sentence = [number for number, length in enumerate(sentence_lengths(texts)) for _ in range(length)]
        for start, end in (span for cluster in spans_of(label) for span in cluster):
            count += end - start > rules.max_width or sentence[start] != sentence[end - 1]
    return count
