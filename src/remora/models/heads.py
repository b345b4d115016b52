"""Classification heads: Hugging Face's own head of each architecture, applied to the few rows that are read.

A head is a list of steps with the names its parameters have in transformers' ``...ForSequenceClassification``, so that
it can be applied with any trial's parameters, differentiated, and saved under the names peft expects.
tests/models/test_heads.py holds every head against transformers' own logits.
"""

# N sequences, D features, C outputs
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.activations import ACT2FN

from remora.models.architectures import HeadStyle, ModelConfigHF
from remora.models.base import Base

Dropout = Callable[[Tensor, str, float], Tensor]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a head.

    Args:
        op: what it does.
        name: its module in the classification model; for an activation its transformers name. A module may occur in
            two dropout steps (RoBERTa's).
        shape: (out, in) of a linear step, (features,) of a norm.
        bias: whether the linear step or norm has one.
        std: standard deviation of the initial weight of a linear step.
        cutoff: initial weights beyond this many standard deviations are drawn again; None for an untruncated normal.
        rate: dropout rate.
        eps: the norm's epsilon.
        pretrainable: checkpoints of the bare model may bring this step along (poolers); it is then not trained.
    """

    op: Literal["linear", "norm", "activation", "dropout"]
    name: str
    shape: tuple[int, ...] = ()
    bias: bool = True
    std: float = 0.02
    cutoff: float | None = None
    rate: float = 0.0
    eps: float = 1e-5
    pretrainable: bool = False

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of this step's parameters."""
        if self.op in ("activation", "dropout"):
            return {}
        weight = {f"{self.name}.weight": self.shape}
        return {**weight, f"{self.name}.bias": self.shape[:1]} if self.bias else weight


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadTemplate:
    """The head of one base for a number of outputs: makes initial parameters and applies any trial's parameters.

    Args:
        base: the base model; its pretrained pooler, if any, is applied frozen.
        num_outputs: C, number of logits.
    """

    base: Base
    num_outputs: int

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The steps from the row that is read to the logits."""
        return head_steps(self.base, self.num_outputs)

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
    ) -> Tensor:
        """Logits of the rows that are read.

        Args:
            params: name -> tensor, as ``init`` gives them; they set the type of the computation.
            rows_ND: last hidden states of the first or last real token (or the mean), any float type.
            dropout: called as ``dropout(x, name, rate)`` at each dropout of the head, name unique within the head;
                None leaves dropout off.
            pooler_params: replaces the base's pretrained pooler, for full fine-tuning.

        Returns:
            logits_NC in the type of ``params``.
        """
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


def pretrainable_names(style: HeadStyle, config: ModelConfigHF) -> tuple[str, ...]:
    """Head parameters that a checkpoint of the bare model may bring: BERT's and ALBERT's pooler, ModernBERT's head."""
    return tuple(name for step in _STYLES[style](config, 1) if step.pretrainable for name in step.tensors())


def head_steps(base: Base, num_outputs: int) -> tuple[Step, ...]:
    """The steps of a base's head for C outputs."""
    return _STYLES[base.arch.head](base.config, num_outputs)


def _std(config: ModelConfigHF) -> float:
    """transformers' rule for fresh linear weights: ``initializer_range``, else ``init_std`` (OPT), else 0.02."""
    settings = config.to_dict()
    return float(settings.get("initializer_range") or settings.get("init_std") or 0.02)


def _linear(config: ModelConfigHF, name: str, outputs: int, inputs: int, *, pretrainable: bool = False) -> Step:
    return Step(op="linear", name=name, shape=(outputs, inputs), std=_std(config), pretrainable=pretrainable)


def _dropout(name: str, rate: float) -> Step:
    return Step(op="dropout", name=name, rate=float(rate))


def _activation(name: str) -> Step:
    return Step(op="activation", name=name)


def _classifier_rate(config: ModelConfigHF) -> float:
    rate = config.classifier_dropout
    return config.hidden_dropout_prob if rate is None else rate


def _score(config: ModelConfigHF, num_outputs: int) -> tuple[Step, ...]:
    """Decoders: one linear layer without bias on the last real token."""
    width = config.word_embed_proj_dim if config.model_type == "opt" else config.hidden_size
    return (Step(op="linear", name="score", shape=(num_outputs, width), bias=False, std=_std(config)),)


def _bert(config: ModelConfigHF, num_outputs: int) -> tuple[Step, ...]:
    """BERT: pooler (dense, tanh), dropout, classifier."""
    width = config.hidden_size
    return (
        _linear(config, "bert.pooler.dense", width, width, pretrainable=True),
        _activation("tanh"),
        _dropout("dropout", _classifier_rate(config)),
        _linear(config, "classifier", num_outputs, width),
    )


def _albert(config: ModelConfigHF, num_outputs: int) -> tuple[Step, ...]:
    """ALBERT: as BERT, with the pooler as a bare linear layer and a dropout rate of its own."""
    width = config.hidden_size
    return (
        _linear(config, "albert.pooler", width, width, pretrainable=True),
        _activation("tanh"),
        _dropout("dropout", config.classifier_dropout_prob),
        _linear(config, "classifier", num_outputs, width),
    )


def _two_layers(config: ModelConfigHF, num_outputs: int, activation: str, rate: float) -> tuple[Step, ...]:
    width = config.hidden_size
    return (
        _dropout("classifier.dropout", rate),
        _linear(config, "classifier.dense", width, width),
        _activation(activation),
        _dropout("classifier.dropout", rate),
        _linear(config, "classifier.out_proj", num_outputs, width),
    )


def _roberta(config: ModelConfigHF, num_outputs: int) -> tuple[Step, ...]:
    """RoBERTa, XLM-R: dropout, dense, tanh, dropout, out_proj."""
    return _two_layers(config, num_outputs, "tanh", _classifier_rate(config))


def _electra(config: ModelConfigHF, num_outputs: int) -> tuple[Step, ...]:
    """ELECTRA: as RoBERTa, with GELU."""
    return _two_layers(config, num_outputs, "gelu", _classifier_rate(config))


def _mpnet(config: ModelConfigHF, num_outputs: int) -> tuple[Step, ...]:
    """MPNet: as RoBERTa, with the hidden dropout rate."""
    return _two_layers(config, num_outputs, "tanh", config.hidden_dropout_prob)


def _distilbert(config: ModelConfigHF, num_outputs: int) -> tuple[Step, ...]:
    """DistilBERT: pre_classifier (always fresh), ReLU, dropout, classifier."""
    width = config.hidden_size
    return (
        _linear(config, "pre_classifier", width, width),
        _activation("relu"),
        _dropout("dropout", config.seq_classif_dropout),
        _linear(config, "classifier", num_outputs, width),
    )


def _deberta(config: ModelConfigHF, num_outputs: int) -> tuple[Step, ...]:
    """DeBERTa: context pooler (always fresh), its activation, dropout, classifier."""
    settings = config.to_dict()
    width = config.pooler_hidden_size
    cls_rate = settings.get("cls_dropout")
    return (
        _dropout("pooler.dropout", config.pooler_dropout),
        _linear(config, "pooler.dense", width, width),
        _activation(config.pooler_hidden_act),
        _dropout("dropout", config.hidden_dropout_prob if cls_rate is None else cls_rate),
        _linear(config, "classifier", num_outputs, config.hidden_size),
    )


def _modernbert(config: ModelConfigHF, num_outputs: int) -> tuple[Step, ...]:
    """ModernBERT: prediction head (dense, activation, norm; from the checkpoint if it has it), dropout, classifier."""
    width = config.hidden_size
    cutoff = 3.0 if config.initializer_cutoff_factor is None else float(config.initializer_cutoff_factor)
    out_std = config.initializer_range / math.sqrt(2.0 * config.num_hidden_layers)
    return (
        Step(
            op="linear",
            name="head.dense",
            shape=(width, width),
            bias=bool(config.classifier_bias),
            std=out_std,
            cutoff=cutoff,
            pretrainable=True,
        ),
        _activation(config.classifier_activation),
        Step(
            op="norm",
            name="head.norm",
            shape=(width,),
            bias=bool(config.norm_bias),
            eps=config.norm_eps,
            pretrainable=True,
        ),
        _dropout("drop", config.classifier_dropout),
        Step(op="linear", name="classifier", shape=(num_outputs, width), std=width**-0.5, cutoff=cutoff),
    )


_STYLES: dict[HeadStyle, Callable[[ModelConfigHF, int], tuple[Step, ...]]] = {
    "score": _score,
    "bert": _bert,
    "albert": _albert,
    "roberta": _roberta,
    "electra": _electra,
    "mpnet": _mpnet,
    "distilbert": _distilbert,
    "deberta": _deberta,
    "modernbert": _modernbert,
}
