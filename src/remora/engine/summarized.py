"""Documents and summaries as examples: every token of a summary is asked for behind those before it.

A causal language model reads the prompt with the summary behind it. Of an encoder-decoder the encoder reads the
document, and the decoder the summary behind the token that it starts with. The loss of an example is the sum over the
tokens of its summary and that of a batch the mean over all of them, as transformers has it with labels of -100
elsewhere. The last token is never fed: nothing is read behind it.
"""

from collections.abc import Sequence

import numpy as np

from remora.data.prompts import Prompt
from remora.data.summary_prompts import SourceEncoder, SummaryEncoder
from remora.data.tokenize import Ints
from remora.engine.examples import Examples
from remora.errors import ModelError
from remora.models.base import Base


def summary_encoder(base: Base, prompt: Prompt, max_tokens: int) -> SummaryEncoder:
    """What makes tokens of documents and summaries for a base.

    Args:
        base: a causal language model or an encoder-decoder.
        prompt: what stands around a document.
        max_tokens: of a summary, special ones included.

    Raises:
        ModelError: the model or its tokenizer does not say how a summary begins or ends.
    """
    if not base.arch.encoder_decoder:
        return SummaryEncoder(base.tokenizer, prompt, max_tokens)
    if base.arch.model_type == "mbart":
        raise ModelError(
            f"{base.name} (mbart) begins what it writes with the language's code, which summarization does not choose",
            "choose a BART or T5, such as facebook/bart-base or google/mt5-small",
        )
    start = base.config.to_dict().get("decoder_start_token_id")
    if start is None:
        raise ModelError(
            f"the configuration of {base.name} has no decoder_start_token_id, so nothing says how a summary begins",
            "set it in config.json to the token that the model was pretrained with",
        )
    return SourceEncoder(base.tokenizer, prompt, max_tokens, int(start))


def summarized(
    prompts: Sequence[Ints], summaries: Sequence[Ints], targets_B: np.ndarray, start: int | None = None
) -> Examples:
    """Examples of prompts and what is to follow them; in training and in evaluation they are the same.

    Args:
        prompts: token ids of each.
        summaries: token ids of each, at least one.
        targets_B: what the task makes of the summaries.
        start: the first token of a decoder that has the summary to itself; None where it follows the prompt.
    """
    ids, decoder_ids = prompts, None
    places = [np.arange(len(summary)) for summary in summaries]
    if start is None:
        ids = [np.concatenate([prompt, summary[:-1]]) for prompt, summary in zip(prompts, summaries, strict=True)]
        places = [len(prompt) - 1 + place for prompt, place in zip(prompts, places, strict=True)]
    else:
        decoder_ids = [np.concatenate([[start], summary[:-1]]) for summary in summaries]
    return Examples(
        ids=ids,
        type_ids=[np.zeros_like(row) for row in ids],
        targets=targets_B,
        places=places,
        weights=np.array([len(summary) for summary in summaries], dtype=np.int64),
        next_tokens=summaries,
        decoder_ids=decoder_ids,
    )
