"""Where a document that is too long is cut: at the ends of sentences, and within one only where it is too long itself.

Nothing is left out and nothing is read twice: windows stand one behind the other, as the independent segments of Joshi
et al. 2019, "BERT for coreference resolution: baselines and analysis", EMNLP, section 3, which overlapping ones did not
improve on.
"""

from collections.abc import Sequence


def windows(
    sentences: Sequence[int], words: Sequence[int], num_tokens: int, most: int
) -> tuple[list[tuple[int, int]], int]:
    """Fill windows with whole sentences, one after the other.

    Args:
        sentences: the first token of every sentence, ascending; text before the first belongs to it.
        words: the first token of every word, ascending.
        num_tokens: of the document.
        most: tokens of a window, at least 1.

    Returns:
        First token and the one behind the last of every window, in order; and how many sentences were cut, which is
        before a word, or within one that is longer than a window.
    """
    cuts = [0]
    num_cut = 0
    for start, end in zip([0, *sentences[1:]], [*sentences[1:], num_tokens], strict=True):
        if end - cuts[-1] <= most:
            continue
        if start > cuts[-1]:
            cuts.append(start)
        num_cut += end - cuts[-1] > most
        while end - cuts[-1] > most:
            limit = cuts[-1] + most
            cuts.append(max((word for word in words if cuts[-1] < word <= limit), default=limit))
    return list(zip(cuts, [*cuts[1:], num_tokens], strict=True)), num_cut
