"""``remora.json``: labels, task, base, data, seeds and scores of an adapter, and which file holds its tensors."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from remora.config.schema import GenerationConfig
from remora.data.clusters import MentionRules
from remora.data.kinds import TaskName
from remora.data.prompts import Prompt
from remora.errors import AdapterError
from remora.models.base import Base
from remora.models.head_steps import HeadKind
from remora.tasks.base import Task, make_task

RECORD_FILE = "remora.json"
PEFT_CONFIG = "adapter_config.json"
PEFT_TENSORS = "adapter_model.safetensors"
OWN_TENSORS = "remora.safetensors"
CHECKPOINT_TENSORS = "model.safetensors"
CARD_FILE = "README.md"

Storage = Literal["peft", "remora", "checkpoint"]
TENSOR_FILE: dict[Storage, str] = {"peft": PEFT_TENSORS, "remora": OWN_TENSORS, "checkpoint": CHECKPOINT_TENSORS}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseRecord(_Strict):
    """The base model an adapter belongs to.

    Args:
        name: as the user called it: alias, folder, file or Hub id.
        source: where it came from.
        revision: Hub commit.
        sha256: over its tensors in `dtype`, before they were quantised.
        dtype: in which it was stored during training.
        architecture: transformers' model type.
        quantization: how its linear layers were held in training; records from before there was this say nothing.
    """

    name: str
    source: str
    revision: str | None
    sha256: str
    dtype: Literal["float32", "float64", "bfloat16", "float16"]
    architecture: str
    quantization: Literal["none", "nf4"] = "none"

    @classmethod
    def of(cls, base: Base) -> "BaseRecord":
        """The record of a base."""
        return cls(
            name=base.name,
            source=base.source,
            revision=base.revision,
            sha256=base.sha256,
            dtype=str(base.dtype).removeprefix("torch."),  # type: ignore[arg-type]
            architecture=base.arch.model_type,
            quantization=base.quantization,
        )


class AdapterRecord(_Strict):
    """Everything Remora must know about an adapter beside its tensors.

    Args:
        format: of this file.
        remora: version that wrote it.
        method: id; `settings` its complete settings.
        label: how tables call it.
        remark: what a reader must know about the method on this base.
        task: kind of task.
        label_names: classes in the order of the outputs; empty where there are none.
        num_texts: texts per example (a question and its choices being two); None where it is not known, of adapters
            from elsewhere.
        text_columns: their names in the data it was trained on, where known.
        max_length: tokens per example, virtual ones included.
        data_name: data set; `data_hash` of its rows and splits.
        metric: headline; `metrics` by split.
        hyperparameters: of the trial, `seed`, `stream` and `trial` (its id).
        steps: optimizer steps taken.
        prompt: how texts are put to a language model, and what its answers mean.
        generation: how summaries are written, of summarization.
        storage: which file holds the exact tensors.
        files: SHA-256 of every tensor file.
        mentions: of coreference, what mentions are like in the data.
    """

    format: Literal[1] = 1
    remora: str
    method: str
    settings: dict[str, Any]
    label: str
    remark: str | None
    task: TaskName
    label_names: tuple[str, ...]
    num_texts: Literal[1, 2] | None
    text_columns: tuple[str, ...]
    max_length: int
    base: BaseRecord
    data_name: str
    data_hash: str
    metric: str
    metrics: dict[str, dict[str, float]]
    hyperparameters: dict[str, Any]
    seed: int
    stream: str
    trial: str
    steps: int
    prompt: Prompt | None = None
    generation: GenerationConfig | None = None
    storage: Storage
    files: dict[str, str]
    mentions: MentionRules | None = None

    @model_validator(mode="after")
    def _complete(self) -> "AdapterRecord":
        if (self.task == "coreference") != (self.mentions is not None):
            raise ValueError("mentions are recorded with coreference, and with nothing else")
        if (self.task == "summarization") != (self.generation is not None):
            raise ValueError("generation is recorded with summarization, and with nothing else")
        return self

    @property
    def bound_task(self) -> Task:
        """The task, bound to what is recorded of the data."""
        return make_task(self.task, label_names=self.label_names, mentions=self.mentions)

    @property
    def num_outputs(self) -> int:
        """Width of the head: one per class, or one number, or the parts of a word."""
        return len(self.label_names) or self.bound_task.num_outputs

    @property
    def head(self) -> HeadKind:
        """Which of transformers' heads it has."""
        return self.bound_task.head


def read_record(folder: Path) -> AdapterRecord:
    """Read an adapter's record.

    Args:
        folder: of the adapter.

    Raises:
        AdapterError: there is none, or it is damaged.
    """
    path = folder / RECORD_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterError(f"{folder} is not an adapter: {RECORD_FILE} cannot be read", str(error)) from error
    try:
        return AdapterRecord.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise AdapterError(
            f"{path} is damaged or of another version: {where}: {first['msg']}", "export the adapter again"
        ) from None
