"""Positions, types, pooling and dropout calls of every architecture, against what transformers does by itself."""

import pytest
import torch
from torch import nn

from remora.errors import ModelError
from remora.models.architectures import get_architecture
from tests.models.probe import hidden, ids_of, probe
from tests.tiny import ALL, CAUSAL, MAX_POSITIONS, PACKED, PADDED, tiny_base

LENGTH = 9


@pytest.mark.parametrize("name", ALL)
def test_explicit_positions_equal_those_transformers_makes(name: str) -> None:
    base = tiny_base(name, torch.float64)
    ids = ids_of(2, LENGTH)
    mask = torch.ones_like(ids)
    positions = (base.position_offset + torch.arange(LENGTH)).expand(2, -1)
    expected = hidden(base, input_ids=ids, attention_mask=mask)
    actual = hidden(base, input_ids=ids, attention_mask=mask, position_ids=positions)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    if not name.startswith("deberta"):  # positions there are relative
        moved = hidden(base, input_ids=ids, attention_mask=mask, position_ids=positions * 2)
        assert (moved - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_the_longest_sequence_has_a_position_for_every_token(name: str) -> None:
    base = tiny_base(name)
    assert base.max_positions == MAX_POSITIONS
    ids = ids_of(1, MAX_POSITIONS)
    positions = base.position_offset + torch.arange(MAX_POSITIONS)[None]
    assert hidden(base, input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions).isfinite().all()
    if base.arch.learned_positions and base.arch.layout == "packed":
        with pytest.raises((IndexError, RuntimeError)):
            hidden(base, input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions + 1)


@pytest.mark.parametrize("name", ALL)
def test_embeddings_given_are_what_the_embedding_module_returns(name: str) -> None:
    base = tiny_base(name, torch.float64)
    ids = ids_of(2, LENGTH)
    mask, positions = torch.ones_like(ids), (base.position_offset + torch.arange(LENGTH)).expand(2, -1)
    embedding = base.model.get_submodule(base.arch.embedding)
    with torch.no_grad():
        embedded = embedding(ids)
    expected = hidden(base, input_ids=ids, attention_mask=mask, position_ids=positions)
    actual = hidden(base, inputs_embeds=embedded, attention_mask=mask, position_ids=positions)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    scaled = not torch.equal(embedded, embedding.weight[ids])
    assert scaled == base.arch.scales_embeddings


@pytest.mark.parametrize("name", ALL)
def test_type_ids_matter_where_declared(name: str) -> None:
    base = tiny_base(name)
    assert base.takes_type_ids == (name in ("bert", "electra", "albert"))
    if base.takes_type_ids:
        ids = ids_of(1, LENGTH)
        plain, typed = (hidden(base, input_ids=ids, token_type_ids=torch.full_like(ids, t)) for t in (0, 1))
        assert (plain - typed).abs().max() > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_causal_models_do_not_look_ahead(name: str) -> None:
    base = tiny_base(name)
    ids = ids_of(1, LENGTH)
    changed = ids.clone()
    changed[0, -1] = 4
    mask = torch.ones_like(ids)
    first, second = (hidden(base, input_ids=i, attention_mask=mask) for i in (ids, changed))
    assert base.arch.causal == (name in CAUSAL) == torch.equal(first[:, 0], second[:, 0])
    assert base.pooling == ("last" if name in CAUSAL else "first")


@pytest.mark.parametrize("name", PACKED)
def test_dropout_outside_modules_is_declared(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tiny_base(name).config.to_dict()
    rates = ("dropout", "hidden_dropout_prob", "resid_pdrop", "embd_pdrop", "hidden_dropout")
    base = tiny_base(name, **{key: 0.1 for key in rates if key in known})
    probe(base)  # so that dropout of attention probabilities, which the engine does itself, does not count
    counts = {"functional": 0, "module": 0}

    def counting(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        counts["functional"] += int(training)
        return x

    monkeypatch.setattr(nn.functional, "dropout", counting)
    for module in base.model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_pre_hook(lambda *_: counts.update(module=counts["module"] + 1))
    base.model.train()
    hidden(base, input_ids=ids_of(1, LENGTH))
    assert (counts["functional"] > counts["module"]) == base.arch.functional_dropout == (name == "opt")


@pytest.mark.parametrize("name", ALL)
def test_packed_means_that_attention_goes_through_the_interface(name: str) -> None:
    assert (tiny_base(name).arch.layout == "padded") == (name in PADDED)
    supports = type(tiny_base(name).model)._supports_attention_backend or name in ("gemma3",)
    assert supports == (name in PACKED)


def test_modernbert_pools_as_its_configuration_says() -> None:
    assert tiny_base("modernbert", classifier_pooling="mean").pooling == "mean"
    assert tiny_base("modernbert", classifier_pooling="cls").pooling == "first"


def test_an_unknown_model_type_lists_what_is_supported() -> None:
    with pytest.raises(ModelError, match="'robreta' is not supported; did you mean 'roberta'") as caught:
        get_architecture("robreta", "some/model")
    assert "some/model" in caught.value.message
    assert "deberta-v2" in caught.value.hint
    assert "gpt_neox" in caught.value.hint
