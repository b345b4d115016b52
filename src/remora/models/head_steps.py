"""The steps of transformers' heads: for sequences, for choices and for tokens, architecture by architecture.

The class for multiple choice has the head of the one for sequence classification with a single output, but for RoBERTa,
XLM-R and MPNet (a pooler in the backbone, always fresh here) and ELECTRA. Decoders have no such class; their score of a
sequence serves. Heads for tokens are one layer on every row, behind dropout; ModernBERT has the same one as elsewhere.
transformers has no class for coreference; its head is Remora's own, two layers on every row (`models.mention_ranking`).
"""

# D features, C outputs
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from remora.errors import ModelError
from remora.models.architectures import Architecture, HeadStyle, ModelConfigHF

HeadKind = Literal["sequence", "choice", "token", "coreference", "lm"]
"""Which of transformers' classes: for sequence classification, multiple choice, token classification, none (Remora's
own), and causal language modelling, whose head is pretrained (`models.language_head`)."""


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


def pretrainable_names(style: HeadStyle | None, config: ModelConfigHF) -> tuple[str, ...]:
    """Head parameters that a checkpoint of the bare model may bring: BERT's and ALBERT's pooler, ModernBERT's head."""
    if style is None:
        return ()
    return tuple(name for step in _STYLES[style](config, 1) if step.pretrainable for name in step.tensors())


def head_steps(
    arch: Architecture, config: ModelConfigHF, num_outputs: int, kind: HeadKind = "sequence"
) -> tuple[Step, ...]:
    """The steps of an architecture's head for C outputs.

    Raises:
        ModelError: a setting of the head's that changes what it is, or an architecture without a head of this kind.
    """
    if arch.head is None:
        raise no_head(arch.model_type)
    if kind == "coreference":
        return _word_parts(config, num_outputs)
    if kind == "token":
        if arch.model_type in _WITHOUT_TOKENS:
            raise ModelError(
                f"transformers has no class for token classification with {arch.model_type}",
                "choose another base model",
            )
        return _TOKEN_STYLES.get(arch.model_type, _scored_tokens)(config, num_outputs)
    style = _STYLES[arch.head]
    return (_CHOICE_STYLES.get(arch.model_type, style) if kind == "choice" else style)(config, num_outputs)


def no_head(model: str) -> ModelError:
    """What is wrong when an encoder-decoder is asked for anything but text."""
    return ModelError(
        f"{model} is an encoder-decoder, which writes text; it has no head for classes, choices, words or numbers",
        "choose an encoder such as minilm or a decoder such as smollm2",
    )


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


def _word_parts(config: ModelConfigHF, num_outputs: int) -> tuple[Step, ...]:
    """Coreference: dropout, dense, GELU, and the parts of a word, with weights that keep the scale of their inputs."""
    settings = config.to_dict()
    width = config.word_embed_proj_dim if config.model_type == "opt" else config.hidden_size
    rates = (settings.get("classifier_dropout"), settings.get("hidden_dropout_prob"), settings.get("dropout"), 0.1)
    rate = next(rate for rate in rates if rate is not None)
    return (
        _dropout("coreference.dropout", rate),
        Step(op="linear", name="coreference.dense", shape=(width, width), std=width**-0.5),
        _activation("gelu"),
        Step(op="linear", name="coreference.parts", shape=(num_outputs, width), std=width**-0.5),
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


def _fresh_pooler(prefix: str) -> Callable[[ModelConfigHF, int], tuple[Step, ...]]:
    """RoBERTa, XLM-R, MPNet for choices: the backbone's pooler (dense, tanh), dropout, classifier."""

    def steps(config: ModelConfigHF, num_outputs: int) -> tuple[Step, ...]:
        width = config.hidden_size
        return (
            _linear(config, f"{prefix}.pooler.dense", width, width),
            _activation("tanh"),
            _dropout("dropout", config.hidden_dropout_prob),
            _linear(config, "classifier", num_outputs, width),
        )

    return steps


def _electra_choice(config: ModelConfigHF, num_outputs: int) -> tuple[Step, ...]:
    """ELECTRA for choices: summary (dropout, dense, activation, dropout), classifier."""
    settings = config.to_dict()
    if settings.get("summary_type", "last") != "first" or settings.get("summary_proj_to_labels"):
        raise ModelError(
            f"multiple choice with ELECTRA: summary_type is {settings.get('summary_type')!r}, expected 'first'",
            'set summary_type to "first" and summary_proj_to_labels to false in its config.json',
        )
    width, name = config.hidden_size, "sequence_summary"
    dense = (_linear(config, f"{name}.summary", width, width),) if settings.get("summary_use_proj") else ()
    activation = settings.get("summary_activation")
    return (
        _dropout(f"{name}.first_dropout", settings.get("summary_first_dropout") or 0.0),
        *dense,
        *((_activation(str(activation)),) if activation else ()),
        _dropout(f"{name}.last_dropout", settings.get("summary_last_dropout") or 0.0),
        _linear(config, "classifier", num_outputs, width),
    )


_CHOICE_STYLES: dict[str, Callable[[ModelConfigHF, int], tuple[Step, ...]]] = {
    "roberta": _fresh_pooler("roberta"),
    "xlm-roberta": _fresh_pooler("roberta"),
    "mpnet": _fresh_pooler("mpnet"),
    "electra": _electra_choice,
}


def _classified_tokens(
    rate: Callable[[ModelConfigHF], float],
) -> Callable[[ModelConfigHF, int], tuple[Step, ...]]:
    """Encoders, GPT-2 and GPT-NeoX for tokens: dropout, classifier."""

    def steps(config: ModelConfigHF, num_outputs: int) -> tuple[Step, ...]:
        return (_dropout("dropout", rate(config)), _linear(config, "classifier", num_outputs, config.hidden_size))

    return steps


def _scored_tokens(config: ModelConfigHF, num_outputs: int) -> tuple[Step, ...]:
    """Other decoders for tokens: dropout and a score, unlike the one of sequences with a bias."""
    settings = config.to_dict()
    bias = bool(settings.get("token_classification_bias", True))
    score = Step(op="linear", name="score", shape=(num_outputs, config.hidden_size), bias=bias, std=_std(config))
    return (_dropout("dropout", _decoder_rate(config)), score)


def _decoder_rate(config: ModelConfigHF) -> float:
    settings = config.to_dict()
    given = (settings.get("classifier_dropout"), settings.get("hidden_dropout"), 0.1)
    return float(next(rate for rate in given if rate is not None))


def _albert_token_rate(config: ModelConfigHF) -> float:
    rate = config.classifier_dropout_prob
    return config.hidden_dropout_prob if rate is None else rate


def _hidden_rate(config: ModelConfigHF) -> float:
    return config.hidden_dropout_prob


_WITHOUT_TOKENS = ("opt", "gemma3_text")

_TOKEN_STYLES: dict[str, Callable[[ModelConfigHF, int], tuple[Step, ...]]] = {
    "bert": _classified_tokens(_classifier_rate),
    "roberta": _classified_tokens(_classifier_rate),
    "xlm-roberta": _classified_tokens(_classifier_rate),
    "electra": _classified_tokens(_classifier_rate),
    "distilbert": _classified_tokens(lambda config: config.dropout),
    "albert": _classified_tokens(_albert_token_rate),
    "mpnet": _classified_tokens(_hidden_rate),
    "deberta-v2": _classified_tokens(_hidden_rate),
    "gpt2": _classified_tokens(_decoder_rate),
    "gpt_neox": _classified_tokens(lambda config: config.classifier_dropout),
    "modernbert": _modernbert,
}
