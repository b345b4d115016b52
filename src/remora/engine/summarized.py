"""Documents and summaries as examples: the prompt with the summary behind it, of whose tokens each is asked for.

The loss of an example is the sum over the tokens of its summary and that of a batch the mean over all of them, as
transformers has it with labels of -100 elsewhere. The last token is never fed: nothing is read behind it.
"""

from collections.abc import Sequence

import numpy as np

from remora.data.tokenize import Ints
from remora.engine.examples import Examples


def summarized(prompts: Sequence[Ints], summaries: Sequence[Ints], targets_B: np.ndarray) -> Examples:
    """Examples of prompts and what is to follow them; in training and in evaluation they are the same.

    Args:
        prompts: token ids of each.
        summaries: token ids of each, at least one.
        targets_B: what the task makes of the summaries.
    """
    ids = [np.concatenate([prompt, summary[:-1]]) for prompt, summary in zip(prompts, summaries, strict=True)]
    return Examples(
        ids=ids,
        type_ids=[np.zeros_like(row) for row in ids],
        targets=targets_B,
        places=[len(prompt) - 1 + np.arange(len(s)) for prompt, s in zip(prompts, summaries, strict=True)],
        weights=np.array([len(summary) for summary in summaries], dtype=np.int64),
        next_tokens=summaries,
    )
