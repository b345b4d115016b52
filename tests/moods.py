"""A tiny random BERT with a word-level tokenizer, and sentences in two classes, as files that a user would give."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.tiny import tiny_hf

GOOD, BAD = ("fine", "great", "lovely", "happy"), ("bad", "poor", "awful", "sad")
FILLER = ("the", "food", "was", "a", "film", "day", "very", "so")


def write_model(folder: Path) -> Path:
    """Save the model and its tokenizer in a folder."""
    tiny_hf("bert").save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *GOOD, *BAD, *FILLER]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    return folder


def write_data(path: Path) -> Path:
    """Write 240 distinct sentences as CSV."""
    rows: list[str] = []
    for n in range(240):
        words = [FILLER[n % 8], FILLER[n // 8 % 8], (GOOD if n % 2 else BAD)[n // 2 % 4], FILLER[n // 64]]
        rows.append(f"{' '.join(words)} {n},{'good' if n % 2 else 'bad'}")
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path
