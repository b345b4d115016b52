"""Every method as its paper's formula, on padded batches of transformers' own model, in plain torch.

Nothing of the engine is used: no LinearChange, no layout. Dense weights are built where the engine avoids them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from scipy.linalg import hadamard
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from remora.methods.base import Method
from remora.methods.said import normals, signs_and_order
from remora.models.base import Base
from remora.models.heads import HeadTemplate
from remora.models.sites import Site
from tests import naive_parts

# (settings, tensors of the site, weight (O, D), bias (O,) or None, x, whether the site is a feed-forward one) -> y.
# Beside the tensors stand the inputs of sites that ran before, by their portable names.
Formula = Callable[[Mapping[str, Any], Mapping[str, Tensor], Tensor, Tensor | None, Tensor, bool], Tensor]


def _lora_delta(settings: Mapping[str, Any], p: Mapping[str, Tensor]) -> Tensor:
    return settings["alpha"] / settings["rank"] * (p["lora_B"] @ p["lora_A"])


def _lora(settings, p, W, b, x, ffn):
    return F.linear(x, W + _lora_delta(settings, p), b)


def _rslora(settings, p, W, b, x, ffn):
    return F.linear(x, W + settings["alpha"] / math.sqrt(settings["rank"]) * (p["lora_B"] @ p["lora_A"]), b)


def _dora(settings, p, W, b, x, ffn):
    V = W + _lora_delta(settings, p)
    return F.linear(x, p["magnitude"][:, None] * V / V.norm(dim=1, keepdim=True).detach(), b)


def _vera(settings, p, W, b, x, ffn):
    A, B = p["vera_A"][:, : W.shape[1]], p["vera_B"][: W.shape[0]]
    return F.linear(x, W + torch.diag(p["lambda_b"]) @ B @ torch.diag(p["lambda_d"]) @ A, b)


def _ia3(settings, p, W, b, x, ffn):
    return F.linear(x * p["scale"], W, b) if ffn else F.linear(x, W, b) * p["scale"]


def _bitfit(settings, p, W, b, x, ffn):
    return F.linear(x, W, p["bias"] if b is None else b + p["bias"])


_NONLINEAR = {"relu": torch.relu, "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), "silu": F.silu}


def _bottleneck(settings, p, x):
    return _NONLINEAR[settings["activation"]](x @ p["down"].T + p["down_bias"]) @ p["up"].T + p["up_bias"]


def _serial(settings, p, W, b, x, ffn):
    y = F.linear(x, W, b)
    return y + _bottleneck(settings, p, y)


def _compacter(settings, p, W, b, x, ffn):
    dense = dict(p)
    for name in ("down", "up"):
        products = zip(p["factors"], p[f"{name}_s"], p[f"{name}_t"], strict=True)
        dense[name] = sum(torch.kron(A, s @ t) for A, s, t in products)
    return _serial(settings, dense, W, b, x, ffn)


def _parallel(settings, p, W, b, x, ffn):
    y = F.linear(x, W, b)
    return y + settings["scale"] * _bottleneck(settings, p, p["ffn.up"]) if ffn else y


def _pissa(settings, p, W, b, x, ffn):
    scale = settings["alpha"] / settings["rank"]
    residual = W - scale * p["start_B"] @ p["start_A"]
    return F.linear(x, residual + scale * p["lora_B"] @ p["lora_A"], b)


def _loha(settings, p, W, b, x, ffn):
    delta = (p["B_1"] @ p["A_1"]) * (p["B_2"] @ p["A_2"])
    return F.linear(x, W + settings["alpha"] / settings["rank"] * delta, b)


def _adalora(settings, p, W, b, x, ffn):
    delta = p["lora_B"] @ torch.diag(p["lora_E"]) @ p["lora_A"]
    return F.linear(x, W + settings["alpha"] / settings["initial_rank"] * delta, b)


def _dylora(settings, p, W, b, x, ffn):
    rank = int(p["rank"])
    outer = [torch.outer(p["lora_B"][:, k], p["lora_A"][k]) for k in range(rank)]
    return F.linear(x, W + settings["alpha"] / rank * torch.stack(outer).sum(0), b)


def _sora(settings, p, W, b, x, ffn):
    low = F.linear(x, p["lora_A"]) * p["gate"]
    return F.linear(x, W, b) + settings["alpha"] / settings["rank"] * F.linear(low, p["lora_B"])


def _delta_lora(settings, p, W, b, x, ffn):
    scale = settings["alpha"] / settings["rank"]
    gone = (p["lora_B"] @ p["lora_A"]).detach() - p["start_B"] @ p["start_A"]
    weight = W + settings["ratio"] * scale * p["started"] * gone
    return F.linear(x, weight, b) + scale * F.linear(F.linear(x, p["lora_A"]), p["lora_B"])


def _own_weights(settings, p, W, b, x, ffn):
    return F.linear(x, p["weight"], p.get("bias"))


def _weight_mask(settings, p, W, b, x, ffn):
    hard = (p["scores"] > 0).to(W.dtype)
    mask = hard + p["scores"] - p["scores"].detach()  # its gradient goes to the scores as it is
    return F.linear(x, W * mask, b)


def _fish_mask(settings, p, W, b, x, ffn):
    delta = torch.zeros_like(W).flatten().scatter(0, p["index"], p["values"])
    return F.linear(x, W + delta.view(W.shape), b)


def _peft(settings, p, W, b, x, ffn):
    if settings["type"] == "LOKR":  # with peft's own r = alpha = 8
        right = p["lokr_w2"] if "lokr_w2" in p else p["lokr_w2_a"] @ p["lokr_w2_b"]
        return F.linear(x, W + torch.kron(p["lokr_w1"], right), b)
    for u in p["hra_u"].T:  # HRA: a chain of reflections of the input
        W = W - 2 * torch.outer(W @ u, u) / (u @ u)
    return F.linear(x, W, b)


def _said(settings, p, W, b, x, ffn):
    return F.linear(x, W + p["projected"], b)


def _fastfood(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], site: Site) -> Tensor:
    """A site's projected vector, with dense matrices; only the random numbers are the method's."""
    theta, num = tensors["common.theta"], site.out_features * site.in_features
    length = 2 ** math.ceil(math.log2(len(theta)))
    H = torch.from_numpy(hadamard(length)).to(theta.dtype)
    signs, order = signs_and_order(settings["projection_seed"], site.id, length, theta.device)
    G = normals(settings["projection_seed"], math.ceil(num / length), length, theta.dtype, theta.device)
    filled = torch.cat([theta, theta.new_zeros(length - len(theta))])
    shuffled = (H @ (signs * filled))[order]
    blocks = torch.cat([H @ (g * shuffled) for g in G])[:num]
    return tensors[f"{site.id}.scaler"] * blocks.view(site.out_features, site.in_features) / math.sqrt(num * length)


def _diff_pruning(settings, p, W, b, x, ffn):
    if "fixed" in p:
        return F.linear(x, W + p["value"] + 0 * (p["alpha"].sum() + p["group"]), b)
    gates: list[Tensor] = []
    for alpha, words in ((p["alpha"], p["words"]), (p["group"], p["group_words"])):
        u = (words.double() + 32768.5) / 65536
        gates.append((3 * torch.sigmoid(torch.log(u) - torch.log(1 - u) + alpha) - 1.5).clamp(0, 1))
    return F.linear(x, W + gates[0] * gates[1] * p["value"], b)


def _adamix(settings, p, W, b, x, ffn):
    down, up = (int(number) for number in p["route"])
    own = {"down": p["down"][down], "down_bias": p["down_bias"][down], "up": p["up"][up], "up_bias": p["up_bias"][up]}
    return _serial(settings, own, W, b, x, ffn)


LINEAR: dict[str, Formula] = {
    "peft": _peft,
    "said": _said,
    "diff-pruning": _diff_pruning,
    "adamix": _adamix,
    "lora": _lora,
    "lora-plus": _lora,
    "qlora": _lora,
    "lora-fa": _lora,
    "lora-drop": _lora,
    "rslora": _rslora,
    "dora": _dora,
    "vera": _vera,
    "ia3": _ia3,
    "bitfit": _bitfit,
    "adapter-houlsby": _serial,
    "adapter-pfeiffer": _serial,
    "adapter-parallel": _parallel,
    "pissa": _pissa,
    "top-layers": _own_weights,
    "weight-mask": _weight_mask,
    "fish-mask": _fish_mask,
    "adalora": _adalora,
    "dylora": _dylora,
    "sora": _sora,
    "delta-lora": _delta_lora,
    "loha": _loha,
    "compacter": _compacter,
}


def common_numbers(method: str, settings: Mapping[str, Any], sites: tuple[Site, ...]) -> int:
    """How many numbers all sites of a method train together."""
    if method in ("prefix-tuning", "p-tuning-v2") and settings["reparameterize"]:
        inside = settings["encoder_hidden"]
        return (settings["num_virtual_tokens"] + inside) * sites[0].out_features + inside
    if method == "compacter":
        return settings["num_products"] ** 3
    if method == "said":
        return settings["dim"]
    return 0


def penalty(method: Method, trained: Mapping[str, Tensor]) -> Tensor | float:
    """What a method adds to the loss."""
    settings = method.config.model_dump()
    if method.name == "adalora":
        norms = [
            torch.sqrt(((V.T @ V if name.endswith("lora_B") else V @ V.T) - torch.eye(min(V.shape))).square().sum())
            for name, V in trained.items()
            if V.ndim == 2
        ]
        return settings["orthogonality"] * torch.stack(norms).mean()
    if method.name == "diff-pruning":
        groups = {name.removesuffix(".group"): value for name, value in trained.items() if name.endswith(".group")}
        if max(float(value.detach()) for value in groups.values()) == 20:
            return 0.0  # the second phase
        opened = [torch.sigmoid(trained[f"{key}.alpha"]).sum() * torch.sigmoid(g) for key, g in groups.items()]
        return settings["l0"] * torch.cat(opened).sum()
    return 0.0


def loss(
    model: nn.Module,
    base: Base,
    method: Method,
    kept: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    head_params: Mapping[str, Tensor],
    batches: Sequence[Mapping[str, Tensor]],
    targets: Tensor,
) -> Tensor:
    """A step's loss: mean cross-entropy and what the method adds to it.

    Args:
        model: as `logits` takes it, with `base`, `method` and `head_params`.
        batches: the sequences of the step, in one padded batch or several.
        kept: frozen and drawn tensors of the adapter.
        trained: its trained ones.
        targets: classes.
    """

    def answers(tensors: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([logits(model, base, method, tensors, head_params, batch) for batch in batches])

    if method.name != "adamix":
        found = answers({**kept, **trained})
        return F.cross_entropy(found, targets) + penalty(method, trained)
    both: list[Tensor] = []
    for forward in (0, 1):
        routes = {name[:-1]: value[forward] for name, value in kept.items() if name.endswith(".routes")}
        both.append(answers({**kept, **trained, **routes}))
    one, other = both[0].detach().log_softmax(1), both[1].log_softmax(1)
    twice = F.kl_div(one, other, reduction="batchmean", log_target=True)
    twice = twice + F.kl_div(other, one, reduction="batchmean", log_target=True)
    divergence = twice - twice.detach() / 2
    entropy = sum(F.cross_entropy(found, targets) for found in both) / 2
    return entropy + method.config.model_dump()["consistency"] * divergence


def _mixture(settings: Mapping[str, Any], width: int, inside: int) -> int:
    """Numbers of an AdaMix site."""
    num, sharing = settings.get("num_modules", 0), settings.get("sharing")
    num_down, num_up = (1 if sharing == half else num for half in ("down", "up"))
    return num_down * (inside * width + inside) + num_up * (width * inside + width)


def _kronecker_numbers(inputs: int, outputs: int, rank: int) -> int:
    """Of both factors of (outputs, inputs), each side cut evenly as it can be; the larger of low rank if wide."""
    small = [max(part for part in range(1, math.isqrt(side) + 1) if side % part == 0) for side in (outputs, inputs)]
    large = [outputs // small[0], inputs // small[1]]
    return math.prod(small) + (rank * sum(large) if rank < max(large) / 2 else math.prod(large))


def trained_numbers(
    method: str, settings: Mapping[str, Any], sites: tuple[Site, ...], adapter: Mapping[str, Tensor]
) -> int:
    """How many numbers a method trains, from its paper; `adapter`, as trained, says what a search has kept."""
    if method in naive_parts.MADE_OF_PARTS:
        return naive_parts.trained_numbers(method, settings, sites, adapter)
    if method == "fish-mask":
        return round(settings["density"] * sum(site.in_features * site.out_features for site in sites))
    rank, inside, hidden = (settings.get(name, 0) for name in ("rank", "bottleneck", "encoder_hidden"))
    virtual = settings.get("num_virtual_tokens", 0)
    total = common_numbers(method, settings, sites)
    if method == "p-tuning":
        width, twice = sites[0].out_features, 2 * hidden
        both_layers = 2 * 4 * hidden * (width + twice + 2 * hidden + 4)
        start, joined = (both_layers, twice) if settings["encoder"] == "lstm" else ((width + 1) * hidden, hidden)
        return virtual * width + start + (joined + 1) * joined + (joined + 1) * width
    for site in sites:
        inputs, outputs = site.in_features, site.out_features
        total += {
            "lora": rank * (inputs + outputs),
            "lora-drop": rank * (inputs + outputs),
            "lora-plus": rank * (inputs + outputs),
            "qlora": rank * (inputs + outputs),
            "rslora": rank * (inputs + outputs),
            "lora-fa": rank * outputs,
            "dora": rank * (inputs + outputs) + outputs,
            "vera": rank + outputs,
            "ia3": inputs if site.name == "ffn.down" else outputs,
            "bitfit": outputs,
            "adapter-houlsby": (2 * inside + 1) * outputs + inside,
            "adapter-pfeiffer": (2 * inside + 1) * outputs + inside,
            "adapter-parallel": (2 * inside + 1) * outputs + inside if site.name == "ffn.down" else 0,
            "prompt-tuning": virtual * outputs,
            "compacter": 2 * rank * (inside + outputs) + inside + outputs,
            "loreft": 2 * rank * outputs + rank,
            "prefix-tuning": 2 * outputs * (hidden + 1 if settings.get("reparameterize") else virtual),
            "p-tuning-v2": 2 * outputs * (hidden + 1 if settings.get("reparameterize") else virtual),
            "pissa": rank * (inputs + outputs),
            "adalora": settings.get("initial_rank", 0) * (inputs + outputs + 1),
            "dylora": rank * (inputs + outputs),
            "sora": rank * (inputs + outputs + 1),
            "delta-lora": rank * (inputs + outputs),
            "top-layers": outputs * (inputs if site.kind == "linear" else 1) + (outputs if site.bias else 0),
            "weight-mask": inputs * outputs,
            "diff-pruning": 2 * inputs * outputs + 1,
            "said": 1,
            "adamix": _mixture(settings, outputs, inside),
            "loha": 2 * rank * (inputs + outputs),
            "ln-tuning": 2 * outputs if site.bias else outputs,
            "peft": settings["r"] * inputs if "r" in settings else _kronecker_numbers(inputs, outputs, 8),
        }[method]
    return total


def logits(
    model: nn.Module,
    base: Base,
    method: Method,
    tensors: Mapping[str, Tensor],
    head_params: Mapping[str, Tensor],
    batch: Mapping[str, Tensor],
) -> Tensor:
    """Logits (B, C) of transformers' model with a method put in by formula.

    Args:
        model: the classification model, of the base's weights; left as it was found.
        base: for its sites.
        method: with its settings.
        tensors: of the adapter, by ``<site key>.<name>``; shared ones by name.
        head_params: of the head.
        batch: padded inputs.
    """
    settings = method.config.model_dump()
    if method.name in naive_parts.MADE_OF_PARTS:
        return naive_parts.logits(model, base, method.name, settings, tensors, head_params, batch)
    sites = method.sites(base)
    by_module: dict[str, list[Site]] = {}
    for site in sites:
        by_module.setdefault(site.hf_name, []).append(site)
    modules = dict(model.named_modules())
    inputs = dict(batch) if base.takes_type_ids else {k: v for k, v in batch.items() if k != "token_type_ids"}
    if method.name in ("prompt-tuning", "p-tuning"):
        own = {name.rsplit(".", 1)[1]: value for name, value in tensors.items()}
        prompt_ND = own["prompt"] if method.name == "prompt-tuning" else _encoded(settings, own)
        return _with_prompt(model, base, prompt_ND, head_params, inputs)
    if method.name in ("prefix-tuning", "p-tuning-v2"):
        pairs = [_prefix(settings, tensors, site) for site in sites]
        given = {id(modules[site.hf_name]): pair for site, pair in zip(sites, pairs, strict=True)}
        return with_prefixes(model, base, given, head_params, inputs)
    if method.name == "said":
        tensors = {**tensors, **{f"{site.id}.projected": _fastfood(settings, tensors, site) for site in sites}}
    undo = []
    inputs_at: dict[str, Tensor] = {}
    for name, users in by_module.items():
        module = modules[name]
        undo.append((module, module.forward))
        if users[0].kind == "block":
            module.forward = _edited(module, users[0], settings, tensors, batch["attention_mask"])  # type: ignore[method-assign]
            continue
        module.forward = _changed(module, users, method.name, settings, tensors, inputs_at)  # type: ignore[method-assign]
    try:
        replaced = {name: value for name, value in head_params.items() if name in dict(model.named_parameters())}
        return torch.func.functional_call(model, replaced, kwargs=inputs).logits
    finally:
        for module, forward in undo:
            module.forward = forward


def _changed(
    module: nn.Module,
    sites: list[Site],
    name: str,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    inputs_at: dict[str, Tensor],
) -> Callable[[Tensor], Tensor]:
    original = module.forward

    def forward(x: Tensor) -> Tensor:
        y = original(x)
        if sites[0].kind == "norm":
            own = {key: tensors.get(f"{sites[0].id}.{key}") for key in ("weight", "bias")}
            return y + own["bias"] if own["weight"] is None else _norm(module, own["weight"], own["bias"], x)
        weight = module.weight.t() if sites[0].transposed else module.weight
        pieces = y.clone()
        for site in sites:
            inputs_at[site.name] = x
            prefix = f"{site.id}."
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            together = {key: value for key, value in tensors.items() if "." not in key or key.startswith("common.")}
            own |= {key.removeprefix("common."): value for key, value in together.items()}
            own |= inputs_at
            rows = site.rows()
            bias = None if not site.bias else module.bias[rows]
            pieces[..., rows] = LINEAR[name](settings, own, weight[rows], bias, x, site.name == "ffn.down")
        return pieces

    return forward


def _edited(
    module: nn.Module, site: Site, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], mask: Tensor
) -> Callable[..., Any]:
    """LoReFT's equation 2, token by token."""
    original = module.forward
    R, W, b = (tensors[f"{site.id}.{name}"] for name in ("rotation", "source", "source_bias"))

    def forward(*args: Any, **keywords: Any) -> Any:
        output = original(*args, **keywords)
        h = output[0] if isinstance(output, tuple) else output
        rows: list[Tensor] = []
        for sequence, length in zip(h, mask.sum(1).tolist(), strict=True):
            ends = {*range(min(settings["first"], length)), *range(max(0, length - settings["last"]), length)}
            moved = [x + R.T @ (W @ x + b - R @ x) if i in ends else x for i, x in enumerate(sequence)]
            rows.append(torch.stack(moved))
        edited = torch.stack(rows)
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    return forward


def _norm(module: nn.Module, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """LayerNorm, or without a bias and a mean LLaMA's root mean square, which runs in float32; Gemma adds 1."""
    if isinstance(module, nn.LayerNorm):
        centred = x - x.mean(-1, keepdim=True)
        y = weight * centred / (centred.square().mean(-1, keepdim=True) + module.eps).sqrt()
        return y if bias is None else y + bias
    wide = x.float()
    if hasattr(module, "eps"):
        return ((1 + weight.float()) * wide / (wide.square().mean(-1, keepdim=True) + module.eps).sqrt()).to(x.dtype)
    return weight * (wide / (wide.square().mean(-1, keepdim=True) + module.variance_epsilon).sqrt()).to(x.dtype)


def _recurrent(p: Mapping[str, Tensor], x: Tensor, prefix: str, *, back: bool) -> Tensor:
    """One direction of an LSTM layer, cell by cell: gates in the order input, forget, candidate, output."""
    h = c = x.new_zeros(p[f"{prefix}_from_state"].shape[1])
    out: list[Tensor] = []
    for row in reversed(x) if back else x:
        gates = p[f"{prefix}_from_input"] @ row + p[f"{prefix}_input_bias"]
        gates = gates + p[f"{prefix}_from_state"] @ h + p[f"{prefix}_state_bias"]
        i, f, g, o = gates.chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        out.append(h)
    return torch.stack(out[::-1] if back else out)


def _encoded(settings: Mapping[str, Any], p: Mapping[str, Tensor]) -> Tensor:
    """P-tuning's virtual tokens."""
    x = p["embedding"]
    if settings["encoder"] == "mlp":
        x = torch.relu(x @ p["first"].T + p["first_bias"])
    else:
        for layer in range(2):
            ways = [_recurrent(p, x, f"lstm_{layer}_{way}", back=way == "back") for way in ("forth", "back")]
            x = torch.cat(ways, 1)
    return torch.relu(x @ p["inner"].T + p["inner_bias"]) @ p["outer"].T + p["outer_bias"]


def _with_prompt(
    model: nn.Module,
    base: Base,
    prompt_ND: Tensor,
    head_params: Mapping[str, Tensor],
    inputs: dict[str, Tensor],
) -> Tensor:
    num, rows = prompt_ND.shape[0], inputs["input_ids"].shape[0]
    backbone = model.get_submodule(base.arch.prefix)
    embedded = backbone.get_input_embeddings()(inputs["input_ids"])
    batch: dict[str, Tensor] = {
        "inputs_embeds": torch.cat([prompt_ND.expand(rows, -1, -1), embedded], 1),
        "attention_mask": F.pad(inputs["attention_mask"], (num, 0), value=1),
    }
    if "token_type_ids" in inputs:
        batch["token_type_ids"] = F.pad(inputs["token_type_ids"], (num, 0))
    hidden = backbone(**batch).last_hidden_state
    last = num + inputs["attention_mask"].sum(1) - 1
    picked = hidden[torch.arange(rows), last] if base.pooling == "last" else hidden[:, num]
    return HeadTemplate(base=base, num_outputs=2).forward(head_params, picked)


def _prefix(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], site: Site) -> tuple[Tensor, Tensor]:
    """Keys and values (heads, n, features) of one layer."""
    own = {name.removeprefix(f"{site.id}."): value for name, value in tensors.items() if name.startswith(f"{site.id}.")}
    if settings["reparameterize"]:
        inside = torch.tanh(tensors["common.embedding"] @ tensors["common.inner"].T + tensors["common.inner_bias"])
        both = inside @ own["outer"].T + own["outer_bias"]
    else:
        both = own["prefix"]
    keys, values = both[:, : site.out_features], both[:, site.out_features :]
    return tuple(part.reshape(part.shape[0], site.heads, -1).permute(1, 0, 2) for part in (keys, values))


_PREFIXES: dict[int, tuple[Tensor, Tensor]] = {}


def _prefixed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of a padded batch with keys and values before those of every sequence, which a window leaves behind."""
    extra = [part.expand(key.shape[0], -1, -1, -1) for part in _PREFIXES[id(module)]]
    num = extra[0].shape[2]
    keys, values = torch.cat([extra[0], key], 2), torch.cat([extra[1], value], 2)
    groups = query.shape[1] // key.shape[1]
    keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    scores = query @ keys.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores + F.pad(mask, (num, 0))
    if sliding_window is not None:
        distance = num + torch.arange(scores.shape[2])[:, None] - torch.arange(num)
        scores[..., :num] = scores[..., :num].masked_fill(distance >= sliding_window, -math.inf)
    return (scores.softmax(-1) @ values).transpose(1, 2), None


AttentionInterface.register("naive_prefix", _prefixed_attention)
AttentionMaskInterface.register("naive_prefix", eager_mask)


def with_prefixes(
    model: nn.Module,
    base: Base,
    given: Mapping[int, tuple[Tensor, Tensor]],
    head_params: Mapping[str, Tensor],
    inputs: dict[str, Tensor],
) -> Tensor:
    """Logits with keys and values (heads, n, features) by the id of the attention module they belong to."""
    num = next(iter(given.values()))[0].shape[1]
    rows, width = inputs["input_ids"].shape
    backbone = model.get_submodule(base.arch.prefix)
    before = model.config._attn_implementation
    places = num + base.position_offset + torch.arange(width).expand(rows, -1)
    _PREFIXES.update(given)
    model.config._attn_implementation = "naive_prefix"
    try:
        hidden = backbone(**inputs, position_ids=places).last_hidden_state
    finally:
        _PREFIXES.clear()
        model.config._attn_implementation = before
    last = inputs["attention_mask"].sum(1) - 1
    picked = hidden[torch.arange(rows), last] if base.pooling == "last" else hidden[:, 0]
    return HeadTemplate(base=base, num_outputs=2).forward(head_params, picked)
