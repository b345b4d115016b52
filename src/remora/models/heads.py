"""Heads: Hugging Face's own of each architecture and kind of task, applied to the few rows that are read.

A head is a list of steps with the names its parameters have in transformers' class for the task, such as
``...ForSequenceClassification``, so that it can be applied with any trial's parameters, differentiated, and saved under
the names peft expects (`models/head_steps.py`). tests/models/test_heads.py holds every head against transformers' own
logits.
"""

# N rows, D features, C outputs
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.activations import ACT2FN

from remora.models.base import Base
from remora.models.head_steps import HeadKind, Step, head_steps

Dropout = Callable[[Tensor, str, float], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadTemplate:
    """The head of one base for a number of outputs: makes initial parameters and applies any trial's parameters.

    Args:
        base: the base model; its pretrained pooler, if any, is applied frozen.
        num_outputs: C, number of logits.
        kind: for which kind of task.
    """

    base: Base
    num_outputs: int
    kind: HeadKind = "sequence"

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The steps from the row that is read to the logits."""
        return head_steps(self.base.arch, self.base.config, self.num_outputs, self.kind)

    @cached_property
    def pooler(self) -> dict[str, Tensor]:
        """The base's pretrained tensors that this head uses, by name; a head for tokens has no pooler."""
        used = {name for step in self.steps for name in step.tensors()}
        return {name: value for name, value in self.base.pooler.items() if name in used}

    @property
    def frozen_names(self) -> tuple[str, ...]:
        """Names of the pretrained tensors it applies; full fine-tuning brings values of its own for them."""
        return tuple(self.pooler)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the parameters a trial trains."""
        everything = {name: shape for step in self.steps for name, shape in step.tensors().items()}
        return {name: shape for name, shape in everything.items() if name not in self.base.pooler}

    @property
    def saved_names(self) -> tuple[str, ...]:
        """Names, in the classification model, of the parameters a trial trains and an adapter stores."""
        return tuple(self.shapes)

    @property
    def num_params(self) -> int:
        """How many values a trial trains in its head."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def modules_to_save(self) -> tuple[str, ...]:
        """The modules of the classification model that hold the trained parameters, as peft's setting names them."""
        prefix = self.base.arch.hf_prefix
        heads = dict.fromkeys(name.removeprefix(prefix).split(".")[0] for name in self.shapes)
        return tuple(heads)

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Initial parameters by transformers' rule: weights normal (ModernBERT truncated), biases 0, norms 1.

        Args:
            generator: a CPU generator; the same state gives the same parameters.

        Returns:
            Name -> float32 tensor on the CPU, in the order of ``saved_names``.
        """
        fresh: dict[str, Tensor] = {}
        for step in self.steps:
            for name, shape in step.tensors().items():
                if name in self.shapes:
                    fresh[name] = _initial(step, name, shape, generator)
        return fresh

    def forward(
        self,
        params: Mapping[str, Tensor],
        rows_ND: Tensor,
        *,
        dropout: Dropout | None = None,
        pooler_params: Mapping[str, Tensor] | None = None,
        next_N: Tensor | None = None,
    ) -> Tensor:
        """Logits of the rows that are read.

        Args:
            params: name -> tensor, as ``init`` gives them; they set the type of the computation.
            rows_ND: last hidden states of the first or last real token (or the mean), any float type.
            dropout: called as ``dropout(x, name, rate)`` at each dropout of the head, name unique within the head;
                None leaves dropout off.
            pooler_params: replaces the base's pretrained pooler, for full fine-tuning.
            next_N: of a language-modelling head only, the token asked for behind each row.

        Returns:
            logits_NC in the type of ``params``.
        """
        assert next_N is None, "this head has classes, not tokens"
        dtype = next(iter(params.values())).dtype
        pooler = self.base.pooler if pooler_params is None else pooler_params
        x = rows_ND.to(dtype)
        num_dropouts = 0
        for step in self.steps:
            if step.op == "dropout":
                if dropout is not None and step.rate > 0:
                    x = dropout(x, f"{step.name}.{num_dropouts}", step.rate)
                num_dropouts += 1
            elif step.op == "activation":
                x = ACT2FN[step.name](x)
            else:
                weight, *rest = (
                    params[name] if name in params else pooler[name].to(device=x.device, dtype=dtype)
                    for name in step.tensors()
                )
                bias = rest[0] if rest else None
                if step.op == "linear":
                    x = F.linear(x, weight, bias)
                else:
                    x = F.layer_norm(x, step.shape, weight, bias, step.eps)
        return x


def _initial(step: Step, name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    tensor = torch.empty(shape, dtype=torch.float32)
    if name.endswith(".bias"):
        return tensor.zero_()
    if step.op == "norm":
        return tensor.fill_(1.0)
    if step.cutoff is None:
        return tensor.normal_(0.0, step.std, generator=generator)
    bound = step.cutoff * step.std
    return torch.nn.init.trunc_normal_(tensor, 0.0, step.std, -bound, bound, generator=generator)
