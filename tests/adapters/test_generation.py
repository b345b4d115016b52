"""What is written with an adapter: transformers' own search on peft's model, batched as one by one, read back alike."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from remora.adapters.format import AdapterInfo, attached, save_adapter
from remora.adapters.generation import can_generate, language_model, not_generating, summaries_of
from remora.config.schema import GenerationConfig
from remora.data.summaries import written
from remora.data.summary_prompts import SummaryEncoder
from remora.engine.summarized import summarized
from remora.engine.trial import Examples, TrialData, TrialOutcome
from remora.methods.registry import get_method, list_methods
from remora.models.base import Base
from remora.models.load import load_base
from remora.predict import load_adapter
from remora.tasks import make_task
from tests.moods import BAD, FILLER, GOOD
from tests.prompts import causal_pair, made_prompt, write_model
from tests.trials import run, spec

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

PROMPT = made_prompt({})
TEXTS = [(f"the {(GOOD + BAD)[n % 8]} {FILLER[n % 7]} {'so ' * (n % 4)}{n}",) for n in range(9)]
LABELS = [written([" ".join((GOOD + BAD)[(n + k) % 8] for k in range(1 + n % 4))]) for n in range(9)]
SEARCHES = {
    "greedy": GenerationConfig(max_new_tokens=7),
    "beams": GenerationConfig(max_new_tokens=7, num_beams=3, length_penalty=0.6),
}


def encoder_of(base: Base) -> SummaryEncoder:
    return SummaryEncoder(base.tokenizer, PROMPT, 7)


def trained(base: Base, method: str, settings: dict[str, Any] | None = None, **fields: Any) -> TrialOutcome:
    """A few steps that change what is written."""
    encoder = encoder_of(base)

    def split(name: str, room: int) -> Examples:
        prompts = encoder.encode_texts(TEXTS, 60, room).ids
        return summarized(prompts, encoder.encode_summaries(LABELS).ids, np.arange(len(TEXTS)))

    task = make_task("summarization", label_names=())
    data = TrialData(task=task, num_outputs=1, split=split, fingerprint="", head="lm")
    given = {"lr": 3e-2, "batch_size": 5, "max_steps": 6, "epochs": 9, **fields}
    return run(base, data, [spec(method, settings, id="t", **given)])["t"]


def saved(folder: Path, base: Base, outcome: TrialOutcome, search: GenerationConfig) -> Path:
    info = AdapterInfo(
        label="x", task="summarization", label_names=(), num_texts=1, text_columns=("document",), data_name="toy",
        data_hash="0", metric="rougeL", max_length=60, prompt=PROMPT, generation=search,
    )  # fmt: skip
    save_adapter(folder, base, outcome, info)
    return folder


def one_by_one(model: Any, base: Base, search: GenerationConfig) -> list[str]:
    """transformers' search on each text by itself, so that nothing is padded."""
    encoder = encoder_of(base)
    texts: list[str] = []
    for ids in encoder.encode_texts(TEXTS, 60).ids:
        given = torch.from_numpy(ids)[None]
        settings = {**search.model_dump(), "eos_token_id": encoder.end, "pad_token_id": encoder.end}
        out = model.generate(input_ids=given, attention_mask=torch.ones_like(given), do_sample=False, **settings)
        texts.append(base.tokenizer.decode(out[0, given.shape[1] :], skip_special_tokens=True).strip())
    return texts


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("method", ["lora", "dora", "ia3"])
def test_what_is_written_is_what_peft_writes_merged(tmp_path: Path, method: str, search: GenerationConfig) -> None:
    from peft import PeftModel

    model = str(write_model(tmp_path / "model", tie_word_embeddings=method == "ia3"))
    base = load_base(model, language_head=True)
    outcome = trained(base, method)
    folder = saved(tmp_path / "adapter", base, outcome, search)
    twin = AutoModelForCausalLM.from_pretrained(model)
    bare = one_by_one(twin, base, search)
    merged: Any = PeftModel.from_pretrained(twin, str(folder)).eval()
    expected = one_by_one(merged.merge_and_unload(), base, search)
    own = attached(base, outcome, make_task("summarization", label_names=()), PROMPT)
    found = summaries_of(base, own, encoder_of(base), encoder_of(base).encode_texts(TEXTS, 60).ids, search)
    assert found == expected
    assert found != bare
    predictor = load_adapter(folder)
    assert [each.label for each in predictor.predict([text for (text,) in TEXTS])] == found
    assert predictor.record.generation == search


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("method", ["prompt-tuning", "p-tuning"])
def test_trained_prompts_stand_before_each_text(method: str, search: GenerationConfig) -> None:
    """By the embeddings of one unpadded text behind the trained vectors; the first token also without any cache."""
    base, model = causal_pair(dtype=torch.float32)
    outcome = trained(base, method, {"num_virtual_tokens": 3})
    encoder = encoder_of(base)
    own = attached(base, outcome, make_task("summarization", label_names=()), PROMPT)
    prompts = encoder.encode_texts(TEXTS, 60, 3).ids
    found = summaries_of(base, own, encoder, prompts, search)
    (site,) = own.adapter.sites
    state = own.adapter.method.peft_state(own.adapter.at(site), site)
    vectors = state["prompt"] if "prompt" in state else next(iter(state.values()))
    expected: list[str] = []
    for ids, text in zip(prompts, found, strict=True):
        embedded = torch.cat([vectors.detach(), model.get_input_embeddings()(torch.from_numpy(ids))])[None]
        settings = {**search.model_dump(), "eos_token_id": encoder.end, "pad_token_id": encoder.end}
        with torch.no_grad():
            out = model.generate(
                inputs_embeds=embedded, attention_mask=torch.ones(embedded.shape[:2]), do_sample=False, **settings
            )[0].tolist()
            first = int(model(inputs_embeds=embedded).logits[0, -1].argmax())
        expected.append(encoder.decode(out[: out.index(encoder.end)] if encoder.end in out else out))
        assert search.num_beams > 1 or out[0] == first
        assert text == expected[-1]
    own.adapter.sites = ()
    assert found != summaries_of(base, own, encoder, prompts, search)


def test_what_may_not_be_repeated_is_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the text: tokens that stand in every prompt can still be written, once."""
    monkeypatch.setattr(SummaryEncoder, "decode", lambda _, ids: " ".join(map(str, ids)))
    base, _ = causal_pair(dtype=torch.float32)
    own = attached(base, trained(base, "full", lr=3e-3), make_task("summarization", label_names=()), PROMPT)
    prompts = encoder_of(base).encode_texts(TEXTS, 60).ids
    searches = [GenerationConfig(max_new_tokens=30, no_repeat_ngram_size=size) for size in (0, 1)]
    free, once = ([text.split() for text in summaries_of(base, own, encoder_of(base), prompts, s)] for s in searches)
    assert any(len(set(ids)) < len(ids) for ids in free)
    assert all(len(set(ids)) == len(ids) for ids in once)
    assert any(str(token) in written for ids, written in zip(prompts, once, strict=True) for token in ids)


def test_full_fine_tuning_writes_what_its_checkpoint_writes(tmp_path: Path) -> None:
    base = load_base(str(write_model(tmp_path / "model", tie_word_embeddings=True)), language_head=True)
    folder = saved(tmp_path / "full", base, trained(base, "full", lr=3e-3), SEARCHES["greedy"])
    expected = one_by_one(AutoModelForCausalLM.from_pretrained(folder), base, SEARCHES["greedy"])
    assert [each.label for each in load_adapter(folder).predict([text for (text,) in TEXTS])] == expected
    assert load_adapter(folder).predict([]) == []


def loss_of(model: Any, base: Base) -> float:
    """Of the tokens of all references, by a model as transformers has it."""
    likelihoods: list[float] = []
    encoder = encoder_of(base)
    prompts, summaries = encoder.encode_texts(TEXTS, 60).ids, encoder.encode_summaries(LABELS).ids
    for prompt, summary in zip(prompts, summaries, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(np.concatenate([prompt, summary]))[None]).logits[0].double()
        rows = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        likelihoods += rows[torch.arange(len(summary)), torch.from_numpy(summary)].tolist()
    return -float(np.mean(likelihoods))


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
@pytest.mark.parametrize("method", ["lora", "bitfit", "vera", "ln-tuning", "full"])
def test_the_model_that_writes_computes_what_the_engine_computes(name: str, method: str) -> None:
    """Likelihoods of the references, fused projections and biases that the base lacks included."""
    base, _ = causal_pair(name)
    outcome = trained(base, method)
    own = attached(base, outcome, make_task("summarization", label_names=()), PROMPT)
    assert loss_of(language_model(base, own), base) == pytest.approx(outcome.losses["validation"], abs=1e-5)
    before = trained(base, "head", max_steps=0)
    assert abs(outcome.losses["validation"] - before.losses["validation"]) > 1e-2


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("method", "held"), [("lora", "none"), ("full", "none"), ("qlora", "nf4")])
def test_a_half_precision_base_stays_and_writes_in_float32(
    tmp_path: Path, method: str, held: Literal["none", "nf4"], tied: bool
) -> None:
    folder = str(write_model(tmp_path / "model", tie_word_embeddings=tied))
    base = load_base(folder, language_head=True, dtype=torch.bfloat16, quantization=held)
    before = base.hash()
    outcome = trained(base, method, lr=3e-3)
    own = attached(base, outcome, make_task("summarization", label_names=()), PROMPT)
    model = language_model(base, own)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied
    assert loss_of(model, base) == pytest.approx(outcome.losses["validation"], rel=0.03)
    assert base.hash() == before


def test_methods_that_change_more_than_weights_are_known_beforehand() -> None:
    base, _ = causal_pair()
    unable: set[str] = set()
    for cls in list_methods():
        method = get_method(cls.name, dict(cls.examples[0]))
        reason = not_generating(method, method.sites(base))
        assert cls.name == "head" or not can_generate(cls) or reason is None
        if reason is not None:
            unable.add(cls.name)
    assert {"prefix-tuning", "adapter-houlsby", "loreft", "adamix"} <= unable
    assert not unable & {"full", "lora", "dora", "vera", "ia3", "bitfit", "prompt-tuning", "p-tuning", "top-layers"}
