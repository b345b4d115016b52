"""SAID: y = (W + l P(t)) x + b; a vector t of d numbers moves all weights through fixed random projections P.

Aghajanyan et al. 2020, "Intrinsic dimensionality explains the effectiveness of language model fine-tuning",
arXiv:2012.13255, section 3: t is common to all sites and starts at zero, the structure-aware scaler l is a site's own
and starts at one. P is Fastfood, H G S H B: random signs B, Walsh-Hadamard H, shuffle S, normals G (Le, Sarlos and
Smola 2013, "Fastfood - approximating kernel expansions in loglinear time", ICML). As there, a site with more weights
than t has numbers, filled up to p = 2^k with zeros, gets several such blocks under one another, each with normals of
its own. P is never a matrix, and a block costs p times the root of p. B and S are a site's own and G serves all sites
of one size, where Fastfood draws all three for every block; they come from `projection_seed` and are not stored.
||P(t)|| = ||t|| on average. Trains d numbers and one per site. Mergeable. The change is dense while it computes: a step
makes a matrix and its gradient of each weight's size. No PEFT type; stored in Remora's own file as `common.theta` and a
`scaler` per site.
"""

# O out_features, D in_features, P padded length of theta, K blocks at a site
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from remora.methods.base import LinearChange, LogRange, Method, MethodConfig, SiteState, SiteWeights, Tensors
from remora.methods.registry import register
from remora.models.sites import Site
from remora.seeds import torch_generator


def padded_length(dim: int) -> int:
    """The smallest power of two that holds `dim` numbers."""
    return 1 << (dim - 1).bit_length()


@lru_cache(maxsize=32)
def _hadamard_matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Sylvester's (size, size) matrix of ones and minus ones; size is a power of two."""
    whole = torch.ones(1, 1, dtype=dtype, device=device)
    while whole.shape[0] < size:
        whole = torch.cat([torch.cat([whole, whole], 1), torch.cat([whole, -whole], 1)])
    return whole


def walsh_hadamard(x_KP: Tensor) -> Tensor:
    """(K, P) rows times the Hadamard matrix of size P, which is the Kronecker product of two of about its root."""
    size = x_KP.shape[1]
    left = 1 << ((size.bit_length() - 1) // 2)
    right_ss, left_rr = (_hadamard_matrix(n, x_KP.dtype, x_KP.device) for n in (size // left, left))
    return (left_rr @ (x_KP.reshape(-1, left, size // left) @ right_ss)).view(x_KP.shape)


@lru_cache(maxsize=512)
def signs_and_order(seed: int, site: str, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """B and S of a site: (P,) of ones and minus ones as int8, and (P,) places."""
    rng = torch_generator(seed, "fastfood", site)
    signs_P = torch.randint(0, 2, (length,), generator=rng, dtype=torch.int8) * 2 - 1
    return signs_P.to(device), torch.randperm(length, generator=rng).to(device)


@lru_cache(maxsize=16)
def normals(seed: int, num_blocks: int, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """G of all sites with as many blocks: (K, P), of values that bfloat16 holds, so that every type has the same."""
    rng = torch_generator(seed, "normals", num_blocks, length)
    return torch.randn(num_blocks, length, generator=rng).bfloat16().to(device, dtype)


def project(theta: Tensor, scaler: Tensor, weight_OD: Tensor, site: str, seed: int) -> Tensor:
    """l P(t) of a site.

    Args:
        theta: (d,).
        scaler: (1,).
        weight_OD: of whose shape and dtype the result is.
        site: key of the site.
        seed: of the projections.

    Returns:
        (O, D).
    """
    num, length = weight_OD.numel(), padded_length(theta.shape[0])
    signs_P, order_P = signs_and_order(seed, site, length, theta.device)
    mixed_P = walsh_hadamard((F.pad(theta, (0, length - theta.shape[0])) * signs_P)[None])[0][order_P]
    mixed_P = (mixed_P * (scaler / math.sqrt(num * length))).to(weight_OD.dtype)
    G_KP = normals(seed, -(-num // length), length, weight_OD.dtype, theta.device)
    return walsh_hadamard(G_KP * mixed_P).view(-1)[:num].view(weight_OD.shape)


@register("said")
class SAID(Method):
    """Tuning in a random subspace, with a scale for every weight matrix."""

    label: ClassVar[str] = "SAID"
    family: ClassVar = "reparameterized"
    citation: ClassVar[str] = "Aghajanyan et al. 2020, arXiv:2012.13255"
    use_when: ClassVar[str] = "to measure how few numbers a task needs, or to store it in a few kilobytes"
    lr_range: ClassVar[LogRange] = LogRange(1e-3, 1e-1)
    mergeable: ClassVar[bool] = True
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"dim": 200, "projection_seed": 3, "targets": ("attention.v", "ffn.up")},
    )

    class Config(MethodConfig):
        """Length d of the vector, seed of the projections, and where to attach."""

        dim: int = Field(1024, ge=1)
        projection_seed: int = Field(0, ge=0)
        targets: tuple[str, ...] = ("linear",)

    config: Config

    def common(self, sites: Sequence[Site], rng: torch.Generator) -> dict[str, Tensor]:
        """The vector, at zero."""
        return {"theta": torch.zeros(self.config.dim)}

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """The scaler, at one."""
        return SiteState(trained={"scaler": torch.ones(1)})

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The projected vector as a dense change."""
        seed = self.config.projection_seed
        return LinearChange(delta=project(state["theta"], state["scaler"], base.weight, site.id, seed))
