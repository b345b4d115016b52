"""The driver against transformers on every architecture: hidden states, losses and gradients, padding or none."""

import pytest
import torch

from remora.engine.driver import Driver
from remora.engine.dropout import DropoutKeys
from remora.engine.layout import LaneBatch
from remora.engine.pooling import pooled_rows
from remora.methods.registry import get_method
from tests import tiny
from tests.contract.checks import check_naive, fresh_adapter, no_global_randomness
from tests.trials import padded, record_steps, run, spec, toy_data, toy_examples

EXAMPLES = toy_examples(6, low=2, high=14)
# Their norms, rotations or softmax compute in float32 whatever the type of the model.
FLOAT32_INSIDE = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt_neox", "modernbert", "opt"}
# In float64 transformers gives NaN where a padding row's window holds no real token, so these are compared in float32.
WINDOWED = {"mistral", "modernbert", "gemma2", "gemma3", "phi3"}
TARGETS = ("attention.q", "attention.v", "attention.o", "ffn.down")


def precision(arch: str) -> torch.dtype:
    return torch.float32 if arch in WINDOWED else torch.float64


def tolerance(arch: str) -> float:
    return 2e-5 if arch in FLOAT32_INSIDE else 1e-9


@pytest.mark.parametrize("arch", tiny.ALL)
def test_hidden_states_equal_the_padded_model(arch: str) -> None:
    base = tiny.tiny_base(arch, precision(arch))
    model = tiny.tiny_hf(arch, dtype=precision(arch)).get_submodule(base.arch.prefix)
    batch = padded(EXAMPLES, range(len(EXAMPLES)), int(base.config.pad_token_id or 0))
    if not base.takes_type_ids:
        batch.pop("token_type_ids")
    with torch.no_grad(), Driver(base) as driver:
        lane = LaneBatch(ids=EXAMPLES.ids, type_ids=EXAMPLES.type_ids, index=range(len(EXAMPLES)))
        layout = driver.lay_out([lane], training=False)
        mine = driver.forward(layout, [None])
        theirs = model(**batch).last_hidden_state
    for number, (start, length) in enumerate(zip(layout.start_S.tolist(), layout.length_S.tolist(), strict=True)):
        torch.testing.assert_close(mine[start : start + length], theirs[number, :length], rtol=0, atol=tolerance(arch))


@pytest.mark.parametrize("arch", tiny.ALL)
def test_losses_and_gradients_equal_the_padded_model(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny.tiny_base(arch, precision(arch))
    steps = record_steps(monkeypatch)
    settings = {"dropout": 0.0, "rank": 2, "targets": TARGETS}
    trial = spec("lora", settings, epochs=1, batch_size=3, base_dropout=False, warmup=0.0, splits=(), lr=0.05)
    run(base, toy_data(EXAMPLES), [trial])
    check_naive(
        base,
        tiny.tiny_hf(arch, dtype=precision(arch)),
        get_method("lora", settings),
        EXAMPLES,
        steps[trial.id],
        tolerance=tolerance(arch),
    )


@pytest.mark.parametrize("arch", tiny.ALL)
def test_training_pass_draws_no_global_randomness_and_leaves_no_trace(arch: str) -> None:
    base = tiny.tiny_base(arch, hidden_dropout_prob=0.3) if arch == "bert" else tiny.tiny_base(arch)
    forwards = {name: module.forward for name, module in base.model.named_modules()}
    implementation = base.model.config._attn_implementation
    method = get_method("lora", {"targets": TARGETS})
    with no_global_randomness(), Driver(base) as driver:
        outs = []
        for training, key in ((False, 1), (True, 1), (True, 1), (True, 2)):
            lane = LaneBatch(ids=EXAMPLES.ids, type_ids=EXAMPLES.type_ids, index=range(6), dropout_key=key)
            adapter = fresh_adapter(method, driver)
            for state in adapter.states.values():
                state.trained["lora_B"] += 0.1
            with torch.no_grad():
                outs.append(driver.forward(driver.lay_out([lane], training=training), [adapter]))
    assert torch.equal(outs[1], outs[2])
    assert not torch.allclose(outs[1], outs[3])
    assert not torch.allclose(outs[0], outs[1])
    assert base.model.config._attn_implementation == implementation
    assert not base.model.training
    for name, module in base.model.named_modules():
        assert "forward" not in vars(module), f"{name} keeps a forward of the driver"
        assert module.forward == forwards[name]


def test_base_dropout_can_be_off_for_one_lane_of_a_pass() -> None:
    base = tiny.tiny_base("bert", torch.float64, hidden_dropout_prob=0.4, attention_probs_dropout_prob=0.4)
    with torch.no_grad(), Driver(base) as driver:
        lanes = [
            LaneBatch(ids=EXAMPLES.ids, type_ids=EXAMPLES.type_ids, index=range(6), dropout_key=3, base_dropout=on)
            for on in (True, False)
        ]
        layout = driver.lay_out(lanes, training=True)
        both = driver.forward(layout, [None, None])
        plain = driver.forward(driver.lay_out(lanes[1:], training=False), [None])
    torch.testing.assert_close(both[layout.lane_rows[1]], plain, rtol=0, atol=1e-12)
    assert not torch.allclose(both[layout.lane_rows[0]], plain)


@pytest.mark.parametrize("arch", ["albert", "bert", "opt", "deberta-v3"])
def test_dropout_differs_between_layers_calls_and_sequences(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ALBERT runs one layer several times: with one mask for all calls, or for all sequences, these would coincide."""
    base = tiny.tiny_base(arch, torch.float64)
    same = [EXAMPLES.ids[0]] * 2
    lane = LaneBatch(ids=same, type_ids=[EXAMPLES.type_ids[0]] * 2, index=range(2), dropout_key=3)
    masks: list[torch.Tensor] = []
    original = DropoutKeys.hidden

    def watched(keys: DropoutKeys, x: torch.Tensor, name: str, rate: float) -> torch.Tensor:
        y = original(keys, x, name, rate)
        masks.append((y == 0).reshape(-1, x.shape[-1]))
        return y

    monkeypatch.setattr(DropoutKeys, "hidden", watched)
    with torch.no_grad(), Driver(base) as driver:
        driver.forward(driver.lay_out([lane], training=True), [None])
    assert len(masks) >= 4
    length = len(same[0])
    for number, mask in enumerate(masks):
        assert not torch.equal(mask[:length], mask[length : 2 * length]), "two sequences share a mask"
        for other in masks[:number]:
            assert mask.shape != other.shape or not torch.equal(mask, other), "two sites or calls share a mask"


def test_rows_of_an_unexpected_number_raise() -> None:
    base = tiny.tiny_base("bert")
    with Driver(base) as driver:
        adapter = fresh_adapter(get_method("lora"), driver)
        lane = LaneBatch(ids=EXAMPLES.ids, type_ids=EXAMPLES.type_ids, index=range(6))
        layout = driver.lay_out([lane], training=False)

        def cut(*args: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (args[0][:, :3], *args[1:])

        hook = base.model.encoder.layer[0].attention.self.query.register_forward_pre_hook(
            lambda module, args: cut(*args)
        )
        try:
            with pytest.raises(AssertionError, match="met 3 rows"):
                driver.forward(layout, [adapter])
        finally:
            hook.remove()


@pytest.mark.parametrize("arch", ["bert", "deberta-v3"])
def test_a_closed_driver_computes_nothing(arch: str) -> None:
    """Without its hooks the model would take packed rows for one long text."""
    with Driver(tiny.tiny_base(arch)) as driver:
        lane = LaneBatch(ids=EXAMPLES.ids, type_ids=EXAMPLES.type_ids, index=range(len(EXAMPLES)))
        layout = driver.lay_out([lane], training=False)
        driver.forward(layout, [None])
    with pytest.raises(AssertionError, match="the driver is closed"):
        driver.forward(layout, [None])


def test_deberta_lanes_do_not_share_passes_and_others_do() -> None:
    for arch, share in (("deberta-v3", False), ("mpnet", True), ("bert", True)):
        with Driver(tiny.tiny_base(arch)) as driver:
            assert driver.lanes_share_passes == share


def test_a_sequence_as_long_as_debertas_table_of_positions() -> None:
    """One sequence of 16 tokens and a table of 16 relative positions look alike; masks must not depend on it."""
    base = tiny.tiny_base("deberta-v3", torch.float64)
    examples = toy_examples(4, low=16, high=16)
    trial = spec("lora", {"targets": ("attention.q", "attention.k"), "dropout": 0.3}, batch_size=4, splits=())
    whole = run(base, toy_data(examples), [trial])[trial.id]
    cut = run(base, toy_data(examples), [trial], tokens_per_pass=1)[trial.id]
    for name, value in whole.adapter.items():
        torch.testing.assert_close(value, cut.adapter[name], rtol=0, atol=1e-9)


READING = {
    "lora": {"targets": TARGETS, "rank": 2},
    "dora": {"targets": TARGETS, "rank": 2},
    "ia3": {},
    "bitfit": {},
    "prompt-tuning": {"num_virtual_tokens": 3},
    "prefix-tuning": {"num_virtual_tokens": 3, "encoder_hidden": 8},
    "adapter-houlsby": {"bottleneck": 4, "dropout": 0.3},
    "adapter-parallel": {"bottleneck": 4, "dropout": 0.3},
}


@pytest.mark.parametrize("arch", ["bert", "roberta", "electra", "xlm-roberta"])
@pytest.mark.parametrize("name", READING)
def test_following_only_the_rows_that_are_read_changes_nothing(arch: str, name: str) -> None:
    """Two lanes, one without base dropout, in float64: rows and gradients of all parameters, masks included."""
    base = tiny.tiny_base(arch, torch.float64)
    assert base.arch.rejoin is not None
    method = get_method(name, READING[name])
    results: list[list[torch.Tensor]] = []
    widths: list[int] = []
    with Driver(base) as driver:
        last = base.model.get_submodule(base.arch.layer_paths(base.config)[-1].path)
        handle = last.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
        for narrow in (False, True):
            adapters = [fresh_adapter(method, driver) for _ in range(2)]
            for number, adapter in enumerate(adapters):
                for state in adapter.states.values():
                    for key, value in state.trained.items():
                        state.trained[key] = (value + 0.01 * (number + 1)).requires_grad_()
            lanes = [
                LaneBatch(
                    ids=EXAMPLES.ids,
                    type_ids=EXAMPLES.type_ids,
                    index=range(6),
                    dropout_key=lane,
                    num_virtual=method.num_virtual_tokens - method.num_prefix_tokens,
                    num_prefix=method.num_prefix_tokens,
                    base_dropout=lane == 0,
                )
                for lane in range(2)
            ]
            layout = driver.lay_out(lanes, training=True)
            if narrow:
                rows, numbers = driver.read(layout, adapters)
            else:
                rows, numbers = pooled_rows(driver.forward(layout, adapters), layout, base.pooling)
            leaves = [value for adapter in adapters for value in adapter.trained().values()]
            weights = torch.linspace(-1, 1, rows.numel(), dtype=torch.float64).view(rows.shape)
            results.append([rows, numbers, *torch.autograd.grad((rows * weights).sum(), leaves)])
        handle.remove()
    assert widths == [layout.num_rows, 12]
    for whole, read in zip(*results, strict=True):
        torch.testing.assert_close(read, whole, rtol=0, atol=1e-12)
