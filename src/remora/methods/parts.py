"""Parts of methods that are made of other methods, and which of them cannot meet.

Two changes of one linear layer have a sum that is a change again unless one scales what the other adds: that is found
out before anything is computed, from the terms that the changes of fresh adapters have.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from remora.errors import ConfigError
from remora.methods.base import LinearChange, Method, SiteWeights, init_adapter, weights_at
from remora.models.base import Base
from remora.models.sites import Site

V = TypeVar("V")


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One of the methods, under the key that the names of its tensors begin with."""

    key: str
    method: Method

    def own(self, values: Mapping[str, V]) -> dict[str, V]:
        """Those of some named values that are the part's, by the part's own names."""
        start = f"{self.key}/"
        return {name.removeprefix(start): value for name, value in values.items() if name.startswith(start)}

    def named(self, values: Mapping[str, V]) -> dict[str, V]:
        """The part's values under their names in the whole."""
        return {f"{self.key}/{name}": value for name, value in values.items()}

    def put(self, values: dict[str, V], own: Mapping[str, V]) -> None:
        """Make `own` the part's values among others, leaving the order of those that stay."""
        named = self.named(own)
        for name in self.named(self.own(values)):
            if name not in named:
                del values[name]
        values.update(named)


def make_parts(methods: Iterable[Method]) -> tuple[Part, ...]:
    """Parts under their methods' ids, a second one of an id as ``id-2``."""
    parts: list[Part] = []
    for method in methods:
        same = sum(part.method.name == method.name for part in parts)
        parts.append(Part(key=f"{method.name}-{same + 1}" if same else method.name, method=method))
    return tuple(parts)


def refuse_norms(name: str, acting: Mapping[Site, Sequence[Part]]) -> None:
    """Parts that meet at a norm of which one replaces the weights.

    Args:
        name: of the whole, for the message.
        acting: the parts at each site.

    Raises:
        ConfigError: there are some.
    """
    for site, parts in acting.items():
        replacing = [part for part in parts if type(part.method).norm_weights is not Method.norm_weights]
        if site.kind == "norm" and replacing and len(parts) > 1:
            raise ConfigError(
                f"{name}: {' and '.join(part.key for part in parts)} meet at {site.name}, where"
                f" {replacing[0].key} trains weights in place of the base's",
                "give one of them other targets",
            )


def refuse_layers(name: str, acting: Mapping[Site, Sequence[Part]], base: Base) -> None:
    """Parts that meet at a linear layer where the sum of what they add is no `LinearChange`.

    Args:
        name: of the whole, for the message.
        acting: the parts at each site.
        base: whose sites they are.

    Raises:
        ConfigError: there are some.
    """
    modules: dict[str, list[tuple[Part, Site]]] = {}
    for site, parts in acting.items():
        for part in parts:
            if part.method.changes(site):
                modules.setdefault(site.module, []).append((part, site))
    known: dict[tuple[str, str, bool], LinearChange] = {}
    for users in modules.values():
        if len({part.key for part, _ in users}) < 2:
            continue
        forms: list[tuple[Part, Site, LinearChange]] = []
        for part, site in users:
            kind = (part.key, site.name, site.bias)
            if kind not in known:
                known[kind] = form_of(part.method, site, base)
            forms.append((part, site, known[kind]))
        _refuse_dropouts(name, forms)
        for part, site, form in forms:
            for other, at, with_it in forms:
                overlap = at.id == site.id or not (at.is_part and site.is_part)
                if other is not part and overlap and (why := _no_sum(form, with_it)):
                    raise ConfigError(
                        f"{name}: {part.key} and {other.key} meet at {at.name}, where {part.key} {why}; what"
                        " both do is no sum of what each does",
                        "give one of them other targets",
                    )


def _refuse_dropouts(name: str, forms: Sequence[tuple[Part, Site, LinearChange]]) -> None:
    low = [(part, site, form.dropout) for part, site, form in forms if form.A is not None]
    for part, site, rate in low:
        if rate != low[0][2]:
            raise ConfigError(
                f"{name}: {low[0][0].key} (dropout {low[0][2]:g}) and {part.key} (dropout {rate:g}) meet at"
                f" {site.name}, where all low-rank terms see the input under one dropout mask",
                "give both the same dropout, or other targets",
            )


def form_of(method: Method, site: Site, base: Base) -> LinearChange:
    """The terms that a method's change of a site has; their values are those of a fresh adapter."""
    found = weights_at(base, site)
    weights = SiteWeights(weight=found.weight.cpu(), bias=None if found.bias is None else found.bias.cpu())
    with torch.no_grad():
        return method.change(init_adapter(method, (site,), lambda _: weights, seed=0).at(site), site, weights)


def _no_sum(change: LinearChange, other: LinearChange) -> str | None:
    """Why a change cannot be added to another one of the same outputs, if it scales something; None if it can."""
    if change.out_scale is not None and any(
        term is not None for term in (other.A, other.delta, other.in_scale, other.out_scale)
    ):
        return "scales the outputs"
    if change.in_scale is not None and (other.in_scale is not None or other.out_scale is not None):
        return "scales the inputs"
    return None
