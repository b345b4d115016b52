"""A tiny random LLaMA with a byte-level tokenizer, and sentences in two classes, for prompts."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.moods import BAD, FILLER, GOOD
from tests.tiny import tiny_hf

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
    words = " ".join([*FILLER, *GOOD, *BAD, "positive", "negative", "### Response:\npositive", "\nnegative"] * 4)
    tokenizer.train_from_iterator([words], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def write_model(folder: Path, *, chat: str | None = None, **overrides: Any) -> Path:
    """Save the model and its tokenizer in a folder."""
    sizes: dict[str, Any] = {"vocab_size": 400, "max_position_embeddings": 512, **overrides}
    tiny_hf("llama", auto=AutoModelForCausalLM, **sizes).save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = chat
    tokenizer.save_pretrained(folder)
    return folder


def write_data(path: Path, num: int = 240) -> Path:
    """Distinct sentences as CSV, in two classes."""
    rows: list[str] = []
    for n in range(num):
        words = [FILLER[n % 8], FILLER[n // 8 % 8], (GOOD if n % 2 else BAD)[n // 2 % 4], FILLER[n // 64]]
        rows.append(f"{' '.join(words)} {n},{'positive' if n % 2 else 'negative'}")
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path
