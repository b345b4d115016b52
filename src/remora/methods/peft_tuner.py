"""A tuner of the installed peft: what its layer makes of a linear layer, with peft's own code and settings.

A bridge for methods that have no file here: `peft:LOKR` (the default: a Kronecker product; Yeh et al. 2023, "Navigating
text-to-image customization", arXiv:2309.14859, section 3.3), `peft:OFT`, `peft:C3A` ... Everything a tuner keeps must
lie in its layers, and it must leave the base as it is; tuners with a schedule outside, state shared between
layers, or virtual tokens are refused. The layer computes W x itself, in float32 and for one lane at a time, so it costs
more than a method of its own would. Most tuners leave the base's output as it is before the first step; FourierFT, for
one, does not. Not mergeable; stored in Remora's own layout.
"""

import copy
import dataclasses
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict
from torch import Tensor, nn
from torch.func import functional_call

from remora.errors import ConfigError
from remora.methods.base import LogRange, Method, MethodConfig, Rows, SiteState, SiteWeights, Tensors
from remora.methods.registry import register
from remora.models.base import Base
from remora.models.sites import Site

_OURS = frozenset(
    {"task_type", "inference_mode", "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform"}
    | {"layers_pattern", "rank_pattern", "alpha_pattern", "auto_mapping", "base_model_name_or_path", "revision"}
)
"""Settings of peft that say where a tuner goes and what becomes of it; Remora says that itself."""

_ELSEWHERE = {
    "ADALORA": "its schedule runs outside its layers; take adalora",
    "LN_TUNING": "it replaces norms; take ln-tuning",
    "IA3": "take ia3",
}
_INNER = "base_layer."


class _Holder(nn.Module):
    """A model of one linear layer, as peft wants to be given a model."""

    def __init__(self, weight_OD: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.config = {"model_type": "custom"}
        self.site: nn.Module = nn.Linear(weight_OD.shape[1], weight_OD.shape[0], bias_O is not None, device="meta")
        self.site.register_parameter("weight", nn.Parameter(weight_OD, requires_grad=False))
        if bias_O is not None:
            self.site.register_parameter("bias", nn.Parameter(bias_O, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.site(x)


@register("peft")
class PeftTuner(Method):
    """A layer-wise tuner of peft."""

    label: ClassVar[str] = "peft tuner"
    family: ClassVar = "reparameterized"
    citation: ClassVar[str] = "the tuner's own; LoKr: Yeh et al. 2023, arXiv:2309.14859"
    use_when: ClassVar[str] = (
        "to see a tuner of peft beside the methods here: peft:LOKR, peft:OFT, peft:C3A,block_size=32"
    )
    lr_range: ClassVar[LogRange] = LogRange(3e-4, 3e-2)
    in_all: ClassVar[bool] = False
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"type": "HRA", "r": 4, "targets": ("ffn.up", "attention.o")},
    )

    class Config(MethodConfig):
        """The tuner's PEFT type and where to attach; every further setting is one of its own in peft."""

        model_config = ConfigDict(frozen=True, extra="allow")

        type: str = "LOKR"
        targets: tuple[str, ...] = ("attention.q", "attention.v")

    config: Config

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self._here = threading.local()
        self._peft = self._peft_config()

    def sites(self, base: Base) -> tuple[Site, ...]:
        """Linear sites; a layer of every shape is tried, so that a setting that does not fit is found here."""
        found = super().sites(base)
        tried: set[tuple[int, int]] = set()
        for site in found:
            shape = (site.out_features, site.in_features)
            if shape not in tried:
                tried.add(shape)
                self._try(torch.randn(shape, generator=torch.Generator().manual_seed(0)), f"{site.name} of {base.name}")
        return found

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """As peft starts; what the layer keeps besides (indices, fixed bases) is frozen."""
        layer = self._layer(base.weight.float().clone(), base.bias, int(torch.randint(2**31, (), generator=rng)))
        trained = {name: value for name, value in layer.named_parameters() if value.requires_grad}
        kept = {name: value for name, value in _tensors(layer).items() if name not in trained}
        return SiteState(
            trained={_short(name): value.detach().float().clone() for name, value in trained.items()},
            frozen={_short(name): value.detach().clone() for name, value in kept.items()},
        )

    def transforms(self, site: Site) -> bool:
        """Everywhere."""
        return True

    def transform(
        self, state: Tensors, site: Site, base: SiteWeights, x_TD: Tensor, y_TD: Tensor, rows: Rows
    ) -> Tensor:
        """What peft's layer computes, in the trained tensors' precision."""
        layer = self._live(site, base)
        own = {name: state[_short(name)] for name in _tensors(layer)}
        precision = next(value.dtype for value in own.values() if value.is_floating_point())
        own[f"{_INNER}weight"] = base.weight.to(precision)
        if base.bias is not None:
            own[f"{_INNER}bias"] = base.bias.to(precision)
        return functional_call(layer, own, (x_TD.to(precision),)).to(y_TD.dtype)

    def _live(self, site: Site, base: SiteWeights) -> nn.Module:
        """The site's layer of this thread, whose tensors are replaced in every call."""
        layers: dict[str, nn.Module] | None = getattr(self._here, "layers", None)
        if layers is None:
            layers = self._here.layers = {}
        if site.id not in layers:
            layers[site.id] = self._layer(base.weight.float().clone(), base.bias, seed=0)
        return layers[site.id]

    def _layer(self, weight_OD: Tensor, bias_O: Tensor | None, seed: int) -> nn.Module:
        """peft's layer around a linear one that may be written to.

        In evaluation mode, as some layers draw from torch's global stream in training even without dropout.
        """
        from peft import inject_adapter_in_model

        holder = _Holder(weight_OD, None if bias_O is None else bias_O.float().clone())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(copy.deepcopy(self._peft), holder)
        return holder.site.to(weight_OD.device).eval()

    def _peft_config(self) -> Any:
        """peft's configuration of the tuner.

        Raises:
            ConfigError: peft is missing or has no such tuner, or a setting is not one of its own.
        """
        try:
            from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
        except ImportError:
            raise ConfigError(
                f"peft:{self.config.type} needs the package peft", "install it: pip install peft"
            ) from None
        known: dict[str, Any] = {str(kind.value): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        tuners = {str(kind.value) for kind in PEFT_TYPE_TO_TUNER_MAPPING}
        name = self.config.type.upper()
        if name in _ELSEWHERE:
            raise ConfigError(f"peft:{name} cannot be run through the bridge", _ELSEWHERE[name])
        if name not in known or name not in tuners:
            raise ConfigError(
                f"the installed peft has no tuner {self.config.type!r}",
                f"it has {', '.join(sorted(tuners & set(known)))}",
            )
        fields = {field.name for field in dataclasses.fields(known[name])}
        if "target_modules" not in fields:
            raise ConfigError(f"peft:{name} puts no layers around linear ones", "the bridge runs tuners that do")
        fields -= _OURS
        settings: Mapping[str, Any] = self.config.model_extra or {}
        unknown = sorted(set(settings) - fields)
        if unknown:
            raise ConfigError(
                f"peft:{name} has no setting {', '.join(unknown)}", f"its settings: {', '.join(sorted(fields))}"
            )
        drawn = sorted(key for key, value in settings.items() if "dropout" in key and value)
        if drawn:
            raise ConfigError(
                f"peft:{name}: {', '.join(drawn)} would draw from torch's global stream", "leave it at 0 here"
            )
        try:
            return known[name](target_modules=["site"], **settings)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"peft:{name}: {error}", f"its settings: {', '.join(sorted(fields))}") from error

    def _try(self, weight_OD: Tensor, where: str) -> None:
        """Make a layer and run it once.

        Raises:
            ConfigError: peft refuses, or the tuner does something that the bridge cannot keep apart from other trials.
        """
        name = f"peft:{self.config.type.upper()}"
        before = weight_OD.clone()
        try:
            layer = self._layer(weight_OD, None, seed=0)
            evaluated, trained = _runs(layer, weight_OD.shape[1])
        except Exception as error:
            raise ConfigError(
                f"{name} cannot attach to {where}: {error}", "see the tuner's settings in peft"
            ) from error
        if not torch.equal(evaluated, trained):
            raise ConfigError(f"{name} computes something else in training", "the bridge trains as it evaluates")
        inner = dict(layer.named_parameters()).get(f"{_INNER}weight")
        if inner is None or not torch.equal(inner, before):
            raise ConfigError(f"{name} changes the base's weights", "the base is shared by all trials")
        if not any(value.requires_grad for value in layer.parameters()):
            raise ConfigError(f"{name} trains nothing in the layer itself", "its state is shared between layers")


@torch.no_grad()
def _runs(layer: nn.Module, in_features: int) -> tuple[Tensor, Tensor]:
    """What a layer with random weights makes of random rows in evaluation and in training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for value in layer.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn_like(value))
        x = torch.randn(3, in_features)
        return layer.eval()(x), layer.train()(x)


def _tensors(layer: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a tuner's layer without those of the base."""
    found = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    return {name: value for name, value in found.items() if not name.startswith(_INNER)}


def _short(name: str) -> str:
    """A tensor's name without dots, which separate sites from names here."""
    return name.replace(".default", "").replace(".", "_")
