"""Adapters that peft wrote, read onto a base: every tensor accounted for, nothing of their function left out.

Which method computes what the file describes, the methods say themselves (`Method.from_peft`). A change of a linear
layer of the pretrained pooler, where Remora has no site, is multiplied into a copy of the pooler's weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import remora
from remora.adapters.classes import peft_task
from remora.adapters.folder import check_names, read_tensors
from remora.adapters.format import LoadedAdapter, filled
from remora.adapters.names import module_names
from remora.adapters.peft_config import PeftFile, read_peft_config
from remora.adapters.peft_form import MODEL, joined, parted, stored_tensors
from remora.adapters.record import PEFT_TENSORS, AdapterRecord, BaseRecord
from remora.errors import AdapterError, ConfigError
from remora.methods.base import AdapterTensors, Method, SiteWeights, init_adapter, weights_at
from remora.methods.registry import get_method, list_methods
from remora.models.base import Base
from remora.models.files import file_sha256
from remora.models.head_steps import head_steps
from remora.models.heads import HeadTemplate
from remora.models.sites import Site
from remora.pickles import is_pickle

_SIZES = ("token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules")
_MERGE = "merge it with peft (merge_and_unload, then save_pretrained) and use the result as a model of its own"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Attached:
    """Where an adapter acts.

    Args:
        method: that computes what it does; `own` by module, with the settings of that module.
        sites: of the backbone; `outer` ones of the pretrained pooler.
    """

    method: Method
    own: dict[str, Method]
    sites: tuple[Site, ...]
    outer: tuple[Site, ...]


def import_adapter(folder: Path, base: Base, label_names: Sequence[str] = ()) -> LoadedAdapter:
    """Read an adapter folder that peft wrote.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        base: the model it was trained on.
        label_names: classes in the order of the outputs; by default those in the base's configuration.

    Raises:
        AdapterError: a type, setting or tensor that is not supported, is missing, or does not fit the base.
    """
    file, path, tensors = _read(folder, "SEQ_CLS")
    prefix = MODEL if file.targets is not None else "base_model."
    head = HeadTemplate(base=base, num_outputs=_num_outputs(path, tensors, prefix, base))
    attached = _attach(file, base, head)
    fresh, values = _values(path, tensors, file, attached, head, prefix)
    adapter = filled(fresh, base, values)
    base_params = {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix) and file.holds_whole(name.removeprefix(prefix))
    }
    head_params = {name: base_params.pop(name, tensors[prefix + name]).clone() for name in head.shapes}
    for site in attached.outer:
        merged = attached.method.merged(adapter.at(site), site, _weights(base, site))
        base_params[f"{site.module}.weight"] = merged.weight
        if merged.bias is not None:
            base_params[f"{site.module}.bias"] = merged.bias
    states = {key: state for key, state in adapter.states.items() if key not in {site.id for site in attached.outer}}
    return LoadedAdapter(
        record=_record(path, file, attached, base, head, label_names),
        adapter=replace(adapter, sites=attached.sites, states=states),
        head=head,
        head_params=head_params,
        base_params={name: value.to(base.device) for name, value in base_params.items()},
    )


def import_changes(folder: Path, head: HeadTemplate) -> AdapterTensors:
    """What an adapter that peft wrote does to the backbone of a language model, whose head it leaves as it is.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        head: of the model it was trained on; nothing of it is trained.

    Raises:
        AdapterError: as `import_adapter`; or it holds whole modules.
    """
    file, path, tensors = _read(folder, peft_task(head.base.arch, head.kind) or "")
    prefix = MODEL if file.targets is not None else "base_model."
    attached = _attach(file, head.base, head)
    fresh, values = _values(path, tensors, file, attached, head, prefix)
    whole = sorted(name for name in tensors if file.holds_whole(name.removeprefix(prefix)))
    if whole:
        raise AdapterError(f"{path} holds {whole[0]} whole, not what it is changed by", _MERGE)
    return filled(fresh, head.base, values)


def _read(folder: Path, task: str) -> tuple[PeftFile, Path, dict[str, Tensor]]:
    """The settings of an adapter, where its tensors are, and these, in float32 at least."""
    file = read_peft_config(folder, task)
    path = folder / PEFT_TENSORS
    pickles = sorted(other.name for other in folder.iterdir() if is_pickle(other))
    if not path.is_file() and pickles:
        raise AdapterError(
            f"{folder / pickles[0]} is not read: files of this type can run code when opened",
            "where you trust it, load it with peft and call save_pretrained, which writes safetensors",
        )
    tensors = {
        name: value.float() if value.is_floating_point() and value.dtype != torch.float64 else value
        for name, value in read_tensors(path, None).items()
    }
    if file.targets is None and any(name.startswith(MODEL) for name in tensors):
        raise AdapterError(f"{file.path} names no target_modules", "they are what tells which modules it changes")
    return file, path, tensors


def _num_outputs(path: Path, tensors: Mapping[str, Tensor], prefix: str, base: Base) -> int:
    """Classes, from the last layer of the head."""
    last = [step.name for step in head_steps(base.arch, base.config, 1) if step.op == "linear"][-1]
    weight = tensors.get(f"{prefix}{last}.weight")
    if weight is None or weight.ndim != 2:
        raise AdapterError(
            f"{path} holds no {last}.weight, the classification head of {base.arch.model_type}",
            "train it with task_type=SEQ_CLS, so that its head is saved; is the base the right one?",
        )
    return int(weight.shape[0])


def _attach(file: PeftFile, base: Base, head: HeadTemplate) -> _Attached:
    try:
        return _attach_prompts(file, base) if file.targets is None else _attach_changes(file, base, head)
    except ConfigError as error:
        raise AdapterError(f"{file.path}: {error.message}", error.hint or _MERGE) from error


def _attach_changes(file: PeftFile, base: Base, head: HeadTemplate) -> _Attached:
    modules = sorted(file.changed(module_names(base, head)))
    if not modules:
        raise AdapterError(
            f"{file.path}: target_modules {file.targets!r} name nothing in {base.name} ({base.arch.model_type})",
            "give the model it was trained on",
        )
    foreign = [name for name in modules if f"{name}.weight" in head.shapes]
    if foreign:
        raise AdapterError(f"{file.path}: the adapter changes {foreign[0]}, a part of the head", _MERGE)
    inner = tuple(name for name in modules if f"{name}.weight" not in base.pooler)
    found = _method(file, modules)
    method = get_method(found.name, {**found.config.model_dump(), "targets": inner})
    sites = method.sites(base) if inner else ()
    lost = set(inner) - {site.hf_name for site in sites}
    if lost:
        raise AdapterError(f"{file.path}: {method.name} cannot act on {min(lost)} of {base.name}", _MERGE)
    outer = tuple(_pooler_site(base, name) for name in modules if f"{name}.weight" in base.pooler)
    return _Attached(method=method, own={name: _method(file, [name]) for name in modules}, sites=sites, outer=outer)


def _attach_prompts(file: PeftFile, base: Base) -> _Attached:
    method = _method(file, [])
    sites = method.sites(base)
    sizes = method.peft_config(sites)
    for key in _SIZES:
        given = file.content.get(key)
        if given is not None and key in sizes and given != sizes[key]:
            raise AdapterError(
                f"{file.path}: {key} is {given!r}, with {base.name} it is {sizes[key]}",
                "give the model it was trained on",
            )
    return _Attached(method=method, own={}, sites=sites, outer=())


def _method(file: PeftFile, modules: Sequence[str]) -> Method:
    """The method that computes what a file describes, with the settings of the first of some modules."""
    for cls in list_methods():
        given = file.settings()
        settings = cls.from_peft(given, modules)
        if settings is not None:
            given.skip(*_SIZES)  # these are the base's, and compared with it
            given.finish()
            return get_method(cls.name, settings)
    raise AdapterError(f"{file.path}: no method of Remora reads adapters of PEFT type {file.peft_type}", _MERGE)


def _values(
    path: Path,
    tensors: Mapping[str, Tensor],
    file: PeftFile,
    attached: _Attached,
    head: HeadTemplate,
    prefix: str,
) -> tuple[AdapterTensors, dict[str, Tensor]]:
    """A fresh adapter, and the tensors of the file by the names that `filled` takes."""
    base, method, sites = head.base, attached.method, (*attached.sites, *attached.outer)
    weights = {site.id: _weights(base, site) for site in sites}
    fresh = init_adapter(method, sites, lambda site: weights[site.id], 0)
    like = {site.id: fresh.at(site) for site in sites}
    for site in sites:
        own = attached.own.get(site.hf_name, method)
        if _settings(own) != _settings(method):
            state = own.init(site, weights[site.id], fresh.shared, torch.Generator().manual_seed(0))
            like[site.id] = {**fresh.shared, **state.frozen, **state.trained}
    stored = stored_tensors(method, sites)
    none = torch.empty(0)  # only blocks of a fused projection need its weight, and peft changes whole modules
    expected = {
        key: tuple(joined(part.how, [like[site.id][part.name] for site in part.sites], part.sites, none).shape)
        for key, part in stored.items()
    }
    shared = method.peft_shared() if file.content.get("save_projection", True) else {}
    expected |= {f"base_model.{key}": tuple(fresh.shared[name].shape) for name, key in shared.items()}
    check_names(path, tensors, {**expected, **_whole(path, tensors, file, head, prefix)}, "give the base it belongs to")
    values = {name: tensors[f"base_model.{key}"] for name, key in shared.items()}
    read: dict[str, dict[str, Tensor]] = {site.id: {} for site in sites}
    for key, part in stored.items():
        pieces = parted(part.how, tensors[key], part.sites, [like[site.id][part.name] for site in part.sites])
        for site, piece in zip(part.sites, pieces, strict=True):
            read[site.id][part.name] = piece
    for site in sites:
        state = method.rescaled(read[site.id], attached.own.get(site.hf_name, method))
        values |= {f"{site.id}.{name}": value for name, value in state.items()}
    return fresh, values


def _whole(
    path: Path, tensors: Mapping[str, Tensor], file: PeftFile, head: HeadTemplate, prefix: str
) -> dict[str, tuple[int, ...]]:
    """Shapes, by key, of the head and of what else the file holds whole."""
    base = head.base
    for name in head.shapes:
        if prefix + name not in tensors:
            raise AdapterError(
                f"{path} lacks {name}, a part of the head that is not in {base.name} either: it was drawn at random in"
                " training and never saved",
                "train again with this module among modules_to_save",
            )
    own = {base.arch.hf_prefix + name: tuple(value.shape) for name, value in base.model.named_parameters()}
    own |= {name: tuple(value.shape) for name, value in base.pooler.items()}
    held = {name: shape for name, shape in own.items() if file.holds_whole(name)}
    return {prefix + name: shape for name, shape in {**held, **head.shapes}.items()}


def _settings(method: Method) -> dict[str, object]:
    return method.config.model_dump(exclude={"targets"})


def _pooler_site(base: Base, name: str) -> Site:
    """A linear layer of the pretrained pooler, which is not part of the backbone."""
    weight = base.pooler[f"{name}.weight"]
    if weight.ndim != 2:
        raise AdapterError(f"the adapter changes {name}, a norm of the head", _MERGE)
    outputs, inputs = weight.shape
    return Site(
        name=name,
        module=name,
        hf_prefix="",
        layer=-1,
        kind="linear",
        in_features=int(inputs),
        out_features=int(outputs),
        bias=f"{name}.bias" in base.pooler,
    )


def _weights(base: Base, site: Site) -> SiteWeights:
    weight = base.pooler.get(f"{site.module}.weight")
    if weight is None:
        return weights_at(base, site)
    return SiteWeights(weight=weight, bias=base.pooler.get(f"{site.module}.bias"))


def _record(
    path: Path, file: PeftFile, attached: _Attached, base: Base, head: HeadTemplate, label_names: Sequence[str]
) -> AdapterRecord:
    method, num = attached.method, head.num_outputs
    if base.config.problem_type == "multi_label_classification":
        raise AdapterError(f"{base.name} gives several labels to a text, which Remora does not do")
    if label_names and len(label_names) != (num if num > 1 else 0):
        raise AdapterError(f"{path}: the head has {num} outputs, {len(label_names)} labels are given")
    return AdapterRecord(
        remora=remora.__version__,
        method=method.name,
        settings=method.config.model_dump(mode="json"),
        label=f"{method.label} from peft",
        remark=_remark(method, base),
        task="classification" if num > 1 else "regression",
        label_names=tuple(label_names) or _label_names(base, num),
        num_texts=None,
        text_columns=(),
        max_length=base.max_positions,
        base=BaseRecord.of(base),
        data_name="unknown data",
        data_hash="",
        metric="accuracy" if num > 1 else "pearson",
        metrics={},
        hyperparameters={},
        seed=0,
        stream="",
        trial="",
        steps=0,
        storage="peft",
        files={PEFT_TENSORS: file_sha256(path)},
    )


def _remark(method: Method, base: Base) -> str | None:
    if method.num_virtual_tokens == method.num_prefix_tokens or base.pooling == "last":
        return None
    return (
        "peft's classification models let the head read a virtual token, Remora's reads the text's own, so that the"
        " answers of a head trained with peft differ"
    )


def _label_names(base: Base, num: int) -> tuple[str, ...]:
    """Those of the base's configuration where there are as many, else as transformers calls classes without names."""
    if num == 1:
        return ()
    known: dict[int, str] = base.config.id2label or {}
    names = tuple(str(known.get(index)) for index in range(num))
    fits = len(known) == num == len(set(names)) and set(known) == set(range(num))
    return names if fits else tuple(f"LABEL_{index}" for index in range(num))
