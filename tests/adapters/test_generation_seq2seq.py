"""What an encoder-decoder with an adapter writes: transformers' own search on peft's model, and read back alike."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, DynamicCache, EncoderDecoderCache

from remora.adapters.format import AdapterInfo, attached, save_adapter
from remora.adapters.generation import language_model, not_generating, summaries_of
from remora.adapters.merge import save_merged
from remora.config.schema import GenerationConfig
from remora.data.summary_prompts import SourceEncoder
from remora.engine.summarized import summarized, summary_encoder
from remora.engine.trial import Examples, TrialData, TrialOutcome
from remora.errors import ModelError
from remora.methods.registry import get_method, list_methods
from remora.models.base import Base
from remora.models.load import load_base
from remora.predict import load_adapter
from remora.tasks import make_task
from tests.adapters.test_generation import LABELS, SEARCHES, TEXTS
from tests.engine.test_summarized_seq2seq import pair
from tests.prompts import made_prompt
from tests.seq2seq import seq2seq_base
from tests.summarizers import PREFIX, summarizer_tokenizer, write_summarizer
from tests.trials import run, spec

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias term"),
    pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied after merging"),
]
NAMES = ("bart", "t5", "flan-t5")
PROMPT = made_prompt({}).model_copy(update={"parts": (PREFIX, 0, "")})
TASK = make_task("summarization", label_names=())
LIMIT = 7


def encoder_of(base: Base) -> SourceEncoder:
    encoder = summary_encoder(base, PROMPT, LIMIT)
    assert isinstance(encoder, SourceEncoder)
    return encoder


def trained(base: Base, method: str, settings: dict[str, Any] | None = None, **fields: Any) -> TrialOutcome:
    """A few steps that change what is written."""
    encoder = encoder_of(base)

    def split(name: str, room: int) -> Examples:
        ids = encoder.encode_texts(TEXTS, 60, room).ids
        return summarized(ids, encoder.encode_summaries(LABELS).ids, np.arange(len(TEXTS)), encoder.start)

    data = TrialData(task=TASK, num_outputs=1, split=split, fingerprint="", head="lm")
    given = {"lr": 3e-2, "batch_size": 5, "max_steps": 6, "epochs": 9, **fields}
    return run(base, data, [spec(method, settings, id="t", **given)])["t"]


def saved(folder: Path, base: Base, outcome: TrialOutcome, search: GenerationConfig) -> Path:
    info = AdapterInfo(
        label="x", task="summarization", label_names=(), num_texts=1, text_columns=("document",), data_name="toy",
        data_hash="0", metric="rougeL", max_length=60, prompt=PROMPT, generation=search,
    )  # fmt: skip
    save_adapter(folder, base, outcome, info)
    return folder


def growing() -> EncoderDecoderCache:
    """The tiny models' decoders have a layer more than their encoders, for which transformers makes a cache."""
    return EncoderDecoderCache(DynamicCache(), DynamicCache())


def one_by_one(model: Any, base: Base, name: str, search: GenerationConfig) -> list[str]:
    """transformers' search on each text by itself, so that nothing is padded."""
    tokenizer, texts = summarizer_tokenizer(name), list[str]()
    # As BART's own configuration has it for what is fine-tuned: references begin with <s>.
    settings = {**search.model_dump(), "forced_bos_token_id": 1 if name == "bart" else None}
    settings["forced_eos_token_id"] = None
    for (text,) in TEXTS:
        given = tokenizer(PREFIX + text, return_tensors="pt", return_token_type_ids=False)
        out = model.generate(**given, do_sample=False, past_key_values=growing(), **settings)
        texts.append(tokenizer.decode(out[0], skip_special_tokens=True).strip())
    return texts


def found_by(base: Base, outcome: TrialOutcome, search: GenerationConfig, room: int = 0) -> list[str]:
    own = attached(base, outcome, TASK, PROMPT)
    encoder = encoder_of(base)
    return summaries_of(base, own, encoder, encoder.encode_texts(TEXTS, 60, room).ids, search)


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize(("name", "method"), [("bart", "lora"), ("t5", "lora"), ("flan-t5", "dora"), ("bart", "ia3")])
def test_what_is_written_is_what_peft_writes_merged(
    tmp_path: Path, name: str, method: str, search: GenerationConfig
) -> None:
    from peft import PeftModel

    model = str(write_summarizer(tmp_path / "model", name))
    base = load_base(model, language_head=True)
    outcome = trained(base, method)
    folder = saved(tmp_path / "adapter", base, outcome, search)
    twin = AutoModelForSeq2SeqLM.from_pretrained(model)
    bare = one_by_one(twin, base, name, search)
    merged: Any = PeftModel.from_pretrained(twin, str(folder)).eval()
    expected = one_by_one(merged.merge_and_unload(), base, name, search)
    found = found_by(base, outcome, search)
    assert found == expected
    assert found != bare
    predictor = load_adapter(folder)
    assert [each.label for each in predictor.predict([text for (text,) in TEXTS])] == found
    assert predictor.record.generation == search


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize(("name", "method"), [("bart", "prompt-tuning"), ("t5", "p-tuning"), ("t5", "prompt-tuning")])
def test_trained_prompts_stand_before_what_the_encoder_reads(name: str, method: str, search: GenerationConfig) -> None:
    base, model = pair(name, torch.float32)
    outcome = trained(base, method, {"num_virtual_tokens": 3})
    encoder = encoder_of(base)
    own = attached(base, outcome, TASK, PROMPT)
    prompts = encoder.encode_texts(TEXTS, 60, 3).ids
    found = summaries_of(base, own, encoder, prompts, search)
    (site,) = own.adapter.sites
    state = own.adapter.method.peft_state(own.adapter.at(site), site)
    vectors = state["prompt"] if "prompt" in state else next(iter(state.values()))
    for ids, text in zip(prompts, found, strict=True):
        embedded = torch.cat([vectors.detach(), model.get_input_embeddings()(torch.from_numpy(ids))])[None]
        settings = {**search.model_dump(), "forced_bos_token_id": 1 if name == "bart" else None}
        settings["forced_eos_token_id"] = None
        with torch.no_grad():
            out = model.generate(inputs_embeds=embedded, do_sample=False, past_key_values=growing(), **settings)
            out = out[0].tolist()
        assert text == encoder.decode(out)
    own.adapter.sites = ()
    assert found != summaries_of(base, own, encoder, prompts, search)


@pytest.mark.parametrize("name", NAMES)
def test_full_fine_tuning_writes_what_its_checkpoint_writes(name: str, tmp_path: Path) -> None:
    """BART's bias on the logits included, which nothing trains."""
    base = load_base(str(write_summarizer(tmp_path / "model", name)), language_head=True)
    folder = saved(tmp_path / "full", base, trained(base, "full", lr=3e-3), SEARCHES["greedy"])
    twin = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert name != "bart" or float(twin.final_logits_bias.abs().max()) > 0.1
    expected = one_by_one(twin, base, name, SEARCHES["greedy"])
    assert [each.label for each in load_adapter(folder).predict([text for (text,) in TEXTS])] == expected
    assert load_adapter(folder).predict([]) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_merged_adapter_is_a_model_of_its_own(name: str, tmp_path: Path) -> None:
    base = load_base(str(write_summarizer(tmp_path / "model", name)), language_head=True)
    outcome = trained(base, "lora")
    loaded = load_adapter(saved(tmp_path / "adapter", base, outcome, SEARCHES["greedy"])).loaded
    save_merged(tmp_path / "merged", base, loaded)
    twin = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged")
    expected = one_by_one(twin, base, name, SEARCHES["greedy"])
    assert found_by(base, outcome, SEARCHES["greedy"]) == expected


def loss_of(model: Any, base: Base) -> float:
    """Of the tokens of all references, by a model as transformers has it."""
    likelihoods: list[float] = []
    encoder = encoder_of(base)
    prompts, summaries = encoder.encode_texts(TEXTS, 60).ids, encoder.encode_summaries(LABELS).ids
    for ids, summary in zip(prompts, summaries, strict=True):
        target = torch.from_numpy(summary)
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(ids)[None], labels=target[None]).logits[0].double()
        likelihoods += logits.log_softmax(-1)[torch.arange(len(target)), target].tolist()
    return -float(np.mean(likelihoods))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["lora", "bitfit", "vera", "ln-tuning", "full"])
def test_the_model_that_writes_computes_what_the_engine_computes(name: str, method: str) -> None:
    base, _ = pair(name)
    outcome = trained(base, method)
    own = attached(base, outcome, TASK, PROMPT)
    assert loss_of(language_model(base, own), base) == pytest.approx(outcome.losses["validation"], abs=1e-5)
    before = trained(base, "head", max_steps=0)
    assert abs(outcome.losses["validation"] - before.losses["validation"]) > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_half_precision_base_stays_and_writes_in_float32(
    tmp_path: Path, name: str, method: Literal["lora", "full"]
) -> None:
    folder = str(write_summarizer(tmp_path / "model", name))
    base = load_base(folder, language_head=True, dtype=torch.bfloat16)
    before = base.hash()
    outcome = trained(base, method, lr=3e-3)
    own = attached(base, outcome, TASK, PROMPT)
    model = language_model(base, own)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert loss_of(model, base) == pytest.approx(outcome.losses["validation"], rel=0.03)
    assert base.hash() == before


@pytest.mark.parametrize(("name", "method"), [("flan-t5", "full"), ("t5", "lora"), ("bart", "ia3")])
def test_the_lines_on_its_card_write_the_same(
    name: str, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run as they stand, on a text in place of the one they name."""
    layers = {} if name == "bart" else {"num_decoder_layers": 2}
    base = load_base(str(write_summarizer(tmp_path / "model", name, **layers)), language_head=True)
    outcome = trained(base, method, lr=3e-3 if method == "full" else 3e-2)
    folder = saved(tmp_path / "adapter", base, outcome, SEARCHES["greedy"])
    how = "transformers" if method == "full" else "peft"
    lines = (folder / "README.md").read_text().split(f"## Use with {how}")[1].split("```python\n")[1].split("```")[0]
    answers = [str(each.label) for each in load_adapter(folder).predict([text for (text,) in TEXTS])]
    text, answer = max(zip(TEXTS, answers, strict=True), key=lambda pair: len(pair[1]))
    capsys.readouterr()
    exec(lines.replace("path/to/this/folder", str(folder)).replace("your text 1", text[0]), {})
    assert capsys.readouterr().out.strip() == answer != ""


def test_methods_that_change_more_than_weights_are_known_beforehand() -> None:
    base = seq2seq_base("bart")
    unable: set[str] = set()
    for cls in list_methods():
        method = get_method(cls.name, dict(cls.examples[0]))
        try:
            sites = method.sites(base)
        except Exception:
            continue
        if not_generating(method, sites) is not None:
            unable.add(cls.name)
    assert {"adapter-houlsby", "loreft", "adamix"} <= unable
    assert not unable & {"full", "lora", "dora", "vera", "ia3", "bitfit", "prompt-tuning", "p-tuning", "top-layers"}


def test_models_that_do_not_say_how_a_summary_begins_are_refused() -> None:
    with pytest.raises(ModelError, match="begins what it writes with the language's code"):
        summary_encoder(seq2seq_base("mbart"), PROMPT, LIMIT)
    base, _ = pair("t5")
    base.config.decoder_start_token_id = None
    with pytest.raises(ModelError, match=r"has no decoder_start_token_id.*(?s:.*)config\.json"):
        summary_encoder(base, PROMPT, LIMIT)
    base, _ = pair("t5")
    base.tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(ModelError, match="the tokenizer ends no text with </s>"):
        summary_encoder(base, PROMPT, LIMIT)
