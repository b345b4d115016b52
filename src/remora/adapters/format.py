"""Adapter folders: written from a finished trial, read back onto a base, everything checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

import remora
from remora.adapters.card import model_card
from remora.adapters.checkpoint import constant_parts, write_checkpoint
from remora.adapters.folder import check_names, read_tensors, write_json, write_tensors, written_whole
from remora.adapters.peft_form import MODEL, joined, parted, peft_form, stored_tensors, whole_weight
from remora.adapters.record import (
    CARD_FILE,
    CHECKPOINT_TENSORS,
    OWN_TENSORS,
    PEFT_CONFIG,
    PEFT_TENSORS,
    RECORD_FILE,
    TENSOR_FILE,
    AdapterRecord,
    BaseRecord,
    Storage,
)
from remora.config.schema import GenerationConfig
from remora.data.clusters import MentionRules
from remora.data.kinds import TaskName
from remora.data.prompts import Prompt, PromptEncoder
from remora.engine.trial import TrialOutcome
from remora.errors import AdapterError
from remora.methods.base import AdapterTensors, Method, init_adapter, weights_at
from remora.methods.registry import get_method
from remora.models.base import Base
from remora.models.head_steps import HeadKind
from remora.models.heads import HeadTemplate
from remora.models.language_head import head_for
from remora.tasks.base import Task, make_task

READS_VIRTUAL = (
    "peft's classification models let the head read a virtual token, so their logits differ; the hidden states agree."
    " Remora's head reads the text's own token, as in training."
)

_MORE_ROWS = "peft's model gives logits for the virtual tokens too; those of the text come behind them."


def virtual_note(kind: HeadKind) -> str:
    """What one must know of prompts in peft."""
    return _MORE_ROWS if kind in ("token", "lm") else READS_VIRTUAL


@dataclass(frozen=True, kw_only=True)
class AdapterInfo:
    """What an adapter's record says about its trial beyond the outcome.

    Args:
        label: how tables call it.
        task: its kind.
        label_names: classes in the order of the outputs.
        num_texts: texts per example.
        text_columns: their names in the data.
        data_name: data set, `data_hash` of its rows.
        metric: headline; `metrics` by split.
        max_length: tokens per example.
        hyperparameters: of the trial; `seed`, `stream` and `trial` (its id).
        mentions: of coreference, what mentions are like in the data.
        prompt: how a language model is asked, where one is.
        generation: how summaries are written, of summarization.
    """

    label: str
    task: TaskName
    label_names: tuple[str, ...]
    num_texts: int
    text_columns: tuple[str, ...] = ()
    data_name: str
    data_hash: str
    metric: str
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    max_length: int
    hyperparameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seed: int = 0
    stream: str = ""
    trial: str = ""
    mentions: MentionRules | None = None
    prompt: Prompt | None = None
    generation: GenerationConfig | None = None

    @property
    def bound_task(self) -> Task:
        """The task, bound to what is recorded of the data."""
        return make_task(self.task, label_names=self.label_names, mentions=self.mentions)


@dataclass(frozen=True, kw_only=True, eq=False)
class Attached:
    """An adapter on its base.

    Args:
        adapter: its tensors at their sites.
        head: template of its head, and `head_params`.
        base_params: what replaces tensors of the backbone and the pooler, by Hugging Face name: all of them after full
            fine-tuning, otherwise those that an adapter from elsewhere holds whole.
    """

    adapter: AdapterTensors
    head: HeadTemplate
    head_params: dict[str, Tensor]
    base_params: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedAdapter(Attached):
    """An adapter on its base, read from a folder.

    Args:
        record: what it is.
    """

    record: AdapterRecord


def save_adapter(folder: Path, base: Base, outcome: TrialOutcome, info: AdapterInfo) -> int:
    """Write what a trial trained, in PEFT format where there is one.

    Args:
        folder: made, or replaced as a whole.
        base: the trial's base.
        outcome: of the trial.
        info: what else the record says.

    Returns:
        Bytes of the file that holds the exact tensors.
    """
    own = attached(base, outcome, info.bound_task, info.prompt)
    adapter, head = own.adapter, own.head
    method, kind = adapter.method, head.kind
    form = peft_form(adapter, head, outcome.head)
    storage: Storage = "peft" if form is not None and form.exact else "remora" if method.shares_base else "checkpoint"
    files: dict[str, str] = {}
    with written_whole(folder) as aside:
        if form is not None:
            write_json(aside / PEFT_CONFIG, form.config)
            files[PEFT_TENSORS] = write_tensors(aside / PEFT_TENSORS, form.tensors)
        if storage == "remora":
            files[OWN_TENSORS] = write_tensors(aside / OWN_TENSORS, _own_tensors(adapter, outcome.head))
        elif storage == "checkpoint":
            tensors = {**outcome.base_weights, **outcome.head}
            files[CHECKPOINT_TENSORS] = write_checkpoint(aside, base, tensors, info.label_names, kind)
        record = _record(base, method, adapter, outcome, info, storage, files)
        notes = _notes(base, method, kind, form is not None, form is not None and form.as_lora, storage)
        (aside / CARD_FILE).write_text(model_card(record, base, notes), encoding="utf-8")
        write_json(aside / RECORD_FILE, record.model_dump(mode="json"))
        return (aside / TENSOR_FILE[storage]).stat().st_size


def attached(base: Base, outcome: TrialOutcome, task: Task, prompt: Prompt | None) -> Attached:
    """What a trial trained, on its base.

    Args:
        base: the trial's base.
        outcome: of the trial.
        task: bound to its data.
        prompt: how a language model is asked, where one is.
    """
    method = get_method(outcome.spec.method, outcome.spec.settings)
    return Attached(
        adapter=filled_adapter(method, base, {**outcome.frozen, **outcome.adapter}, outcome.spec.stream_seed("init")),
        head=head_of(base, task.num_outputs, task.head, prompt),
        head_params=dict(outcome.head),
        base_params=dict(outcome.base_weights),
    )


def load_onto(folder: Path, record: AdapterRecord, base: Base) -> LoadedAdapter:
    """Read an adapter's tensors onto its base.

    Args:
        folder: of the adapter.
        record: of the adapter.
        base: the model it was trained on.

    Raises:
        AdapterError: another base, or tensors that are damaged, missing or not the method's.
    """
    checkpoint = record.storage == "checkpoint"
    if base.quantization != record.base.quantization:
        held = {"none": "dense", "nf4": "quantised to nf4"}
        raise AdapterError(
            f"{folder} was trained on a base that is {held[record.base.quantization]}, this one is"
            f" {held[base.quantization]}",
            f'load it with quantization="{record.base.quantization}", or merge the adapter',
        )
    if not checkpoint and base.sha256 != record.base.sha256:
        raise AdapterError(
            f"{folder} was trained on another model than {base.name}: the SHA-256 of the base is {base.sha256[:12]}...,"
            f" recorded is {record.base.sha256[:12]}... ({record.base.name}, {record.base.dtype})",
            f"give the model it was trained on: {record.base.name}",
        )
    head = head_of(base, record.num_outputs, record.head, record.prompt)
    method = get_method(record.method, record.settings)
    name = TENSOR_FILE[record.storage]
    if name not in record.files:
        raise AdapterError(f"{folder / RECORD_FILE} names no {name}", "the record is damaged; export again")
    path = folder / name
    tensors = read_tensors(path, record.files[name])
    fresh = init_adapter(method, method.sites(base), partial(weights_at, base), 0)
    if checkpoint:
        own = {base.arch.hf_prefix + key: tuple(p.shape) for key, p in base.model.named_parameters()}
        pooler = {key: tuple(value.shape) for key, value in head.pooler.items()}
        constant = {key: tuple(value.shape) for key, value in constant_parts(base, head.kind).items()}
        check_names(path, tensors, {**own, **pooler, **constant, **head.shapes})
        tensors = {key: value for key, value in tensors.items() if key not in constant}
        head_params = {key: tensors.pop(key).clone() for key in head.shapes}
        return LoadedAdapter(record=record, adapter=fresh, head=head, head_params=head_params, base_params=tensors)
    values = (
        _from_own(path, tensors, fresh, head) if record.storage == "remora" else _from_peft(path, tensors, fresh, head)
    )
    head_params = {key: values.pop(f"head.{key}").clone() for key in head.shapes}
    adapter = filled_adapter(method, base, {**_all_tensors(fresh), **values}, 0)
    return LoadedAdapter(record=record, adapter=adapter, head=head, head_params=head_params, base_params={})


def head_of(base: Base, num_outputs: int, kind: HeadKind, prompt: Prompt | None) -> HeadTemplate:
    """The head of an adapter; that of a language model looks at the tokens of the prompt's answers, if any."""
    if prompt is None or not prompt.labels:
        return head_for(base, num_outputs, kind)
    tokens = PromptEncoder(base.tokenizer, prompt).tokens
    return head_for(base, len(tokens), kind, tokens)


def filled_adapter(method: Method, base: Base, values: Mapping[str, Tensor], seed: int) -> AdapterTensors:
    """An adapter with given tensors.

    Args:
        method: with its settings.
        base: it is attached to; tensors go to its device.
        values: by ``<site key>.<name>``, shared ones by name, as a trial's outcome gives them.
        seed: of the init, for frozen tensors not given.
    """
    return filled(init_adapter(method, method.sites(base), partial(weights_at, base), seed), base, values)


def filled(adapter: AdapterTensors, base: Base, values: Mapping[str, Tensor]) -> AdapterTensors:
    """The adapter given, with given tensors in place of its own, on the base's device."""
    device = base.device
    # Cloned, so that they lie where torch puts tensors: the bits of a matrix product depend on the alignment.
    adapter.shared = {name: values.get(name, value).clone().to(device) for name, value in adapter.shared.items()}
    for key, state in adapter.states.items():
        for group in (state.trained, state.frozen):
            for name in group:
                group[name] = values.get(f"{key}.{name}", group[name]).clone().to(device)
    return adapter


def _all_tensors(adapter: AdapterTensors) -> dict[str, Tensor]:
    frozen = {f"{key}.{name}": value for key, state in adapter.states.items() for name, value in state.frozen.items()}
    return {**adapter.shared, **frozen, **adapter.trained()}


def _own_tensors(adapter: AdapterTensors, head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {**_all_tensors(adapter), **{f"head.{name}": value for name, value in head.items()}}


def _from_own(path: Path, tensors: dict[str, Tensor], fresh: AdapterTensors, head: HeadTemplate) -> dict[str, Tensor]:
    own = _all_tensors(fresh)
    if fresh.method.data_decides_shapes:
        own = {name: tensors.get(name, value) for name, value in own.items()}
    shapes = {f"head.{name}": shape for name, shape in head.shapes.items()}
    check_names(path, tensors, {**{name: tuple(value.shape) for name, value in own.items()}, **shapes})
    return tensors


def _from_peft(path: Path, tensors: dict[str, Tensor], fresh: AdapterTensors, head: HeadTemplate) -> dict[str, Tensor]:
    """Tensors under Remora's names from a PEFT file whose form is exact."""
    base, method = head.base, fresh.method
    stored = stored_tensors(method, fresh.sites)
    prefix = MODEL if any(key.startswith(MODEL) for key in stored) else "base_model."
    like = {key: [fresh.at(site)[part.name] for site in part.sites] for key, part in stored.items()}
    expected = {
        key: tuple(joined(part.how, like[key], part.sites, whole_weight(base, part.sites[0])).shape)
        for key, part in stored.items()
    }
    expected |= {f"base_model.{key}": tuple(fresh.shared[name].shape) for name, key in method.peft_shared().items()}
    expected |= {prefix + name: shape for name, shape in head.shapes.items()}
    check_names(path, tensors, expected)
    values: dict[str, Tensor] = {name: tensors[f"base_model.{key}"] for name, key in method.peft_shared().items()}
    for key, part in stored.items():
        pieces = parted(part.how, tensors[key], part.sites, like[key])
        values |= {f"{site.id}.{part.name}": piece for site, piece in zip(part.sites, pieces, strict=True)}
    return {**values, **{f"head.{name}": tensors[prefix + name] for name in head.shapes}}


def _record(
    base: Base,
    method: Method,
    adapter: AdapterTensors,
    outcome: TrialOutcome,
    info: AdapterInfo,
    storage: Storage,
    files: dict[str, str],
) -> AdapterRecord:
    return AdapterRecord.model_validate(
        {
            "remora": remora.__version__,
            "method": method.name,
            "settings": method.config.model_dump(mode="json"),
            "label": info.label,
            "remark": method.remark(adapter.sites),
            "task": info.task,
            "label_names": info.label_names,
            "num_texts": info.num_texts,
            "text_columns": info.text_columns,
            "max_length": info.max_length,
            "base": BaseRecord.of(base),
            "data_name": info.data_name,
            "data_hash": info.data_hash,
            "metric": info.metric,
            "metrics": {split: dict(values) for split, values in info.metrics.items()},
            "hyperparameters": dict(info.hyperparameters),
            "seed": info.seed,
            "stream": info.stream,
            "trial": info.trial,
            "steps": outcome.step,
            "prompt": info.prompt,
            "generation": info.generation,
            "storage": storage,
            "files": files,
            "mentions": info.mentions,
        }
    )


def _notes(base: Base, method: Method, kind: HeadKind, has_form: bool, as_lora: bool, storage: Storage) -> list[str]:
    notes: list[str] = []
    if storage == "remora" and not has_form:
        notes.append(f"peft has no form for this adapter; {OWN_TENSORS} holds it and Remora loads it.")
    if kind == "coreference":
        notes.append(
            "transformers has no class for coreference: the head is Remora's own, and Remora makes the clusters."
        )
    if storage == "remora" and has_form:
        form = "stored as LoRA" if as_lora else "with whole norms beside the adapter"
        form = form if method.peft_exact else "what the trained encoder gives, without the encoder"
        notes.append(f"{PEFT_TENSORS} computes the same in peft ({form}); Remora reads {OWN_TENSORS}, which is exact.")
    if method.num_virtual_tokens > method.num_prefix_tokens:
        notes.append(virtual_note(kind))
    if base.quantization != "none":
        notes.append(
            "The base it was trained on is held in 4-bit NormalFloat. Remora loads it so; on the dense base answers"
            " differ a little. Merged, it is added to the dequantised weights, and the model is dense."
        )
    return notes
