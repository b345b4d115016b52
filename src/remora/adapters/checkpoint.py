"""Complete models as ordinary Hugging Face folders: what full fine-tuning gives, and merged adapters."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from remora.adapters.classes import class_name
from remora.adapters.folder import write_tensors
from remora.adapters.record import CHECKPOINT_TENSORS
from remora.models.base import Base
from remora.models.head_steps import HeadKind


def constant_parts(base: Base, kind: HeadKind) -> dict[str, Tensor]:
    """Pretrained parts of a head that nothing trains, by name: the bias on a BART's logits, where it is not zero."""
    name = base.arch.lm_bias
    return {name: base.pooler[name]} if kind == "lm" and name is not None and name in base.pooler else {}


def write_checkpoint(
    folder: Path, base: Base, tensors: Mapping[str, Tensor], label_names: Sequence[str], kind: HeadKind
) -> str:
    """Write weights, configuration and tokenizer of a model with a head.

    Args:
        folder: exists.
        base: the model's base, for configuration and tokenizer.
        tensors: every parameter by its name in transformers' class.
        label_names: classes; empty where there are none. A language model has no place for them.
        kind: of the head.

    Returns:
        SHA-256 of the weights file.
    """
    tensors = {**tensors, **constant_parts(base, kind)}
    config = copy.deepcopy(base.config)
    if kind != "lm":
        config.num_labels = len(label_names) or 1
    if label_names and kind != "lm":
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: index for index, name in enumerate(label_names)}
    if kind == "sequence":
        config.problem_type = "single_label_classification" if label_names else "regression"
    config.architectures = [class_name(base.arch, kind)]
    config.dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    if base.tokenizer is not None:
        if config.pad_token_id is None:  # without it transformers' decoders classify one text at a time only
            config.pad_token_id = base.tokenizer.pad_token_id
        base.tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    return write_tensors(folder / CHECKPOINT_TENSORS, tensors)
