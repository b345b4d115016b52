"""The tiny models themselves: reproducible, without touching global random state, and with teeth."""

import pytest
import torch

from tests.models.probe import hidden, ids_of
from tests.tiny import ALL, tiny_base, tiny_hf


@pytest.mark.parametrize("name", ALL)
def test_same_arguments_same_weights_and_no_global_random_state(name: str) -> None:
    before = torch.random.get_rng_state()
    first, again, other = tiny_base(name), tiny_base(name), tiny_base(name, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.hash() == again.hash() != other.hash()
    backbone = tiny_hf(name, 3).get_submodule(first.arch.prefix)
    ids = ids_of(2, 9)
    mask = torch.ones_like(ids)
    with torch.no_grad():
        expected = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.equal(hidden(first, input_ids=ids, attention_mask=mask), expected)


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_is_random_and_hidden_states_differ(name: str) -> None:
    base = tiny_base(name)
    assert not base.model.training
    for key, parameter in base.model.named_parameters():
        assert not parameter.requires_grad
        assert parameter.std() > 0.05, key
    states = hidden(base, input_ids=ids_of(4, 9), attention_mask=torch.ones(4, 9, dtype=torch.long))
    assert states.isfinite().all()
    assert states.flatten(0, 1).std(0).min() > 0.01


def test_a_hash_sees_one_bit_and_the_pooler() -> None:
    base = tiny_base("bert")
    before = base.sha256
    assert before == base.hash()
    weight = base.model.get_submodule("encoder.layer.0.output.dense").weight
    weight.data.view(torch.int32)[3, 5] ^= 1
    assert base.hash() != before
    weight.data.view(torch.int32)[3, 5] ^= 1
    assert base.hash() == before
    base.pooler["bert.pooler.dense.bias"][0] += 1
    assert base.hash() != before


def test_types_and_sizes() -> None:
    base = tiny_base("llama", torch.bfloat16)
    assert base.dtype == torch.bfloat16
    assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in base.model.buffers()} == {torch.float32}
    assert tiny_base("bert", torch.bfloat16).pooler["bert.pooler.dense.weight"].dtype == torch.float32
    assert tiny_base("bert", torch.float64).pooler["bert.pooler.dense.weight"].dtype == torch.float64
    assert tiny_base("bert", torch.bfloat16).hash() != tiny_base("bert").hash()
    bert = tiny_hf("bert")
    head = sum(p.numel() for key, p in bert.named_parameters() if key.startswith("classifier"))
    assert tiny_base("bert").num_params == sum(p.numel() for p in bert.parameters()) - head
    assert tiny_base("opt", word_embed_proj_dim=16).hidden_size == 16
