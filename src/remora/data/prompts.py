"""Examples as prompts: a template with the texts in it, and after it the words that stand for the classes.

A prompt is tokenized as the one text that it is. Where it is too long, its longest text is cut and the prompt tokenized
again, so that what is read is always what the tokenizer makes of a whole prompt. Words for classes are tokenized behind
the template's end, and what they add there are their tokens.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from tokenizers import Encoding

from remora.data.kinds import Form
from remora.data.tokenize import Encoded, Ints, TextEncoder, longest_first
from remora.errors import ConfigError

CONTENT_FREE = ("N/A", "", "[MASK]")
"""Inputs that say nothing. Zhao et al. 2021, "Calibrate before use", arXiv:2102.09690, section 5."""
_CHUNK = 1000


class Prompt(BaseModel):
    """How an example is put to a language model, and what its answers mean.

    Args:
        template: the ready-made one's name, or the user's own text.
        instruction: that stands in it, if any.
        labels: the words shown for each class, in the order of the classes.
        shots: solved examples in front.
        calibration: whether answers are corrected by those to inputs that say nothing.
        parts: the finished prompt: fixed text, and numbers that stand for the texts of an example.
        whole: the parts have the tokenizer's special tokens in them (chats), so that none are added.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: str
    instruction: str | None
    labels: dict[str, str]
    shots: int
    calibration: Literal["none", "content-free"]
    parts: tuple[str | int, ...]
    whole: bool = False

    @property
    def num_texts(self) -> int:
        """Texts of an example."""
        return sum(isinstance(part, int) for part in self.parts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides which prompts a model sees and what its answers mean."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def text(self, texts: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
        """The prompt for an example, without the blanks at its end, and from where to where each text stands in it."""
        out = ""
        spans = [(0, 0)] * len(texts)
        for part in self.parts[:-1]:
            start = len(out)
            out += texts[part] if isinstance(part, int) else part
            if isinstance(part, int):
                spans[part] = (start, len(out))
        return out + self._end, spans

    def answer(self, name: str) -> str:
        """What follows the prompt if a class is the right one; blanks that end the template belong to it.

        Words are set apart by a blank where the template ends in neither a blank nor a line feed.
        """
        return self.lead + self.labels[name]

    @property
    def lead(self) -> str:
        """The blanks between the prompt and what follows it."""
        blanks = str(self.parts[-1])[len(self._end) :]
        return blanks or ("" if self._end[-1:].isspace() else " ")

    @property
    def _end(self) -> str:
        """The fixed text behind the last field, without blanks at its end."""
        return str(self.parts[-1]).rstrip(" ")


class PromptTokenizer(TextEncoder, ABC):
    """Tokenizes prompts, with room for what is to follow them.

    Args:
        tokenizer: a fast tokenizer of transformers. It is not changed.
        prompt: what the prompts are.
    """

    shorter: ClassVar[str] = "shorten the template"
    """What makes room for texts beside raising the limit."""

    def __init__(self, tokenizer: Any, prompt: Prompt) -> None:
        super().__init__(tokenizer)
        self.prompt = prompt
        words = [self.fingerprint, prompt.fingerprint]
        self.fingerprint = hashlib.sha256(json.dumps(words).encode()).hexdigest()

    @property
    @abstractmethod
    def behind(self) -> int:
        """Tokens that may be fed behind a prompt."""

    @cached_property
    def least(self) -> int:
        """Tokens of a prompt and what follows it with a token of every text."""
        length = self._num_read(self._rules.encode(self._bare, add_special_tokens=self._adds_special))
        return length + self.prompt.num_texts + self.behind

    @property
    def _bare(self) -> str:
        """The prompt without any text."""
        return self.prompt.text(("",) * self.prompt.num_texts)[0]

    def fit(self, texts: Sequence[str], max_length: int) -> tuple[str, ...]:
        """The texts of an example, cut so that prompt and answer have so many tokens at most."""
        budget = self._budget([texts], max_length, 0, "text")
        encoding = self._rules.encode(self.prompt.text(texts)[0], add_special_tokens=self._adds_special)
        return self._fitted(tuple(texts), encoding, budget)[0]

    def encode_texts(
        self, texts: Sequence[Sequence[str]], max_length: int, room: int = 0, form: Form = "text"
    ) -> Encoded:
        """Tokenize prompts without the cache; what is to follow still fits behind each.

        Args:
            texts: per example its texts.
            max_length: tokens of a prompt and what follows it, special and virtual ones included.
            room: virtual tokens that a method puts in front; they are taken from the budget.
            form: always ``text``.

        Raises:
            ConfigError: the budget leaves no room for text.
        """
        budget = self._budget(texts, max_length, room, form)
        ids: list[Ints] = []
        full_lengths: list[int] = []
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            shown = [self.prompt.text(row)[0] for row in chunk]
            encodings = self._rules.encode_batch(shown, add_special_tokens=self._adds_special)
            for row, encoding in zip(chunk, encodings, strict=True):
                full_lengths.append(self._num_read(encoding))
                ids.append(self._fitted(tuple(row), encoding, budget)[1])
        lengths = np.array(full_lengths, dtype=np.int64)
        return Encoded(
            ids=ids,
            type_ids=None,
            full_lengths=lengths,
            num_truncated=int((lengths > budget).sum()),
            num_empty=0,
            max_length=budget,
        )

    @property
    def _adds_special(self) -> bool:
        return not self.prompt.whole

    def _fitted(self, texts: tuple[str, ...], encoding: Encoding, budget: int) -> tuple[tuple[str, ...], Ints]:
        """The texts of a prompt, the longest cut as far as needed, and its ids."""
        while (length := self._num_read(encoding)) > budget:
            _, spans = self.prompt.text(texts)
            places = [
                [(a, b) for a, b in encoding.offsets[:length] if a < end and b > start and a < b]
                for start, end in spans
            ]
            sizes = [len(found) for found in places]
            keep = longest_first(sizes, max(0, budget - (length - sum(sizes))))
            cut = tuple(
                self._cut(text, span[0], found, number)
                for text, span, found, number in zip(texts, spans, places, keep, strict=True)
            )
            texts = cut if cut != texts else ("",) * len(texts)
            encoding = self._rules.encode(self.prompt.text(texts)[0], add_special_tokens=self._adds_special)
        return texts, np.array(encoding.ids[:length], dtype=np.int64)

    def _cut(self, text: str, start: int, places: Sequence[tuple[int, int]], keep: int) -> str:
        """A text without the tokens that are too many, at the end where the tokenizer cuts there.

        A character of several tokens goes as a whole.
        """
        if keep == len(places):
            return text
        if keep == 0:
            return ""
        if self._cut_from == "left":
            return text[max(places[-keep][0], places[-keep - 1][1]) - start :]
        return text[: max(0, min(places[keep - 1][1], places[keep][0]) - start)]

    def _budget(self, texts: Sequence[Sequence[str]], max_length: int, room: int, form: Form) -> int:
        del texts, form
        if max_length - room < self.least:
            used = f", {room} of them virtual," if room else ""
            raise ConfigError(
                f"model.max_length={max_length}: {max_length} tokens{used} leave no room for text: template and answer "
                f"alone take {self.least - self.prompt.num_texts}",
                f"raise model.max_length, {self.shorter}" + (", or take fewer shots" if self.prompt.shots else ""),
            )
        return max_length - room - self.behind

    def _num_read(self, encoding: Encoding) -> int:
        """Tokens of a prompt without special ones behind it: its answer is to follow."""
        mask = encoding.special_tokens_mask
        length = len(mask)
        while length and mask[length - 1]:
            length -= 1
        return length

    def _added(self, follows: str) -> list[int] | None:
        """The tokens that a text adds behind the template's end; None where it changes those before it."""
        before = self._rules.encode(self._bare, add_special_tokens=False).ids
        both = self._rules.encode(self._bare + follows, add_special_tokens=False).ids
        return both[len(before) :] if both[: len(before)] == before else None


class PromptEncoder(PromptTokenizer):
    """Tokenizes prompts and the words for classes.

    Args:
        tokenizer: a fast tokenizer of transformers. It is not changed.
        prompt: what the prompts are.
        places: where each class is written in the data, for messages.

    Raises:
        ConfigError: words for a class that have no tokens, that run into the template's end, or whose tokens begin
            another class's.
    """

    def __init__(self, tokenizer: Any, prompt: Prompt, places: Mapping[str, str] | None = None) -> None:
        super().__init__(tokenizer, prompt)
        self._places = dict(places or {})
        self.answers: dict[str, tuple[int, ...]] = {name: self._answer(name) for name in prompt.labels}
        self._refuse_prefixes()
        self._longest = max(map(len, self.answers.values()))

    @property
    def behind(self) -> int:
        """Tokens of the longest words for a class but the last one, behind which nothing is read."""
        return self._longest - 1

    @property
    def single(self) -> bool:
        """Whether every class is one token, so that all are scored by one look at the prompt."""
        return self._longest == 1

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens whose probabilities decide: one per class in their order, or all that occur in any class."""
        return tuple(dict.fromkeys(token for answer in self.answers.values() for token in answer))

    def content_free(self, max_length: int, room: int) -> Encoded:
        """The prompts for inputs that say nothing."""
        return self.encode_texts([(text,) * self.prompt.num_texts for text in CONTENT_FREE], max_length, room)

    def _answer(self, name: str) -> tuple[int, ...]:
        """The tokens that a class adds behind the template's end."""
        added = self._added(self.prompt.answer(name))
        if not self.prompt.labels[name].strip() or added == []:
            raise ConfigError(
                f"{self._shown(name)} has no tokens", f"set prompt.labels.{name} to words that the model knows"
            )
        if added is None:
            raise ConfigError(
                f"{self._shown(name)} runs into the end of the template: together they have other tokens",
                "end the template with a line feed or a colon",
            )
        return tuple(added)

    def _refuse_prefixes(self) -> None:
        """A label that begins another one could never lose to it: what speaks for the longer one speaks for it."""
        names = sorted(self.answers, key=lambda name: len(self.answers[name]))
        for number, name in enumerate(names):
            own = self.answers[name]
            for other in names[number + 1 :]:
                if self.answers[other][: len(own)] == own:
                    same = "has the same tokens as" if self.answers[other] == own else "begins with all tokens of"
                    raise ConfigError(
                        f"{self._shown(other)} {same} {self._named(name)}",
                        f"show them in other words: prompt.labels.{name}=... prompt.labels.{other}=...",
                    )

    def _shown(self, name: str) -> str:
        """A label as messages begin: where it stands in the data, or the setting that gave it other words."""
        own = self.prompt.labels[name] != name
        place = f"prompt.labels.{name}" if own else self._places.get(name, "")
        return f"{place}: {self._named(name)}" if place else self._named(name)

    def _named(self, name: str) -> str:
        words = self.prompt.labels[name]
        return f"the label {name!r}" + ("" if words == name else f" (shown as {words!r})")
