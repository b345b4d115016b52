"""LoRA-drop: LoRA everywhere at first; then sites whose output ||B A x|| counts keep theirs, the others share one.

Zhou et al. 2024, "LoRA-drop: efficient LoRA parameter pruning based on output evaluation", arXiv:2402.07721, section 3:
all sites train on a part of the data; a site's importance is the mean of ||B A x||^2 over tokens, as a share of
the sum over the sites of its kind (section 3.1); from the most important on, sites keep their own matrices until they
make up `threshold` of the sum (section 3.2), and the rest of the kind train one common pair. Here both phases are
one run: the first takes the share `survey` of the steps, importance is measured over the latter half of it, and the
common pair goes on from that of the most important site without one of its own.
Trains r (in + out) numbers per site in the first phase, the kept sites' and one pair per kind in the second. Mergeable.
PEFT type LORA; a common pair is written at each of its sites.
"""

# D in_features
import threading
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from remora.methods.base import AdapterTensors, LinearChange, LogRange, SiteWeights, Tensors
from remora.methods.lora import LoRA
from remora.methods.registry import register
from remora.models.sites import Site

_ADDING = threading.Lock()


@register("lora-drop")
class LoRADrop(LoRA):
    """LoRA shared by the sites that count least."""

    label: ClassVar[str] = "LoRA-drop"
    citation: ClassVar[str] = "Zhou et al. 2024, arXiv:2402.07721"
    use_when: ClassVar[str] = "where few layers matter: it finds them, and the others share one adapter"
    lr_range: ClassVar[LogRange] = LogRange(1e-4, 1e-2)
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"rank": 4, "survey": 0.7, "threshold": 0.4, "targets": ("attention.q", "ffn.up")},
    )

    class Config(LoRA.Config):
        """LoRA's settings, the share of steps of the first phase, and the share of importance that is kept."""

        survey: float = Field(0.1, gt=0, lt=1)
        threshold: float = Field(0.9, gt=0, le=1)

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The low-rank term; while importance is measured, its output is."""
        A, B = state["lora_A"], state["lora_B"]
        common: dict[str, Any] = {"A": A, "B": B, "scale": self.scale, "dropout": self.config.dropout}
        if "energy" not in state:
            return LinearChange(**common)

        def observe(x_TD: Tensor) -> None:
            with torch.no_grad():
                out = (x_TD.to(A.dtype) @ A.T @ B.T).double()
                found = torch.stack([out.square().sum(), out.new_tensor(out.shape[0])])
                # Float64, so that the order of a step's passes does not decide which site counts.
                with _ADDING:
                    state["energy"].add_(found)

        return LinearChange(**common, observe=observe)

    def before_step(self, adapter: AdapterTensors, step: int, num_steps: int) -> None:
        """Measures in the latter half of the first phase, and ends it."""
        assert isinstance(self.config, LoRADrop.Config)
        first = max(1, round(self.config.survey * num_steps))
        adapter.drawn = {}
        if first // 2 <= step < first:
            for site in adapter.sites:
                device = adapter.states[site.id].trained["lora_A"].device
                energy = torch.zeros(2, dtype=torch.float64, device=device)
                adapter.drawn[site.id] = {"energy": energy}
        if step == first and "leader" not in adapter.extra:
            self._share(adapter)

    def after_backward(self, adapter: AdapterTensors, step: int) -> None:
        """A common pair has the sum of the gradients of its sites."""
        for leader, follower in _followers(adapter):
            for name in ("lora_A", "lora_B"):
                own, other = leader[name].grad, follower[name].grad
                assert own is not None
                assert other is not None
                own.add_(other)
                other.zero_()

    def after_step(self, adapter: AdapterTensors, step: int) -> None:
        """Adds up what was measured, and gives a common pair to all of its sites."""
        for key, drawn in adapter.drawn.items():
            before = adapter.extra.get(f"{key}.energy")
            adapter.extra[f"{key}.energy"] = drawn["energy"] if before is None else before + drawn["energy"]
        _copy_leaders(adapter)

    def _share(self, adapter: AdapterTensors) -> None:
        """Chooses, per kind of site, those that keep their own pair; the others follow the first of them."""
        assert isinstance(self.config, LoRADrop.Config)
        leader = torch.arange(len(adapter.sites))
        kinds: dict[tuple[str, int, int], list[int]] = {}
        for number, site in enumerate(adapter.sites):
            kinds.setdefault((site.name, site.in_features, site.out_features), []).append(number)
        for numbers in kinds.values():
            energies = [adapter.extra[f"{adapter.sites[number].id}.energy"].tolist() for number in numbers]
            worth = {number: total / count for number, (total, count) in zip(numbers, energies, strict=True)}
            left = self.config.threshold * sum(worth.values())
            if left == 0:
                continue  # measured before the first update, when every B is zero
            followers: list[int] = []
            for number in sorted(numbers, key=lambda number: -worth[number]):
                if left <= 0:
                    followers.append(number)
                left -= worth[number]
            leader[followers] = followers[0] if followers else 0
        adapter.extra["leader"] = leader
        with torch.no_grad():
            _copy_leaders(adapter)


def _followers(adapter: AdapterTensors) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Trained tensors of every site that uses another's pair, after those of that other."""
    leaders = adapter.extra["leader"].tolist() if "leader" in adapter.extra else range(len(adapter.sites))
    states = [adapter.states[site.id].trained for site in adapter.sites]
    return [(states[leader], states[number]) for number, leader in enumerate(leaders) if leader != number]


def _copy_leaders(adapter: AdapterTensors) -> None:
    for leader, follower in _followers(adapter):
        for name in ("lora_A", "lora_B"):
            follower[name].copy_(leader[name])
