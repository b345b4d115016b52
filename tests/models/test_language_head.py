"""The language-modelling head: transformers' own log-probabilities, tied or not, loaded, hashed and trained as such."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from remora.engine.driver import Driver
from remora.engine.inference import base_rows
from remora.engine.trial import Examples
from remora.errors import ModelError
from remora.models.base import Base
from remora.models.files import ModelFiles
from remora.models.language_head import LanguageHead, is_tied
from remora.models.load import load_base, make_base
from tests.prompts import write_model
from tests.tiny import CAUSAL, tiny_base, tiny_hf
from tests.trials import toy_examples

TOKENS = (7, 3, 90, 41)
CAPPED: dict[str, dict[str, Any]] = {"gemma2": {"final_logit_softcapping": 2.0}}


def pair(name: str, dtype: torch.dtype = torch.float64, **overrides: Any) -> tuple[Base, Any]:
    """A base with its head, and transformers' model with the same weights."""
    model = tiny_hf(name, dtype=dtype, auto=AutoModelForCausalLM, **overrides)
    twin = tiny_hf(name, dtype=dtype, auto=AutoModelForCausalLM, **overrides)
    untied = not model.config.tie_word_embeddings  # type: ignore[union-attr]
    files = ModelFiles(name=f"tiny-{name}", source="test")
    return make_base(model, tokenizer=None, files=files, missing=(), dtype=dtype, language_head=untied), twin


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", CAUSAL)
def test_log_probabilities_are_those_of_transformers_own_class(name: str, tied: bool) -> None:
    base, twin = pair(name, tie_word_embeddings=tied, **CAPPED.get(name, {}))
    assert is_tied(base) is tied
    head = LanguageHead(base=base, num_outputs=len(TOKENS), tokens=TOKENS)
    assert (head.num_params, head.shapes, head.modules_to_save) == (0, {}, ())
    examples: Examples = toy_examples(9)
    with Driver(base) as driver:
        found = head.forward({}, base_rows(driver, examples))
    for row, ids in zip(found, examples.ids, strict=True):
        with torch.no_grad():
            logits = twin(input_ids=torch.from_numpy(ids)[None]).logits[0, -1]
        expected = torch.log_softmax(logits, 0)[list(TOKENS)]
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-5)
        assert float(expected.std()) > 0.05


def test_an_encoder_and_a_base_without_the_head_are_refused() -> None:
    with pytest.raises(ModelError, match="no causal language model"):
        LanguageHead(base=tiny_base("bert"), num_outputs=2, tokens=(1, 2))
    with pytest.raises(ModelError, match="without its language-modelling head"):
        LanguageHead(base=tiny_base("llama"), num_outputs=2, tokens=(1, 2))


def test_a_head_of_its_own_is_loaded_mapped_and_hashed(tmp_path: Path) -> None:
    folder = str(write_model(tmp_path / "model", tie_word_embeddings=False))
    bare, first = load_base(folder), load_base(folder, language_head=True)
    again = load_base(folder, language_head=True)
    own = AutoModelForCausalLM.from_pretrained(folder).lm_head.weight
    assert list(first.pooler) == list(again.pooler) == ["lm_head.weight"]
    assert torch.equal(first.pooler["lm_head.weight"], own)
    assert first.hash() == again.hash() != bare.hash()
    assert first.num_params == bare.num_params + own.numel()
    quantised = load_base(folder, language_head=True, quantization="nf4")
    assert torch.equal(load_base(folder, language_head=True, quantization="nf4").pooler["lm_head.weight"], own)
    assert quantised.sha256 == first.hash()
    half = load_base(folder, language_head=True, dtype=torch.bfloat16)
    assert half.pooler["lm_head.weight"].dtype == torch.bfloat16


def test_a_tied_head_is_the_embedding_and_costs_nothing(tmp_path: Path) -> None:
    folder = str(write_model(tmp_path / "model", tie_word_embeddings=True))
    bare, base = load_base(folder), load_base(folder, language_head=True)
    assert base.hash() == bare.hash()
    assert base.pooler == {}
    head = LanguageHead(base=base, num_outputs=1, tokens=(5,))
    own = base.model.get_parameter("embed_tokens.weight")
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(3, base.hidden_size))).float()
    expected = torch.log_softmax(rows @ own.T, 1)[:, 5:6]
    torch.testing.assert_close(head.forward({}, rows), expected)


def test_a_checkpoint_without_the_head_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", tie_word_embeddings=False)
    tiny_hf("llama", tie_word_embeddings=False).save_pretrained(folder)  # type: ignore[operator]
    load_base(str(folder))
    with pytest.raises(ModelError, match=r"lacks 1 of the language model's tensors, such as lm_head\.weight"):
        load_base(str(folder), language_head=True)
