"""The base of methods that are made of other methods: their tensors side by side, their hooks one after the other.

Where several parts act at one linear layer, what each adds to the layer's output is added up, y = W x + b + sum of
(y_part - W x - b), as one `LinearChange`; after that come the transforms of the parts, in their order. Tensors are
named ``<part>/<name>``.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from remora.errors import ConfigError
from remora.methods.base import (
    COMMON,
    AdapterTensors,
    LinearChange,
    Method,
    MethodConfig,
    PeftTensor,
    Rows,
    SiteState,
    SiteWeights,
    Tensors,
    join,
)
from remora.methods.parts import Part, make_parts, refuse_layers, refuse_norms
from remora.models.base import Base
from remora.models.sites import Site, all_sites
from remora.seeds import fold


class Combination(Method):
    """A method made of parts.

    Args:
        config: its settings.
        methods: the parts, in the order in which they act.
    """

    def __init__(self, config: MethodConfig, methods: Sequence[Method]) -> None:
        super().__init__(config)
        self.parts = make_parts(methods)
        for part in self.parts:
            if not part.method.shares_base:
                raise ConfigError(
                    f"{self.name} cannot join {part.key}, which trains the base's own weights", f"leave {part.key} out"
                )
        for what, some in (
            ("virtual tokens of its own", [part.key for part in self.parts if part.method.num_virtual_tokens]),
            ("a look at gradients", [part.key for part in self.parts if part.method.num_survey_examples]),
        ):
            if len(some) > 1:
                raise ConfigError(
                    f"{self.name} cannot join {' and '.join(some)}: each wants {what}", "leave one of them out"
                )
        self._acting: dict[Site, tuple[Part, ...]] = {}
        held = [part.method.base_quantization for part in self.parts]
        # What the class says holds for the default parts, this for the parts there are.
        kinds = dict.fromkeys(kind for part in self.parts for kind in part.method.site_kinds)
        vars(self).update(
            mergeable=all(part.method.mergeable for part in self.parts),
            identity_at_init=all(part.method.identity_at_init for part in self.parts),
            peft_type="LORA" if all(part.method.peft_type == "LORA" for part in self.parts) else None,
            site_kinds=tuple(kinds),
            base_quantization=next((kind for kind in held if kind != "none"), "none"),
            zero_gradients=tuple(
                f"{site}.{part.key}/{name}"
                for part in self.parts
                for site, _, name in (whole.rpartition(".") for whole in part.method.zero_gradients)
            ),
        )

    # --- where the parts act

    def sites(self, base: Base) -> tuple[Site, ...]:
        """The sites of all parts.

        Raises:
            ConfigError: a part attaches nowhere, or parts meet where what they do has no common form.
        """
        acting: dict[Site, list[Part]] = {}
        for part in self.parts:
            found = part.method.sites(base)
            if not found:
                raise ConfigError(
                    f"{self.name}: {part.key} attaches to nothing in {base.name}", "the head is trained in any case"
                )
            for site in found:
                acting.setdefault(site, []).append(part)
        refuse_norms(self.name, acting)
        refuse_layers(self.name, acting, base)
        self._acting |= {site: tuple(parts) for site, parts in acting.items()}
        order = {site.id: number for number, site in enumerate(all_sites(base))}
        return tuple(sorted(acting, key=lambda site: order.get(site.id, len(order))))

    def acting(self, site: Site) -> tuple[Part, ...]:
        """The parts that act at a site, in their order; known once `sites` has found it."""
        return self._acting[site]

    def at_work(self, site: Site, state: Tensors) -> Sequence[Part]:
        """Those of the acting parts that still do something."""
        return self.acting(site)

    def remark(self, sites: Sequence[Site]) -> str | None:
        """The parts' remarks."""
        said = [(part.key, part.method.remark(self._sites_of(part, sites))) for part in self.parts]
        return "; ".join(f"{key}: {text}" for key, text in said if text) or None

    def _sites_of(self, part: Part, sites: Sequence[Site]) -> tuple[Site, ...]:
        return tuple(site for site in sites if part in self.acting(site))

    # --- what is trained

    @property
    def num_virtual_tokens(self) -> int:
        """Those of the part that has some."""
        return sum(part.method.num_virtual_tokens for part in self.parts)

    @property
    def num_prefix_tokens(self) -> int:
        """Those of the part that has some."""
        return sum(part.method.num_prefix_tokens for part in self.parts)

    def shared(self, sites: Sequence[Site]) -> dict[str, Tensor]:
        """Of all parts."""
        tensors: dict[str, Tensor] = {}
        for part in self.parts:
            if own := self._sites_of(part, sites):
                tensors |= part.named(part.method.shared(own))
        return tensors

    def common(self, sites: Sequence[Site], rng: torch.Generator) -> dict[str, Tensor]:
        """Of all parts."""
        tensors: dict[str, Tensor] = {}
        for part in self.parts:
            if own := self._sites_of(part, sites):
                tensors |= part.named(part.method.common(own, rng))
        return tensors

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """Of the parts that act there."""
        whole = SiteState()
        for part in self.acting(site):
            state = part.method.init(site, base, part.own(shared), rng)
            whole.trained |= part.named(state.trained)
            whole.frozen |= part.named(state.frozen)
        return whole

    @property
    def num_survey_examples(self) -> int:
        """Those of the part that looks at some."""
        return sum(part.method.num_survey_examples for part in self.parts)

    @property
    def data_decides_shapes(self) -> bool:
        """Whether they do for a part."""
        return any(part.method.data_decides_shapes for part in self.parts)

    def survey(self, adapter: AdapterTensors, gradients: Iterable[Tensors]) -> None:
        """By the part that asks for it."""
        for part in self.parts:
            if part.method.num_survey_examples:
                with self.seen_by(part, adapter) as own:
                    part.method.survey(own, gradients)

    # --- what it computes

    def changes(self, site: Site) -> bool:
        """Whether a part does."""
        return any(part.method.changes(site) for part in self.acting(site))

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The sum of what the parts add."""
        parts = [part for part in self.at_work(site, state) if part.method.changes(site)]
        return join([part.method.change(part.own(state), site, base) for part in parts])

    def transforms(self, site: Site) -> bool:
        """Whether a part does."""
        return any(part.method.transforms(site) for part in self.acting(site))

    def transform(
        self, state: Tensors, site: Site, base: SiteWeights, x_TD: Tensor, y_TD: Tensor, rows: Rows
    ) -> Tensor:
        """The parts' transforms, each of what the one before made of the output."""
        for part in self.at_work(site, state):
            if part.method.transforms(site):
                y_TD = part.method.transform(part.own(state), site, base, x_TD, y_TD, rows)
        return y_TD

    @property
    def joins_rows(self) -> bool:
        """Whether a part does."""
        return any(part.method.joins_rows for part in self.parts)

    def prefix(self, state: Tensors, site: Site, rows: Rows) -> tuple[Tensor, Tensor]:
        """Those of the one part that has some."""
        (part,) = self.acting(site)
        return part.method.prefix(part.own(state), site, rows)

    def norm_weights(self, state: Tensors, site: Site, base: SiteWeights) -> SiteWeights | None:
        """Those of the part that trains them, which is the only one there then."""
        found = [part.method.norm_weights(part.own(state), site, base) for part in self.at_work(site, state)]
        return next((weights for weights in found if weights is not None), None)

    # --- how it is trained

    def lr_multiplier(self, parameter: str) -> float:
        """As its part says."""
        key, _, name = parameter.partition("/")
        return next((part.method.lr_multiplier(name) for part in self.parts if part.key == key), 1.0)

    @property
    def head_lr_multiplier(self) -> float:
        """The largest that a part asks for."""
        return max(part.method.head_lr_multiplier for part in self.parts)

    def decays(self, parameter: str, value: Tensor) -> bool:
        """As its part says."""
        key, _, name = parameter.partition("/")
        found = (part.method.decays(name, value) for part in self.parts if part.key == key)
        return next(found, super().decays(parameter, value))

    def num_forwards(self) -> int:
        """As many as any part needs."""
        return max(part.method.num_forwards() for part in self.parts)

    def before_step(self, adapter: AdapterTensors, step: int, num_steps: int) -> None:
        """Every part's."""
        for part in self.parts:
            if type(part.method).before_step is Method.before_step:
                continue
            with self.seen_by(part, adapter) as own:
                part.method.before_step(own, step, num_steps)

    def before_forward(self, adapter: AdapterTensors, step: int, forward: int) -> None:
        """Every part's."""
        for part in self.parts:
            if type(part.method).before_forward is Method.before_forward:
                continue
            with self.seen_by(part, adapter) as own:
                part.method.before_forward(own, step, forward)

    def agreement(self, logits_NC: Tensor, earlier: Sequence[Tensor]) -> Tensor | None:
        """The sum of the parts'."""
        found = [part.method.agreement(logits_NC, earlier) for part in self.parts]
        return sum((term for term in found if term is not None), start=torch.zeros_like(logits_NC[:, 0]))

    def penalty(self, adapter: AdapterTensors, step: int) -> Tensor | None:
        """The sum of the parts'."""
        total: Tensor | None = None
        for part in self.parts:
            if type(part.method).penalty is Method.penalty:
                continue
            with self.seen_by(part, adapter) as own:
                value = part.method.penalty(own, step)
            if value is not None:
                total = value if total is None else total + value
        return total

    def after_backward(self, adapter: AdapterTensors, step: int) -> None:
        """Every part's."""
        for part in self.parts:
            if type(part.method).after_backward is Method.after_backward:
                continue
            with self.seen_by(part, adapter) as own:
                part.method.after_backward(own, step)

    def after_step(self, adapter: AdapterTensors, step: int) -> None:
        """Every part's."""
        for part in self.parts:
            if type(part.method).after_step is Method.after_step:
                continue
            with self.seen_by(part, adapter) as own:
                part.method.after_step(own, step)

    @contextmanager
    def seen_by(self, part: Part, adapter: AdapterTensors) -> Generator[AdapterTensors]:
        """The adapter as it would be if the part were alone; what is done to it there is done to the whole."""
        sites = self._sites_of(part, adapter.sites)
        states: dict[str, SiteState] = {}
        for key in (COMMON, *(site.id for site in sites)):
            if key in adapter.states:
                state = adapter.states[key]
                states[key] = SiteState(trained=part.own(state.trained), frozen=part.own(state.frozen))
        if COMMON in states and not states[COMMON].trained:
            del states[COMMON]
        own = AdapterTensors(
            method=part.method,
            sites=sites,
            states=states,
            shared=part.own(adapter.shared),
            seed=fold(adapter.seed, part.key),
            lr=adapter.lr,
            drawn={key: mine for key, drawn in adapter.drawn.items() if (mine := part.own(drawn))},
            extra=part.own(adapter.extra),
        )
        yield own
        for key, state in own.states.items():
            part.put(adapter.states[key].trained, state.trained)
            part.put(adapter.states[key].frozen, state.frozen)
        for site in sites:
            part.put(adapter.drawn.setdefault(site.id, {}), own.drawn.get(site.id, {}))
        part.put(adapter.extra, own.extra)

    # --- how it is stored

    def merged(self, state: Tensors, site: Site, base: SiteWeights) -> SiteWeights:
        """At a norm the parts' one after the other, elsewhere the sum of what they add."""
        if site.kind != "norm":
            return super().merged(state, site, base)
        for part in self.at_work(site, state):
            base = part.method.merged(part.own(state), site, base)
        return base

    def peft_holds(self, site: Site) -> bool:
        """Never: peft joins no two types, but a sum of low-rank terms is a LoRA."""
        return False

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Nothing beyond LoRA's keys."""
        return {}

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """Nothing of its own."""
        return {}
