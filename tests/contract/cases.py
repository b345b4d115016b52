"""The grid of contract tests: every registered method with its example settings, on nine architectures.

The default run takes for each method and settings three architectures, chosen in turn so that every method meets
encoders and decoders and every architecture most methods; the marker ``full_grid`` stands for the rest.
"""

import os
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from remora.methods.base import Method
from remora.methods.plugins import plugin_hash
from remora.methods.registry import get_method, list_methods
from remora.models.base import Base, Quantization
from tests.tiny import PADDED, give_weights, tiny_base, tiny_hf, tiny_quantised

ARCHITECTURES = ("bert", "llama", "roberta", "gpt2", "distilbert", "deberta-v3", "electra", "gemma2", "albert")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A method with settings."""

    name: str
    number: int

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.cls.examples[self.number])

    @property
    def cls(self) -> type[Method]:
        return next(cls for cls in list_methods() if cls.name == self.name)

    def fits(self, arch: str) -> bool:
        """Whether the architecture takes the method: attention in the padded layout takes no keys from outside."""
        return not ("kv" in self.method().site_kinds and arch in PADDED)

    @property
    def own_formula(self) -> bool:
        """Whether `tests.naive` must know it: all but plug-ins, whose formula is their author's to test."""
        return plugin_hash(self.cls) is None

    @property
    def id(self) -> str:
        return f"{self.name}-{self.number}"

    def method(self, **changed: Any) -> Method:
        return get_method(self.name, {**self.settings, **changed})

    @property
    def quantization(self) -> Quantization:
        """How the base is held on which the method is tested."""
        return self.cls.base_quantization

    def base(self, arch: str, dtype: torch.dtype = torch.float32) -> Base:
        """The base that the method is tested on."""
        return (tiny_base if self.quantization == "none" else tiny_quantised)(arch, dtype)

    def hf(self, arch: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        """transformers' dense model with the weights of `base`."""
        model = tiny_hf(arch, dtype=dtype)
        if self.quantization != "none":
            base = self.base(arch, dtype)
            give_weights(model, base, base.arch.hf_prefix)
        return model

    def without_dropout(self) -> dict[str, Any]:
        """Settings with the method's own dropout, and that of its parts, at 0 where there is one."""
        return _undropped(self.method().config.model_dump(mode="json"))


def _undropped(settings: Any) -> Any:
    if isinstance(settings, list):
        return [_undropped(each) for each in settings]
    if not isinstance(settings, dict):
        return settings
    return {name: 0.0 if name == "dropout" else _undropped(value) for name, value in settings.items()}


ALONE = os.environ.get("REMORA_CONTRACT")
"""The one method to test, as the author of a plug-in wants it; by default all that are registered."""

CASES = tuple(
    Case(name=cls.name, number=number)
    for cls in list_methods()
    for number in range(len(cls.examples))
    if ALONE in (None, cls.name)
)
DENSE_CASES = tuple(case for case in CASES if case.quantization == "none")
"""Those that can share one base that is not quantised."""
ADAPTER_CASES = tuple(case for case in CASES if case.cls.shares_base and case.name != "head")


def _grid(cases: tuple[Case, ...]) -> list[Any]:
    cells: list[Any] = []
    for number, case in enumerate(cases):
        chosen = {ARCHITECTURES[(number + step) % len(ARCHITECTURES)] for step in (0, 2)}
        chosen.add(ARCHITECTURES[case.number % 2])  # BERT for the defaults, LLaMA for the second settings
        for arch in filter(case.fits, ARCHITECTURES):
            marks = () if arch in chosen else (pytest.mark.full_grid,)
            cells.append(pytest.param(arch, case, id=f"{arch}-{case.id}", marks=marks))
    return cells


every_cell = pytest.mark.parametrize(("arch", "case"), _grid(CASES))
every_adapter_cell = pytest.mark.parametrize(("arch", "case"), _grid(ADAPTER_CASES))
every_arch = pytest.mark.parametrize(
    "arch",
    [pytest.param(arch, marks=() if i < 2 else (pytest.mark.full_grid,)) for i, arch in enumerate(ARCHITECTURES)],
)
