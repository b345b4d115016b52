"""What every process of a study needs before the first trial: data, task, base and tokenized splits."""

from dataclasses import dataclass, field

import numpy as np
import torch

from remora.config.schema import StudyConfig
from remora.data.dataset import Dataset, load_dataset
from remora.data.tokenize import Encoded, LengthStatistics, TextEncoder, length_statistics
from remora.engine.trial import Examples, TrialData
from remora.models.base import Base, placed
from remora.models.load import load_base
from remora.study.machine import choose_dtype, settled_device
from remora.tasks.base import Task, task_for

_DEFAULT_LENGTH = 256


@dataclass(kw_only=True)
class StudyContext:
    """Data, task and base of one study.

    Args:
        config: the study.
        dataset: checked and split.
        task: its loss and metrics.
        base: the frozen base model, in main memory.
        max_length: tokens per example, special and virtual ones included.
    """

    config: StudyConfig
    dataset: Dataset
    task: Task
    base: Base
    max_length: int
    encoder: TextEncoder
    _encoded: dict[tuple[str, int], Encoded] = field(default_factory=dict[tuple[str, int], Encoded])

    def encoded(self, split: str, room: int = 0) -> Encoded:
        """A tokenized split, with `room` tokens of the budget left for virtual tokens."""
        key = (split, room)
        if key not in self._encoded:
            self._encoded[key] = self.encoder.encode_split(self.dataset.splits[split], self.max_length, room)
        return self._encoded[key]

    def lengths(self) -> LengthStatistics:
        """Token statistics over all splits."""
        return length_statistics([self.encoded(name) for name in self.dataset.splits])

    def truncated(self, room: int) -> dict[str, int]:
        """Texts cut to the budget, by split."""
        return {name: self.encoded(name, room).num_truncated for name in self.dataset.splits}

    def base_on(self, device: torch.device) -> Base:
        """The base where it trains: on a CPU this one, on a GPU a copy, so that files are written from main memory."""
        if device == self.base.device:
            return self.base
        model = self.config.model
        return placed(load_base(model.id, revision=model.revision, dtype=self.base.dtype), device)

    def trial_data(self) -> TrialData:
        """The view of the data that the engine takes."""
        examples: dict[tuple[str, int], Examples] = {}

        def split(name: str, room: int) -> Examples:
            if (name, room) not in examples:
                encoded = self.encoded(name, room)
                types = encoded.type_ids or [np.zeros_like(ids) for ids in encoded.ids]
                targets = self.task.targets(self.dataset.splits[name])
                examples[name, room] = Examples(ids=encoded.ids, type_ids=types, targets=targets)
            return examples[name, room]

        return TrialData(task=self.task, num_outputs=self.task.num_outputs, split=split, fingerprint=self.dataset.hash)


def open_context(config: StudyConfig, *, dtype: torch.dtype | None = None) -> StudyContext:
    """Read the data and load the base of a study.

    Args:
        config: the study.
        dtype: compute type already chosen; by default the configuration's, or the faster one here.

    Returns:
        The context; its configuration names the device of the study.

    Raises:
        DataError: the data cannot be used.
        ModelError: the model cannot be used.
        ResourceError: the device asked for is not there.
    """
    config = config.model_copy(update={"engine": settled_device(config.engine)})
    data = load_dataset(config.data)
    chosen = dtype if dtype is not None else choose_dtype(config.model, config.engine)
    base = load_base(config.model.id, revision=config.model.revision, dtype=chosen)
    limit = config.model.max_length or _DEFAULT_LENGTH
    return StudyContext(
        config=config,
        dataset=data,
        task=task_for(data),
        base=base,
        max_length=min(limit, base.max_positions),
        encoder=TextEncoder(base.tokenizer),
    )
