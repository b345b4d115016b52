"""Methods made of other methods, by formula: parts put one by one into transformers' own model, gates written out.

As `naive.py`, whose formulas of single methods are used, and nothing of the engine.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from remora.methods.registry import get_method
from remora.models.base import Base
from remora.models.sites import Site
from tests import naive

MADE_OF_PARTS = ("autopeft", "combine", "mam", "unipelt")
_AFTERWARDS = ("adapter-houlsby", "adapter-pfeiffer", "adapter-parallel")
Parts = list[tuple[str, str, dict[str, Any]]]


class User(NamedTuple):
    """A part at a site: its id, settings and tensors there, and the factor on what it adds."""

    name: str
    settings: dict[str, Any]
    site: Site
    own: dict[str, Tensor]
    gate: Tensor


def parts_of(method: str, settings: Mapping[str, Any]) -> Parts:
    """Key, id and settings of every part."""
    prefix = {name: settings.get(name) for name in ("num_virtual_tokens", "reparameterize", "encoder_hidden")}
    inside = {name: settings.get(name) for name in ("bottleneck", "activation", "dropout")}
    if method == "mam":
        named = [("prefix-tuning", prefix), ("adapter-parallel", {**inside, "scale": settings["scale"]})]
    elif method == "unipelt":
        lora = {"rank": settings["rank"], "alpha": float(settings["rank"]), "dropout": settings["dropout"]}
        named = [("prefix-tuning", prefix), ("lora", lora), ("adapter-pfeiffer", inside)]
    else:
        named = [(name, own) for part in settings["of"] for name, own in part.items()]
    names = [name for name, _ in named]
    return [
        (name if names.index(name) == at else f"{name}-{names[: at + 1].count(name)}", name, own)
        for at, (name, own) in enumerate(named)
    ]


def _meant(site: Site, targets: tuple[str, ...]) -> bool:
    wide = ("linear" in targets and not site.is_part) if site.kind == "linear" else site.kind in targets
    return site.name in targets or wide


def trained_numbers(
    method: str, settings: Mapping[str, Any], sites: tuple[Site, ...], adapter: Mapping[str, Tensor]
) -> int:
    """The sum over the parts, of AutoPEFT's what it kept, and three gates per layer for UniPELT."""
    total = 0
    for key, name, own in parts_of(method, settings):
        chosen = get_method(name, own)
        attached = tuple(site for site in sites if _meant(site, chosen.targets))
        if name == "bitfit":
            attached = tuple(site for site in attached if site.kind == "linear" or (site.bias and site.layer >= 0))
        if method == "autopeft":
            kept = {tensor.partition(f".{key}/")[0] for tensor, value in adapter.items() if value.numel()}
            attached = tuple(site for site in attached if site.id in kept)
        total += naive.trained_numbers(name, chosen.config.model_dump(), attached, adapter)
    if method == "unipelt":
        layers = [site for site in sites if site.name == "ffn.down"]
        total += sum(3 * (site.out_features + 1) for site in layers)
    return total


def logits(
    model: nn.Module,
    base: Base,
    method: str,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    head_params: Mapping[str, Tensor],
    batch: Mapping[str, Tensor],
) -> Tensor:
    """As `naive.logits`."""
    inputs = dict(batch) if base.takes_type_ids else {k: v for k, v in batch.items() if k != "token_type_ids"}
    parts = parts_of(method, settings)
    attached = [(key, name, own, get_method(name, own).sites(base)) for key, name, own in parts]
    modules = dict(model.named_modules())
    given: dict[int, tuple[Tensor, Tensor]] = {}
    users: dict[str, list[User]] = {}
    for key, name, own, sites in attached:
        mine = _own(tensors, key)
        for site in sites:
            if site.kind == "kv":
                given[id(modules[site.hf_name])] = naive._prefix(own, mine, site)
            else:
                structure = tensors.get(f"{site.id}.structure/{key}", torch.empty(0))
                gate = torch.sigmoid(structure) if structure.numel() else torch.ones(())
                here = _at(mine, site)
                if all(value.numel() for value in here.values()):
                    users.setdefault(site.hf_name, []).append(User(name, own, site, here, gate))
    if method == "unipelt":
        changed = _gated(modules, attached, tensors, batch["attention_mask"], given)
    else:
        seen: dict[str, Tensor] = {}
        changed = {name: _summed(modules[name], here, seen) for name, here in users.items()}
    with _replaced(modules, changed):
        if given:
            return naive.with_prefixes(model, base, given, head_params, inputs)
        replaced = {name: value for name, value in head_params.items() if name in dict(model.named_parameters())}
        return torch.func.functional_call(model, replaced, kwargs=inputs).logits


def _own(tensors: Mapping[str, Tensor], key: str) -> dict[str, Tensor]:
    """A part's tensors under the names they have where it is alone."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        scope, dot, short = name.rpartition(".")
        if short.startswith(f"{key}/"):
            found[scope + dot + short.removeprefix(f"{key}/")] = value
    return found


def _at(mine: Mapping[str, Tensor], site: Site) -> dict[str, Tensor]:
    """Of one site, with those that all sites share."""
    shared = {name.removeprefix("common."): v for name, v in mine.items() if "." not in name or "common." in name}
    return {
        **shared,
        **{name.removeprefix(f"{site.id}."): v for name, v in mine.items() if name.startswith(f"{site.id}.")},
    }


@contextmanager
def _replaced(modules: Mapping[str, nn.Module], forwards: Mapping[str, Callable[[Tensor], Tensor]]) -> Generator[None]:
    before = {name: modules[name].forward for name in forwards}
    for name, forward in forwards.items():
        modules[name].forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for name, forward in before.items():
            modules[name].forward = forward  # type: ignore[method-assign]


def _summed(module: nn.Module, users: list[User], seen: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """What every part alone makes of a layer, less the layer itself, added up; then adapters."""
    original = module.forward

    def norm(x: Tensor) -> Tensor:
        plain = total = original(x)
        for _, _, _, own, gate in users:
            alone = naive._norm(module, own["weight"], own.get("bias"), x) if "weight" in own else plain + own["bias"]
            total = total + gate * (alone - plain)
        return total

    def forward(x: Tensor) -> Tensor:
        plain = original(x)
        weight = module.weight.t() if users[0].site.transposed else module.weight
        total = plain.clone()
        for name, settings, site, own, gate in users:
            seen[site.name] = x
            rows = site.rows()
            bias = module.bias[rows] if site.bias else None
            if name not in _AFTERWARDS:
                alone = naive.LINEAR[name](settings, own, weight[rows], bias, x, site.name == "ffn.down")
                total[..., rows] = total[..., rows] + gate * (alone - plain[..., rows])
        for name, settings, site, own, gate in users:
            if name == "adapter-parallel":
                if site.name == "ffn.down":
                    total = total + gate * settings["scale"] * naive._bottleneck(settings, own, seen["ffn.up"])
            elif name in _AFTERWARDS:
                total = total + gate * naive._bottleneck(settings, own, total)
        return total

    return norm if users[0].site.kind == "norm" else forward


def _gated(
    modules: Mapping[str, nn.Module],
    attached: list[tuple[str, str, dict[str, Any], tuple[Site, ...]]],
    tensors: Mapping[str, Tensor],
    mask: Tensor,
    given: dict[int, tuple[Tensor, Tensor]],
) -> dict[str, Callable[[Tensor], Tensor]]:
    """UniPELT's layers; the prefix of a layer is scaled, text by text, once its gate is known."""
    (_, _, _, kv), (_, _, _, low), (_, _, bottleneck, ends) = attached
    prefixes = {site.layer: site for site in kv}
    plain = dict(given)
    forwards: dict[str, Callable[[Tensor], Tensor]] = {}

    def gate(site: Site, name: str, h: Tensor) -> Tensor:
        """(B, 1, 1), text by text."""
        w, c = tensors[f"{site.id}.gate_{name}"], tensors[f"{site.id}.gate_{name}_bias"]
        means = [torch.sigmoid(row[: int(kept.sum())] @ w[0] + c).mean() for row, kept in zip(h, mask, strict=True)]
        return torch.stack(means)[:, None, None]

    def attention(module: nn.Module, here: list[Site], gates: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        original = module.forward

        def forward(x: Tensor) -> Tensor:
            y = original(x).clone()
            for site in here:
                if site.name == "attention.q":
                    gates["lora"] = gate(site, "lora", x)
                    attended = id(modules[prefixes[site.layer].hf_name])
                    opened = gate(site, "prefix", x)[..., None]
                    given_keys, given_values = plain[attended]
                    naive._PREFIXES[attended] = (opened * given_keys, opened * given_values)
                A, B = (tensors[f"{site.id}.lora/lora_{end}"] for end in "AB")
                y[..., site.rows()] = y[..., site.rows()] + gates["lora"] * (x @ (B @ A).T)
            return y

        return forward

    def end(module: nn.Module, site: Site) -> Callable[[Tensor], Tensor]:
        original = module.forward
        own = _at(_own(tensors, "adapter-pfeiffer"), site)

        def forward(x: Tensor) -> Tensor:
            y = original(x)
            return y + gate(site, "adapter", y) * naive._bottleneck(bottleneck, own, y)

        return forward

    for layer in prefixes:
        gates: dict[str, Tensor] = {}
        here = [site for site in low if site.layer == layer]
        for name in dict.fromkeys(site.hf_name for site in here):
            same = [site for site in here if site.hf_name == name]
            forwards[name] = attention(modules[name], same, gates)
    for site in ends:
        forwards[site.hf_name] = end(modules[site.hf_name], site)
    return forwards
