"""What a fine-tuning method is: its settings, its trained tensors, and what it does at a site of the frozen base.

A method never sees the training loop. At a linear site it declares a `LinearChange`, which the engine evaluates for all
lanes of a pass at once; at any other site, and at a linear one where it asks for that, it transforms the rows of its
own lane. Everything else (which tensors carry weight decay, a penalty, something to do before or after an optimizer
step) is a hook with a neutral default.

Shapes: T rows, D in_features, O out_features, R rank.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from remora.errors import ConfigError
from remora.methods.peft_settings import PeftSettings
from remora.models.base import Base, Quantization
from remora.models.sites import Site, SiteKind, find_sites, site_weight

Family = Literal["full", "head", "additive", "partial", "reparameterized", "hybrid", "unified"]
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class LogRange:
    """A range of learning rates, tuned on a logarithmic scale."""

    low: float
    high: float

    def grid(self, num_points: int) -> tuple[float, ...]:
        """The middles of `num_points` equal parts of the range in log, rounded to two digits.

        Middles rather than ends: with two points the ends would be the two worst guesses.
        """
        ratio = self.high / self.low
        values = (self.low * ratio ** ((k + 0.5) / num_points) for k in range(num_points))
        return tuple(float(f"{value:.1e}") for value in values)


class MethodConfig(BaseModel):
    """Settings of a method: strict, frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, kw_only=True)
class LinearChange:
    """What a method makes of a linear site: ``y = g * (W (l * x) + s v * (B (u * (A drop(x)))) + E x) + b + beta``.

    Args:
        A: (R, D) and B: (O, R), the low-rank term, or both None.
        rank_scale: u, (R,), and term_scale: v, (O,), with an A and a B that are frozen; or both None, for ones.
        delta: E, (O, D), a dense term.
        scale: s.
        dropout: rate on the input of the low-rank term, in training only.
        in_scale: l, (D,).
        out_scale: g, (O,).
        bias: beta, (O,), added to the base's own bias.
        observe: called with the lane's rows (T, D) of the site's input before the site computes, padding left out;
            without gradients. Passes of one step may call it from several threads.
    """

    A: Tensor | None = None
    B: Tensor | None = None
    rank_scale: Tensor | None = None
    term_scale: Tensor | None = None
    delta: Tensor | None = None
    scale: float = 1.0
    dropout: float = 0.0
    in_scale: Tensor | None = None
    out_scale: Tensor | None = None
    bias: Tensor | None = None
    observe: Callable[[Tensor], None] | None = None

    def folded(self) -> "LinearChange":
        """The same change with u and v inside B."""
        if self.B is None or self.rank_scale is None or self.term_scale is None:
            return self
        B_OR = self.term_scale[:, None] * self.B * self.rank_scale
        return replace(self, B=B_OR, rank_scale=None, term_scale=None)

    def delta_weight(self, weight_OD: Tensor) -> Tensor:
        """The weight (O, D) that computes the changed site without the method, in the dtype of `weight_OD`."""
        merged = weight_OD if self.in_scale is None else weight_OD * self.in_scale.to(weight_OD.dtype)
        B_OR = self.folded().B
        if self.A is not None and B_OR is not None:
            merged = merged + self.scale * (B_OR.to(weight_OD.dtype) @ self.A.to(weight_OD.dtype))
        if self.delta is not None:
            merged = merged + self.delta.to(weight_OD.dtype)
        return merged if self.out_scale is None else merged * self.out_scale.to(weight_OD.dtype)[:, None]


def join(changes: Sequence[LinearChange]) -> LinearChange:
    """Changes of one layer as one: what each adds to the layer's output is added up; ranks are stacked.

    Every low-rank term sees the input under one dropout mask. At most one scales the input, and what scales an output
    feature meets no other term than biases there: blocks of a fused projection have different output features, and
    methods that would break this are refused before they are attached.
    """
    if len(changes) == 1:
        return changes[0]
    changes = [change.folded() for change in changes]
    low = [change for change in changes if change.A is not None and change.B is not None]
    scale = low[0].scale if low else 1.0
    rates = {change.dropout for change in low}
    assert len(rates) <= 1, "terms joined on one layer share their dropout"
    observers = [change.observe for change in changes if change.observe is not None]

    def observe(x_TD: Tensor) -> None:
        for each in observers:
            each(x_TD)

    def total(values: list[Tensor | None], start: float) -> Tensor | None:
        given = [value for value in values if value is not None]
        if not given:
            return None
        whole = given[0]
        for value in given[1:]:
            whole = whole + value - start
        return whole

    return LinearChange(
        A=torch.cat([change.A for change in low if change.A is not None]) if low else None,
        B=torch.cat([change.B * (change.scale / scale) for change in low if change.B is not None], 1) if low else None,
        scale=scale,
        delta=total([change.delta for change in changes], 0.0),
        dropout=rates.pop() if rates else 0.0,
        in_scale=total([change.in_scale for change in changes], 1.0),
        out_scale=total([change.out_scale for change in changes], 1.0),
        bias=total([change.bias for change in changes], 0.0),
        observe=observe if observers else None,
    )


@dataclass(frozen=True, kw_only=True)
class SiteWeights:
    """The frozen tensors a method finds at a site, in the base's compute dtype.

    Args:
        weight: (O, D) of a linear site (its row block of a fused projection), (D,) of a norm, (V, D) of an embedding.
        bias: (O,) or (D,), or None.
        encode: at the token embedding of a base with a tokenizer: text -> its rows of `weight`, without special tokens.
    """

    weight: Tensor
    bias: Tensor | None
    encode: Callable[[str], Sequence[int]] | None = None


def weights_at(base: Base, site: Site, weight_OD: Tensor | None = None) -> SiteWeights:
    """The frozen tensors of a base at a site; `weight_OD` is a linear module's whole weight where it is at hand."""
    if site.kind == "linear":
        weight, bias = site_weight(base, site, weight_OD)
    elif site.name == "embedding" and base.tokenizer is not None:
        weight = base.model.get_submodule(site.module).get_parameter("weight")
        encode = partial(base.tokenizer.encode, add_special_tokens=False)
        return SiteWeights(weight=weight, bias=None, encode=encode)
    else:
        tensors = dict(base.model.get_submodule(site.module).named_parameters(recurse=False))
        weight, bias = tensors.get("weight", torch.empty(0)), tensors.get("bias")
    return SiteWeights(weight=weight, bias=bias)


Axis = Literal["ranks_in", "ranks_out", "outputs", "inputs", "tokens", "layers"]


@dataclass(frozen=True, kw_only=True)
class PeftTensor:
    """How one tensor of a site is stored in a PEFT file.

    Blocks of a fused projection share a module and hence a key: their tensors are joined into one of the whole module.

    Args:
        suffix: of the key, after the module's name.
        axis: what it runs over. "ranks_in" (R, D): blocks are stacked. "ranks_out" (O, R): every block has its own rows
            and its own columns, zero elsewhere. "outputs" (O,): every block has its own part, `fill` elsewhere.
            "inputs" (D,) and "tokens" (n, D) belong to whole modules only. "layers" (n, D): all sites of the adapter
            stand side by side in one tensor.
        shape: in the file, where it is another one, such as (-1, 1).
        fill: weight of the whole module (O, D) -> (O,) values of "outputs" that change nothing.
    """

    suffix: str
    axis: Axis
    shape: tuple[int, ...] | None = None
    fill: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a transform may know about the rows of its lane.

    Args:
        virtual_T: (T,) index of the virtual token a row stands for, -1 on real tokens; None when the lane has none.
        training: whether this is a training pass.
        dropout: x (T, any) and a rate -> x with elements dropped, in training only. Its masks belong to this call of
            the site, so that a second tensor of the same width gets the same ones.
        notes: what the lane's method left at sites that ran before in this pass, by names of its own.
        sequence_T: (T,) number of a row's sequence among the lane's. This and the two that follow are empty on tensors
            that all sequences share.
        place_T: (T,) a row's place in its sequence from 0, virtual tokens included; rows of padding come after the end.
        length_T: (T,) rows of a row's sequence, without padding.
        num_sequences: how many the lane has in this pass.
    """

    virtual_T: Tensor | None
    training: bool
    dropout: Callable[[Tensor, float], Tensor]
    notes: dict[str, Tensor]
    sequence_T: Tensor
    place_T: Tensor
    length_T: Tensor
    num_sequences: int


@dataclass(kw_only=True)
class SiteState:
    """Tensors of one method at one site: `trained` by the optimizer; `frozen` ones, stored too, only by a phase."""

    trained: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    frozen: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


class Method:
    """Base class of all methods: one instance is one method with its settings.

    Class attributes:
        name: the id, lower-case with hyphens (set by `register`).
        label: how tables call it.
        family: place in the taxonomy of Xu et al. 2023 (arXiv:2312.12148).
        citation: author, year, arXiv id.
        use_when: when to take it, to follow "use it".
        lr_range: the learning rates worth tuning: around its paper's, wider for small bases and short runs.
        peft_type: the type its adapter files carry, or None.
        mergeable: whether the trained model can be written as weights of the base's own shapes.
        site_kinds: the kinds of sites it can attach to.
        shares_base: False when it trains the base's own weights, and so runs alone in its pack.
        base_quantization: how the base must be held; ``none``: any way (but see `check_base`).
        identity_at_init: whether the model's output is unchanged before the first step.
        in_all: whether ``--methods all`` means it too; not where it stands for methods that its settings name.
        zero_gradients: ``<site name>.<tensor>`` whose gradient may be exactly zero by mathematics.
        min_train_accuracy: what "can learn" must reach with a frozen random head (64 sentences, 300 steps).
        examples: settings for the contract tests.
        Config: its settings, a class of its own.
    """

    name: ClassVar[str] = ""
    label: ClassVar[str] = ""
    family: ClassVar[Family]
    citation: ClassVar[str]
    use_when: ClassVar[str]
    lr_range: ClassVar[LogRange]
    peft_type: ClassVar[str | None] = None
    mergeable: ClassVar[bool] = False
    site_kinds: ClassVar[tuple[SiteKind, ...]] = ("linear",)
    shares_base: ClassVar[bool] = True
    base_quantization: ClassVar[Quantization] = "none"
    identity_at_init: ClassVar[bool] = True
    in_all: ClassVar[bool] = True
    zero_gradients: ClassVar[tuple[str, ...]] = ()
    min_train_accuracy: ClassVar[float] = 0.95
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    Config: ClassVar[type[MethodConfig]] = MethodConfig

    def __init__(self, config: MethodConfig) -> None:
        self.config = config

    @classmethod
    def summary(cls) -> str:
        """What it computes and trains, in a line: the first one of its file."""
        return (inspect.getdoc(inspect.getmodule(cls)) or cls.label).partition("\n")[0]

    # --- what is trained

    @property
    def targets(self) -> tuple[str, ...]:
        """Portable site names or exact module names this method attaches to; empty for none."""
        return tuple(getattr(self.config, "targets", ()))

    def sites(self, base: Base) -> tuple[Site, ...]:
        """Where it attaches in a base.

        Raises:
            ConfigError: a target matches nothing, or a kind of module the method cannot act on.
        """
        found = find_sites(base, self.targets)
        for site in found:
            if site.kind not in self.site_kinds:
                raise ConfigError(
                    f"{self.name} cannot attach to {site.name} in {base.name}: that is a {site.kind} site",
                    f"{self.name} attaches to {' and '.join(self.site_kinds)} sites",
                )
        return found

    def check_base(self, quantization: Quantization) -> None:
        """Refuse a base that is held in a way it cannot train on.

        Raises:
            ConfigError: it trains the base's own weights and they are quantised, or it needs them to be.
        """
        if not self.shares_base and quantization != "none":
            raise ConfigError(
                f"{self.label} cannot train a base quantised to {quantization}: its weights are 4-bit codes, which an"
                " optimizer cannot move by small steps",
                "leave it out (--no-full), or leave model.quantization out: qlora quantises a base of its own",
            )
        if self.base_quantization not in ("none", quantization):
            raise ConfigError(
                f"{self.label} is trained on a base quantised to {self.base_quantization}, and this one is dense",
                f'load the base with quantization="{self.base_quantization}"',
            )

    def remark(self, sites: Sequence[Site]) -> str | None:
        """What a reader of its results must know about the method at these sites, or None."""
        return None

    @property
    def num_virtual_tokens(self) -> int:
        """Tokens put before each sequence; they take their share of the text budget."""
        return 0

    @property
    def num_prefix_tokens(self) -> int:
        """How many of the virtual tokens have no rows: they are keys and values that `prefix` gives in every layer."""
        return 0

    def shared(self, sites: Sequence[Site]) -> dict[str, Tensor]:
        """Frozen float32 tensors common to all sites (VeRA's A and B), a pure function of settings and shapes."""
        return {}

    def common(self, sites: Sequence[Site], rng: torch.Generator) -> dict[str, Tensor]:
        """Trained float32 tensors that all sites use together, such as the first layer of a prefix's encoder."""
        return {}

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """Float32 tensors of one site. All randomness comes from `rng`."""
        raise AssertionError(f"{self.name} attaches to {site.name} but does not say how it starts")

    @property
    def num_survey_examples(self) -> int:
        """Training examples it looks at before it starts; 0 for none. Where some, they decide its tensors' shapes."""
        return 0

    def survey(self, adapter: "AdapterTensors", gradients: Iterable[Tensors]) -> None:
        """Runs once, before the optimizer is made: may replace the tensors of the adapter.

        Args:
            adapter: as initialised, with tensors in their place.
            gradients: per example, the gradient (O, D) of its loss by `Site.id` with respect to the site's weight.
        """

    @property
    def data_decides_shapes(self) -> bool:
        """Whether the shapes of its tensors come out of the data, so that a stored adapter may have others."""
        return self.num_survey_examples > 0

    # --- what it computes

    def changes(self, site: Site) -> bool:
        """Whether it acts at a linear site by `change`; what else it does there by `transform` comes after that."""
        return site.kind == "linear" and not self.transforms(site)

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The change of a linear site; `state` holds trained, frozen and shared tensors by name."""
        raise AssertionError(f"{self.name} has no linear form at {site.name}")

    def transforms(self, site: Site) -> bool:
        """Whether it acts at a site by `transform`."""
        return site.kind != "linear"

    @property
    def joins_rows(self) -> bool:
        """Whether what it makes of a row depends on the other rows of its text, so that none may be left out."""
        return False

    def transform(
        self, state: Tensors, site: Site, base: SiteWeights, x_TD: Tensor, y_TD: Tensor, rows: Rows
    ) -> Tensor:
        """The new output of a site, of the shape of `y_TD`, from its input `x_TD` and the base's output `y_TD`."""
        raise AssertionError(f"{self.name} does not act on {site.name}")

    def prefix(self, state: Tensors, site: Site, rows: Rows) -> tuple[Tensor, Tensor]:
        """Keys and values of an ``attention.kv`` site that stand before those of every sequence of the lane.

        Returns:
            two of (n, heads, features), or (S, n, heads, features) where they differ between the lane's S sequences;
            n is `num_prefix_tokens`. Keys are taken as they are: rotary positions are not applied to them.
        """
        raise AssertionError(f"{self.name} has no keys and values at {site.name}")

    def norm_weights(self, state: Tensors, site: Site, base: SiteWeights) -> SiteWeights | None:
        """The weight and bias with which a norm computes instead of its own, or None to `transform` its output."""
        return None

    # --- how it is trained

    def lr_multiplier(self, parameter: str) -> float:
        """Factor on the trial's learning rate for a parameter of the adapter (its name within the site)."""
        return 1.0

    @property
    def head_lr_multiplier(self) -> float:
        """Factor on the trial's learning rate for the task's head."""
        return 1.0

    def decays(self, parameter: str, value: Tensor) -> bool:
        """Whether weight decay applies: matrices only; biases, norms, scales and vectors are exempt."""
        return value.ndim >= 2

    def num_forwards(self) -> int:
        """Forward passes per step and example; the loss is their mean."""
        return 1

    def before_step(self, adapter: "AdapterTensors", step: int, num_steps: int) -> None:
        """Phases and schedules: runs before optimizer step `step` (from 0) computes. May change adapter tensors.

        What is random in a step goes into `AdapterTensors.drawn`, from a generator of the adapter's seed and step.
        Called once more for the same step when memory ran out and the step is begun again.
        """

    def before_forward(self, adapter: "AdapterTensors", step: int, forward: int) -> None:
        """Runs before each of a step's forwards (from 0); what it draws is seen by all passes of that forward."""

    def agreement(self, logits_NC: Tensor, earlier: Sequence[Tensor]) -> Tensor | None:
        """A term (N,) of the examples' losses that compares a step's forward with those before it, or None.

        Args:
            logits_NC: of a forward after the first.
            earlier: logits (N, C) of each forward before it for the same examples; constants of the backward pass.
        """
        return None

    def penalty(self, adapter: "AdapterTensors", step: int) -> Tensor | None:
        """A scalar added to the lane's loss, or None."""
        return None

    def after_backward(self, adapter: "AdapterTensors", step: int) -> None:
        """May edit the gradients before clipping."""

    def after_step(self, adapter: "AdapterTensors", step: int) -> None:
        """May edit the trained tensors in place after the optimizer step (proximal steps, projections)."""

    def variants(self) -> Mapping[str, Tensors]:
        """Other forms of the trained adapter to score besides the one that is kept, such as smaller ranks.

        Returns:
            what a reader calls it -> tensors that every site finds besides its own while that form is scored.
        """
        return {}

    # --- how it is stored

    def merged(self, state: Tensors, site: Site, base: SiteWeights) -> SiteWeights:
        """The site's weight and bias in a model that computes the same without the method; only if `mergeable`."""
        norm = self.norm_weights(state, site, base) if site.kind == "norm" else None
        if norm is not None:
            return norm
        change = self.change(state, site, base)
        bias = base.bias
        if change.bias is not None:
            assert bias is not None, "without a bias in the base a trained one has no place to go"
            bias = bias + change.bias.to(bias.dtype)
        return SiteWeights(weight=change.delta_weight(base.weight), bias=bias)

    def peft_holds(self, site: Site) -> bool:
        """Whether its PEFT type can hold a site.

        Where one is not held, low-rank changes are stored as LoRA instead, and norms as whole modules beside them.
        """
        return True

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """The method's own keys of `adapter_config.json` (without the common ones)."""
        raise AssertionError(f"{self.name} has no PEFT format")

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """How a site's tensors are stored, by short name: trained ones, and frozen ones that nothing else gives."""
        raise AssertionError(f"{self.name} has no PEFT format")

    @property
    def peft_exact(self) -> bool:
        """Whether the PEFT file gives every tensor back bit for bit; where it does not, Remora's own file is kept."""
        return True

    def peft_state(self, state: Tensors, site: Site) -> Tensors:
        """The tensors that `peft_layout` names; computed from the trained ones where peft stores only a result."""
        return state

    def peft_shared(self) -> Mapping[str, str]:
        """Shared tensors that the PEFT file holds: short name -> key below ``base_model.``."""
        return {}

    @classmethod
    def from_peft(cls, given: PeftSettings, modules: Sequence[str]) -> dict[str, Any] | None:
        """Settings with which it computes what an adapter written by peft computes; `targets` are set by the reader.

        Args:
            given: of the adapter; every key that may say something is taken, skipped or refused.
            modules: full names of the modules it changes. Where they differ in their settings, those of the first.

        Returns:
            None where such a file is another method's affair.

        Raises:
            ConfigError: the adapter does what no method here does.
        """
        return None

    def rescaled(self, state: Tensors, own: "Method") -> Tensors:
        """Tensors with which this method does at a site what `own`, its like with other settings, does with `state`."""
        return state


COMMON = "common"
"""Key of the tensors that all sites of an adapter train together."""


@dataclass(kw_only=True)
class AdapterTensors:
    """All tensors of one adapter.

    Args:
        method: the method they belong to.
        sites: where it is attached, in order.
        states: per site key (`Site.id`), its trained and frozen tensors; trained ones are leaves with `.grad`. Those
            that all sites train together stand under `COMMON`.
        shared: what `Method.shared` gave.
        seed: of the trial's init stream, from which hooks derive generators of their own.
        lr: learning rate of the step being taken, before a parameter's own multiplier; set by the loop.
        drawn: per site key, what `before_step` drew for the present step (noise, a rank); training passes alone see it.
        extra: state of the method's own between steps; kept in checkpoints.
        variant: what all sites find besides while one of `Method.variants` is scored.
    """

    method: Method
    sites: tuple[Site, ...]
    states: dict[str, SiteState]
    shared: dict[str, Tensor]
    seed: int = 0
    lr: float = 0.0
    drawn: dict[str, dict[str, Tensor]] = field(default_factory=dict[str, dict[str, Tensor]])
    extra: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    variant: Tensors = field(default_factory=dict[str, Tensor])

    def at(self, site: Site, *, training: bool = False) -> dict[str, Tensor]:
        """Trained, frozen, common and shared tensors of a site by short names; in training also the drawn ones."""
        state = self.states[site.id]
        common = self.states[COMMON].trained if COMMON in self.states else {}
        drawn = self.drawn.get(site.id, {}) if training else {}
        return {**self.shared, **common, **state.frozen, **state.trained, **drawn, **self.variant}

    def trained(self) -> dict[str, Tensor]:
        """Trained tensors under ``<site key>.<name>``, in a fixed order."""
        return {f"{key}.{name}": value for key, state in self.states.items() for name, value in state.trained.items()}

    def num_params(self) -> int:
        """Number of trained numbers in the adapter."""
        return sum(value.numel() for value in self.trained().values())


def init_adapter(
    method: Method, sites: Sequence[Site], weights: Callable[[Site], SiteWeights], seed: int
) -> AdapterTensors:
    """Draw a fresh adapter; each site has a random stream of its own, so neither order nor neighbours matter.

    Args:
        method: method with its settings.
        sites: where it attaches.
        weights: gives the frozen tensors at a site; asked for one after the other, as those of a quantised base are
            made for the moment.
        seed: the trial's init seed.
    """
    from remora.seeds import torch_generator

    shared = method.shared(sites)
    common = method.common(sites, torch_generator(seed, "init", COMMON)) if sites else {}
    states = {COMMON: SiteState(trained=common)} if common else {}
    for site in sites:
        states[site.id] = method.init(site, weights(site), shared, torch_generator(seed, "init", site.id))
    return AdapterTensors(method=method, sites=tuple(sites), states=states, shared=shared, seed=seed)


def num_params(method: Method, base: Base) -> int:
    """Numbers that a method trains of a base: those of its adapter, or the base's own; the head is not counted.

    Raises:
        ConfigError: the method cannot attach to the base.
    """
    if not method.shares_base:
        return base.num_params
    sites = method.sites(base)
    return init_adapter(method, sites, partial(weights_at, base), seed=0).num_params()
