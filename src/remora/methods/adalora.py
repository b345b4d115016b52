"""AdaLoRA: y = W x + b + s P diag(l) Q drop(x); P and Q nearly orthogonal, the least important l are set to zero.

Zhang et al. 2023, "AdaLoRA: adaptive budget allocation for parameter-efficient fine-tuning", arXiv:2303.10512.
Section 3.1, equations 3 and 4: the form and its penalty ||P^T P - I|| + ||Q Q^T - I||, taken as the mean of Frobenius
norms over all matrices, as the authors' code and peft do. Section 3.2, equations 6 to 10: a triplet (column of P, l,
row of Q) is as important as its l plus the means over its vectors of the smoothed |w * gradient| times its smoothed
variation. Section 3.3 and appendix A: the number of triplets over all sites falls from `initial_rank` to `target_rank`
per site on a cubic curve between the shares `start` and `end` of the steps; the last choice stays.
The schedule hangs on the loop's own hooks, so it cannot be forgotten. Trains initial_rank (in + out + 1) numbers per
site; triplets whose l is zero at the end are not written. Mergeable. Stored for peft as LoRA with l folded into A.
"""

# D in_features, O out_features, R rank
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from remora.methods.base import (
    AdapterTensors,
    LinearChange,
    LogRange,
    Method,
    MethodConfig,
    PeftTensor,
    SiteState,
    SiteWeights,
    Tensors,
)
from remora.methods.registry import register
from remora.models.sites import Site


@register("adalora")
class AdaLoRA(Method):
    """Adaptive low-rank adaptation."""

    label: ClassVar[str] = "AdaLoRA"
    family: ClassVar = "reparameterized"
    citation: ClassVar[str] = "Zhang et al. 2023, arXiv:2303.10512"
    use_when: ClassVar[str] = "where sites differ in how much they must change: ranks go where they matter"
    lr_range: ClassVar[LogRange] = LogRange(5e-4, 5e-2)
    peft_type: ClassVar[str | None] = "LORA"
    mergeable: ClassVar[bool] = True
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"initial_rank": 6, "target_rank": 3, "interval": 2, "targets": ("attention.v", "ffn.down")},
    )

    class Config(MethodConfig):
        """Ranks per site at the start and on average at the end, and the schedule between them.

        `smoothing` is the share of the past in both running means, `interval` the steps between two prunings.
        """

        initial_rank: int = Field(12, ge=1)
        target_rank: int = Field(8, ge=1)
        alpha: float = Field(16.0, gt=0)
        dropout: float = Field(0.0, ge=0, lt=1)
        orthogonality: float = Field(0.5, ge=0)
        smoothing: float = Field(0.85, ge=0, lt=1)
        start: float = Field(0.1, ge=0, le=1)
        end: float = Field(0.5, ge=0, le=1)
        interval: int = Field(5, ge=1)
        targets: tuple[str, ...] = ("attention.q", "attention.v")

        @model_validator(mode="after")
        def _ordered(self) -> "AdaLoRA.Config":
            if self.target_rank > self.initial_rank or self.start > self.end:
                raise ValueError("target_rank may not exceed initial_rank, nor start exceed end")
            return self

    config: Config

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """P and Q normal, l zero."""
        rank = self.config.initial_rank
        Q_RD = torch.empty(rank, site.in_features).normal_(0, 0.02, generator=rng)
        P_OR = torch.empty(site.out_features, rank).normal_(0, 0.02, generator=rng)
        return SiteState(trained={"lora_A": Q_RD, "lora_E": torch.zeros(rank), "lora_B": P_OR})

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The low-rank term, with l in A."""
        scale = self.config.alpha / self.config.initial_rank
        A = state["lora_E"][:, None] * state["lora_A"]
        return LinearChange(A=A, B=state["lora_B"], scale=scale, dropout=self.config.dropout)

    def penalty(self, adapter: AdapterTensors, step: int) -> Tensor | None:
        """How far P and Q are from orthogonal."""
        if self.config.orthogonality == 0 or not adapter.sites:
            return None
        norms: list[Tensor] = []
        for state in adapter.states.values():
            for V_RN in (state.trained["lora_A"], state.trained["lora_B"].T):
                unit_RR = torch.eye(V_RN.shape[0], dtype=V_RN.dtype, device=V_RN.device)
                norms.append(torch.linalg.matrix_norm(V_RN @ V_RN.T - unit_RR))
        return self.config.orthogonality * torch.stack(norms).mean()

    # --- the budget

    def before_step(self, adapter: AdapterTensors, step: int, num_steps: int) -> None:
        """Keeps the number of steps, on which the schedule depends."""
        adapter.extra["num_steps"] = torch.tensor(num_steps)

    def budget(self, step: int, num_steps: int, num_sites: int) -> int:
        """Triplets kept over all sites after a step."""
        config = self.config
        first, last = round(config.start * num_steps), round(config.end * num_steps)
        left = 1.0 if step < first else 0.0 if step >= last else (1 - (step - first) / (last - first)) ** 3
        return round(num_sites * (config.target_rank + (config.initial_rank - config.target_rank) * left))

    def after_backward(self, adapter: AdapterTensors, step: int) -> None:
        """Takes the step's gradients into the running importance of every number."""
        extra, past = adapter.extra, self.config.smoothing
        for name, value in adapter.trained().items():
            assert value.grad is not None
            now = (value.detach() * value.grad).abs()
            mean = past * extra.get(f"{name}.mean", torch.zeros_like(now)) + (1 - past) * now
            change = past * extra.get(f"{name}.change", torch.zeros_like(now)) + (1 - past) * (now - mean).abs()
            extra[f"{name}.mean"], extra[f"{name}.change"] = mean, change

    def after_step(self, adapter: AdapterTensors, step: int) -> None:
        """Sets the least important l to zero; before `end` they may come back with the next gradient."""
        num_steps = int(adapter.extra["num_steps"])
        last = round(self.config.end * num_steps)
        num_kept = self.budget(step, num_steps, len(adapter.sites))
        if step <= last and (step % self.config.interval == 0 or step == last):
            scores = torch.cat([self._importance(adapter, site) for site in adapter.sites])
            kept = torch.zeros_like(scores, dtype=torch.bool)
            kept[torch.argsort(scores, descending=True, stable=True)[:num_kept]] = True
            adapter.extra["kept"] = kept
        elif step < last or "kept" not in adapter.extra:
            return
        for site, kept in zip(adapter.sites, adapter.extra["kept"].split(self.config.initial_rank), strict=True):
            adapter.states[site.id].trained["lora_E"].mul_(kept)

    def _importance(self, adapter: AdapterTensors, site: Site) -> Tensor:
        """(R,) of a site's triplets."""

        def of(name: str) -> Tensor:
            return adapter.extra[f"{site.id}.{name}.mean"] * adapter.extra[f"{site.id}.{name}.change"]

        return of("lora_E") + of("lora_A").mean(1) + of("lora_B").mean(0)

    # --- how it is stored

    def peft_holds(self, site: Site) -> bool:
        """Never: pruned and folded it is a LoRA, which more programs load than peft's ADALORA."""
        return False

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Nothing beyond LoRA's keys."""
        return {}

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """Nothing of its own."""
        return {}
