"""DyLoRA: y = W x + b + (alpha / k) B[:, :k] A[:k] drop(x); k is drawn from 1 .. r in every step: all ranks serve.

Valipour et al. 2022, "DyLoRA: parameter-efficient tuning of pretrained models using dynamic search-free low-rank
adaptation", arXiv:2210.07558, section 4, algorithm 1, without freezing the smaller ranks. One k per step, uniform, from
the trial's own stream. Evaluation and files take `evaluate_rank`; the report shows the others from the same training.
Trains r (in + out) numbers per site. Mergeable. Stored for peft as LoRA cut to `evaluate_rank`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator

from remora.methods.base import AdapterTensors, LinearChange, LogRange, PeftTensor, SiteWeights, Tensors
from remora.methods.lora import LoRA
from remora.methods.registry import register
from remora.models.sites import Site
from remora.seeds import torch_generator


@register("dylora")
class DyLoRA(LoRA):
    """LoRA for a range of ranks."""

    label: ClassVar[str] = "DyLoRA"
    citation: ClassVar[str] = "Valipour et al. 2022, arXiv:2210.07558"
    use_when: ClassVar[str] = "where the rank to deploy is not known yet: one training serves all of them"
    lr_range: ClassVar[LogRange] = LogRange(1e-4, 1e-2)
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"rank": 4, "evaluate_rank": 2, "targets": ("attention.q", "attention.o")},
    )

    class Config(LoRA.Config):
        """LoRA's settings with r as the largest rank, and the rank to evaluate and store (0: the largest)."""

        evaluate_rank: int = Field(0, ge=0)

        @model_validator(mode="after")
        def _within(self) -> "DyLoRA.Config":
            if self.evaluate_rank > self.rank:
                raise ValueError("evaluate_rank may not exceed rank")
            return self

    def before_step(self, adapter: AdapterTensors, step: int, num_steps: int) -> None:
        """Draws the rank of the step."""
        rng = torch_generator(adapter.seed, "rank", step)
        rank = torch.randint(1, self.config.rank + 1, (), generator=rng)
        adapter.drawn = {site.id: {"rank": rank} for site in adapter.sites}

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The low-rank term of the drawn rank, or of the rank to evaluate."""
        assert isinstance(self.config, DyLoRA.Config)
        rank = int(state["rank"]) if "rank" in state else self.config.evaluate_rank or self.config.rank
        return self.truncated(state, rank)

    def truncated(self, state: Tensors, rank: int) -> LinearChange:
        """The change of a site at a rank from 1 to r."""
        A, B = state["lora_A"][:rank], state["lora_B"][:, :rank]
        return LinearChange(A=A, B=B, scale=self.config.alpha / rank, dropout=self.config.dropout)

    def variants(self) -> Mapping[str, Tensors]:
        """The ranks 1, 2, 4 ... and the largest."""
        ranks = {2**power for power in range(self.config.rank.bit_length())} | {self.config.rank}
        return {f"rank {rank}": {"rank": torch.tensor(rank)} for rank in sorted(ranks)}

    def peft_holds(self, site: Site) -> bool:
        """Never as it is: the file holds the rank to evaluate, Remora's own tensors all of them."""
        return False

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Nothing beyond LoRA's keys."""
        return {}

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """Nothing of its own."""
        return {}
