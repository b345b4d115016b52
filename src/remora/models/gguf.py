"""Single-file GGUF models: dequantised to float32 once, kept in the cache as an ordinary safetensors folder.

Reading a GGUF file through transformers takes half a minute for 135 M parameters, most of it in parsing the vocabulary
three times; every worker process would pay that. The folder is named by the file's SHA-256, so a changed file is
converted anew. Chat templates in the file are dropped: a template is a program written by whoever made the file.
"""

import contextlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

from remora.errors import ModelError, ResourceError
from remora.models.architectures import get_architecture
from remora.models.files import file_sha256
from remora.models.foreign import parsing
from remora.models.quiet import quiet_transformers
from remora.paths import cache_dir


def converted_gguf(path: Path, name: str) -> Path:
    """The safetensors folder of a GGUF file, made now if the cache has none.

    Args:
        path: the file.
        name: what the user called it, for messages.

    Returns:
        A folder with config.json, model.safetensors (float32) and the file's own tokenizer.

    Raises:
        ModelError: damaged, or of an architecture that transformers or Remora does not know.
        ResourceError: no room or no permission in the cache folder.
    """
    parent = cache_dir() / "models"
    folder = parent / f"gguf-{file_sha256(path)[:32]}"
    if folder.is_dir():
        return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix="gguf-", dir=parent))
    except OSError as error:
        raise _no_room(path, parent, error) from error
    try:
        _convert(path, name, aside)
        with contextlib.suppress(OSError):  # another process was first: its folder holds the same bytes
            os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if not folder.is_dir():
        raise _no_room(path, parent, "the converted folder could not be put in place")
    return folder


def _convert(path: Path, name: str, folder: Path) -> None:
    source = {"gguf_file": path.name, "local_files_only": True}
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()), torch.random.fork_rng(devices=[]):
        with parsing(f"{name}: the GGUF file cannot be read", "it may be damaged or too new"):
            config = AutoConfig.from_pretrained(path.parent, **source)
            if get_architecture(config.model_type, name).encoder_decoder:
                raise ModelError(
                    f"{name}: encoder-decoders such as {config.model_type} are not read from GGUF files",
                    "give a folder or Hub id that has its safetensors",
                )
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **source)
            model = AutoModel.from_pretrained(path.parent, config=config, dtype=torch.float32, **source)
        tokenizer.chat_template = None
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token  # classification never pads; other tools expect one
        try:
            # Not model.save_pretrained: transformers takes the dequantised model for a quantised one and refuses.
            save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
            settings = {key: value for key, value in config.to_diff_dict().items() if key != "quantization_config"}
            (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
            tokenizer.save_pretrained(folder)
        except OSError as error:
            raise _no_room(path, folder, error) from error


def _no_room(path: Path, folder: Path, error: object) -> ResourceError:
    return ResourceError(
        f"{path.name} cannot be converted into {folder}: {error}",
        "it needs four bytes per parameter; set REMORA_CACHE to a folder with room",
    )
