"""Prompts as examples: what is trained on is the right answer's tokens, what is asked is how likely every answer is.

Where every class is one token, the row behind the prompt tells all of them, in training as in evaluation. Otherwise an
example in training is the prompt with its right answer, each token of which is a row's target; in evaluation it is one
sequence per class, whose logit is the mean of its tokens' log-probabilities.

The last token of an answer is never fed: nothing is read behind it.
"""

import numpy as np

from remora.data.prompts import PromptEncoder
from remora.data.tokenize import Encoded
from remora.engine.examples import Examples

_NO_ROW = -1


def prompted(
    encoded: Encoded,
    encoder: PromptEncoder,
    targets_B: np.ndarray,
    *,
    training: bool,
    reference: Encoded | None = None,
) -> Examples:
    """Examples of encoded prompts.

    Args:
        encoded: the prompts.
        encoder: that made them; it knows the answers' tokens.
        targets_B: index of the right class of each.
        training: whether they are trained on, or every class is to be scored.
        reference: prompts of inputs that say nothing, by which scores are calibrated.
    """
    told = None
    if reference is not None and not training:
        told = prompted(reference, encoder, np.zeros(len(reference), np.int64), training=False)
    prompts = encoded.ids
    if encoder.single:
        return Examples(ids=prompts, type_ids=_no_types(prompts), targets=targets_B, reference=told)
    column = {token: number for number, token in enumerate(encoder.tokens)}
    answers = [np.array(answer, dtype=np.int64) for answer in encoder.answers.values()]
    columns = [np.array([column[token] for token in answer.tolist()], dtype=np.int64) for answer in answers]
    if training:
        chosen = [(prompt, int(target)) for prompt, target in zip(prompts, targets_B, strict=True)]
        counts = np.array([len(answers[target]) for _, target in chosen], dtype=np.int64)
        targets_BW = np.full((len(chosen), max(map(len, answers))), _NO_ROW, dtype=np.int64)
        for number, (_, target) in enumerate(chosen):
            targets_BW[number, : counts[number]] = columns[target]
        ids = [np.concatenate([prompt, answers[target][:-1]]) for prompt, target in chosen]
        places = [len(prompt) - 1 + np.arange(len(answers[target])) for prompt, target in chosen]
        return Examples(ids=ids, type_ids=_no_types(ids), targets=targets_BW, places=places, weights=counts)
    ids = [np.concatenate([prompt, answer[:-1]]) for prompt in prompts for answer in answers]
    return Examples(
        ids=ids,
        type_ids=_no_types(ids),
        targets=targets_B,
        joints=np.arange(len(prompts) + 1) * len(answers),
        places=[len(prompt) - 1 + np.arange(len(answer)) for prompt in prompts for answer in answers],
        wanted=columns * len(prompts),
        reference=told,
    )


def _no_types(ids: list[np.ndarray]) -> list[np.ndarray]:
    return [np.zeros_like(row) for row in ids]
