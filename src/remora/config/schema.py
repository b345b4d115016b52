"""The settings of a study as strict, frozen models: unknown names and wrong types are errors, nothing is converted."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from remora.config.templates import template_problem

StudyKind = Literal["compare", "train", "sweep"]
TaskKind = Literal[
    "auto",
    "classification",
    "regression",
    "multiple-choice",
    "token-classification",
    "coreference",
    "prompt-classification",
    "summarization",
]


PROMPTED = ("prompt-classification", "summarization")
"""Kinds of task that are put to a language model in prompts."""


def _as_names(value: object) -> object:
    """One name or a YAML list of names as the tuple that the strict field wants."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_names), Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Base of all sections: strict types, no unknown names, immutable."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(Settings):
    """The base model."""

    id: Annotated[str, Field(min_length=1)]
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    quantization: Literal["none", "nf4"] = "none"
    """With nf4 the base's linear layers are held in 4-bit NormalFloat, and all methods of the study run on that."""
    max_length: Count | None = None
    """Tokens per example, special and virtual ones included; None means the smaller of the model's limit and 256."""


class DataConfig(Settings):
    """Where the labelled text is and how to read it."""

    path: Annotated[str, Field(min_length=1)]
    """A file, a folder, the name of a data set card, or a Hugging Face Hub id ``owner/name``."""
    local: str | None = None
    """The user's own copy of the data set whose card ``path`` names: a file or a folder."""
    text: Names | None = None
    """The text column, or the two of a pair, or a question's and that of its choices; None means the usual names."""
    label: str | None = None
    task: TaskKind = "auto"
    tag_scheme: Literal["bio", "iob1"] = "bio"
    """Of the tags of words. Under BIO every entity begins with B-X; with iob1 an I-X that continues none is read so."""
    train_limit: Count | None = None
    validation_limit: Count | None = None
    test_limit: Count | None = None
    metric: str | None = None
    """The headline metric; None means the card's, else the first of the task, such as accuracy, pearson or span_f1."""
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    on_bad_rows: Literal["error", "drop"] = "error"
    split_seed: int = 0


class PromptConfig(Settings):
    """How examples are put to a language model; for data.task=prompt-classification and summarization."""

    template: Annotated[str, Field(min_length=1)] = "auto"
    """alpaca, plain, chat (the one of the tokenizer), or text with the names of the text columns in braces.
    auto is alpaca for causal language models, and for encoder-decoders the words they were pretrained with."""
    instruction: str | None = None
    """What is asked for; None means words made from the classes, where the template has a place for them."""
    labels: Mapping[str, str] = Field(default_factory=dict[str, str])
    """The words shown for a class; by default its name."""
    shots: Annotated[int, Field(ge=0)] = 0
    """Solved examples in every prompt; they are taken from train, the same for all prompts."""
    calibration: Literal["none", "content-free"] = "none"
    """Whether answers are corrected by those to inputs that say nothing."""

    @field_validator("template")
    @classmethod
    def _has_its_field(cls, template: str) -> str:
        problem = template_problem(template)
        if problem:
            raise ValueError(problem)
        return template


class GenerationConfig(Settings):
    """How summaries are written; for data.task=summarization. Nothing is sampled."""

    max_new_tokens: Annotated[int, Field(ge=2)] = 64
    """Tokens of a summary, the end of the sequence included; references to train on are cut to as many."""
    num_beams: Count = 1
    """Beams of the search; 1 takes the likeliest token each time."""
    length_penalty: float = 1.0
    """Beams are ranked by their log-likelihood over their length to this power."""
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 0
    """No run of so many tokens is written twice; 0 allows all."""


ROW_SETTINGS = ("lr", "stream")
"""Settings of a row that are not the method's own: a fixed learning rate, and a second stream for A/A studies."""


class MethodEntry(Settings):
    """One row of the comparison: a method and its settings, which the method's own Config checks later."""

    id: Annotated[str, Field(min_length=1)]
    label: str | None = None
    settings: Mapping[str, object] = Field(default_factory=dict[str, object])

    @property
    def row_label(self) -> str:
        """The given label, else the id followed by its settings, such as ``lora rank=16 alpha=32``."""
        if self.label:
            return self.label
        return " ".join([self.id, *(f"{name}={_short(value)}" for name, value in self.settings.items())])


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ",".join(_short(item) for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


class ProtocolConfig(Settings):
    """How methods are tuned, trained and compared."""

    mode: Literal["fair", "published"] = "fair"
    epochs: Count = 3
    batch_size: Count = 16
    """Examples of an optimizer step; where they are whole documents and nothing is said, 1."""
    seeds: Count = 5
    tuning_trials: Annotated[int, Field(ge=0)] = 4
    lr: Annotated[float, Field(gt=0)] | None = None
    """Fixes the learning rate of every method; nothing is tuned then."""
    stop: Literal["none", "halving"] = "none"
    """With halving, a quarter and half of the way through, the worse half of every method's tuning trials stops."""
    schedule: Literal["linear", "constant"] = "linear"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.06
    clip: Annotated[float, Field(gt=0)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    base_dropout: bool = True
    select: Literal["last", "best-validation"] = "last"
    margin: Annotated[float, Field(ge=0)] = 1.0
    """Points (hundredths) of the headline metric within which a method counts as non-inferior."""
    prefer: Literal["quality", "size", "speed"] = "quality"
    full: bool = True
    """Whether the full fine-tuning baseline runs."""
    budget_seconds: Annotated[float, Field(gt=0)] | None = None


PASS_TOKENS = {"cpu": 2400, "cuda": 16384}
"""Tokens of a pass: far beyond 2,400 activations leave a CPU's caches; a GPU needs many rows to be filled."""


class EngineConfig(Settings):
    """How the work is spread over the machine; None means chosen from the machine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the base runs: auto is a CUDA device where there is one. A run directory keeps what it came to."""
    workers: Count | None = None
    threads: Count | None = None
    tokens_per_pass: Count | None = None
    lanes: Count | None = None
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60
    """Least time between two checkpoints of a pack; 0 for none. They never take more than one hundredth of the time."""
    lease_seconds: Annotated[float, Field(ge=1)] = 120
    """Without a sign of life for so long, a process on another machine counts as dead, and its packs go to others."""

    @property
    def pass_tokens(self) -> int:
        """Tokens of one pass: as set, else what suits the device."""
        return self.tokens_per_pass or PASS_TOKENS["cuda" if self.device == "cuda" else "cpu"]


class StudyConfig(Settings):
    """Everything that determines a study."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "study"
    kind: StudyKind = "compare"
    model: ModelConfig
    data: DataConfig
    methods: Annotated[tuple[MethodEntry, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)] = ()
    protocol: ProtocolConfig = ProtocolConfig()
    engine: EngineConfig = EngineConfig()
    prompt: PromptConfig = PromptConfig()
    generation: GenerationConfig = GenerationConfig()

    @property
    def prompts(self) -> bool:
        """Whether a language model is asked, so that `prompt` has a meaning."""
        return self.data.task in PROMPTED

    @property
    def idle(self) -> tuple[str, ...]:
        """Sections that are as they are by default and have no meaning here; they are not written."""
        needless = {
            "prompt": not self.prompts and self.prompt == PromptConfig(),
            "generation": self.data.task != "summarization" and self.generation == GenerationConfig(),
        }
        return tuple(name for name, is_needless in needless.items() if is_needless)

    @field_validator("methods")
    @classmethod
    def _labels_differ(cls, methods: tuple[MethodEntry, ...]) -> tuple[MethodEntry, ...]:
        seen: set[str] = set()
        for entry in methods:
            if entry.row_label in seen:
                raise ValueError(f"two methods have the label {entry.row_label!r}; give one of them another `label`")
            seen.add(entry.row_label)
        return methods
