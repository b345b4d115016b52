"""What a language model reads before it writes a summary, and the tokens of the summaries it learns to write.

A causal one reads a prompt and writes behind it. An encoder-decoder reads the document, behind words that name the task
where it was pretrained with such, and its decoder has the summary to itself.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tokenizers import Encoding

from remora.data.prompts import Prompt, PromptTokenizer
from remora.data.summaries import references
from remora.data.tokenize import Ints
from remora.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class EncodedSummaries:
    """The tokens that are to follow each prompt.

    Args:
        ids: per example its summary's tokens, and the end of the sequence where the summary is whole (S_i,).
        num_cut: how many are longer than the limit.
    """

    ids: list[Ints]
    num_cut: int


class SummaryEncoder(PromptTokenizer):
    """Tokenizes prompts and summaries for a causal language model.

    Args:
        tokenizer: a fast tokenizer of transformers. It is not changed.
        prompt: what the prompts are.
        max_tokens: of a summary, the end of the sequence included; a prompt leaves room for so many.

    Raises:
        ModelError: the tokenizer has no token for the end of a sequence.
    """

    shorter: ClassVar[str] = "shorten the template, lower generation.max_new_tokens"
    start: int | None = None
    """The first token of a decoder that has the summary to itself."""
    opening: tuple[int, ...] = ()
    """Special tokens that every summary begins with."""

    def __init__(self, tokenizer: Any, prompt: Prompt, max_tokens: int) -> None:
        super().__init__(tokenizer, prompt)
        self._max_tokens = max_tokens
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has no token for the end of a sequence, so a summary would never end",
                "choose a model that has one",
            )
        self.end = int(tokenizer.eos_token_id)
        words = [self.fingerprint, max_tokens]
        self.fingerprint = hashlib.sha256(json.dumps(words).encode()).hexdigest()

    @property
    def behind(self) -> int:
        """Tokens of the longest summary but the last one, behind which nothing is read."""
        return self._max_tokens - 1

    def encode_summaries(self, labels: Sequence[str | float]) -> EncodedSummaries:
        """Tokenize the first reference of each example as what follows the template's end.

        One that is too long is cut and has no end, so that no model learns to stop in the middle of a sentence.

        Args:
            labels: of a split; see `data.summaries`.
        """
        found = [[*self._summary(references(label)[0]), self.end] for label in labels]
        return EncodedSummaries(
            ids=[np.array(ids[: self._max_tokens], dtype=np.int64) for ids in found],
            num_cut=sum(len(ids) > self._max_tokens for ids in found),
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated tokens, special ones left out."""
        return self._rules.decode(list(ids), skip_special_tokens=True).strip()

    def _summary(self, text: str) -> list[int]:
        """A summary whose first token would merge with the template's last one is tokenized by itself."""
        added = self._added(self.prompt.lead + text)
        return added if added is not None else self._rules.encode(text, add_special_tokens=False).ids


class SourceEncoder(SummaryEncoder):
    """Tokenizes documents and summaries for an encoder-decoder, each with the special tokens that its tokenizer adds.

    Args:
        tokenizer: a fast tokenizer of transformers. It is not changed.
        prompt: what stands around a document.
        max_tokens: of a summary, special ones included.
        start: the token that goes into the decoder first, which shifts the summary by one as transformers does.

    Raises:
        ModelError: the tokenizer has no token for the end of a sequence, or ends none with it.
    """

    shorter: ClassVar[str] = "shorten the template"

    def __init__(self, tokenizer: Any, prompt: Prompt, max_tokens: int, start: int) -> None:
        super().__init__(tokenizer, prompt, max_tokens)
        self.start = start
        special = list(self._rules.encode("", add_special_tokens=True).ids)
        if special[-1:] != [self.end]:
            raise ModelError(
                f"the tokenizer ends no text with {tokenizer.eos_token}, so a summary would never end",
                "choose a model whose tokenizer does, such as those of BART and T5",
            )
        self.opening = tuple(special[:-1])
        words = [self.fingerprint, "encoder-decoder", start]
        self.fingerprint = hashlib.sha256(json.dumps(words).encode()).hexdigest()

    @property
    def behind(self) -> int:
        """None: nothing follows what is read."""
        return 0

    def _num_read(self, encoding: Encoding) -> int:
        return len(encoding)

    def _summary(self, text: str) -> list[int]:
        return [*self.opening, *self._rules.encode(text, add_special_tokens=False).ids]
