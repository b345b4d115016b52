"""Made-up documents: some people act in every sentence, under a name, a pronoun or a title of two words."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from remora.data.conll import Mention, parse_conll, with_clusters
from tests.moods import BAD, FILLER, GOOD


def documents(num: int, *, num_sentences: int = 5) -> list[dict[str, Any]]:
    """Rows as JSON lines hold them: two people who come back, each under one word of her own, and one who does not.

    The first three words of a sentence are filler, one who acts, filler; the rest is filler, and in one sentence a
    mention of two words that nothing else refers to.
    """
    rows: list[dict[str, Any]] = []
    for n in range(num):
        sentences: list[list[str]] = []
        clusters: list[list[list[int]]] = [[], []]
        at = 0
        for s in range(num_sentences):
            who = (s + n // 2) % 2
            words = [FILLER[(n + s) % 8], (GOOD, BAD)[who][n % 4], FILLER[(n * 3 + s) % 8], FILLER[s], f"w{n}", "day"]
            clusters[who].append([at + 1, at + 2])
            if s == n % num_sentences:
                words += ["great", GOOD[(n + 1) % 4], BAD[(n + 2) % 4]][: 2 + n % 2]
                clusters.append([[at + 6, at + 8]])
            sentences.append(words)
            at += len(words)
        rows.append({"doc_id": f"d{n}", "sentences": sentences, "clusters": clusters})
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def column_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The same documents as CoNLL columns."""
    texts: list[str] = []
    for row in rows:
        lines = [
            "".join(f"{row['doc_id']}\t0\t{n}\t{word}\t-\t-\n" for n, word in enumerate(words))
            for words in row["sentences"]
        ]
        bare = f"#begin document ({row['doc_id']}); part 000\n" + "\n".join(lines) + "\n#end document\n"
        (document,) = parse_conll(bare.encode(), "made")
        clusters = [[Mention(*span) for span in cluster] for cluster in row["clusters"]]
        texts.append(str(with_clusters(document, clusters)))
    path.write_text("".join(texts))
    return path


def tiny_tokenizer(*, letters: bool = False) -> PreTrainedTokenizerFast:
    """Word by word over the words of these documents; or letter by letter."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *GOOD, *BAD, *FILLER, *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    if letters:
        vocabulary |= {f"##{letter}": len(vocabulary) + n for n, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    model = models.WordPiece(vocabulary, unk_token="[UNK]") if letters else models.WordLevel(vocabulary, "[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
