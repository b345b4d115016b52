"""Every head against transformers' own classification model: logits, parameters, initial values, dropout, gradients."""

import pytest
import torch
from torch import Tensor, nn

from remora.models.heads import HeadTemplate
from tests.models.probe import ids_of
from tests.tiny import ALL, CAUSAL, tiny_base, tiny_hf

LENGTH = 9
# What a fresh head holds when the checkpoint brings no pooler; the parts in front go when it does.
POOLERS = {"bert": "bert.pooler.dense", "albert": "albert.pooler", "modernbert": "head"}


def _rows(model: nn.Module, name: str, ids: Tensor) -> Tensor:
    with torch.no_grad():
        backbone = model.get_submodule(model.base_model_prefix)
        hidden = backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    if name == "modernbert" and model.config.classifier_pooling == "mean":
        return hidden.mean(1)
    return hidden[:, -1] if name in CAUSAL else hidden[:, 0]


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def _params(model: nn.Module, head: HeadTemplate) -> dict[str, Tensor]:
    weights = dict(model.named_parameters())
    return {name: weights[name].detach() for name in head.saved_names}


@pytest.mark.parametrize("num_labels", [1, 2, 3])
@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_logits_equal_those_of_transformers(name: str, pooler: bool, num_labels: int) -> None:
    model = tiny_hf(name, num_labels, torch.float64)
    head = HeadTemplate(base=tiny_base(name, torch.float64, pooler=pooler), num_outputs=num_labels)
    ids = ids_of(4, LENGTH)
    expected = _logits(model, ids)
    actual = head.forward(_params(model, head), _rows(model, name, ids))
    assert expected.abs().max() > 0.05
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


def test_modernbert_reads_the_mean_where_its_configuration_says_so() -> None:
    model = tiny_hf("modernbert", 2, torch.float64, classifier_pooling="mean", classifier_bias=True, norm_bias=True)
    base = tiny_base("modernbert", torch.float64, classifier_pooling="mean", classifier_bias=True, norm_bias=True)
    head = HeadTemplate(base=base, num_outputs=2)
    ids = ids_of(4, LENGTH)
    actual = head.forward(_params(model, head), _rows(model, "modernbert", ids))
    torch.testing.assert_close(actual, _logits(model, ids), rtol=0, atol=1e-9)
    assert "head.norm.bias" in base.pooler_names


@pytest.mark.parametrize("name", ALL)
def test_parameters_are_all_that_transformers_adds_to_the_backbone(name: str) -> None:
    """Nothing random stays frozen, nothing is left unsaved: head and pretrained parts together are the whole head."""
    model, prefix = tiny_hf(name, 3), tiny_hf(name).base_model_prefix + "."
    bare = HeadTemplate(base=tiny_base(name, pooler=False), num_outputs=3)
    outside = {key: tuple(p.shape) for key, p in model.named_parameters() if not key.startswith(prefix)}
    if name in ("bert", "albert"):
        outside |= {key: tuple(p.shape) for key, p in model.named_parameters() if ".pooler." in key}
    assert bare.shapes == outside
    assert bare.num_params == sum(p.numel() for key, p in model.named_parameters() if key in outside)
    full = HeadTemplate(base=tiny_base(name), num_outputs=3)
    frozen = {key for key in outside if name in POOLERS and key.startswith(POOLERS[name])}
    assert set(full.base.pooler_names) == frozen
    assert set(full.saved_names) == set(outside) - frozen


@pytest.mark.parametrize("name", ALL)
def test_modules_to_save_hold_the_trained_parameters(name: str) -> None:
    for pooler in (True, False):
        head = HeadTemplate(base=tiny_base(name, pooler=pooler), num_outputs=2)
        assert head.modules_to_save
        for key in head.saved_names:
            assert any(part in head.modules_to_save for part in key.split("."))


@pytest.mark.parametrize("name", ALL)
def test_initial_values_follow_the_rule_of_transformers(name: str) -> None:
    head = HeadTemplate(base=tiny_base(name, pooler=False), num_outputs=3)
    before = torch.random.get_rng_state()
    first, again, other = (head.init(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert tuple(first) == head.saved_names
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = dict(type(tiny_hf(name, 3))(tiny_hf(name, 3).config).named_parameters())
    for key, value in first.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, again[key])
        if key.endswith(".bias") or key == "head.norm.weight":
            assert torch.equal(value, theirs[key])
        else:
            assert not torch.equal(value, other[key])
            assert float(value.std() / theirs[key].detach().std()) == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("name", ALL)
def test_dropout_acts_where_and_as_strongly_as_in_transformers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = {"classifier_dropout": 0.2} if name == "modernbert" else {}
    model = tiny_hf(name, 2, torch.float64, **overrides)
    head = HeadTemplate(base=tiny_base(name, torch.float64, **overrides), num_outputs=2)
    ids = ids_of(4, LENGTH)
    rows, params = _rows(model, name, ids), _params(model, head)

    def mask_like(x: Tensor, rate: float) -> Tensor:
        keep = torch.rand(x.shape, generator=torch.Generator().manual_seed(7)) >= rate
        return x * keep / (1 - rate)

    names: list[str] = []

    def ours(x: Tensor, name: str, rate: float) -> Tensor:
        names.append(name)
        return mask_like(x, rate)

    def theirs(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return mask_like(x, p) if training and p > 0 else x

    prefix = model.base_model_prefix
    for path, module in model.named_modules():
        if isinstance(module, nn.Dropout) and not path.startswith(prefix + "."):
            module.train()
            monkeypatch.setattr(nn.functional, "dropout", theirs)
    torch.testing.assert_close(head.forward(params, rows, dropout=ours), _logits(model, ids), rtol=0, atol=1e-9)
    assert len(set(names)) == len(names)
    assert bool(names) == (name not in CAUSAL)
    expects = {"bert": 1, "albert": 1, "distilbert": 1, "roberta": 2, "electra": 2, "mpnet": 2}
    assert len(names) == expects.get(name, len(names))


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_parameters_rows_and_a_pooler_that_is_given(name: str) -> None:
    base = tiny_base(name)
    head = HeadTemplate(base=base, num_outputs=3)
    params = {key: value.requires_grad_() for key, value in head.init(torch.Generator().manual_seed(0)).items()}
    pooler = {key: value.clone().requires_grad_() for key, value in base.pooler.items()}
    rows = torch.randn(5, base.hidden_size, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    (head.forward(params, rows, pooler_params=pooler) * weights).sum().backward()
    for key, tensor in {**params, **pooler, "rows": rows}.items():
        assert tensor.grad is not None
        assert tensor.grad.abs().max() > 0, key
    assert all(not tensor.requires_grad for tensor in base.pooler.values())
    assert torch.equal(head.forward(params, rows), head.forward(params, rows, pooler_params=pooler))
    if pooler:
        other = {key: value + 1 for key, value in pooler.items()}
        assert not torch.equal(head.forward(params, rows), head.forward(params, rows, pooler_params=other))


def test_a_bfloat16_base_has_a_float32_head() -> None:
    head = HeadTemplate(base=tiny_base("bert", torch.bfloat16), num_outputs=2)
    params = head.init(torch.Generator().manual_seed(0))
    rows = torch.randn(3, 32, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    assert head.forward(params, rows).dtype == torch.float32


@pytest.mark.parametrize("name", ["bert", "llama", "modernbert"])
def test_a_row_does_not_depend_on_its_neighbours(name: str) -> None:
    base = tiny_base(name, torch.float64)
    head = HeadTemplate(base=base, num_outputs=2)
    params = {key: value.double() for key, value in head.init(torch.Generator().manual_seed(0)).items()}
    rows = torch.randn(5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([head.forward(params, rows[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(head.forward(params, rows), alone, rtol=0, atol=1e-14)
