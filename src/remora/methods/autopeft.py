"""AutoPEFT: y = layer + sum of z_i (part_i - layer), gates z over parts and sites; a budget decides which of them stay.

Hu et al. 2022, "Sparse structure search for delta tuning", arXiv:2206.07382, section 3: every part at every site has a
structural parameter a, its gate is z = sigmoid(a), and one shift of all a keeps the gated number of trained parameters,
sum of z_i n_i, at the budget (the shifted global sigmoid); at the end the modules with the largest a are kept as far
as the budget goes. Zhou et al. 2024, "AutoPEFT: automatic configuration search for parameter-efficient fine-tuning",
arXiv:2301.12132, searches such spaces under a budget by Bayesian optimisation over whole trainings instead.
Here search and training are one run, so that it costs what one trial costs: for the share `search` of the steps gates
and parts train together, on the same batches (no second level on held-out data, no noise on the gates), the shift is
applied after every step; then the gates of what is kept become 1, the rest is dropped and the kept parts train on.
Trains all parts and a number per part and site while searching, then at most the share `budget` of the parts' numbers,
which is what results and files count. Mergeable where all parts are. No PEFT type.
"""

# K candidates: a part at a site
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from remora.errors import ConfigError
from remora.methods.base import (
    AdapterTensors,
    LinearChange,
    LogRange,
    Method,
    MethodConfig,
    Rows,
    SiteState,
    SiteWeights,
    Tensors,
    join,
)
from remora.methods.combination import Combination
from remora.methods.combine import Parts, PartsConfig
from remora.methods.parts import Part, form_of
from remora.methods.registry import get_method, register
from remora.models.base import Base
from remora.models.sites import Site, SiteKind

_HALVINGS = 60


def gated(change: LinearChange, gate: Tensor) -> LinearChange:
    """A change that adds `gate` times what the given one adds to the layer's output."""
    change = change.folded()

    def times(value: Tensor | None, neutral: float) -> Tensor | None:
        return None if value is None else neutral + gate.to(value.dtype) * (value - neutral)

    return replace(
        change,
        B=times(change.B, 0.0),
        delta=times(change.delta, 0.0),
        in_scale=times(change.in_scale, 1.0),
        out_scale=times(change.out_scale, 1.0),
        bias=times(change.bias, 0.0),
    )


def shifted(structure_K: Tensor, sizes_K: Tensor, budget: float) -> Tensor:
    """(K,) structural parameters less the one number that makes the sum of sigmoid(a) n the budget's share of all n.

    By bisection between the shifts at which all gates are open wider, or less wide, than the budget's share.
    """
    wide_K, share_K = structure_K.double(), sizes_K.double() / sizes_K.sum()
    level = math.log(budget / (1 - budget))
    low, high = wide_K.min() - level, wide_K.max() - level
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        too_open = (share_K * torch.sigmoid(wide_K - middle)).sum() > budget
        low, high = torch.where(too_open, middle, low), torch.where(too_open, high, middle)
    return (wide_K - (low + high) / 2).to(structure_K.dtype)


class _Config(PartsConfig):
    """The parts, the share of their parameters kept, the share of steps that searches, and the gates' own rate.

    `structure_ratio` is the factor on the learning rate of the structural parameters.
    """

    of: Parts = (
        {"lora": {"rank": 4, "targets": ["linear"]}},
        {"bitfit": {}},
        {"adapter-houlsby": {"bottleneck": 8}},
    )
    budget: float = Field(0.25, gt=0, lt=1)
    search: float = Field(0.25, gt=0, le=1)
    structure_ratio: float = Field(30.0, gt=0)


@register("autopeft")
class AutoPEFT(Combination):
    """A search over parts and sites under a budget."""

    label: ClassVar[str] = "AutoPEFT"
    family: ClassVar = "hybrid"
    citation: ClassVar[str] = "Hu et al. 2022, arXiv:2206.07382; Zhou et al. 2024, arXiv:2301.12132"
    use_when: ClassVar[str] = "where a few parameters must do and you do not know at which layers"
    lr_range: ClassVar[LogRange] = LogRange(3e-4, 1e-2)
    site_kinds: ClassVar[tuple[SiteKind, ...]] = ("linear", "norm")
    identity_at_init: ClassVar[bool] = False
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {
            "of": [{"lora": {"rank": 2, "dropout": 0.0, "targets": ["attention.q", "ffn.down"]}}, "ia3", "ln-tuning"],
            "budget": 0.4,
            "search": 0.5,
        },
    )
    Config: ClassVar[type[MethodConfig]] = _Config

    config: _Config

    def __init__(self, config: _Config) -> None:
        super().__init__(config, [get_method(name, settings) for part in config.of for name, settings in part.items()])
        # Where a part has no gradient its gate has none.
        still = {
            f"{name.partition(f'.{part.key}/')[0]}.{_structure(part)}"
            for name in self.zero_gradients
            for part in self.parts
            if f".{part.key}/" in name
        }
        vars(self).update(peft_type=None, zero_gradients=(*self.zero_gradients, *still))
        for part in self.parts:
            if part.method.num_virtual_tokens or part.method.num_survey_examples or _has_a_course(part.method):
                raise ConfigError(
                    f"autopeft cannot choose where {part.key} acts: its sites are not independent of each other",
                    "use methods that only add to single layers, such as lora, bitfit, ia3, adapter-houlsby",
                )

    def sites(self, base: Base) -> tuple[Site, ...]:
        """The sites of all parts.

        Raises:
            ConfigError: as for a combination; or a gate cannot scale what a part adds.
        """
        found = super().sites(base)
        for site in found:
            for part in self.acting(site):
                if site.layer == found[0].layer and part.method.changes(site):
                    form = form_of(part.method, site, base)
                    if form.out_scale is not None and (form.A is not None or form.delta is not None):
                        raise ConfigError(
                            f"autopeft cannot put a gate on {part.key}: it scales a sum that it adds to",
                            "use lora in its place",
                        )
        return found

    @property
    def data_decides_shapes(self) -> bool:
        """What is dropped has no numbers left."""
        return True

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """The parts' tensors, and gates that are open by the budget's share."""
        state = super().init(site, base, shared, rng)
        start = math.log(self.config.budget / (1 - self.config.budget))
        for part in self.acting(site):
            if part.own(state.trained):
                state.trained[_structure(part)] = torch.tensor(start)
        return state

    # --- what it computes

    def at_work(self, site: Site, state: Tensors) -> Sequence[Part]:
        """Those that were not dropped."""
        return [part for part in self.acting(site) if all(value.numel() for value in part.own(state).values())]

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The sum of what the parts add, each times its gate."""
        changes: list[LinearChange] = []
        for part in self.at_work(site, state):
            if part.method.changes(site):
                change, gate = part.method.change(part.own(state), site, base), _gate(part, state)
                changes.append(change if gate is None else gated(change, gate))
        return join(changes) if changes else LinearChange()

    def transform(
        self, state: Tensors, site: Site, base: SiteWeights, x_TD: Tensor, y_TD: Tensor, rows: Rows
    ) -> Tensor:
        """The parts' transforms one after the other, what each adds times its gate."""
        for part in self.at_work(site, state):
            if part.method.transforms(site):
                changed_TD = part.method.transform(part.own(state), site, base, x_TD, y_TD, rows)
                gate = _gate(part, state)
                y_TD = changed_TD if gate is None else y_TD + gate.to(y_TD.dtype) * (changed_TD - y_TD)
        return y_TD

    def norm_weights(self, state: Tensors, site: Site, base: SiteWeights) -> SiteWeights | None:
        """The base's, moved towards the trained ones as far as the gate is open."""
        for part in self.at_work(site, state):
            own, gate = part.method.norm_weights(part.own(state), site, base), _gate(part, state)
            if own is None or gate is None:
                return own
            weight = base.weight + gate * (own.weight - base.weight)
            bias = own.bias if own.bias is None or base.bias is None else base.bias + gate * (own.bias - base.bias)
            return SiteWeights(weight=weight, bias=bias)
        return None

    # --- how it is trained

    def lr_multiplier(self, parameter: str) -> float:
        """The structural parameters' own, else the part's."""
        return self.config.structure_ratio if parameter.startswith(_STRUCTURE) else super().lr_multiplier(parameter)

    def before_step(self, adapter: AdapterTensors, step: int, num_steps: int) -> None:
        """Keeps the number of steps, on which the end of the search depends."""
        adapter.extra["num_steps"] = torch.tensor(num_steps)

    def after_step(self, adapter: AdapterTensors, step: int) -> None:
        """Takes the gates back to the budget; at the end of the search, drops what it has no room for.

        Two steps at least are searched: before the first update most parts add nothing, whatever their gate.
        """
        num_steps = int(adapter.extra["num_steps"])
        last = min(max(2, round(self.config.search * num_steps)), num_steps) - 1
        candidates = [(site, part) for site in adapter.sites for part in self.acting(site)]
        candidates = [(s, p) for s, p in candidates if _structure(p) in adapter.states[s.id].trained]
        if step > last or not candidates:
            return
        structures = [adapter.states[site.id].trained[_structure(part)] for site, part in candidates]
        sizes = [
            sum(value.numel() for value in part.own(adapter.states[site.id].trained).values())
            for site, part in candidates
        ]
        structure_K = torch.stack(structures)
        moved_K = shifted(structure_K, torch.tensor(sizes, device=structure_K.device), self.config.budget)
        for structure, moved in zip(structures, moved_K, strict=True):
            structure.copy_(moved)
        if step < last:
            return
        room = max(self.config.budget * sum(sizes), min(sizes))
        order = sorted(range(len(sizes)), key=moved_K.tolist().__getitem__, reverse=True)
        kept: set[int] = set()
        for number in order:
            if sizes[number] <= room:
                kept.add(number)
                room -= sizes[number]
        for number, (site, part) in enumerate(candidates):
            trained = adapter.states[site.id].trained
            gone = {} if number in kept else part.named(part.own(trained))
            for name in (_structure(part), *gone):
                trained[name] = trained[name].detach().new_empty(0)


_STRUCTURE = "structure/"


def _structure(part: Part) -> str:
    return _STRUCTURE + part.key


def _gate(part: Part, state: Tensors) -> Tensor | None:
    """() the gate of a part at a site; None where there is none any more."""
    structure = state.get(_structure(part))
    return None if structure is None or structure.numel() == 0 else torch.sigmoid(structure)


def _has_a_course(method: Method) -> bool:
    """Whether it has tensors for all sites together, or does something before or after steps."""
    cls = type(method)
    own = (cls.common, cls.penalty, cls.before_step, cls.after_backward, cls.after_step)
    neutral = (Method.common, Method.penalty, Method.before_step, Method.after_backward, Method.after_step)
    return own != neutral
