"""Complete models as ordinary Hugging Face folders: what full fine-tuning gives, and merged adapters."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from remora.adapters.folder import write_tensors
from remora.adapters.record import CHECKPOINT_TENSORS
from remora.models.base import Base


def write_checkpoint(folder: Path, base: Base, tensors: Mapping[str, Tensor], label_names: Sequence[str]) -> str:
    """Write weights, configuration and tokenizer of a classification model.

    Args:
        folder: exists.
        base: the model's base, for configuration and tokenizer.
        tensors: every parameter by its name in transformers' classification model.
        label_names: classes; empty for regression.

    Returns:
        SHA-256 of the weights file.
    """
    config = copy.deepcopy(base.config)
    config.num_labels = len(label_names) or 1
    if label_names:
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: index for index, name in enumerate(label_names)}
    config.problem_type = "single_label_classification" if label_names else "regression"
    config.architectures = [MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[base.arch.model_type]]
    config.dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    if base.tokenizer is not None:
        if config.pad_token_id is None:  # without it transformers' decoders classify one text at a time only
            config.pad_token_id = base.tokenizer.pad_token_id
        base.tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    return write_tensors(folder / CHECKPOINT_TENSORS, tensors)
