"""The one gate through which every base model is loaded: safetensors or GGUF, no pickle, no code from the model."""

from collections.abc import Collection
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from remora.errors import ModelError
from remora.models.architectures import get_architecture
from remora.models.base import Base
from remora.models.files import ModelFiles, resolve, with_folder
from remora.models.gguf import converted_gguf
from remora.models.heads import pretrainable_names
from remora.models.quiet import quiet_transformers

FLOAT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def load_base(id: str, *, revision: str | None = None, dtype: torch.dtype = torch.float32) -> Base:
    """Load a base model, frozen and in evaluation mode.

    Args:
        id: an alias (``minilm``, ``smollm2``), a folder, a GGUF file, or a Hub id, also as ``owner/name@revision``.
        revision: Hub branch, tag or commit.
        dtype: type in which the weights are stored; they are read in float32 and converted once.

    Returns:
        The base.

    Raises:
        ModelError: not found, not safetensors or GGUF, wants code of its own, or of an unsupported architecture.
    """
    if dtype not in FLOAT_TYPES:
        raise ModelError(f"a base model cannot be stored as {dtype}", "choose float32, bfloat16 or float64")
    files = resolve(id, revision)
    if files.gguf is not None:
        files = with_folder(files, converted_gguf(files.gguf, id))
    get_architecture(files.model_type, id)
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        config = AutoConfig.from_pretrained(files.folder, local_files_only=True)
        tokenizer = _tokenizer(files, id)
        try:
            model, report = AutoModelForSequenceClassification.from_pretrained(
                files.folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                attn_implementation="eager",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
            raise ModelError(
                f"{id}: the weights cannot be read: {error}", "the files may be damaged; fetch them again"
            ) from error
    _refuse_holes(report, model, id)
    return make_base(model, tokenizer=tokenizer, files=files, missing=report["missing_keys"], dtype=dtype)


def make_base(
    model: nn.Module,
    *,
    tokenizer: Any,
    files: ModelFiles,
    missing: Collection[str],
    dtype: torch.dtype,
) -> Base:
    """Turn a transformers model into a frozen base.

    Args:
        model: the classification model. It is taken over: its pooler is removed.
        tokenizer: its tokenizer or None.
        files: where it came from.
        missing: names of parameters that the checkpoint lacks.
        dtype: type in which the weights are stored.

    Returns:
        The base; head parts that the checkpoint has and that are not fresh by nature are in ``pooler``.
    """
    backbone = model.get_submodule(str(model.base_model_prefix))
    config: Any = backbone.config
    arch = get_architecture(config.model_type, files.name)
    if arch.functional_dropout and config.layerdrop > 0:
        raise ModelError(
            f"{files.name} skips layers at random in training (layerdrop {config.layerdrop}), which is not supported",
            "set layerdrop to 0 in its config.json",
        )
    names = pretrainable_names(arch.head, config)
    pooler: dict[str, Tensor] = {}
    if not set(names) & set(missing):
        keep = torch.float64 if dtype == torch.float64 else torch.float32
        parameters = dict(model.named_parameters())
        pooler = {name: parameters[name].detach().to(keep).clone() for name in names}
    if arch.head in ("bert", "albert"):
        backbone.register_module("pooler", None)  # what is pretrained of it was taken out above, the rest is random
    backbone.requires_grad_(False)
    for parameter in backbone.parameters():
        # Parameters only: transformers keeps buffers such as rotary frequencies in float32 whatever the weights are.
        parameter.data = parameter.data.to(dtype)
    return Base(
        model=backbone.eval(),
        arch=arch,
        config=config,
        tokenizer=tokenizer,
        name=files.name,
        source=files.source,
        revision=files.revision,
        dtype=dtype,
        pooler=pooler,
    )


def _tokenizer(files: ModelFiles, id: str) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{id}: its tokenizer cannot be loaded: {error}", "the folder needs tokenizer.json") from error
    tokenizer.chat_template = None  # never rendered: a template is a program written by whoever made the file
    return tokenizer


def _refuse_holes(report: dict[str, Any], model: nn.Module, id: str) -> None:
    """The head may be fresh; a backbone with randomly initialised parts would be measured as if it were pretrained."""
    prefix = str(model.base_model_prefix) + "."
    fresh = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    holes = sorted(name for name in fresh if name.startswith(prefix) and not name.startswith(prefix + "pooler."))
    if holes:
        raise ModelError(
            f"{id}: the checkpoint lacks {len(holes)} of the backbone's tensors, such as {holes[0]}",
            "config.json and the weights do not belong together, or a file is incomplete",
        )
