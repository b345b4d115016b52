"""The model card beside an adapter: what it is, how good, and the lines of code that load it."""

import json
from collections.abc import Sequence

from remora.adapters.classes import auto_class, class_kind
from remora.adapters.record import PEFT_TENSORS, AdapterRecord
from remora.data.prompts import Prompt, PromptEncoder
from remora.engine.summarized import summary_encoder
from remora.models.base import Base
from remora.models.files import ALIASES
from remora.models.head_steps import HeadKind
from remora.models.heads import HeadTemplate

_PIPELINES: dict[HeadKind, str] = {
    "sequence": "text-classification",
    "choice": "multiple-choice",
    "token": "token-classification",
    "coreference": "token-classification",
    "lm": "text-generation",
}


def model_card(record: AdapterRecord, base: Base, notes: Sequence[str], *, merged: bool = False) -> str:
    """README.md of an adapter folder.

    Args:
        record: of the adapter.
        base: it belongs to.
        notes: what a user must know, one sentence each.
        merged: whether the folder holds a model with the adapter merged in, which Remora reads as a base model only.
    """
    parts = [_front_matter(record), f"# {record.label} on {record.data_name}\n"]
    answers = {"choice": "which choice is right", "coreference": _mentions(record), "lm": _writes(record)}
    labels = answers.get(record.head) or ", ".join(record.label_names) or "a number"
    origin = "trained with Remora's method" if record.num_texts else "trained elsewhere and read as Remora's method"
    kind = "model made of" if merged else "adapter for"
    parts.append(
        f"A {record.task} {kind} `{base.name}` ({base.arch.model_type}, {record.base.source}), {origin}"
        f" `{record.method}`. It answers {labels}.\n"
    )
    if record.metrics:
        parts.append(_scores(record))
    parts += [f"Note: {note}\n" for note in ([record.remark] if record.remark else []) + list(notes)]
    if not merged:
        parts += ["## Use with Remora\n", _code(_remora_lines(record))]
    if record.storage == "checkpoint" and record.head != "coreference":
        parts += ["## Use with transformers\n", _code(_transformers_lines(record, base))]
    elif PEFT_TENSORS in record.files:
        parts += ["## Use with peft\n", _code(peft_lines(record, base))]
    if record.num_texts:
        parts += ["## How it was trained\n", _facts(record)]
    return "\n".join(parts)


def _writes(record: AdapterRecord) -> str:
    """What a language model writes; nothing where it chooses among classes."""
    if record.generation is None:
        return ""
    return f"with a summary of up to {record.generation.max_new_tokens} tokens"


def _mentions(record: AdapterRecord) -> str:
    rules = record.mentions
    if rules is None:
        return ""
    alone = "entities of one mention included" if rules.singletons else "no entity of one mention"
    return f"which spans of words, of up to {rules.max_width} within a sentence, mean the same; {alone}"


def peft_lines(record: AdapterRecord, base: Base) -> str:
    """Python that loads the adapter with peft and prints what it answers."""
    lines, origin = _base_lines(base)
    loader = auto_class(base.arch, record.head)
    imports = ["from peft import PeftModel", f"from transformers import {', '.join(_classes(record, loader))}"]
    more = ""
    if record.head == "lm":
        imports = ["import torch", *imports]
    if record.base.quantization == "nf4":
        imports = ["import torch", *imports[-2:-1], f"{imports[-1]}, BitsAndBytesConfig"]
        lines = [*lines, *_quantised_lines(record, base)]
        more = ", quantization_config=quantised"
    outputs = "" if record.head == "lm" else f", num_labels={record.num_outputs}"
    loading = f"{loader}.from_pretrained(base{outputs}{more})"
    head = [f"model = {loading}"]
    if base.arch.causal:
        head.append("model.config.pad_token_id = tokenizer.pad_token_id")
    return "\n".join([*imports, *lines, *_load(origin, head), *_ask(record, base)])


def _classes(record: AdapterRecord, loader: str) -> list[str]:
    """What is imported of transformers."""
    return [loader, "AutoTokenizer", *(["GenerationConfig"] if record.generation is not None else [])]


def _quantised_lines(record: AdapterRecord, base: Base) -> list[str]:
    """How transformers quantises the same layers in the same way; it needs bitsandbytes."""
    skipped = ["lm_head"]
    if record.head != "lm":
        head = HeadTemplate(base=base, num_outputs=1, kind=record.head)
        skipped = sorted({name.partition(".")[0] for name in head.shapes})
        skipped += sorted({name.rpartition(".")[0] for name in head.pooler})
    return [
        "",
        "quantised = BitsAndBytesConfig(",
        '    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,',
        f"    bnb_4bit_compute_dtype=torch.{record.base.dtype}, llm_int8_skip_modules={json.dumps(skipped)},",
        ")",
    ]


def _load(origin: str, head: list[str]) -> list[str]:
    return [
        "",
        f"base = {origin}",
        "tokenizer = AutoTokenizer.from_pretrained(base)",
        *head,
        'model = PeftModel.from_pretrained(model, "path/to/this/folder").eval()',
    ]


def _ask(record: AdapterRecord, base: Base) -> list[str]:
    if record.head == "choice":
        return _ask_choices(record, base)
    if record.head == "token":
        return _ask_words(record)
    if record.prompt is not None and record.generation is not None:
        return _ask_summary(record, base)
    if record.prompt is not None:
        return _ask_prompts(record.prompt, base)
    texts = '["first text"], ["second text"]' if record.num_texts == 2 else '["your text"]'
    call = f"tokenizer({texts}, padding=True, truncation=True, max_length={record.max_length}, return_tensors="
    lines = [f'inputs = {call}"pt")', "logits = model(**inputs).logits"]
    if record.label_names:
        lines.append(
            f"print([{json.dumps(list(record.label_names), ensure_ascii=False)}[i] for i in logits.argmax(-1)])"
        )
    else:
        lines.append("print(logits[:, 0].tolist())")
    return lines


def _ask_summary(record: AdapterRecord, base: Base) -> list[str]:
    """What is written behind the prompt, or by the decoder about what the encoder reads."""
    prompt, settings = record.prompt, record.generation
    assert prompt is not None, "it is recorded with every adapter that writes"
    assert settings is not None, "it is recorded with every adapter that writes"
    shown, _ = prompt.text([f"your text {number + 1}" for number in range(prompt.num_texts)])
    encoder = summary_encoder(base, prompt, settings.max_new_tokens)
    search = {**settings.model_dump(), "eos_token_id": encoder.end, "pad_token_id": encoder.end}
    special, written = "" if not prompt.whole else ", add_special_tokens=False", "output[0]"
    if encoder.start is None:
        written = 'output[0, inputs["input_ids"].shape[1] :]'
    else:
        special += f", truncation=True, max_length={record.max_length}"
        search["decoder_start_token_id"] = encoder.start
        if encoder.opening:
            search["forced_bos_token_id"] = encoder.opening[0]
    told = ", ".join(f"{name}={value}" for name, value in search.items())
    model = "model" if record.storage == "checkpoint" else "model.get_base_model()"
    return [
        f"prompt = {json.dumps(shown, ensure_ascii=False)}",
        f'inputs = tokenizer(prompt{special}, return_tensors="pt", return_token_type_ids=False)',
        "# In place of the checkpoint's own, whose settings would be taken where none is given here.",
        f"{model}.generation_config = GenerationConfig(do_sample=False, {told})",
        "output = model.generate(**inputs)",
        f"print(tokenizer.decode({written}, skip_special_tokens=True).strip())",
    ]


def _ask_prompts(prompt: Prompt, base: Base) -> list[str]:
    """Scores of classes: the mean log-likelihood of their tokens behind the prompt."""
    encoder = PromptEncoder(base.tokenizer, prompt)
    example = [f"your text {number + 1}" for number in range(prompt.num_texts)]
    ids = encoder.encode_texts([example], 10**9).ids[0].tolist()
    answers = {name: list(answer) for name, answer in encoder.answers.items()}
    shown, _ = prompt.text(example)
    special = "" if not prompt.whole else ", add_special_tokens=False"
    own = base.tokenizer(shown, add_special_tokens=not prompt.whole)["input_ids"]
    cut = len(own) - len(ids)
    return [
        f"prompt = {json.dumps(shown, ensure_ascii=False)}",
        f"answers = {json.dumps(answers, ensure_ascii=False)}  # their tokens",
        f"before = tokenizer(prompt{special})" + '["input_ids"]' + (f"[:-{cut}]" if cut else ""),
        "for label, tokens in answers.items():",
        "    logits = model(torch.tensor([before + tokens])).logits[0, -len(tokens) - 1 : -1]",
        "    scores = logits.log_softmax(-1)[range(len(tokens)), tokens]",
        "    print(label, float(scores.mean()))",
    ]


def _ask_words(record: AdapterRecord) -> list[str]:
    call = f"tokenizer([text], truncation=True, max_length={record.max_length}, "
    return [
        'text = "Words with blanks between them"',
        f'inputs = {call}return_offsets_mapping=True, return_tensors="pt")',
        'offsets = inputs.pop("offset_mapping")[0].tolist()  # a word has the tag of its first token',
        f"tags = {json.dumps(list(record.label_names), ensure_ascii=False)}",
        "best = model(**inputs).logits[0].argmax(-1).tolist()",
        "print([(text[a:b], tags[i]) for (a, b), i in zip(offsets, best) if b > a])",
    ]


def _ask_choices(record: AdapterRecord, base: Base) -> list[str]:
    texts = "[question] * len(choices), choices"
    if base.arch.causal:
        texts = '[f"{question}\\n{choice}" for choice in choices]'
    call = f"tokenizer({texts}, padding=True, truncation=True, max_length={record.max_length}, return_tensors="
    own = class_kind(base.arch, "choice") == "choice"
    inputs = "**{name: values[None] for name, values in inputs.items()}" if own else "**inputs"
    return [
        'question, choices = "your question", ["one choice", "another choice"]',
        f'inputs = {call}"pt")',
        f"scores = model({inputs}).logits.flatten()  # one per choice",
        "print(choices[int(scores.argmax())])",
    ]


def _base_lines(base: Base) -> tuple[list[str], str]:
    """Imports, and an expression for where transformers finds the base."""
    alias = ALIASES.get(base.name)
    if alias is not None and not alias.path.endswith(".gguf"):
        return [f"from importlib.resources import files  # {alias.install}"], (
            f'str(files("{alias.package}") / "{alias.path}")'
        )
    if alias is not None or base.name.endswith(".gguf"):
        imports = ["from remora.models.files import resolve", "from remora.models.gguf import converted_gguf"]
        return imports, f'converted_gguf(resolve("{base.name}").gguf, "{base.name}")  # dequantised, in the cache'
    return [], json.dumps(base.name)


def _remora_lines(record: AdapterRecord) -> str:
    text = '("first text", "second text")' if record.num_texts == 2 else '"your text"'
    if record.head == "choice":
        text = '("your question", ["one choice", "another choice"])'
    elif record.head == "token":
        text = '"Words with blanks between them"'
    elif record.head == "coreference":
        text = '["One sentence of a document .", "The next one ."]'
    return f'import remora\n\nadapter = remora.load_adapter("path/to/this/folder")\nprint(adapter.predict([{text}]))'


def _transformers_lines(record: AdapterRecord, base: Base) -> str:
    loader = auto_class(base.arch, record.head)
    return "\n".join(
        [
            *(["import torch"] if record.head == "lm" else []),
            f"from transformers import {', '.join(_classes(record, loader))}",
            "",
            f'model = {loader}.from_pretrained("path/to/this/folder").eval()',
            'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")',
            *_ask(record, base),
        ]
    )


def _front_matter(record: AdapterRecord) -> str:
    library = "transformers" if record.storage == "checkpoint" else "peft" if PEFT_TENSORS in record.files else "remora"
    fields = {
        "base_model": record.base.name,
        "library_name": library,
        "pipeline_tag": "summarization" if record.task == "summarization" else _PIPELINES[record.head],
        "tags": ["remora", record.method],
    }
    return (
        "---\n"
        + "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items())
        + "\n---\n"
    )


def _scores(record: AdapterRecord) -> str:
    lines = [f"| split | {record.metric} |", "|---|---|"]
    for split, values in record.metrics.items():
        if record.metric in values:
            lines.append(f"| {split} | {100 * values[record.metric]:.2f} |")
    return "\n".join(lines) + "\n\nOne seed; what several seeds give is in the study's report.\n"


def _facts(record: AdapterRecord) -> str:
    facts = {
        "data": f"{record.data_name} (SHA-256 {record.data_hash})",
        "base": f"{record.base.name}, {record.base.dtype}{_held(record)}, SHA-256 {record.base.sha256}",
        "settings": json.dumps(record.settings, sort_keys=True),
        "hyperparameters": json.dumps(record.hyperparameters, sort_keys=True),
        "seed": record.seed,
        "steps": record.steps,
        **_asked(record),
        "Remora": record.remora,
    }
    return "\n".join(f"* {name}: {value}" for name, value in facts.items()) + "\n"


def _asked(record: AdapterRecord) -> dict[str, str]:
    """How a language model was asked."""
    if record.prompt is None:
        return {}
    if record.generation is not None:
        return {
            "prompt": f"template {json.dumps(record.prompt.template, ensure_ascii=False)}",
            "generation": json.dumps(record.generation.model_dump(), sort_keys=True),
        }
    words = json.dumps(record.prompt.labels, ensure_ascii=False)
    return {
        "prompt": f"template {json.dumps(record.prompt.template, ensure_ascii=False)}, {record.prompt.shots} shots",
        "words for the classes": f"{words}, calibration {record.prompt.calibration}",
    }


def _held(record: AdapterRecord) -> str:
    return "" if record.base.quantization == "none" else ", linear layers quantised to NF4 with double quantisation"


def _code(lines: str) -> str:
    return f"```python\n{lines}\n```\n"
