"""An adapter folded into its base: an ordinary Hugging Face folder that needs neither peft nor Remora."""

from pathlib import Path

import torch
from torch import Tensor

from remora.adapters.card import model_card
from remora.adapters.checkpoint import write_checkpoint
from remora.adapters.folder import written_whole
from remora.adapters.format import Attached, LoadedAdapter
from remora.adapters.record import CARD_FILE, CHECKPOINT_TENSORS
from remora.errors import AdapterError
from remora.methods.base import AdapterTensors, SiteWeights, weights_at
from remora.models.base import Base
from remora.models.quantised import dense_tensors
from remora.models.sites import Site


def merged_tensors(base: Base, loaded: LoadedAdapter) -> dict[str, Tensor]:
    """Every parameter of the classification model that computes what base and adapter compute.

    Weights are merged and kept in float32 (float64 for a float64 base), so that a half-precision base does not round
    the adapter away. Those of a quantised base are merged as they are when made dense, which is what the adapter was
    trained on; the merged model is dense, since rounding it to 4 bits again would undo much of the training.

    Args:
        base: not changed.
        loaded: an adapter on it.

    Returns:
        Tensors by their name in transformers' classification model.

    Raises:
        AdapterError: the method changes more than weights.
    """
    reason = unmergeable(loaded)
    if reason is not None:
        raise AdapterError(f"{loaded.record.label} cannot be merged: {reason}", "use the adapter with Remora or peft")
    return folded_tensors(base, loaded)


def folded_tensors(base: Base, own: Attached) -> dict[str, Tensor]:
    """`merged_tensors` of an adapter whose method changes weights only.

    Where a method gives a linear layer a bias that has none in the base, it is among the tensors.
    """
    method, adapter = own.adapter.method, own.adapter
    if not method.shares_base:
        return {**own.base_params, **own.head_params}
    prefix, wide = base.arch.hf_prefix, torch.float64 if base.dtype == torch.float64 else torch.float32
    tensors = {prefix + name: value.detach().to(wide) for name, value in dense_tensors(base)}
    wholes = {site.module for site in adapter.sites if not site.is_part}
    for site in adapter.sites:
        frozen, state = weights_at(base, site), adapter.at(site)
        bias = None if frozen.bias is None else frozen.bias.to(wide)
        with torch.no_grad():
            if _adds_bias(base, adapter, site):
                weight = tensors[f"{prefix}{site.module}.weight"]
                bias = weight.new_zeros(site.out_features)
                tensors.setdefault(f"{prefix}{site.module}.bias", weight.new_zeros(len(weight)))
            frozen = SiteWeights(weight=frozen.weight.to(wide), bias=bias)
            merged = method.merged(state, site, frozen)
        for name, before, value in (("weight", frozen.weight, merged.weight), ("bias", frozen.bias, merged.bias)):
            if value is not None:
                key = f"{prefix}{site.module}.{name}"
                whole = tensors[key].clone()
                view = whole.t() if site.transposed and name == "weight" else whole
                if site.is_part and site.module in wholes and before is not None:
                    view[site.rows()] += value - before  # the whole came first; what both add is added up
                else:
                    view[site.rows()] = value
                tensors[key] = whole
    whole = {name: value.to(wide) for name, value in own.base_params.items()}
    pooler = {name: value.to(wide) for name, value in own.head.pooler.items()}
    return {**tensors, **pooler, **whole, **own.head_params}


def unmergeable(loaded: LoadedAdapter) -> str | None:
    """Why an adapter cannot become weights of its base; None where it can."""
    method, adapter = loaded.adapter.method, loaded.adapter
    if not method.shares_base or not adapter.sites:
        return None
    if not method.mergeable:
        return f"{method.name} changes more than weights"
    for site in adapter.sites:
        if _adds_bias(loaded.head.base, adapter, site):
            return f"{site.hf_name} has no bias that could hold the trained one"
    return None


def _adds_bias(base: Base, adapter: AdapterTensors, site: Site) -> bool:
    """Whether a method trains a bias of a linear layer that has none in the base."""
    method = adapter.method
    if site.bias or not method.changes(site):
        return False
    return method.change(adapter.at(site), site, weights_at(base, site)).bias is not None


def save_merged(folder: Path, base: Base, loaded: LoadedAdapter) -> None:
    """Write the merged model as a folder that transformers' class for the task loads with ``from_pretrained``.

    Args:
        folder: to be made.
        base: not changed.
        loaded: an adapter on it.

    Raises:
        AdapterError: the method cannot be merged.
        ConfigError: the folder is there.
    """
    tensors = merged_tensors(base, loaded)
    with written_whole(folder, replace=False) as aside:
        digest = write_checkpoint(aside, base, tensors, loaded.record.label_names, loaded.head.kind)
        merged = loaded.record.model_copy(update={"storage": "checkpoint", "files": {CHECKPOINT_TENSORS: digest}})
        (aside / CARD_FILE).write_text(model_card(merged, base, [], merged=True), encoding="utf-8")
