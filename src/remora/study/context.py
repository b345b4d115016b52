"""What every process of a study needs before the first trial: data, task, base and tokenized splits."""

from dataclasses import dataclass, field, replace

import torch

from remora.config.load import unmeant
from remora.config.schema import StudyConfig
from remora.data.dataset import Dataset, load_dataset
from remora.data.prompts import Prompt, PromptEncoder, PromptTokenizer
from remora.data.summary_prompts import SummaryEncoder
from remora.data.tokenize import Encoded, LengthStatistics, TextEncoder, length_statistics
from remora.engine.examples import tokenized
from remora.engine.prompted import prompted
from remora.engine.summarized import summarized
from remora.engine.trial import Examples, TrialData
from remora.errors import ConfigError
from remora.methods.base import Method
from remora.models.base import Base, Quantization, placed
from remora.models.language_head import require_causal
from remora.models.load import load_base
from remora.study.machine import choose_dtype, dtype_name, settled_device
from remora.study.prompting import study_prompts
from remora.study.summarizing import study_summaries
from remora.tasks.base import Task, task_for

_DEFAULT_LENGTH = 256
_DOCUMENTS = 1
"""Documents of a batch where the study does not say: one has as many words as a hundred sentences."""


@dataclass(kw_only=True)
class StudyContext:
    """Data, task and base of one study.

    Args:
        config: the study.
        dataset: checked and split.
        task: its loss and metrics.
        base: the frozen base model, in main memory, held as the configuration says.
        max_length: tokens per example, special and virtual ones included.
        encoder: makes tokens of texts, or prompts.
    """

    config: StudyConfig
    dataset: Dataset
    task: Task
    base: Base
    max_length: int
    encoder: TextEncoder
    _quantised: Base | None = None
    _encoded: dict[tuple[str, int], Encoded] = field(default_factory=dict[tuple[str, int], Encoded])

    def encoded(self, split: str, room: int = 0) -> Encoded:
        """A tokenized split, with `room` tokens of the budget left for virtual tokens."""
        key = (split, room)
        if key not in self._encoded:
            rows = self.dataset.splits[split]
            self._encoded[key] = self.encoder.encode_split(rows, self.max_length, room, self.task.form)
        return self._encoded[key]

    @property
    def prompts(self) -> PromptEncoder | None:
        """What makes the prompts, where a language model is asked for a class."""
        return self.encoder if isinstance(self.encoder, PromptEncoder) else None

    @property
    def summaries(self) -> SummaryEncoder | None:
        """What makes the prompts, where a language model is asked for summaries."""
        return self.encoder if isinstance(self.encoder, SummaryEncoder) else None

    @property
    def prompt(self) -> Prompt | None:
        """How a language model is asked, where one is."""
        return self.encoder.prompt if isinstance(self.encoder, PromptTokenizer) else None

    def repeats(self, split: str) -> int:
        """How often an example of a split is read: once for every class whose words are scored apart."""
        prompts = self.prompts
        return 1 if prompts is None or prompts.single or split == "train" else len(prompts.answers)

    def lengths(self) -> LengthStatistics:
        """Token statistics over all splits."""
        return length_statistics([self.encoded(name) for name in self.dataset.splits])

    def truncated(self, room: int) -> dict[str, int]:
        """Texts cut to the budget, by split."""
        return {name: self.encoded(name, room).num_truncated for name in self.dataset.splits}

    def quantization_for(self, method: Method | None) -> Quantization:
        """How the base is held that a method runs on: as the method needs it, else as the study's."""
        needed: Quantization = "none" if method is None else method.base_quantization
        return self.base.quantization if needed == "none" else needed

    def base_as(self, quantization: Quantization) -> Base:
        """The study's base, or the quantised one beside it, which a dense study has for the rows that need it."""
        if quantization == self.base.quantization:
            return self.base
        if self._quantised is None:
            self._quantised = self._load(quantization)
        return self._quantised

    def base_on(self, device: torch.device, quantization: Quantization) -> Base:
        """A base where it trains: on a CPU that of `base_as`, on a GPU a copy: files are written from main memory."""
        base = self.base_as(quantization)
        return base if device == base.device else placed(self._load(quantization), device)

    def _load(self, quantization: Quantization) -> Base:
        model = self.config.model
        return load_base(
            model.id,
            revision=model.revision,
            dtype=self.base.dtype,
            quantization=quantization,
            language_head=self.config.prompts,
        )

    def trial_data(self) -> TrialData:
        """The view of the data that the engine takes."""
        examples: dict[tuple[str, int], Examples] = {}

        def split(name: str, room: int) -> Examples:
            if (name, room) not in examples:
                examples[name, room] = self._examples(name, room)
            return examples[name, room]

        prompts = self.prompts
        return TrialData(
            task=self.task,
            num_outputs=self.task.num_outputs if prompts is None else len(prompts.tokens),
            split=split,
            fingerprint=self.dataset.hash,
            head=self.task.head,
            tokens=() if prompts is None else prompts.tokens,
        )

    def _examples(self, name: str, room: int) -> Examples:
        encoded, targets = self.encoded(name, room), self.task.targets(self.dataset.splits[name])
        prompts, summaries = self.prompts, self.summaries
        if summaries is not None:
            written = summaries.encode_summaries(self.dataset.splits[name].labels)
            return summarized(encoded.ids, written.ids, targets, summaries.start)
        if prompts is None:
            whole = tokenized(encoded, targets)
            return replace(whole, targets=self.task.unread(whole.targets, whole.num_rows))
        told = prompts.content_free(self.max_length, room) if prompts.prompt.calibration == "content-free" else None
        return prompted(encoded, prompts, targets, training=name == "train", reference=told)


def open_context(config: StudyConfig) -> StudyContext:
    """Read the data and load the base of a study.

    Args:
        config: the study.

    Returns:
        The context; its configuration names the device and the compute type, which every process of the study is to
        take from there: measured once more, beside other work, another type may seem the faster one.

    Raises:
        DataError: the data cannot be used.
        ConfigError: what is said about prompts does not fit data or model.
        ModelError: the model cannot be used.
        ResourceError: the device asked for is not there.
    """
    engine = settled_device(config.engine)
    dtype = choose_dtype(config.model, engine)
    model = config.model.model_copy(update={"dtype": dtype_name(dtype)})
    config = config.model_copy(update={"engine": engine, "model": model})
    data = load_dataset(config.data)
    if data.task == "coreference" and "batch_size" not in config.protocol.model_fields_set:
        protocol = config.protocol.model_copy(update={"batch_size": _DOCUMENTS})
        config = config.model_copy(update={"protocol": protocol})
    if data.task == "summarization":
        config = config.model_copy(update={"data": config.data.model_copy(update={"task": data.task})})
    problems = unmeant(config)
    if problems:
        raise ConfigError("\n".join(f"{'.'.join(map(str, path))} {message}" for path, message in problems))
    base = load_base(
        model.id,
        revision=model.revision,
        dtype=dtype,
        quantization=model.quantization,
        language_head=config.prompts,
    )
    max_length = min(model.max_length or _DEFAULT_LENGTH, base.max_positions)
    encoder = TextEncoder(base.tokenizer)
    if data.task == "summarization":
        encoder, data = study_summaries(config.prompt, config.generation, data, base)
    elif config.prompts:
        require_causal(base)
        encoder, data = study_prompts(config.prompt, data, base, max_length, config.data.split_seed)
    return StudyContext(
        config=config,
        dataset=data,
        task=task_for(data),
        base=base,
        max_length=max_length,
        encoder=encoder,
    )
