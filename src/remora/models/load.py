"""The one gate through which every base model is loaded: safetensors or GGUF, no pickle, no code from the model."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.initialization import no_init_weights

from remora.errors import ModelError
from remora.models.architectures import get_architecture
from remora.models.base import LM_HEAD, Base, Quantization
from remora.models.files import ModelFiles, resolve, with_folder
from remora.models.foreign import parsing
from remora.models.frozen_linear import held_tensors
from remora.models.gguf import converted_gguf
from remora.models.head_steps import no_head, pretrainable_names
from remora.models.mapped import keep_weights, map_weights, weights_key
from remora.models.quantised import quantised, restore_layers
from remora.models.quiet import quiet_transformers
from remora.models.seq2seq import empty_backbone, taken_apart

FLOAT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_DENSE_SHA256 = "dense.sha256"
"""Under this name the hash of the dense base is kept beside the tensors of a quantised one, as 32 bytes."""


def load_base(
    id: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    quantization: Quantization = "none",
    language_head: bool = False,
) -> Base:
    """Load a base model, frozen and in evaluation mode.

    Args:
        id: an alias (``minilm``, ``smollm2``), a folder, a GGUF file, or a Hub id, also as ``owner/name@revision``.
        revision: Hub branch, tag or commit.
        dtype: type in which the weights are stored; they are read in float32 and converted once, then kept in the cache
            folder and mapped, so that all processes of a machine hold them in memory once.
        quantization: with ``nf4`` linear layers are held in 4 bits; those are what is kept and mapped then, so that
            only the first load has the dense weights in memory.
        language_head: whether the head of a language model comes along. Where it is tied to the embedding it is there
            in any case; else it is one more tensor of the base, and part of its hash. Encoder-decoders have no other.

    Returns:
        The base.

    Raises:
        ModelError: not found, not safetensors or GGUF, wants code of its own, or of an unsupported architecture; an
            encoder-decoder for anything but text, or one that cannot be quantised.
    """
    if dtype not in FLOAT_TYPES:
        raise ModelError(f"a base model cannot be stored as {dtype}", "choose float32, bfloat16 or float64")
    files = resolve(id, revision)
    if files.gguf is not None:
        files = with_folder(files, converted_gguf(files.gguf, id))
    arch = get_architecture(files.model_type, id)
    if arch.encoder_decoder and not language_head:
        raise no_head(id)
    if arch.reads_weights and quantization != "none":
        raise ModelError(
            f"{id} cannot be held in 4 bits: {arch.model_type} looks at the weights of its feed-forward layers itself",
            "leave model.quantization and the method qlora out",
        )
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        config = _config(files, id)
        tokenizer, chat_template = _tokenizer(files, id)
        untied = language_head and (arch.encoder_decoder or (arch.causal and not config.tie_word_embeddings))
        key = weights_key(files, dtype, quantization, language_head=untied)
        base = _from_mapped(key, config, tokenizer, files, dtype, quantization)
        if base is not None:
            return replace(base, chat_template=chat_template)
        base = _from_files(config, tokenizer, files, dtype, id, untied)
    if quantization == "nf4":
        base = quantised(base)
    tensors = {**held_tensors(base.model), **base.pooler}
    if base.dense_sha256 is not None:
        tensors[_DENSE_SHA256] = torch.tensor(list(bytes.fromhex(base.dense_sha256)), dtype=torch.uint8)
    if keep_weights(key, tensors):
        base = _from_mapped(key, config, tokenizer, files, dtype, quantization) or base
    return replace(base, chat_template=chat_template)


def _config(files: ModelFiles, id: str) -> Any:
    with parsing(f"{id}: its config.json cannot be used", "the file may be damaged; fetch it again"):
        return AutoConfig.from_pretrained(files.folder, local_files_only=True)


def _from_files(config: Any, tokenizer: Any, files: ModelFiles, dtype: torch.dtype, id: str, untied: bool) -> Base:
    """The dense base, read from its checkpoint; with `untied`, its language-modelling head too."""
    auto: Any = AutoModelForSequenceClassification
    if untied:
        seq2seq = get_architecture(files.model_type, id).encoder_decoder
        auto = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    with parsing(f"{id}: the weights cannot be read", "the files may be damaged; fetch them again"):
        model, report = auto.from_pretrained(
            files.folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="eager",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    _refuse_holes(report, model, id, untied=untied)
    return make_base(
        model, tokenizer=tokenizer, files=files, missing=report["missing_keys"], dtype=dtype, language_head=untied
    )


def _from_mapped(
    key: str, config: Any, tokenizer: Any, files: ModelFiles, dtype: torch.dtype, quantization: Quantization
) -> Base | None:
    """The base with weights mapped from the cache folder; None when they are not there.

    The model is built without initialising it: memory that nobody touches takes no room.
    """
    tensors = map_weights(key)
    if tensors is None:
        return None
    with quiet_transformers(), torch.random.fork_rng(devices=[]), no_init_weights():
        if get_architecture(config.model_type, files.name).encoder_decoder:
            backbone = _prepared(empty_backbone(config, tied=LM_HEAD not in tensors), files)
        else:
            model: Any = AutoModelForSequenceClassification.from_config(
                config, attn_implementation="eager", dtype=torch.float32
            )
            backbone = _prepared(model.get_submodule(str(model.base_model_prefix)), files)
    sha256: str | None = None
    if quantization == "nf4":
        try:
            restore_layers(backbone, tensors, dtype)
            sha256 = bytes(tensors.pop(_DENSE_SHA256).tolist()).hex()
        except KeyError:
            return None
    parameters = dict(backbone.named_parameters())
    held = held_tensors(backbone)
    pooler = {name: tensor for name, tensor in tensors.items() if name not in held}
    if not set(held) <= set(tensors) or any(tensors[n].shape != p.shape for n, p in parameters.items()):
        return None
    for name, parameter in parameters.items():
        parameter.data = tensors[name]
    base = _frozen(backbone, tokenizer, files, dtype, pooler)
    return replace(base, quantization=quantization, dense_sha256=sha256)


def make_base(
    model: nn.Module,
    *,
    tokenizer: Any,
    files: ModelFiles,
    missing: Collection[str],
    dtype: torch.dtype,
    language_head: bool = False,
) -> Base:
    """Turn a transformers model into a frozen base.

    Args:
        model: the classification model, or that for language modelling, of an encoder-decoder that for conditional
            generation. It is taken over: its pooler is removed.
        tokenizer: its tokenizer or None.
        files: where it came from.
        missing: names of parameters that the checkpoint lacks.
        dtype: type in which the weights are stored.
        language_head: whether the model's language-modelling head, which is not tied, belongs to the base.

    Returns:
        The base; head parts that the checkpoint has and that are not fresh by nature are in ``pooler``.
    """
    whole: Any = model.config
    if whole.is_encoder_decoder:
        arch = get_architecture(whole.model_type, files.name)
        backbone, parts = taken_apart(model, arch, dtype)
        return _frozen(_typed(_prepared(backbone, files), dtype), tokenizer, files, dtype, parts)
    backbone = model.get_submodule(str(model.base_model_prefix))
    config: Any = backbone.config
    names = pretrainable_names(get_architecture(config.model_type, files.name).head, config)
    pooler: dict[str, Tensor] = {}
    if not set(names) & set(missing):
        keep = torch.float64 if dtype == torch.float64 else torch.float32
        parameters = dict(model.named_parameters())
        pooler = {name: parameters[name].detach().to(keep).clone() for name in names}
    if language_head:  # of a vocabulary's size, and computed with in the base's type as transformers does
        pooler = {LM_HEAD: model.get_parameter(LM_HEAD).detach().to(dtype).clone()}
    return _frozen(_typed(_prepared(backbone, files), dtype), tokenizer, files, dtype, pooler)


def _typed(backbone: nn.Module, dtype: torch.dtype) -> nn.Module:
    for parameter in backbone.parameters():
        # Parameters only: transformers keeps buffers such as rotary frequencies in float32 whatever the weights are.
        parameter.data = parameter.data.to(dtype)
    return backbone


def _prepared(backbone: nn.Module, files: ModelFiles) -> nn.Module:
    """The backbone without what is drawn at random in it.

    Raises:
        ModelError: it skips layers in training.
    """
    config: Any = backbone.config
    arch = get_architecture(config.model_type, files.name)
    settings: dict[str, Any] = config.to_dict()
    for name, rate in settings.items():
        if name.endswith("layerdrop") and rate:
            raise ModelError(
                f"{files.name} skips layers at random in training ({name} {rate}), which is not supported",
                f"set {name} to 0 in its config.json",
            )
    if arch.head in ("bert", "albert"):
        backbone.register_module("pooler", None)  # what is pretrained of it belongs to the head, the rest is random
    return backbone


def _frozen(
    backbone: nn.Module, tokenizer: Any, files: ModelFiles, dtype: torch.dtype, pooler: dict[str, Tensor]
) -> Base:
    backbone.requires_grad_(False)
    config: Any = backbone.config
    return Base(
        model=backbone.eval(),
        arch=get_architecture(config.model_type, files.name),
        config=config,
        tokenizer=tokenizer,
        name=files.name,
        source=files.source,
        revision=files.revision,
        dtype=dtype,
        pooler=pooler,
    )


def _tokenizer(files: ModelFiles, id: str) -> tuple[Any, str | None]:
    """The tokenizer without its chat template, and that template; one from a GGUF file is dropped."""
    with parsing(f"{id}: its tokenizer cannot be loaded", "the folder needs a sound tokenizer.json"):
        tokenizer = AutoTokenizer.from_pretrained(files.folder, local_files_only=True)
    # A template is a program written by whoever made the file: nothing renders it but `models.chat`, when asked to.
    template, tokenizer.chat_template = tokenizer.chat_template, None
    return tokenizer, template if isinstance(template, str) and files.gguf is None else None


def _refuse_holes(report: dict[str, Any], model: nn.Module, id: str, *, untied: bool) -> None:
    """The head may be fresh; a backbone with randomly initialised parts would be measured as if it were pretrained.

    So would the head of a language model.
    """
    prefix = "" if untied else str(model.base_model_prefix) + "."
    fresh = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    holes = sorted(name for name in fresh if name.startswith(prefix) and not name.startswith(prefix + "pooler."))
    if holes:
        part = "language model" if untied else "backbone"
        raise ModelError(
            f"{id}: the checkpoint lacks {len(holes)} of the {part}'s tensors, such as {holes[0]}",
            "config.json and the weights do not belong together, or a file is incomplete",
        )
