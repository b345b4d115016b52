"""Texts to token ids: whole splits at once, without padding, cut to a budget, counted, and kept in the cache folder."""

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from remora.data.clusters import sentence_lengths
from remora.data.dataset import Split
from remora.data.kinds import Form
from remora.data.windows import windows
from remora.errors import ConfigError, ModelError
from remora.paths import cache_dir

Ints = npt.NDArray[np.int64]

_FORMAT = "2"  # of the cache files and of what is in them; raise it when either changes
_NO_TOKEN = -1
_CHUNK = 1000  # texts tokenized at a time: the tokenizer's own objects are large


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The token ids of some examples, each of one text (or pair), or of several that are read apart.

    Args:
        ids: per text its ids, special tokens included, at least one (L_i,).
        type_ids: per text its segment ids (L_i,); None where the tokenizer gives none.
        full_lengths: per text the number of tokens before cutting (B,); of documents without those of windows (n,).
        num_truncated: how many texts were cut; of documents, words longer than a window.
        num_empty: how many texts gave no token at all and got a single end-of-text token.
        max_length: the budget, virtual tokens excluded.
        joints: the first text (or window) of every example, and the end (n + 1,); None where each has one.
        places: per sentence the first token of each word that the budget leaves, from the first word on (W_i,); None
            where texts are not made of words.
        num_unread: words that it does not leave.
        num_split: sentences of documents that are longer than a window and go on in the next.
    """

    ids: list[Ints]
    type_ids: list[Ints] | None
    full_lengths: Ints
    num_truncated: int
    num_empty: int
    max_length: int
    joints: Ints | None = None
    places: list[Ints] | None = None
    num_unread: int = 0
    num_split: int = 0

    def __len__(self) -> int:
        return len(self.ids) if self.joints is None else len(self.joints) - 1

    @property
    def lengths(self) -> Ints:
        """Tokens per example after cutting (n,), all its texts together."""
        lengths = np.array([len(row) for row in self.ids], dtype=np.int64)
        return lengths if self.joints is None else np.add.reduceat(lengths, self.joints[:-1])

    @property
    def num_texts(self) -> Ints:
        """Texts per example (n,); virtual tokens stand before each."""
        return np.ones(len(self), np.int64) if self.joints is None else np.diff(self.joints)


@dataclass(frozen=True, kw_only=True)
class LengthStatistics:
    """Tokens per text before cutting, over all splits, how many texts were cut, and words that are not read for it.

    Of documents, `split` counts the sentences that go on in the next window.
    """

    mean: float
    p50: int
    p95: int
    max: int
    truncated: int
    empty: int
    max_length: int
    unread: int = 0
    split: int = 0


def length_statistics(parts: Sequence[Encoded]) -> LengthStatistics:
    """Summarize the lengths of encoded splits (at least one text in all)."""
    lengths = np.concatenate([part.full_lengths for part in parts])
    p50, p95 = np.percentile(lengths, (50, 95), method="higher")
    return LengthStatistics(
        mean=float(lengths.mean()),
        p50=int(p50),
        p95=int(p95),
        max=int(lengths.max()),
        truncated=sum(part.num_truncated for part in parts),
        empty=sum(part.num_empty for part in parts),
        max_length=min(part.max_length for part in parts),
        unread=sum(part.num_unread for part in parts),
        split=sum(part.num_split for part in parts),
    )


def encode_split(split: Split, tokenizer: Any, max_length: int, room: int = 0, form: Form = "text") -> Encoded:
    """Tokenize a split, or fetch it from the cache; see `TextEncoder.encode_split`."""
    return TextEncoder(tokenizer).encode_split(split, max_length, room, form)


class TextEncoder:
    """A tokenizer's rules without its padding, its length limit and its changing state.

    Pairs are put together by the tokenizer's own template where it has a separator token (``[CLS] a [SEP] b [SEP]``);
    decoders such as LLaMA and GPT-2 have none, so there a line feed stands between the two texts.

    Args:
        tokenizer: a fast tokenizer of transformers. It is not changed.

    Raises:
        ModelError: the tokenizer has no fast version.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                f"{type(tokenizer).__name__} is no fast tokenizer", "choose a model that has a tokenizer.json"
            )
        # A copy: the model's own may pad or cut (MiniLM's does both, at 128), and calling it changes those settings.
        self._rules = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._rules.no_truncation()
        self._rules.no_padding()
        self._gives_type_ids = "token_type_ids" in tokenizer.model_input_names
        self._cut_from = str(tokenizer.truncation_side)
        self._has_separator = tokenizer.sep_token_id is not None
        candidates = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
        self._filler = next((int(token) for token in candidates if token is not None), 0)
        self._line_feed = self._rules.encode("\n", add_special_tokens=False)
        settings = [
            _FORMAT,
            self._rules.to_str(),
            self._gives_type_ids,
            self._cut_from,
            self._has_separator,
            self._filler,
        ]
        self.fingerprint = hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def encode_split(self, split: Split, max_length: int, room: int = 0, form: Form = "text") -> Encoded:
        """Tokenize a split, or fetch it from the cache.

        Args:
            split: examples.
            max_length: tokens per text, special and virtual ones included.
            room: virtual tokens that a method puts in front; they are taken from the budget.
            form: what the texts of an example are.

        Returns:
            The ids in the split's order.

        Raises:
            ConfigError: the budget leaves no room for text.
        """
        texts, _ = _apart(split.texts, form)
        budget = self._budget(texts, max_length, room, form)
        key = hashlib.sha256(f"{split.hash} {self.fingerprint} {budget}{_of_form(form)}".encode()).hexdigest()
        path = cache_dir() / "tokens" / f"{key[:32]}.npz"
        found = _load(path, budget)
        if found is not None and len(found) == len(split):
            return found
        encoded = self.encode_texts(split.texts, max_length, room, form)
        _save(path, encoded)
        return encoded

    def encode_texts(
        self, texts: Sequence[Sequence[str]], max_length: int, room: int = 0, form: Form = "text"
    ) -> Encoded:
        """Tokenize texts without the cache.

        Args:
            texts: per example one text, or two for a pair; or a question and its choices, which are read as pairs; or
                words; or sentences.
            max_length: tokens per text or pair, special and virtual ones included.
            room: virtual tokens that a method puts in front; they are taken from the budget.
            form: what the texts of an example are.

        Returns:
            The ids in order.

        Raises:
            ConfigError: the budget leaves no room for text.
        """
        texts, joints = _apart(texts, form)
        budget = self._budget(texts, max_length, room, form)
        if form == "words":
            return self._encode_sentences(texts, budget)
        if form == "document":
            return self._encode_documents(texts, budget)
        ids: list[Ints] = []
        type_ids: list[Ints] = []
        full_lengths: list[int] = []
        num_empty = 0
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            sides = [
                self._rules.encode_batch([row[side] for row in chunk], add_special_tokens=False)
                for side in range(len(chunk[0]))
            ]
            for parts in zip(*sides, strict=True):
                encoding, full_length = self._join(parts, budget)
                if encoding.ids:
                    ids.append(np.array(encoding.ids, dtype=np.int64))
                    type_ids.append(np.array(encoding.type_ids, dtype=np.int64))
                else:
                    num_empty += 1
                    ids.append(np.array([self._filler], dtype=np.int64))
                    type_ids.append(np.zeros(1, dtype=np.int64))
                full_lengths.append(max(full_length, 1))
        lengths = np.array(full_lengths, dtype=np.int64)
        return Encoded(
            ids=ids,
            type_ids=type_ids if self._gives_type_ids else None,
            full_lengths=lengths,
            num_truncated=int((lengths > budget).sum()),
            num_empty=num_empty,
            max_length=budget,
            joints=joints,
        )

    def _encode_sentences(self, sentences: Sequence[Sequence[str]], budget: int) -> Encoded:
        """Tokenize words as a running text, cut at the end, and find the first token of each."""
        ids: list[Ints] = []
        type_ids: list[Ints] = []
        places: list[Ints] = []
        full_lengths: list[int] = []
        num_empty = num_unread = 0
        for words in sentences:
            part, firsts = self._words(words)
            if _NO_TOKEN in firsts:
                num_empty += 1
                part, firsts = self._words([w if at != _NO_TOKEN else "?" for w, at in zip(words, firsts, strict=True)])
            full_lengths.append(len(part) + self._overhead(1))
            keep = min(len(part), budget - self._overhead(1))
            part.truncate(keep)
            whole = self._rules.post_process(part, add_special_tokens=True)
            lead = whole.special_tokens_mask.index(0)
            read = [lead + first for first in firsts if first < keep] or [lead]
            num_unread += len(words) - len(read)
            ids.append(np.array(whole.ids, dtype=np.int64))
            type_ids.append(np.array(whole.type_ids, dtype=np.int64))
            places.append(np.array(read, dtype=np.int64))
        lengths = np.array(full_lengths, dtype=np.int64)
        return Encoded(
            ids=ids,
            type_ids=type_ids if self._gives_type_ids else None,
            full_lengths=lengths,
            num_truncated=int((lengths > budget).sum()),
            num_empty=num_empty,
            max_length=budget,
            places=places,
            num_unread=num_unread,
        )

    def _encode_documents(self, documents: Sequence[Sequence[str]], budget: int) -> Encoded:
        """Tokenize documents as running texts, cut them into windows, and find the first token of every word."""
        ids: list[Ints] = []
        places: list[Ints] = []
        joints, full_lengths = [0], list[int]()
        num_empty = num_split = num_truncated = 0
        lead, tail, kinds = self._around()
        for sentences in documents:
            words = [word for sentence in sentences for word in sentence.split(" ")]
            part, firsts = self._words(words)
            if _NO_TOKEN in firsts:
                num_empty += 1
                part, firsts = self._words([w if at != _NO_TOKEN else "?" for w, at in zip(words, firsts, strict=True)])
            begins = np.cumsum([0, *sentence_lengths(sentences)[:-1]])
            spans, cut = windows([firsts[word] for word in begins], firsts, len(part), budget - len(lead) - len(tail))
            num_split += cut
            full_lengths.append(len(part))
            at = np.array(firsts, dtype=np.int64)
            for start, end in spans:
                read = at[(at >= start) & (at < end)]
                num_truncated += not len(read)
                if len(read):  # else it would hold nothing but more of a word that is longer than a window
                    ids.append(np.array([*lead, *part.ids[start:end], *tail], dtype=np.int64))
                    places.append(len(lead) + read - start)
            joints.append(len(ids))
        types = [np.repeat(kinds, [len(lead), len(row) - len(lead) - len(tail), len(tail)]) for row in ids]
        return Encoded(
            ids=ids,
            type_ids=types if self._gives_type_ids else None,
            full_lengths=np.array(full_lengths, dtype=np.int64),
            num_truncated=num_truncated,
            num_empty=num_empty,
            max_length=budget,
            joints=np.array(joints, dtype=np.int64),
            places=places,
            num_split=num_split,
        )

    def _around(self) -> tuple[list[int], list[int], list[int]]:
        """The special tokens before and behind a text, and the segments of those before, of it and of those behind."""
        text = self._rules.encode("?", add_special_tokens=False)
        text.truncate(1)
        whole = self._rules.post_process(text, add_special_tokens=True)
        at = whole.special_tokens_mask.index(0)
        types = whole.type_ids
        return whole.ids[:at], whole.ids[at + 1 :], [types[0], types[at], types[-1]]

    def _words(self, words: Sequence[str]) -> tuple[Encoding, list[int]]:
        """The tokens of words with blanks between them, and the first one that shows any of each word."""
        part = self._rules.encode(" ".join(words), add_special_tokens=False)
        firsts: list[int] = []
        token = start = 0
        for word in words:
            end = start + len(word)
            while token < len(part.offsets) and part.offsets[token][1] <= start:
                token += 1
            shows = token < len(part.offsets) and part.offsets[token][0] < end
            firsts.append(token if shows else _NO_TOKEN)
            start = end + 1
        return part, firsts

    def _overhead(self, num_texts: int) -> int:
        """Tokens of an example that are not text."""
        if num_texts == 2 and not self._has_separator:
            return self._rules.num_special_tokens_to_add(False) + len(self._line_feed)
        return self._rules.num_special_tokens_to_add(num_texts == 2)

    def _budget(self, texts: Sequence[Sequence[str]], max_length: int, room: int, form: Form) -> int:
        budget = max_length - room
        num_texts = len(texts[0]) if texts and form in ("text", "choices") else 1
        least = self._overhead(num_texts) + num_texts
        if budget < least:
            used = f" of which {room} are virtual" if room else ""
            raise ConfigError(
                f"model.max_length={max_length}: {max_length} tokens{used} leave no room for text ({least} are needed)",
                "raise model.max_length" + (" or use fewer virtual tokens" if room else ""),
            )
        return budget

    def _join(self, parts: Sequence[Encoding], budget: int) -> tuple[Encoding, int]:
        """Cut the texts of one example and put the special tokens around them; also its length before cutting."""
        overhead = self._overhead(len(parts))
        full_length = overhead + sum(len(part) for part in parts)
        keep = longest_first([len(part) for part in parts], budget - overhead)
        for part, length in zip(parts, keep, strict=True):
            part.truncate(length, direction=self._cut_from)
        if len(parts) == 1:
            return self._rules.post_process(parts[0], add_special_tokens=True), full_length
        if self._has_separator:
            return self._rules.post_process(parts[0], parts[1], add_special_tokens=True), full_length
        whole = Encoding.merge([parts[0], self._line_feed, parts[1]], growing_offsets=False)
        return self._rules.post_process(whole, add_special_tokens=True), full_length


def _apart(texts: Sequence[Sequence[str]], form: Form) -> tuple[Sequence[Sequence[str]], Ints | None]:
    """The texts (or pairs) that are read apart, and the first one of every example."""
    if form != "choices":
        return texts, None
    pairs = [(question, choice) for question, *choices in texts for choice in choices]
    return pairs, np.concatenate([[0], np.cumsum([len(row) - 1 for row in texts])]).astype(np.int64)


def _of_form(form: Form) -> str:
    """What a form adds to the key of the cache; one text or a pair keep the name they had before there were others."""
    return "" if form == "text" else f" {form}"


def longest_first(lengths: Sequence[int], budget: int) -> list[int]:
    """How much of each text to keep: always the longest is cut, until all fit; as the strategy of that name does.

    Args:
        lengths: of one text or two.
        budget: tokens for all of them.

    Returns:
        Lengths that sum to at most the budget.
    """
    if sum(lengths) <= budget:
        return list(lengths)
    if len(lengths) == 1:
        return [budget]
    shorter = min(lengths)
    less = min(shorter, budget // 2)
    kept = (less, budget - less)
    return list(kept) if lengths[0] <= lengths[1] else [kept[1], kept[0]]


def _save(path: Path, encoded: Encoded) -> None:
    """Write beside and rename: a file that exists is complete. A cache that cannot be written is done without."""
    arrays = {
        "ids": np.concatenate(encoded.ids).astype(np.int32) if encoded.ids else np.zeros(0, np.int32),
        "lengths": np.array([len(row) for row in encoded.ids], dtype=np.int64),
        "full_lengths": encoded.full_lengths,
        "counts": np.array([encoded.num_truncated, encoded.num_empty, encoded.num_unread, encoded.num_split]),
    }
    if encoded.type_ids is not None:
        arrays["type_ids"] = np.concatenate(encoded.type_ids).astype(np.int8) if encoded.ids else np.zeros(0, np.int8)
    if encoded.places is not None:
        arrays["places"] = np.concatenate(encoded.places).astype(np.int32) if encoded.places else np.zeros(0, np.int32)
        arrays["num_places"] = np.array([len(row) for row in encoded.places])
    if encoded.joints is not None:
        arrays["joints"] = encoded.joints
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, allow_pickle=False, **arrays)
            os.replace(aside, path)
        except BaseException:
            os.unlink(aside)
            raise
    except OSError:
        return


def _load(path: Path, budget: int) -> Encoded | None:
    """The cached ids, or None when there are none or the file is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        offsets = np.cumsum(arrays["lengths"])
        if len(arrays["ids"]) != (offsets[-1] if len(offsets) else 0):
            return None
        flat = [np.split(arrays[name].astype(np.int64), offsets[:-1]) for name in ("ids", "type_ids") if name in arrays]
        full_lengths = arrays["full_lengths"].astype(np.int64)
        num_truncated, num_empty, num_unread, num_split = arrays["counts"].tolist()
        joints = arrays["joints"].astype(np.int64) if "joints" in arrays else None
        places = None
        if "places" in arrays:
            places = np.split(arrays["places"].astype(np.int64), np.cumsum(arrays["num_places"])[:-1])
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return Encoded(
        ids=flat[0],
        type_ids=flat[1] if len(flat) > 1 else None,
        full_lengths=full_lengths,
        num_truncated=num_truncated,
        num_empty=num_empty,
        max_length=budget,
        joints=joints,
        places=places,
        num_unread=num_unread,
        num_split=num_split,
    )
