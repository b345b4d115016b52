"""A tiny random LLaMA with a byte-level tokenizer, and sentences in two classes, for prompts."""

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from remora.data.prompts import Prompt
from remora.models.base import Base
from remora.models.files import ModelFiles
from remora.models.load import make_base
from tests.moods import BAD, FILLER, GOOD
from tests.tiny import tiny_hf

_LONG = {"gpt2": "n_positions"}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(vocab_size: int = 400) -> Tokenizer:
    """Byte-level BPE learnt on a few words, with a token at the beginning as LLaMA has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    words = [*GOOD, *BAD, "positive", "negative", *FILLER]
    tokenizer.train_from_iterator(["\n".join(words * 4), " ".join(words)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def write_model(folder: Path, *, chat: str | None = None, **overrides: Any) -> Path:
    """Save the model and its tokenizer in a folder."""
    sizes: dict[str, Any] = {"vocab_size": 400, "max_position_embeddings": 512, **overrides}
    tiny_hf("llama", auto=AutoModelForCausalLM, **sizes).save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    tokenizer = fast_tokenizer()
    tokenizer.chat_template = chat
    tokenizer.save_pretrained(folder)
    return folder


def fast_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer as transformers has it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def causal_pair(name: str = "llama", dtype: torch.dtype = torch.float64, *, tied: bool = False) -> tuple[Base, Any]:
    """A base with its language-modelling head, and transformers' model with the same weights."""
    sizes: dict[str, Any] = {
        "vocab_size": 400,
        "tie_word_embeddings": tied,
        _LONG.get(name, "max_position_embeddings"): 512,
    }
    model, twin = (tiny_hf(name, dtype=dtype, auto=AutoModelForCausalLM, **sizes) for _ in range(2))
    files = ModelFiles(name=f"tiny-{name}", source="test")
    base = make_base(model, tokenizer=fast_tokenizer(), files=files, missing=(), dtype=dtype, language_head=not tied)
    return base, twin


def made_prompt(labels: dict[str, str], calibration: Literal["none", "content-free"] = "none") -> Prompt:
    """A short prompt for one text."""
    parts = ("### Input:\n", 0, "\n\n### Response:\n")
    return Prompt(template="own", instruction=None, labels=labels, shots=0, calibration=calibration, parts=parts)


def write_data(path: Path, num: int = 240) -> Path:
    """Distinct sentences as CSV, in two classes."""
    rows: list[str] = []
    for n in range(num):
        words = [FILLER[n % 8], FILLER[n // 8 % 8], (GOOD if n % 2 else BAD)[n // 2 % 4], FILLER[n // 64]]
        rows.append(f"{' '.join(words)} {n},{'positive' if n % 2 else 'negative'}")
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path
