"""Every head against transformers' own classification model, its parameters, its initial values and its gradients."""

import pytest
import torch

from remora.models.heads import HeadTemplate
from tests.tiny import ALL, CAUSAL, VOCAB, tiny_base, tiny_hf

LENGTH = 9


def _ids(batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(5, VOCAB, (batch, LENGTH), generator=generator)


def _pooled_rows(model: torch.nn.Module, name: str, ids: torch.Tensor, mean: bool = False) -> torch.Tensor:
    with torch.no_grad():
        hidden = model.get_submodule(model.base_model_prefix)(
            input_ids=ids, attention_mask=torch.ones_like(ids)
        ).last_hidden_state
    if mean:
        return hidden.mean(1)
    return hidden[:, -1] if name in CAUSAL else hidden[:, 0]


def _head_params(model: torch.nn.Module, head: HeadTemplate) -> dict[str, torch.Tensor]:
    weights = dict(model.named_parameters())
    return {name: weights[name].detach() for name in head.saved_names}


@pytest.mark.parametrize("num_labels", [1, 2, 3])
@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_logits_equal_those_of_transformers(name: str, pooler: bool, num_labels: int) -> None:
    model = tiny_hf(name, num_labels, torch.float64)
    head = HeadTemplate(base=tiny_base(name, torch.float64, pooler=pooler), num_outputs=num_labels)
    ids = _ids(4)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    rows = _pooled_rows(model, name, ids)
    actual = head.forward(_head_params(model, head), rows)
    assert expected.abs().max() > 0.05
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)
