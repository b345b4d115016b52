"""Documents in windows through the engine: transformers' own states, gradients of a batch, solo as packed."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from remora.data.clusters import MentionRules, written
from remora.data.dataset import Split
from remora.engine.trial import Examples, TrialData
from remora.models.mention_ranking import NUM_OUTPUTS
from remora.tasks.coreference import Coreference
from tests.tiny import VOCAB, tiny_base, tiny_hf
from tests.trials import record_steps, run, spec

TASK = Coreference(rules=MentionRules(singletons=True, max_width=2))


def document_examples(num: int, *, seed: int = 0, every: int = 2) -> Examples:
    """Documents of one to three windows, with a word at every second token or so and mentions of one word or two."""
    rng = np.random.default_rng(seed)
    counts = 1 + np.arange(num) % 3
    ids = [rng.integers(5, VOCAB, int(length)) for length in rng.integers(8, 14, int(counts.sum()))]
    places = [np.arange(1, len(row), every) for row in ids]
    joints = np.concatenate([[0], np.cumsum(counts)])
    num_words = [sum(map(len, places[a:b])) for a, b in pairwise(joints)]
    texts = [("a b", " ".join("c" * (total - 2))) for total in num_words]
    clusters = [[[(0, 1), (2, 3), (total - 1, total)], [(1, 2), (total - 3, total - 1)]] for total in num_words]
    labels = tuple(map(written, clusters))
    split = Split(name="train", texts=tuple(texts), labels=labels, source="made", hash="0")
    types = [np.zeros(len(row), np.int64) for row in ids]
    targets, weights = TASK.targets(split), np.array(num_words)
    return Examples(ids=ids, type_ids=types, targets=targets, joints=joints, places=places, weights=weights)


def document_data(train: Examples) -> TrialData:
    return TrialData(
        task=TASK, num_outputs=NUM_OUTPUTS, split=lambda name, room: train, fingerprint="made", head="coreference"
    )


def naive_outputs(backbone: nn.Module, head: dict[str, Tensor], examples: Examples, example: int) -> Tensor:
    """(W, C): every window by itself through transformers' model without a head, then two layers."""
    assert examples.joints is not None
    assert examples.places is not None
    rows: list[Tensor] = []
    for window in range(examples.joints[example], examples.joints[example + 1]):
        ids = torch.from_numpy(examples.ids[window])[None]
        states = backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        rows.append(states[torch.from_numpy(examples.places[window])])
    inner = torch.cat(rows) @ head["coreference.dense.weight"].T + head["coreference.dense.bias"]
    gelu = 0.5 * inner * (1 + torch.erf(inner / 2**0.5))
    return gelu @ head["coreference.parts.weight"].T + head["coreference.parts.bias"]


def backbone_of(name: str, weights: dict[str, Tensor]) -> nn.Module:
    """transformers' model, in float64, with given weights of the backbone."""
    model = tiny_hf(name, 2, torch.float64)
    named = dict(model.named_parameters())
    for key, value in weights.items():
        named[key].data = value.detach().to(torch.float64)
    return model


@pytest.mark.parametrize("name", ["bert", "modernbert", "llama", "opt", "deberta-v3"])
def test_windows_have_the_states_of_transformers(name: str) -> None:
    base, examples = tiny_base(name, torch.float64), document_examples(4)
    outcome = run(base, document_data(examples), [spec("full", id="t", max_steps=0)])["t"]
    model = backbone_of(name, dict(outcome.base_weights))
    head = {key: value.double() for key, value in outcome.head.items()}
    assert {key: tuple(value.shape) for key, value in head.items()} == {
        "coreference.dense.weight": (base.hidden_size, base.hidden_size),
        "coreference.dense.bias": (base.hidden_size,),
        "coreference.parts.weight": (NUM_OUTPUTS, base.hidden_size),
        "coreference.parts.bias": (NUM_OUTPUTS,),
    }
    backbone = model.get_submodule(str(model.base_model_prefix))
    for number, counted in enumerate(examples.num_rows):
        with torch.no_grad():
            expected = naive_outputs(backbone, head, examples, number).numpy()
        found = outcome.logits["validation"][number]
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found[:counted], expected, rtol=0, atol=1e-5)


def test_gradients_of_a_batch_are_those_of_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is the mean over the words of all documents of a batch, however it is cut into passes."""
    base, examples = tiny_base("bert", torch.float64), document_examples(5)
    steps = record_steps(monkeypatch)
    trial = spec("full", id="t", batch_size=4, max_steps=1, base_dropout=False)
    run(base, document_data(examples), [trial], tokens_per_pass=40)
    (step,) = steps["t"]
    model = backbone_of("bert", step.base)
    backbone = model.get_submodule(str(model.base_model_prefix))
    head = {key: value.detach().clone().requires_grad_() for key, value in step.head.items()}
    weighed, num_words = torch.zeros((), dtype=torch.float64), 0
    for number in step.chosen:
        outputs = naive_outputs(backbone, head, examples, int(number))
        weighed = weighed + TASK.loss(outputs[None], torch.from_numpy(examples.targets[[number]]))[0]
        num_words += len(outputs)
    loss = weighed / num_words
    loss.backward()
    assert step.loss == pytest.approx(float(loss.detach()), abs=1e-6)
    named = {**dict(model.named_parameters()), **head}
    for key, grad in step.grads.items():
        expected = named[key].grad
        assert expected is not None
        assert key != "coreference.parts.weight" or (expected.norm(dim=1) > 0).all()
        torch.testing.assert_close(grad, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["bert", "deberta-v3"])
def test_solo_is_packed_and_any_cut_is_alike(name: str) -> None:
    """With dropout, prompts before every window, forwards that are compared, and states that are computed once."""
    base, data = tiny_base(name, torch.float64), document_data(document_examples(6))
    specs = [
        spec(method, id=method, lr=3e-3, batch_size=size)
        for method, size in (("lora", 1), ("prompt-tuning", 4), ("adamix", 3), ("head", 2), ("full", 1))
    ]
    packed = run(base, data, specs, slots=4, tokens_per_pass=60)
    for one in specs:
        alone = run(base, data, [one], slots=1)[one.id]
        assert alone.status == "done"
        assert alone.grad_norm["min"] > 0
        found, expected = packed[one.id].logits["validation"], alone.logits["validation"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        assert packed[one.id].losses["train"] == pytest.approx(alone.losses["train"], abs=1e-6)
        for key, value in {**alone.adapter, **alone.head, **alone.base_weights}.items():
            torch.testing.assert_close(
                {**packed[one.id].adapter, **packed[one.id].head, **packed[one.id].base_weights}[key],
                value,
                rtol=0,
                atol=1e-6,
            )


def test_clusters_are_learnt() -> None:
    """In documents long enough that all mentions can be kept."""
    base = tiny_base("bert")
    examples = document_examples(9, every=1).subset(np.array([1, 2, 4, 5, 7, 8]))
    trial = spec("full", lr=3e-3, epochs=40, batch_size=1, base_dropout=False)
    (outcome,) = run(base, document_data(examples), [trial]).values()
    assert outcome.metrics["validation"]["conll_f1"] > 0.8
