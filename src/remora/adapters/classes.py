"""Which of transformers' classes computes what an adapter's head does, and what peft calls the task."""

from collections.abc import Mapping
from typing import Any

from transformers.models.auto import modeling_auto as auto

from remora.models.architectures import Architecture
from remora.models.head_steps import HeadKind

_CLASSES: dict[HeadKind, Mapping[Any, Any]] = {
    "sequence": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "choice": auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    "token": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "coreference": auto.MODEL_MAPPING_NAMES,
    "lm": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
}
_SEQ2SEQ: Mapping[Any, Any] = auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
_AUTO: dict[HeadKind, str] = {
    "sequence": "AutoModelForSequenceClassification",
    "choice": "AutoModelForMultipleChoice",
    "token": "AutoModelForTokenClassification",
    "coreference": "AutoModel",
    "lm": "AutoModelForCausalLM",
}
_PEFT_TASKS: dict[HeadKind, str | None] = {
    "sequence": "SEQ_CLS",
    "choice": None,
    "token": "TOKEN_CLS",
    "coreference": None,
    "lm": "CAUSAL_LM",
}


def class_kind(arch: Architecture, kind: HeadKind) -> HeadKind:
    """The kind of class in which transformers has a head.

    Decoders have none for choices: theirs is the score of a sequence, with one output. There is none for coreference,
    only that of the model without a head. Encoder-decoders have one for language modelling, which is not that of
    decoders.
    """
    if arch.encoder_decoder:
        return "lm"
    return kind if arch.model_type in _CLASSES[kind] else "sequence"


def class_name(arch: Architecture, kind: HeadKind) -> str:
    """The name of the class, as a checkpoint's configuration says it."""
    known = _SEQ2SEQ if arch.encoder_decoder else _CLASSES[class_kind(arch, kind)]
    return str(known[arch.model_type])


def auto_class(arch: Architecture, kind: HeadKind) -> str:
    """The automatic class that loads it."""
    return "AutoModelForSeq2SeqLM" if arch.encoder_decoder else _AUTO[class_kind(arch, kind)]


def peft_task(arch: Architecture, kind: HeadKind) -> str | None:
    """peft's ``task_type``: none for multiple choice, where the modules to save name the head all the same."""
    return "SEQ_2_SEQ_LM" if arch.encoder_decoder else _PEFT_TASKS[class_kind(arch, kind)]
