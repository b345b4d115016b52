"""Models of real sizes with random weights, written once and then loaded as any other, and random data to train on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from remora.engine.selftest import TinyTask
from remora.engine.trial import Examples, TrialData

NUM_CLASSES = 2
_ROBERTA = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5}


@dataclass(frozen=True, kw_only=True)
class SizedModel:
    """A model of a known size.

    Args:
        model_type: of transformers.
        settings: of its configuration, as published.
        targets: the peer's names of query and value.
        tokens_per_pass: most tokens of one of Remora's passes.
        peer_types: in which the peer's base may be stored; the faster one counts.
    """

    model_type: str
    settings: Mapping[str, Any]
    targets: tuple[str, str]
    tokens_per_pass: int
    peer_types: tuple[str, ...] = ("bfloat16",)


MODELS = {
    "roberta-base-size": SizedModel(
        model_type="roberta",
        settings={"vocab_size": 50265, "max_position_embeddings": 514, **_ROBERTA},
        targets=("query", "value"),
        tokens_per_pass=65536,
        peer_types=("float32", "bfloat16"),
    ),
    "llama-7b-size": SizedModel(
        model_type="llama",
        settings={
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "pad_token_id": 0,
        },
        targets=("q_proj", "v_proj"),
        tokens_per_pass=8192,
    ),
    "smoke": SizedModel(
        model_type="roberta",
        settings={
            "vocab_size": 100,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 66,
            **_ROBERTA,
        },
        targets=("query", "value"),
        tokens_per_pass=1600,
    ),
}


def write_model(model: SizedModel, folder: Path) -> None:
    """Write configuration, random weights in bfloat16 and a tokenizer that nobody will ask anything."""
    config = AutoConfig.for_model(model.model_type, **model.settings, num_labels=NUM_CLASSES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = AutoModelForSequenceClassification.from_config(config, dtype=torch.bfloat16)
    network.save_pretrained(folder)
    words = Tokenizer(WordLevel({"<unk>": 0, "<pad>": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)


def random_data(vocabulary: int, num: int, length: int) -> TrialData:
    """Sentences of one length with labels in turn; nothing can be learnt from them, which speed does not mind."""
    rng = np.random.default_rng(0)
    ids = list(rng.integers(3, vocabulary, (num, length)))
    examples = Examples(ids=ids, type_ids=[np.zeros_like(row) for row in ids], targets=np.arange(num) % NUM_CLASSES)
    return TrialData(task=TinyTask(), num_outputs=NUM_CLASSES, split=lambda name, room: examples, fingerprint="random")
