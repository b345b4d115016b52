"""Tokenization: equal to transformers' own, cut longest first, counted, cached, with room for virtual tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from remora.config.schema import DataConfig
from remora.data import tokenize
from remora.data.dataset import Split, load_dataset
from remora.data.tokenize import Encoded, TextEncoder, encode_split, length_statistics, longest_first
from remora.errors import ConfigError, ModelError
from remora.paths import cache_dir

WORDS = [f"w{index}" for index in range(50)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<eos>"]


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A word tokenizer like BERT's (template and segments), GPT-2's (nothing added) or LLaMA's (a start token)."""
    rules = Tokenizer(models.WordLevel({word: index for index, word in enumerate([*SPECIAL, "\n", *WORDS])}, "[UNK]"))
    rules.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    if kind == "bert":
        rules.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=rules,
            unk_token="[UNK]",
            pad_token="[PAD]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        )
    if kind == "llama":
        rules.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=rules,
        unk_token="[UNK]",
        eos_token="<eos>",
        bos_token="[CLS]" if kind == "llama" else None,
        model_input_names=["input_ids", "attention_mask"],
    )


def words(count: int, start: int = 0) -> str:
    return " ".join(WORDS[(start + index) % len(WORDS)] for index in range(count))


def split_of(*texts: tuple[str, ...], name: str = "train") -> Split:
    return Split(name=name, texts=texts, labels=("a",) * len(texts), source="test", hash=repr(texts))


def as_lists(encoded: Encoded) -> list[list[int]]:
    return [row.tolist() for row in encoded.ids]


PAIRS = tuple((words(a), words(b, 20)) for a in (1, 3, 8, 9, 20) for b in (1, 4, 8, 9, 30))


@pytest.mark.parametrize("max_length", [8, 17, 18, 19, 40, 200])
def test_pairs_equal_transformers(max_length: int) -> None:
    own = tokenizer("bert")
    expected = own(
        [a for a, _ in PAIRS], [b for _, b in PAIRS], truncation="longest_first", max_length=max_length, padding=False
    )
    encoded = encode_split(split_of(*PAIRS), own, max_length)
    assert as_lists(encoded) == expected["input_ids"]
    assert encoded.type_ids is not None
    assert [row.tolist() for row in encoded.type_ids] == expected["token_type_ids"]
    full = own([a for a, _ in PAIRS], [b for _, b in PAIRS])["input_ids"]
    assert encoded.full_lengths.tolist() == [len(row) for row in full]
    assert encoded.num_truncated == sum(len(row) > max_length for row in full)
    assert encoded.ids[0].dtype == encoded.type_ids[0].dtype == np.int64


@pytest.mark.parametrize("kind", ["bert", "gpt", "llama"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_single_texts_equal_transformers(kind: str, side: str) -> None:
    own = tokenizer(kind)
    own.truncation_side = side
    texts = [words(count) for count in (1, 5, 9, 10, 11, 40)] + ["unknown w1"]
    expected = own(texts, truncation=True, max_length=10)["input_ids"]
    encoded = encode_split(split_of(*((text,) for text in texts)), own, 10)
    assert as_lists(encoded) == expected
    assert (encoded.type_ids is None) == (kind != "bert")


def test_decoder_pairs_are_joined_by_a_line_feed() -> None:
    feed, first = 5, 6
    encoded = TextEncoder(tokenizer("gpt")).encode_texts([(words(2), words(3, 10)), (words(9), words(9, 10))], 11)
    assert as_lists(encoded)[0] == [first, first + 1, feed, first + 10, first + 11, first + 12]
    assert as_lists(encoded)[1] == [*range(first, first + 5), feed, *range(first + 10, first + 15)]
    assert encoded.full_lengths.tolist() == [6, 19]
    with_start = TextEncoder(tokenizer("llama")).encode_texts([(words(1), words(1))], 11)
    assert as_lists(with_start) == [[2, first, feed, first]]


def test_no_text_is_ever_without_tokens() -> None:
    encoded = TextEncoder(tokenizer("gpt")).encode_texts([("",), (" ",), ("w1",)], 8)
    assert as_lists(encoded) == [[4], [4], [7]]  # the end-of-text token
    assert (encoded.num_empty, encoded.num_truncated) == (2, 0)
    encoded = TextEncoder(tokenizer("bert")).encode_texts([("",)], 8)
    assert as_lists(encoded) == [[2, 3]]
    assert encoded.num_empty == 0
    assert len(TextEncoder(tokenizer("bert")).encode_texts([], 8)) == 0


def test_room_is_taken_from_the_budget() -> None:
    own, split = tokenizer("bert"), split_of((words(30),))
    assert as_lists(encode_split(split, own, 20, room=5)) == as_lists(encode_split(split, own, 15))
    assert len(encode_split(split, own, 20, room=5).ids[0]) == 15
    with pytest.raises(ConfigError, match=r"max_length=20: 20 tokens of which 18 are virtual leave no room"):
        encode_split(split, own, 20, room=18)
    with pytest.raises(ConfigError, match=r"5 are needed"):
        encode_split(split_of((words(3), words(3))), own, 4)
    assert len(encode_split(split_of((words(3), words(3))), own, 5).ids[0]) == 5


def test_the_tokenizers_own_padding_and_limit_do_not_matter() -> None:
    own = tokenizer("bert")
    own.backend_tokenizer.enable_truncation(6)
    own.backend_tokenizer.enable_padding(length=6)
    before = own.backend_tokenizer.to_str()
    encoded = encode_split(split_of((words(3),), (words(9),)), own, 50)
    assert [len(row) for row in encoded.ids] == [5, 11]
    assert own.backend_tokenizer.to_str() == before
    assert TextEncoder(own).fingerprint == TextEncoder(tokenizer("bert")).fingerprint


class TestCache:
    def files(self) -> set[Path]:
        return set((cache_dir() / "tokens").glob("*"))

    def test_a_second_time_nothing_is_tokenized(self, monkeypatch: pytest.MonkeyPatch) -> None:
        split = split_of(*PAIRS, ("second", "time"))
        encoder = TextEncoder(tokenizer("bert"))
        before = self.files()
        first = encoder.encode_split(split, 12)
        assert len(self.files() - before) == 1
        monkeypatch.setattr(TextEncoder, "encode_texts", None)
        second = TextEncoder(tokenizer("bert")).encode_split(split, 12)
        assert as_lists(first) == as_lists(second)
        assert first.type_ids is not None
        assert second.type_ids is not None
        assert [row.tolist() for row in first.type_ids] == [row.tolist() for row in second.type_ids]
        assert first.full_lengths.tolist() == second.full_lengths.tolist()
        assert (first.num_truncated, first.num_empty) == (second.num_truncated, second.num_empty)
        assert second.ids[0].dtype == np.int64

    def test_text_tokenizer_and_length_have_files_of_their_own(self) -> None:
        split = split_of(("w1 w2 w3 w4 key",))
        before = self.files()
        for kind, length in (("bert", 9), ("gpt", 9), ("bert", 8)):
            encode_split(split, tokenizer(kind), length)
        encode_split(split_of(("w1 w2 w3 w4 other key",)), tokenizer("bert"), 9)
        assert len(self.files() - before) == 4
        encode_split(split, tokenizer("bert"), 10, room=1)
        assert len(self.files() - before) == 4

    @pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 nonsense", None])
    def test_a_damaged_file_is_made_anew(self, damage: bytes | None) -> None:
        split = split_of((f"w1 w2 damaged {damage!r}",))
        before = self.files()
        encoder = TextEncoder(tokenizer("bert"))
        first = encoder.encode_split(split, 9)
        (path,) = self.files() - before
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if damage is None else damage)
        assert as_lists(encoder.encode_split(split, 9)) == as_lists(first)
        assert path.read_bytes() == content

    def test_objects_in_the_file_are_refused(self) -> None:
        split = split_of(("w1 w2 objects",))
        before = self.files()
        first = encode_split(split, tokenizer("bert"), 9)
        (path,) = self.files() - before
        with path.open("wb") as stream:
            np.savez(stream, ids=np.array([{"a": 1}], dtype=object))
        assert as_lists(encode_split(split, tokenizer("bert"), 9)) == as_lists(first)

    def test_a_cache_that_cannot_be_written_is_done_without(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(tokenize.np, "savez", refuse)
        before = self.files()
        assert len(encode_split(split_of(("w1 full disk",)), tokenizer("bert"), 9)) == 1
        assert self.files() == before


def test_length_statistics() -> None:
    encoder = TextEncoder(tokenizer("bert"))
    parts = [encoder.encode_texts([(words(count),) for count in range(1, 101)], 52), encoder.encode_texts([("",)], 52)]
    found = length_statistics(parts)
    assert found.mean == pytest.approx((sum(range(3, 103)) + 2) / 101)
    assert (found.p50, found.p95, found.max) == (52, 97, 102)
    assert (found.truncated, found.empty, found.max_length) == (50, 0, 52)


@given(
    lengths=st.lists(st.integers(min_value=0, max_value=60), min_size=1, max_size=2),
    budget=st.integers(min_value=2, max_value=80),
)
def test_longest_first_keeps_as_much_as_fits(lengths: list[int], budget: int) -> None:
    kept = longest_first(lengths, budget)
    assert sum(kept) == min(sum(lengths), budget)
    assert all(0 <= keep <= length for keep, length in zip(kept, lengths, strict=True))
    assert all(keep > 0 for keep, length in zip(kept, lengths, strict=True) if length)
    cut = [keep for keep, length in zip(kept, lengths, strict=True) if keep < length]
    assert all(keep >= max(kept) - 1 for keep in cut)


def test_slow_tokenizers_are_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="no fast tokenizer"):
        TextEncoder(Slow())


@pytest.mark.real
def test_minilm_on_real_pairs_equals_transformers(shared_data: Path) -> None:
    from remora.models.load import load_base

    own: Any = load_base("minilm").tokenizer
    data = load_dataset(DataConfig(path=str(shared_data / "mrpc"), train_limit=300))
    first, second = zip(*data.train.texts, strict=True)
    expected = own(list(first), list(second), truncation=True, max_length=48, padding=False)["input_ids"]
    encoded = encode_split(data.train, own, 48)
    assert as_lists(encoded) == expected
    assert encoded.num_truncated > 100
