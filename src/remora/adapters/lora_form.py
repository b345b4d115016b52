"""Any adapter that is exactly a low-rank change, as a plain LoRA file: one rank and one scale for all modules.

What a method declares of a linear site is the reduction already (`LinearChange`): where that is a product of two thin
matrices and nothing else, y = W x + b + s B A x. The scale goes into B, gates and vectors are folded in, pruned ranks
are left out, and smaller ranks are filled up with zeros, since some programs read one rank and one scale per file.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from remora.adapters.names import module_names
from remora.adapters.peft_form import (
    MODEL,
    PeftForm,
    by_module,
    change_at,
    common_config,
    folded,
    is_low_rank,
    module_tensors,
    peft_form,
    target_settings,
)
from remora.methods.base import AdapterTensors, LinearChange, Tensors
from remora.methods.lora import LORA_LAYOUT
from remora.models.base import Base
from remora.models.heads import HeadTemplate

_A, _B = LORA_LAYOUT["lora_A"].suffix, LORA_LAYOUT["lora_B"].suffix

VLLM_HEADS = ("classifier", "score")
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's ``--max-lora-rank`` can be; 16 is the default."""


def lora_form(adapter: AdapterTensors, head: HeadTemplate, head_params: Tensors) -> PeftForm:
    """The plain LoRA file of an adapter.

    Args:
        adapter: trained; `not_lora` has no objection.
        head: its head's template, and `head_params`.
    """
    natural = peft_form(adapter, head, head_params)
    if natural is not None and natural.exact and _is_plain(natural.config):
        return natural
    base, sites = head.base, adapter.sites
    changes = {site.id: change_at(adapter, site, base) for site in sites}
    tensors: dict[str, Tensor] = {}
    modules = by_module(sites)
    for parts in modules.values():
        tensors |= module_tensors(LORA_LAYOUT, [folded(changes[site.id]) for site in parts], parts, base)
    ranks = {name: tensors[f"{MODEL}{name}.{_A}"].shape[0] for name in modules}
    rank = max(ranks.values())
    for name, own in ranks.items():
        A, B = f"{MODEL}{name}.{_A}", f"{MODEL}{name}.{_B}"
        tensors[A] = F.pad(tensors[A], (0, 0, 0, rank - own))
        tensors[B] = F.pad(tensors[B], (0, rank - own))
    dropout = next(iter(changes.values())).dropout
    config = {**common_config(head, "LORA"), "r": rank, "lora_alpha": float(rank), "lora_dropout": dropout}
    config |= target_settings(config, tensors, modules, module_names(base, head), 1.0)
    config["modules_to_save"] = list(head.modules_to_save)
    tensors |= {MODEL + name: value for name, value in head_params.items()}
    return PeftForm(config=config, tensors=tensors, exact=False, as_lora=True)


def lora_settings(adapter: AdapterTensors, config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of Remora's method ``lora`` that describe a plain LoRA file.

    Args:
        adapter: it was made of.
        config: of the file.
    """
    targets = tuple(dict.fromkeys(site.hf_name for site in adapter.sites))
    rank, alpha, dropout = config["r"], config["lora_alpha"], config["lora_dropout"]
    return {"rank": rank, "alpha": float(alpha), "dropout": dropout, "targets": targets}


def not_lora(adapter: AdapterTensors, base: Base) -> str | None:
    """Why an adapter is no LoRA; None where it is exactly one."""
    if not adapter.method.shares_base:
        return "it trains the base's own weights"
    if not adapter.sites:
        return "it trains nothing but the head"
    for site in adapter.sites:
        if site.kind in ("embedding", "kv"):
            return "it trains virtual tokens"
        if site.kind == "norm":
            return "it changes norms"
        if site.kind != "linear" or adapter.method.transforms(site):
            return "it adds layers of its own"
        change = change_at(adapter, site, base)
        if not is_low_rank(change):
            return _what_else(change)
    return None


def not_for_vllm(adapter: AdapterTensors, head: HeadTemplate) -> list[str]:
    """Why vLLM would not serve an adapter; empty where it does."""
    reason = not_lora(adapter, head.base)
    if reason is not None:
        return [f"{reason}, and vLLM serves LoRA only"]
    reasons: list[str] = []
    whole = head.base.arch.fused
    fused = next((site.hf_name for site in adapter.sites if site.is_part or site.name in whole), None)
    if fused is not None:
        reasons.append(f"{fused} is a fused projection, which vLLM cuts up or joins by rules of its own")
    if head.kind not in ("sequence", "lm"):
        reasons.append("its head is none of a whole text, which is all that vLLM classifies")
    others = [module for module in head.modules_to_save if module not in VLLM_HEADS]
    if others:
        reasons.append(f"its head also trains {' and '.join(others)}, vLLM takes only {' or '.join(VLLM_HEADS)}")
    return reasons


def _is_plain(config: Mapping[str, Any]) -> bool:
    flags = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern")
    return config["peft_type"] == "LORA" and not any(config[flag] for flag in flags)


def _what_else(change: LinearChange) -> str:
    if change.delta is not None:
        return "it changes weights by more than a low-rank product"
    if change.in_scale is not None or change.out_scale is not None:
        return "it scales features"
    return "it trains biases"
