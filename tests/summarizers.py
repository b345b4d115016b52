"""Tiny encoder-decoders as folders, with tokenizers of their kinds: BART's begins and ends texts, T5's ends them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tests.prompts import byte_tokenizer
from tests.seq2seq import seq2seq_hf

PREFIX = "summarize: "
_SIZES: dict[str, dict[str, Any]] = {
    "bart": {"max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "t5": {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2},
}
_ENDS = {"bart": "<s> $A </s>", "t5": "$A </s>", "flan-t5": "$A </s>"}


def summarizer(name: str, dtype: torch.dtype = torch.float32, **overrides: Any) -> Any:
    """transformers' model for conditional generation, for the tokenizer of `summarizer_tokenizer`."""
    sizes = {**_SIZES["bart" if name == "bart" else "t5"], "vocab_size": 400, **overrides}
    if name != "bart":
        sizes["task_specific_params"] = {"summarization": {"prefix": PREFIX, "num_beams": 4}}
    return seq2seq_hf(name, dtype, **sizes)


def summarizer_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Byte-level, with the special tokens around a text that the kind of model has."""
    tokenizer = byte_tokenizer()
    specials = [("<s>", 1), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single=_ENDS[name], special_tokens=specials)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=512
    )


def write_summarizer(folder: Path, name: str, **overrides: Any) -> Path:
    """Save a model and its tokenizer in a folder."""
    summarizer(name, **overrides).save_pretrained(folder)
    summarizer_tokenizer(name).save_pretrained(folder)
    return folder
