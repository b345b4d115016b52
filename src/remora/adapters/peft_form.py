"""An adapter as peft stores it: keys, shapes and settings; and back, bit for bit where the form is one to one.

Blocks of a fused projection (GPT-2's ``c_attn``) become one adapter of the whole layer: ranks are stacked, so that LoRA
on q and v is exactly a LoRA of the sum of their ranks.
"""

# D in_features, O out_features, R rank
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from remora.adapters.classes import peft_task
from remora.adapters.names import module_names, short_names
from remora.methods.base import AdapterTensors, LinearChange, Method, PeftTensor, Tensors, weights_at
from remora.methods.lora import LORA_LAYOUT
from remora.models.base import Base
from remora.models.frozen_linear import linear_weight
from remora.models.heads import HeadTemplate
from remora.models.sites import Site

MODEL = "base_model.model."

LORA_CONFIG = {
    "bias": "none",
    "init_lora_weights": True,
    "use_rslora": False,
    "use_dora": False,
    "lora_bias": False,
    "rank_pattern": {},
    "alpha_pattern": {},
}


@dataclass(frozen=True, kw_only=True)
class PeftForm:
    """What goes into a PEFT adapter folder.

    Args:
        config: content of ``adapter_config.json``.
        tensors: of ``adapter_model.safetensors``, the head included.
        exact: whether the adapter can be had back from them bit for bit.
        as_lora: stored as LoRA because the method's own type cannot hold its sites.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    exact: bool
    as_lora: bool


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A key of a PEFT file: how the tensor ``name`` of some sites is stored under it."""

    how: PeftTensor
    name: str
    sites: tuple[Site, ...]


def peft_form(adapter: AdapterTensors, head: HeadTemplate, head_params: Tensors) -> PeftForm | None:
    """The PEFT form of an adapter and its head.

    Args:
        adapter: trained.
        head: its head's template.
        head_params: its head's tensors.

    Returns:
        None where peft has no form for it.
    """
    method, base, sites = adapter.method, head.base, adapter.sites
    if method.peft_type is None or not sites or head.kind == "coreference":
        return None  # a head that no class has could not be loaded with it
    norms = [site for site in sites if site.kind == "norm" and not method.peft_holds(site)]
    held = [site for site in sites if site not in norms]
    as_lora = not all(method.peft_holds(site) for site in held)
    modules = by_module(held)
    wraps = any(site.kind in ("linear", "norm") for site in held)
    if not wraps and peft_task(base.arch, head.kind) is None:
        return None  # peft puts prompts only where it knows the task
    changes = {site.id: change_at(adapter, site, base) for site in sites if method.changes(site)}
    if as_lora and (norms or not _is_lora(method, modules, changes)):
        return None
    config = common_config(head, "LORA" if as_lora else method.peft_type)
    tensors: dict[str, Tensor] = {}
    if as_lora:
        low = {key: folded(change) for key, change in changes.items()}
        for parts in modules.values():
            tensors |= module_tensors(LORA_LAYOUT, [low[site.id] for site in parts], parts, base)
        config["lora_dropout"] = next(iter(changes.values())).dropout
    else:
        for key, part in stored_tensors(method, held).items():
            values = [method.peft_state(adapter.at(site), site)[part.name].detach() for site in part.sites]
            tensors[key] = joined(part.how, values, part.sites, whole_weight(base, part.sites[0]))
        tensors |= {f"base_model.{key}": adapter.shared[name] for name, key in method.peft_shared().items()}
        config |= method.peft_config(sites)
    for site in norms:
        # peft cannot change a part of a norm, but it keeps whole modules beside an adapter.
        merged = method.merged(adapter.at(site), site, weights_at(base, site))
        assert merged.bias is not None, f"{site.id} has no bias to change"
        tensors |= {f"{MODEL}{site.hf_name}.weight": merged.weight, f"{MODEL}{site.hf_name}.bias": merged.bias}
    if wraps:
        scale = 1.0 if as_lora or not changes else next(iter(changes.values())).scale
        config |= target_settings(config, tensors, modules, module_names(base, head), scale)
    else:
        # peft wants these of every prompt, and cannot find them in DistilBERT's configuration.
        shape = {"num_layers": base.config.num_hidden_layers, "num_attention_heads": base.config.num_attention_heads}
        config = {**shape, **config}
    prefix = MODEL if wraps else "base_model."
    tensors |= {prefix + name: value for name, value in head_params.items()}
    config["modules_to_save"] = [*head.modules_to_save, *(site.hf_name for site in norms)]
    exact = method.peft_exact and not as_lora and not norms
    return PeftForm(config=config, tensors=tensors, exact=exact, as_lora=as_lora)


def common_config(head: HeadTemplate, peft_type: str) -> dict[str, Any]:
    """What every ``adapter_config.json`` says."""
    base = head.base
    return {
        "peft_type": peft_type,
        "task_type": peft_task(base.arch, head.kind),
        "base_model_name_or_path": base.name,
        "revision": base.revision,
        "inference_mode": True,
        "auto_mapping": None,
    }


def stored_tensors(method: Method, sites: Sequence[Site]) -> dict[str, StoredTensor]:
    """Every key of the PEFT file of an adapter of the method's own type, without the head's and the shared ones.

    Args:
        method: with its settings.
        sites: of the adapter, norms apart.
    """
    found: dict[str, StoredTensor] = {}
    for parts in by_module(sites).values():
        for name, how in method.peft_layout(parts[0]).items():
            key = _key(how, parts[0])
            before = found[key].sites if key in found else ()
            found[key] = StoredTensor(how=how, name=name, sites=(*before, *parts))
    return found


def by_module(sites: Sequence[Site]) -> dict[str, list[Site]]:
    """Sites by the full name of their module, in order."""
    modules: dict[str, list[Site]] = {}
    for site in sites:
        modules.setdefault(site.hf_name, []).append(site)
    return modules


def joined(how: PeftTensor, values: Sequence[Tensor], sites: Sequence[Site], weight_OD: Tensor) -> Tensor:
    """One tensor of a whole module from those of its sites, in the file's shape.

    Args:
        how: it is stored.
        values: per site.
        sites: all of one module; of the adapter for "layers".
        weight_OD: the whole module's frozen weight.
    """
    if how.axis == "layers":
        whole = torch.cat(list(values), 1)
    elif not sites[0].is_part:
        whole = values[0]
    elif how.axis == "ranks_in":
        whole = torch.cat(list(values))
    elif how.axis == "ranks_out":
        whole = values[0].new_zeros(weight_OD.shape[0], sum(value.shape[1] for value in values))
        start = 0
        for site, value in zip(sites, values, strict=True):
            whole[:, start : start + value.shape[1]][site.rows()] = value
            start += value.shape[1]
    else:
        assert how.axis == "outputs", f"{how.axis} cannot be joined"
        assert how.fill is not None, f"{how.suffix} does not say what changes nothing"
        whole = how.fill(weight_OD).to(values[0].dtype).clone()
        for site, value in zip(sites, values, strict=True):
            whole[site.rows()] = value
    return whole if how.shape is None else whole.reshape(how.shape)


def parted(how: PeftTensor, value: Tensor, sites: Sequence[Site], like: Sequence[Tensor]) -> list[Tensor]:
    """The tensors of single sites from that of their module: undoes `joined`.

    Args:
        how: it is stored.
        value: as stored, of the shape that `joined` gives.
        sites: all of one module; of the adapter for "layers".
        like: per site a tensor of the right shape.
    """
    if how.axis == "layers":
        return list(value.split([part.shape[1] for part in like], dim=1))
    if not sites[0].is_part:
        return [value.reshape(like[0].shape)]
    if how.axis == "ranks_in":
        return list(value.split([part.shape[0] for part in like]))
    if how.axis == "ranks_out":
        blocks = value.split([part.shape[1] for part in like], dim=1)
        return [block[site.rows()] for block, site in zip(blocks, sites, strict=True)]
    flat = value.reshape(-1)
    return [flat[site.rows()] for site in sites]


def whole_weight(base: Base, site: Site) -> Tensor:
    """(O, D) frozen weight of a site's whole module; of a module that is not linear, as it is, empty without one."""
    if site.kind == "kv":
        return torch.empty(0)
    module = base.model.get_submodule(site.module)
    return linear_weight(module) if site.kind == "linear" else module.get_parameter("weight")


def _key(how: PeftTensor, site: Site) -> str:
    return how.suffix if how.axis in ("tokens", "layers") else f"{MODEL}{site.hf_name}.{how.suffix}"


def module_tensors(
    layout: Mapping[str, PeftTensor], states: Sequence[Tensors], sites: Sequence[Site], base: Base
) -> dict[str, Tensor]:
    """Tensors of one module by key.

    Args:
        layout: how they are stored.
        states: the tensors of each site, by the names of the layout.
        sites: all of the module.
        base: of the adapter.
    """
    weight_OD = whole_weight(base, sites[0])
    return {
        _key(how, sites[0]): joined(how, [state[name].detach() for state in states], sites, weight_OD)
        for name, how in layout.items()
    }


def change_at(adapter: AdapterTensors, site: Site, base: Base) -> LinearChange:
    """What an adapter makes of a linear site, folded, without gradients."""
    with torch.no_grad():
        return adapter.method.change(adapter.at(site), site, weights_at(base, site)).folded()


def _is_lora(method: Method, modules: Mapping[str, Sequence[Site]], changes: Mapping[str, LinearChange]) -> bool:
    """Whether all that an adapter does are low-rank terms, of whole layers or of their parts but not of both."""
    for parts in modules.values():
        if len(parts) > 1 and not all(site.is_part for site in parts):
            return False
        if any(site.id not in changes or method.transforms(site) for site in parts):
            return False
    return bool(changes) and all(is_low_rank(change) for change in changes.values())


def is_low_rank(change: LinearChange) -> bool:
    """Whether a change is what LoRA computes, and nothing else."""
    others = (change.delta, change.in_scale, change.out_scale, change.bias)
    return change.A is not None and all(part is None for part in others)


def folded(change: LinearChange) -> dict[str, Tensor]:
    """A, and B with the scale in it, without the ranks that are zero in either (pruned ones); one stays."""
    assert change.A is not None
    assert change.B is not None
    used_R = (change.A != 0).any(1) & (change.B != 0).any(0)
    used_R[0] |= not bool(used_R.any())
    return {"lora_A": change.A[used_R], "lora_B": change.B[:, used_R] * change.scale}


def target_settings(
    config: Mapping[str, Any],
    tensors: Tensors,
    modules: Mapping[str, Sequence[Site]],
    names: frozenset[str],
    scale: float,
) -> dict[str, Any]:
    """Settings that name the target modules and give each the rank it has."""
    found: dict[str, Any] = {"target_modules": short_names(list(modules), names)}
    if "feedforward_modules" in config:
        found["feedforward_modules"] = short_names(config["feedforward_modules"], names)
    if config["peft_type"] in ("LORA", "VERA", "IA3"):
        found["fan_in_fan_out"] = any(sites[0].transposed for sites in modules.values())
    if config["peft_type"] != "LORA":
        return found
    ranks = {name: int(tensors[f"{MODEL}{name}.lora_A.weight"].shape[0]) for name in modules}
    found |= {key: value for key, value in LORA_CONFIG.items() if key not in config}
    if set(ranks.values()) == {config.get("r")}:
        return found
    usual = max(ranks.values(), key=list(ranks.values()).count)
    others = {name: rank for name, rank in ranks.items() if rank != usual}
    return {
        **found,
        "use_rslora": False,
        "r": usual,
        "lora_alpha": scale * usual,
        "rank_pattern": others,
        "alpha_pattern": {name: scale * rank for name, rank in others.items()},
    }
