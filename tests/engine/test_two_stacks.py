"""Encoder-decoders in the engine against transformers' own classes, and lanes of one pass against each alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from remora.engine.driver import Driver
from remora.engine.dropout import DropoutKeys
from remora.engine.layout import LaneBatch
from remora.engine.trial import Examples
from remora.methods.base import AdapterTensors
from remora.methods.registry import get_method
from remora.models.quantised import quantised
from tests import naive
from tests.contract.checks import fresh_adapter, no_global_randomness
from tests.seq2seq import ALL, CROSS, UNTIED, WritingHead, seq2seq_base, seq2seq_examples, seq2seq_hf, seq2seq_inputs
from tests.tiny import give_weights

EXAMPLES = seq2seq_examples(6)


def tolerance(name: str) -> float:
    """T5's norms compute in float32 whatever the type of the model."""
    return 2e-5 if "t5" in name else 1e-9


def lane(examples: Examples = EXAMPLES, key: int = 0, **fields: object) -> LaneBatch:
    """All examples as one lane."""
    return LaneBatch(
        ids=examples.ids,
        type_ids=examples.type_ids,
        index=range(len(examples)),
        places=examples.places,
        decoder_ids=examples.decoder_ids,
        dropout_key=key,
        **fields,  # pyright: ignore[reportArgumentType]
    )


def written(logits_BTV: Tensor, examples: Examples = EXAMPLES) -> Tensor:
    """Logits of the rows that are read, one example after the other."""
    assert examples.decoder_ids is not None
    return torch.cat([row[: len(ids)] for row, ids in zip(logits_BTV, examples.decoder_ids, strict=True)])


@pytest.mark.parametrize("name", ALL)
def test_logits_are_those_of_transformers_own_class(name: str) -> None:
    base, model = seq2seq_base(name), seq2seq_hf(name)
    assert base.arch.encoder_decoder
    assert base.config.tie_word_embeddings == (name not in UNTIED)
    head = WritingHead(base=base, num_outputs=0)
    inputs = seq2seq_inputs(EXAMPLES, range(6), int(base.config.pad_token_id))
    with torch.no_grad(), Driver(base) as driver:
        layout = driver.lay_out([lane()], training=False)
        rows, _ = driver.read(layout, [None])
        mine = head.forward({}, rows)
        theirs = model(**inputs)
    torch.testing.assert_close(mine, written(theirs.logits), rtol=0, atol=10 * tolerance(name))
    targets = torch.from_numpy(EXAMPLES.targets)
    loss = F.cross_entropy(mine, targets[targets >= 0])
    assert abs(float(loss - theirs.loss)) < tolerance(name)
    assert float(mine.std()) > 0.1


SITES = ("attention.q", "attention.v", *CROSS, "ffn.up", "ffn.down")
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"targets": SITES, "rank": 2, "dropout": 0.0},
    "dora": {"targets": SITES, "rank": 2, "dropout": 0.0},
    "ia3": {"targets": ("attention.k", "attention.v", "cross.k", "cross.v", "ffn.down")},
    "bitfit": {},
    "vera": {"targets": SITES, "rank": 3, "dropout": 0.0},
    "adapter-houlsby": {"bottleneck": 4},
    "adapter-parallel": {"bottleneck": 4},
    "compacter": {"bottleneck": 4, "num_products": 2},
    "top-layers": {"num_layers": 1},
}


def moved(name: str, settings: dict[str, Any], driver: Driver, seed: int) -> AdapterTensors:
    """An adapter away from its start, with leaves."""
    adapter = fresh_adapter(get_method(name, settings), driver, seed)
    generator = torch.Generator().manual_seed(seed)
    for state in adapter.states.values():
        for key, value in state.trained.items():
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            state.trained[key] = (value + 0.1 * noise).requires_grad_()
    return adapter


def values_of(adapter: AdapterTensors) -> dict[str, Tensor]:
    """All tensors by the names that `naive.logits` takes."""
    frozen = {f"{key}.{name}": value for key, state in adapter.states.items() for name, value in state.frozen.items()}
    return {**adapter.shared, **frozen, **adapter.trained()}


@pytest.mark.parametrize("name", ["bart", "t5", "flan-t5"])
@pytest.mark.parametrize("method", METHODS)
def test_losses_and_gradients_of_lanes_are_those_of_the_formula(name: str, method: str) -> None:
    """Two adapters in one pass, of texts of other lengths, each against its formula in transformers' own class."""
    base, model = seq2seq_base(name), seq2seq_hf(name)
    head, before = WritingHead(base=base, num_outputs=0), base.hash()
    both = [EXAMPLES, seq2seq_examples(4, seed=1, low=8, high=20)]
    with Driver(base) as driver:
        assert driver.lanes_share_passes
        adapters = [moved(method, METHODS[method], driver, seed) for seed in (1, 2)]
        layout = driver.lay_out([lane(examples) for examples in both], training=False)
        rows, _ = driver.read(layout, adapters)
        for examples, adapter, reads in zip(both, adapters, layout.lane_reads, strict=True):
            targets = torch.from_numpy(examples.targets)
            mine = F.cross_entropy(head.forward({}, rows[reads]), targets[targets >= 0])
            inputs = seq2seq_inputs(examples, range(len(examples)), int(base.config.pad_token_id))
            labels = inputs.pop("labels")
            logits = naive.logits(model, base, adapter.method, values_of(adapter), {}, inputs)
            theirs = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
            assert abs(float((mine - theirs).detach())) < tolerance(name)
            leaves = adapter.trained()
            pairs = (torch.autograd.grad(loss, list(leaves.values()), retain_graph=True) for loss in (mine, theirs))
            for key, one, other in zip(leaves, *pairs, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=tolerance(name), msg=key)
                short = key.rsplit(".", 1)[1]
                if (short, "k_proj" in key or ".k." in key) != ("bias", True):
                    assert float(one.abs().max()) > 1e-9, f"{key} has no gradient"
    assert base.hash() == before


@pytest.mark.parametrize("name", ALL)
def test_gradients_of_all_weights_are_those_of_transformers(name: str) -> None:
    base, model = seq2seq_base(name), seq2seq_hf(name).requires_grad_()
    head, prefix = WritingHead(base=base, num_outputs=0), base.arch.hf_prefix
    own = {prefix + key: value.clone().requires_grad_() for key, value in base.model.named_parameters()}
    own |= {key: value.clone().requires_grad_() for key, value in head.pooler.items()}
    inputs = seq2seq_inputs(EXAMPLES, range(6), int(base.config.pad_token_id))
    with Driver(base) as driver:
        layout = driver.lay_out([lane()], training=False)
        params = {key.removeprefix(prefix): value for key, value in own.items() if key not in head.pooler}
        rows, _ = driver.read(layout, [None], params)
        targets = torch.from_numpy(EXAMPLES.targets)
        F.cross_entropy(head.forward({}, rows, pooler_params=own), targets[targets >= 0]).backward()
    model(**inputs).loss.backward()
    theirs = dict(model.named_parameters())
    assert set(own) == set(theirs)
    for key, value in own.items():
        expected, found = theirs[key].grad, value.grad
        assert expected is not None, key
        assert found is not None, key
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=tolerance(name), msg=key)


@pytest.mark.parametrize("name", ALL)
def test_dropout_of_a_lane_is_the_same_alone_and_beside_others(name: str) -> None:
    """And in parts of its batch, with other texts beside it that are longer on either side."""
    base = seq2seq_base(name)
    settings = {**METHODS["lora"], "dropout": 0.3}
    long = seq2seq_examples(3, seed=1, low=15, high=20)
    with no_global_randomness(), torch.no_grad(), Driver(base) as driver:
        adapters = [moved("lora", settings, driver, seed) for seed in (1, 2, 3)]
        lanes = [lane(long, 5), lane(EXAMPLES, 6), lane(EXAMPLES, 7, base_dropout=False)]
        layout = driver.lay_out(lanes, training=True)
        joined, _ = driver.read(layout, adapters)
        for number, reads in enumerate(layout.lane_reads):
            alone, _ = driver.read(driver.lay_out([lanes[number]], training=True), [adapters[number]])
            torch.testing.assert_close(joined[reads], alone, rtol=0, atol=1e-12 if "t5" not in name else 1e-6)
        chosen = np.array([4, 1])
        part = EXAMPLES.subset(chosen)
        cut = driver.lay_out([replace(lane(part, 6), index=chosen.tolist())], training=True)
        few, _ = driver.read(cut, adapters[1:2])
        rows = [joined[layout.lane_reads[1]][EXAMPLES.rows(np.array([i]))] for i in chosen]
        torch.testing.assert_close(few, torch.cat(rows), rtol=0, atol=1e-12 if "t5" not in name else 1e-6)
        other, _ = driver.read(driver.lay_out([lane(EXAMPLES, 8)], training=True), adapters[1:2])
        plain, _ = driver.read(driver.lay_out([lane(EXAMPLES, 6)], training=False), adapters[1:2])
    assert float((other - joined[layout.lane_reads[1]]).abs().max()) > 0.05
    assert float((plain - joined[layout.lane_reads[1]]).abs().max()) > 0.05


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_no_two_places_share_a_dropout_mask(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text is also what is written of it, so that one key for both stacks would give equal masks."""
    base = seq2seq_base(name)
    ids = [EXAMPLES.ids[0]] * 2
    same = LaneBatch(ids=ids, type_ids=ids, decoder_ids=ids, index=range(2), dropout_key=3)
    masks: list[Tensor] = []
    original = DropoutKeys.hidden

    def watched(keys: DropoutKeys, x: Tensor, site: str, rate: float) -> Tensor:
        y = original(keys, x, site, rate)
        masks.extend((y == 0).view(2, -1, x.shape[-1]))
        return y

    monkeypatch.setattr(DropoutKeys, "hidden", watched)
    with torch.no_grad(), Driver(base) as driver:
        driver.forward(driver.lay_out([same], training=True), [None])
    assert len(masks) >= 2 * 15
    for number, mask in enumerate(masks):
        for other in masks[:number]:
            assert mask.shape != other.shape or not torch.equal(mask, other)


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_the_driver_leaves_no_trace(name: str) -> None:
    base = seq2seq_base(name)
    forwards = {key: module.forward for key, module in base.model.named_modules()}
    with torch.no_grad(), Driver(base) as driver:
        driver.forward(driver.lay_out([lane()], training=True), [moved("lora", METHODS["lora"], driver, 0)])
    assert not base.model.training
    for key, module in base.model.named_modules():
        assert "forward" not in vars(module), f"{key} keeps a forward of the driver"
        assert module.forward == forwards[key]


@pytest.mark.parametrize("name", ["bart", "mbart", "t5"])
def test_virtual_tokens_stand_before_what_the_encoder_reads(name: str) -> None:
    base, model = seq2seq_base(name), seq2seq_hf(name)
    head, pad = WritingHead(base=base, num_outputs=0), int(base.config.pad_token_id)
    inputs = seq2seq_inputs(EXAMPLES, range(6), pad)
    with torch.no_grad(), Driver(base) as driver:
        adapter = moved("prompt-tuning", {"num_virtual_tokens": 3, "init": "normal"}, driver, 1)
        rows, _ = driver.read(driver.lay_out([lane(num_virtual=3)], training=False), [adapter])
        mine = head.forward({}, rows)
        (prompt_VD,) = adapter.trained().values()
        embedded = base.model.get_submodule("encoder.embed_tokens")(inputs["input_ids"])
        theirs = model(
            inputs_embeds=torch.cat([prompt_VD.expand(6, -1, -1), embedded], 1),
            attention_mask=F.pad(inputs["attention_mask"], (3, 0), value=1),
            decoder_input_ids=inputs["decoder_input_ids"],
        ).logits
    torch.testing.assert_close(mine, written(theirs), rtol=0, atol=10 * tolerance(name))


def test_lanes_of_a_base_in_4_bits_are_those_of_its_weights() -> None:
    base, model = quantised(seq2seq_base("bart")), seq2seq_hf("bart")
    give_weights(model, base, base.arch.hf_prefix)
    with torch.no_grad(), Driver(base) as driver:
        adapters = [moved("lora", METHODS["lora"], driver, seed) for seed in (1, 2)]
        layout = driver.lay_out([lane(), lane()], training=False)
        rows, _ = driver.read(layout, adapters)
        for adapter, reads in zip(adapters, layout.lane_reads, strict=True):
            inputs = seq2seq_inputs(EXAMPLES, range(6), int(base.config.pad_token_id))
            inputs.pop("labels")
            expected = written(naive.logits(model, base, adapter.method, values_of(adapter), {}, inputs))
            mine = WritingHead(base=base, num_outputs=0).forward({}, rows[reads])
            torch.testing.assert_close(mine, expected, rtol=0, atol=1e-8)


def test_a_pass_needs_what_goes_into_the_decoder() -> None:
    with Driver(seq2seq_base("bart")) as driver, pytest.raises(AssertionError, match="go into its decoder"):
        driver.lay_out([replace(lane(), decoder_ids=None)], training=False)
