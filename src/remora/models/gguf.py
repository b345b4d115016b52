"""Load a single-file GGUF model: weights dequantised to float32, the tokenizer from the file, templates ignored."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from remora.errors import ModelError
from remora.models.architectures import get_architecture
from remora.models.quiet import quiet_transformers


def load_gguf(path: Path, name: str) -> tuple[nn.Module, Any, Any]:
    """Read a GGUF file.

    Args:
        path: the file.
        name: what the user called it, for messages.

    Returns:
        The backbone in float32, its configuration and its tokenizer (without chat template; padding falls back to the
        end-of-text token, as classification never pads).

    Raises:
        ModelError: damaged, or of an architecture that transformers or Remora does not know.
    """
    source = {"gguf_file": path.name, "local_files_only": True}
    try:
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            config = AutoConfig.from_pretrained(path.parent, **source)
            get_architecture(config.model_type, name)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **source)
            model = AutoModel.from_pretrained(
                path.parent, config=config, dtype=torch.float32, attn_implementation="eager", **source
            )
    except (OSError, RuntimeError, ValueError, KeyError, NotImplementedError, ImportError) as error:
        raise ModelError(
            f"{name}: the GGUF file cannot be read: {error}", "it may be damaged or of an unknown kind"
        ) from error
    tokenizer.chat_template = None  # a template is a program written by whoever made the file
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, config, tokenizer
