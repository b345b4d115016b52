"""Prompts that ask a language model for a summary, and the tokens of the summaries it learns to write behind them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

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
    """Tokenizes prompts and summaries.

    Args:
        tokenizer: a fast tokenizer of transformers. It is not changed.
        prompt: what the prompts are.
        max_tokens: of a summary, the end of the sequence included; a prompt leaves room for so many.

    Raises:
        ModelError: the tokenizer has no token for the end of a sequence.
    """

    shorter: ClassVar[str] = "shorten the template, lower generation.max_new_tokens"

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
