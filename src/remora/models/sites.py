"""Sites: the places in a base model where methods attach, under names that mean the same in every architecture.

``attention.q|k|v|o``, ``ffn.up|gate|down``: linear layers (in fused projections, blocks of their output rows);
``attention.qkv``, ``ffn.gate_up``: a fused projection as a whole; ``linear``: every linear layer of the layers, fused
ones whole; ``norm``: every norm of the residual stream (``norm.attention|ffn|embedding|final``);
``norm.q|k``, ``norm.relative``: norms on other tensors, by these names only; ``embedding``: the token embedding;
``block``: a layer's output; ``attention.kv``: extra keys and values of a layer's attention; and any module by its path.

Both stacks of an encoder-decoder have the same names: ``attention`` is self-attention, and the decoder has
``cross.q|k|v|o`` and ``norm.cross`` besides. Layers are counted through, the encoder's first. ``embedding`` embeds what
the encoder reads (``embedding.decoder`` the rest). Only the encoder's layers have a ``block``: what is done to the last
tokens of a text cannot be done to one that is still being written.
The head and the pooler are not part of the backbone and can never match.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from remora.errors import ConfigError, ModelError
from remora.models.architectures import Fused, Inner, LayerPath
from remora.models.base import Base
from remora.models.frozen_linear import NF4Linear, linear_weight

SiteKind = Literal["linear", "norm", "embedding", "block", "kv"]

# Norms of something else than the residual stream: heads' queries and keys, DeBERTa's relative positions.
_OTHER_NORMS = frozenset({"norm.q", "norm.k", "norm.relative"})
_ON_SOURCE = frozenset({"cross.k", "cross.v"})


@dataclass(frozen=True, kw_only=True)
class Site:
    """A place where a method attaches.

    Args:
        name: portable name, such as ``"attention.q"``; the module path for a module that has none.
        module: path of the module in the backbone.
        hf_prefix: ``hf_prefix + module`` is the module's name in transformers' classification model.
        layer: index of the (first) layer it belongs to; -1 outside the layers.
        kind: what the module is.
        in_features: features of the module's input (vocabulary size for an embedding).
        out_features: features of this site's output; the rows of its block for a part of a fused projection.
        bias: whether the module has a bias.
        transposed: the weight is stored (in, out), as GPT-2's Conv1D does.
        block: (start, stop) of this site's output rows in a fused projection; None for the whole module.
        index: this site's output rows where they are not one block (GPT-NeoX alternates q, k, v per head).
        calls: how often one pass runs the module (ALBERT); the call index is part of what keys dropout.
        shared: the module is also called on tensors without lane rows, so that it serves one lane per pass.
        heads: number of key-value heads of a ``kv`` site, else 0.
        source: the module is part of a decoder and computes on the rows of its encoder.
    """

    name: str
    module: str
    hf_prefix: str
    layer: int
    kind: SiteKind
    in_features: int
    out_features: int
    bias: bool = False
    transposed: bool = False
    block: tuple[int, int] | None = None
    index: tuple[int, ...] | None = None
    calls: int = 1
    shared: bool = False
    heads: int = 0
    source: bool = False

    @property
    def hf_name(self) -> str:
        """The module's name in transformers' classification model."""
        return self.hf_prefix + self.module

    @property
    def id(self) -> str:
        """Unique name: the module, and for a part of a fused projection which part."""
        return self.module if self.block is None and self.index is None else f"{self.module}[{self.name}]"

    @property
    def is_part(self) -> bool:
        """Whether this is a part of a fused projection."""
        return self.block is not None or self.index is not None

    def rows(self) -> slice | Tensor:
        """What selects this site's output features in the module's output (last dimension)."""
        if self.index is not None:
            return torch.tensor(self.index)
        return slice(None) if self.block is None else slice(*self.block)


def all_sites(base: Base) -> tuple[Site, ...]:
    """Every named site of a base, in the order of the computation's layers.

    Raises:
        ModelError: the model has not the shape its architecture says.
    """
    modules = dict(base.model.named_modules())
    sites = list(_outer_sites(base, modules))
    for layer in base.arch.layer_paths(base.config):
        sites += _layer_sites(base, modules, layer)
    return tuple(sites)


def find_sites(base: Base, targets: Sequence[str]) -> tuple[Site, ...]:
    """The sites that targets name.

    Args:
        base: the base model.
        targets: portable names, groups (``linear``, ``norm``) or module paths (with or without the prefix of the
            classification model).

    Returns:
        Each site once, in the order of ``all_sites``; modules without a portable name after them.

    Raises:
        ConfigError: a target matches nothing, or two targets name a fused projection and a part of it.
    """
    known = all_sites(base)
    chosen: dict[str, Site] = {}
    for target in targets:
        for site in _matching(base, known, target):
            chosen[site.id] = site
    order = {site.id: i for i, site in enumerate(known)}
    found = sorted(chosen.values(), key=lambda site: order.get(site.id, len(order)))
    whole = {site.module for site in found if site.kind == "linear" and not site.is_part}
    for site in found:
        if site.is_part and site.module in whole:
            raise ConfigError(
                f"targets {', '.join(targets)} name {site.hf_name} as a whole and its part {site.name}",
                "name either the fused projection or its parts",
            )
    return tuple(found)


def site_weight(base: Base, site: Site, weight_OI: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """A linear site's own weight and bias, as views where possible.

    Args:
        base: the base model.
        site: of it.
        weight_OI: the whole module's weight where the caller has it; a quantised one is made dense otherwise.

    Returns:
        weight_OI (out_features, in_features) and bias_O or None, of this site's rows only.
    """
    if site.kind != "linear":
        raise ConfigError(f"{site.id} is not a linear layer", "choose a linear site such as attention.q")
    module = base.model.get_submodule(site.module)
    whole_OI = linear_weight(module) if weight_OI is None else weight_OI
    rows = site.rows()
    bias = module.get_parameter("bias")[rows] if site.bias else None
    return whole_OI[rows], bias


def _matching(base: Base, known: tuple[Site, ...], target: str) -> list[Site]:
    if target == "linear":
        found = [site for site in known if site.kind == "linear" and not site.is_part]
    elif target == "norm":
        found = [site for site in known if site.kind == "norm" and site.name not in _OTHER_NORMS]
    elif target == "attention.kv" and base.arch.layout == "padded":
        raise ConfigError(
            f"extra keys and values (prefix tuning and its kin) are not available for {base.name}",
            f"attention of {base.arch.model_type} takes none from outside; choose another method for this model",
        )
    else:
        found = [site for site in known if site.name == target]
    return found or _by_path(base, known, target)


def _by_path(base: Base, known: tuple[Site, ...], target: str) -> list[Site]:
    """The escape hatch: a module by its exact path."""
    modules = dict(base.model.named_modules())
    for path in (target, target.removeprefix(base.arch.hf_prefix)):
        named = [site for site in known if site.module == path and not site.is_part and site.kind != "kv"]
        if named:
            return named
        if path and path in modules:
            return [_unnamed(base, path, modules[path])]
    raise _no_such_target(base, known, target, modules)


def _no_such_target(base: Base, known: tuple[Site, ...], target: str, modules: dict[str, nn.Module]) -> ConfigError:
    names = sorted({site.name for site in known} | {"linear", "norm"})
    near = difflib.get_close_matches(target, [*names, *modules], n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(
        f"target {target!r} matches nothing in {base.name} ({base.arch.model_type})",
        f"{hint}there are {', '.join(names)}; or the exact path of a module, such as {known[-1].module}",
    )


def _unnamed(base: Base, path: str, module: nn.Module) -> Site:
    if isinstance(module, nn.Linear | Conv1D | NF4Linear):
        return _linear_site(base, path, path, module, layer=-1, calls=1, shared=False)
    if isinstance(module, nn.Embedding):
        return _embedding_site(base, path, path, module)
    parameters = dict(module.named_parameters(recurse=False))
    if set(parameters) in ({"weight"}, {"weight", "bias"}) and parameters["weight"].dim() == 1:
        return _norm_site(base, path, path, module, layer=-1, calls=1, shared=False)
    raise ConfigError(
        f"{path} in {base.name} is a {type(module).__name__}; methods attach to linear layers, norms and embeddings",
        "name one of the modules inside it",
    )


def _outer_sites(base: Base, modules: dict[str, nn.Module]) -> Iterator[Site]:
    arch = base.arch
    embeddings = {"embedding": arch.embedding} if arch.decoder is None else arch.decoder.embeddings
    for name, path in embeddings.items():
        yield _embedding_site(base, name, path, _must_have(base, modules, path))
    for norms in (arch.outer_norms, {} if arch.decoder is None else arch.decoder.outer_norms):
        for name, path in norms.items():
            if _is_norm(modules.get(path)):
                shared = name in arch.shared_calls
                yield _norm_site(base, name, path, modules[path], layer=-1, calls=1, shared=shared)


def _layer_sites(base: Base, modules: dict[str, nn.Module], layer: LayerPath) -> Iterator[Site]:
    arch = base.arch
    stack = arch if arch.decoder is None or not layer.decoder else arch.decoder
    _must_have(base, modules, layer.path)
    if arch.layout == "packed":
        yield _kv_site(base, layer)
    for name, inner in stack.linear.items():
        path = _present(modules, layer, inner)
        if name in arch.optional and path not in modules:
            continue
        module = _must_have(base, modules, path)
        yield _linear_site(
            base, name, path, module, layer=layer.index, calls=layer.calls, shared=name in arch.shared_calls
        )
    for name, fused in arch.fused.items():
        path = f"{layer.path}.{fused.module}"
        whole = _linear_site(
            base, name, path, _must_have(base, modules, path), layer=layer.index, calls=layer.calls, shared=False
        )
        yield whole
        yield from _parts(base, whole, fused)
    for name, inner in stack.norms.items():
        path = f"{layer.path}.{inner}"
        if _is_norm(modules.get(path)):  # ModernBERT's first layer has an identity there
            yield _norm_site(base, name, path, modules[path], layer=layer.index, calls=layer.calls, shared=False)
    if layer.decoder:
        return
    width = int(base.config.hidden_size)
    yield Site(
        name="block",
        module=layer.path,
        hf_prefix=arch.hf_prefix,
        layer=layer.index,
        kind="block",
        in_features=width,
        out_features=width,
        calls=layer.calls,
    )


def _present(modules: dict[str, nn.Module], layer: LayerPath, inner: Inner) -> str:
    """The path of a layer's module; of several possible ones that which is there, else the first."""
    paths = [f"{layer.path}.{each}" for each in ((inner,) if isinstance(inner, str) else inner)]
    return next((path for path in paths if path in modules), paths[0])


def _parts(base: Base, whole: Site, fused: Fused) -> Iterator[Site]:
    sizes = fused.sizes(base.config)
    if sum(sizes) != whole.out_features:
        raise ModelError(f"{whole.hf_name} of {base.name} has {whole.out_features} rows, expected {sum(sizes)}")
    groups = 1 if fused.interleaved is None else fused.interleaved(base.config)
    period = whole.out_features // groups
    start = 0
    for name, size in zip(fused.parts, sizes, strict=True):
        width = size // groups
        index = tuple(group * period + start + i for group in range(groups) for i in range(width))
        contiguous = groups == 1
        yield Site(
            name=name,
            module=whole.module,
            hf_prefix=whole.hf_prefix,
            layer=whole.layer,
            kind="linear",
            in_features=whole.in_features,
            out_features=size,
            bias=whole.bias,
            transposed=whole.transposed,
            block=(start, start + size) if contiguous else None,
            index=None if contiguous else index,
            calls=whole.calls,
        )
        start += width


def _linear_site(base: Base, name: str, path: str, module: nn.Module, *, layer: int, calls: int, shared: bool) -> Site:
    if isinstance(module, NF4Linear):
        transposed, outputs, inputs = module.transposed, module.out_features, module.in_features
    else:
        transposed = isinstance(module, Conv1D)
        if not transposed and not isinstance(module, nn.Linear):
            what = f"{base.arch.hf_prefix}{path} of {base.name} is a {type(module).__name__}"
            raise ModelError(f"{what}, not a linear layer")
        outputs, inputs = linear_weight(module).shape
    return Site(
        name=name,
        module=path,
        hf_prefix=base.arch.hf_prefix,
        layer=layer,
        kind="linear",
        in_features=int(inputs),
        out_features=int(outputs),
        bias="bias" in dict(module.named_parameters(recurse=False)),
        transposed=transposed,
        calls=calls,
        shared=shared,
        source=name in _ON_SOURCE,
    )


def _norm_site(base: Base, name: str, path: str, module: nn.Module, *, layer: int, calls: int, shared: bool) -> Site:
    parameters = dict(module.named_parameters(recurse=False))
    width = int(parameters["weight"].shape[0])
    return Site(
        name=name,
        module=path,
        hf_prefix=base.arch.hf_prefix,
        layer=layer,
        kind="norm",
        in_features=width,
        out_features=width,
        bias="bias" in parameters,
        calls=calls,
        shared=shared,
    )


def _embedding_site(base: Base, name: str, path: str, module: nn.Module) -> Site:
    rows, width = module.get_parameter("weight").shape
    return Site(
        name=name,
        module=path,
        hf_prefix=base.arch.hf_prefix,
        layer=-1,
        kind="embedding",
        in_features=int(rows),
        out_features=int(width),
    )


def _kv_site(base: Base, layer: LayerPath) -> Site:
    config = base.config.to_dict()
    heads = int(config.get("num_key_value_heads") or base.config.num_attention_heads)
    head_dim = int(config.get("head_dim") or base.config.hidden_size // base.config.num_attention_heads)
    return Site(
        name="attention.kv",
        module=f"{layer.path}.{base.arch.attention}",
        hf_prefix=base.arch.hf_prefix,
        layer=layer.index,
        kind="kv",
        in_features=heads * head_dim,
        out_features=heads * head_dim,
        calls=layer.calls,
        heads=heads,
    )


def _is_norm(module: nn.Module | None) -> bool:
    """A norm with a weight to train; some configurations have none (absent, identity, without parameters)."""
    return module is not None and "weight" in dict(module.named_parameters(recurse=False))


def _must_have(base: Base, modules: dict[str, nn.Module], path: str) -> nn.Module:
    if path not in modules:
        raise ModelError(
            f"{base.name} has no module {path}, which the architecture {base.arch.model_type} should have",
            "this version of transformers may lay the model out differently; Remora is tested with 5.23",
        )
    return modules[path]


def names_of(sites: Iterable[Site]) -> tuple[str, ...]:
    """The distinct portable names among sites, in their order."""
    return tuple(dict.fromkeys(site.name for site in sites))
