"""FISH mask chooses the weights with the largest squared gradients, as transformers' own model gives them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from remora.adapters.format import save_adapter
from remora.data.order import permutation
from remora.engine.driver import Driver
from remora.engine.lanes import Lane
from remora.methods.fish_mask import largest
from remora.predict import load_adapter
from tests.contract.test_storage import INFO
from tests.tiny import tiny_base, tiny_hf
from tests.trials import padded, run, spec, toy_data, toy_examples

EXAMPLES = toy_examples(10)
SETTINGS = {"density": 0.03, "num_examples": 6, "targets": ("attention.v", "ffn.up")}


@pytest.mark.parametrize("arch", ["bert", "gpt2"])
def test_the_largest_fisher_information_is_chosen(arch: str) -> None:
    base, model = tiny_base(arch, torch.float64), tiny_hf(arch, dtype=torch.float64)
    if arch == "gpt2":
        model.config.pad_token_id = 0
    with Driver(base) as driver:
        lane = Lane(spec("fish-mask", SETTINGS, seed=3), driver, toy_data(EXAMPLES))
    head = {name: value.detach() for name, value in lane.head_params.items()}
    fisher: dict[str, torch.Tensor] = {}
    for number in permutation(3, 0, len(EXAMPLES))[:6]:
        batch = padded(EXAMPLES, [int(number)], 0)
        if not base.takes_type_ids:
            batch.pop("token_type_ids")
        model.zero_grad()
        logits = torch.func.functional_call(model, head, kwargs=batch).logits
        nn.functional.cross_entropy(logits, torch.from_numpy(EXAMPLES.targets[[number]])).backward()
        for site in lane.adapter.sites:
            gradient = model.get_submodule(site.hf_name).weight.grad
            gradient = (gradient.T if site.transposed else gradient)[site.rows()]
            fisher[site.id] = fisher.get(site.id, 0) + gradient.square()
    every = torch.cat([fisher[site.id].flatten() for site in lane.adapter.sites])
    num = round(0.03 * every.numel())
    bar = every.sort(descending=True).values[num - 1]
    for site in lane.adapter.sites:
        expected = (fisher[site.id].flatten() >= bar).nonzero()[:, 0]
        assert len(expected), "no site is left empty, where the method would keep one"
        assert torch.equal(lane.adapter.states[site.id].frozen["index"], expected)
    assert lane.num_params["adapter"] == num
    assert lane.seconds > 0


def test_the_choice_depends_on_the_data_and_not_on_the_order_within_a_pack() -> None:
    base = tiny_base("bert", torch.float64)
    trials = [spec("fish-mask", SETTINGS, id=f"{seed}", seed=seed) for seed in (0, 1)]
    one, other = run(base, toy_data(EXAMPLES), trials), run(base, toy_data(EXAMPLES), trials[::-1])
    names = [name for name in one["0"].frozen if name.endswith("index")]
    assert all(torch.equal(one[seed].frozen[name], other[seed].frozen[name]) for name in names for seed in "01")
    assert any(not torch.equal(one["0"].frozen[name], one["1"].frozen[name]) for name in names)


def test_every_tensor_keeps_its_largest_and_the_count_is_exact() -> None:
    scores = [torch.arange(10.0), torch.full((4,), 100.0), torch.zeros(6)]
    places = largest(scores, 0.3)
    assert [part.tolist() for part in places] == [[9], [0, 1, 2, 3], [0]]
    assert [len(part) for part in largest(scores, 0.01)] == [1, 1, 1]


def test_a_file_with_other_shapes_than_a_fresh_adapter_is_read_back(tmp_path: Path) -> None:
    base = tiny_base("bert")
    (outcome,) = run(base, toy_data(EXAMPLES), [spec("fish-mask", SETTINGS)]).values()
    save_adapter(tmp_path / "a", base, outcome, INFO)
    assert np.array_equal(load_adapter(tmp_path / "a", base).logits_of(EXAMPLES), outcome.logits["validation"])
