"""Predictions from a trained adapter: `load_adapter(folder).predict(texts)`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from remora.adapters.format import LoadedAdapter, load_onto
from remora.adapters.generation import summaries_of
from remora.adapters.peft_config import read_peft_config
from remora.adapters.peft_import import import_adapter
from remora.adapters.record import PEFT_CONFIG, RECORD_FILE, AdapterRecord, read_record
from remora.data.clusters import Span, spans_of
from remora.data.dataset import Dataset
from remora.data.kinds import CLASSES, FORMS, LETTERS, Form
from remora.data.prompts import PromptEncoder
from remora.data.tokenize import TextEncoder
from remora.engine.driver import Driver
from remora.engine.examples import tokenized
from remora.engine.inference import infer
from remora.engine.prompted import prompted
from remora.engine.summarized import summary_encoder
from remora.engine.trial import Examples
from remora.errors import AdapterError, ConfigError, DataError
from remora.models.base import Base
from remora.models.load import load_base
from remora.tasks.base import make_task
from remora.tasks.summarization import Summarization

Text = str | tuple[str, str] | tuple[str, Sequence[str]] | Sequence[str] | Sequence[Sequence[str]]
"""A text, the two of a pair, a question and its choices, the words of a sentence, or the sentences of a document."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What an adapter answers to one text.

    Args:
        label: the most probable class, the number of a regression, the letter of a choice (A is the first), or the tags
            of all words; or the clusters of a document, each of spans [start, end) of its words; or a summary.
        scores: probability per class or choice, in their order; empty for regression, words, documents and summaries.
    """

    label: str | float | tuple[str, ...] | tuple[tuple[Span, ...], ...]
    scores: Mapping[str, float] = field(default_factory=dict[str, float])


class Predictor:
    """An adapter on its base, ready to answer.

    Args:
        base: its base model; not changed.
        loaded: its tensors.
    """

    def __init__(self, base: Base, loaded: LoadedAdapter) -> None:
        self.base = base
        self.loaded = loaded

    @property
    def record(self) -> AdapterRecord:
        """What the adapter is and how it was trained."""
        return self.loaded.record

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Names of the text columns it was trained on; the usual ones where they are not known."""
        usual = ("sentence1", "sentence2") if self.record.num_texts == 2 else ("text",)
        return self.record.text_columns or usual

    @property
    def form(self) -> Form:
        """What it reads of these columns."""
        return FORMS[self.record.task]

    def predict(self, texts: Sequence[Text]) -> list[Prediction]:
        """Answer texts.

        Args:
            texts: strings, or pairs of strings where the adapter was trained on pairs, or questions with their choices,
                or sentences: lists of words, or strings with blanks between them; or documents: lists of sentences.

        Raises:
            DataError: not texts, or a pair where one text is read (or the other way round), as far as that is known.
        """
        if self.form == "source":
            rows = [self._parts(number, text) for number, text in enumerate(texts)]
            return [Prediction(label=summary) for summary in self._summaries(rows)]
        logits_BC = self.logits(texts)
        if self.form in ("words", "document"):
            rows = [self._parts(number, text) for number, text in enumerate(texts)]
            answers = self.record.bound_task.decode(logits_BC, rows)
            if self.form == "words":
                return [Prediction(label=tuple(str(tags).split(" "))) for tags in answers]
            return [Prediction(label=tuple(map(tuple, spans_of(clusters)))) for clusters in answers]
        if self.record.task == "regression":
            return [Prediction(label=float(row[0])) for row in logits_BC]
        shifted = np.exp(logits_BC.astype(np.float64) - logits_BC.max(1, keepdims=True))
        probs_BC = shifted / shifted.sum(1, keepdims=True)
        found: list[Prediction] = []
        for text, row in zip(texts, probs_BC, strict=True):
            names = LETTERS[: len(text[1])] if self.record.task == "multiple-choice" else self.record.label_names
            scores = dict(zip(names, row.tolist(), strict=False))  # behind a question's last choice stands nothing
            found.append(Prediction(label=names[int(row.argmax())], scores=scores))
        return found

    def _summaries(self, rows: Sequence[tuple[str, ...]]) -> list[str]:
        """What is written about documents."""
        prompt, settings = self.record.prompt, self.record.generation
        assert prompt is not None, "it is recorded with every adapter that writes"
        assert settings is not None, "it is recorded with every adapter that writes"
        encoder = summary_encoder(self.base, prompt, settings.max_new_tokens)
        room = self.loaded.adapter.method.num_virtual_tokens
        encoded = encoder.encode_texts(rows, self.record.max_length, room)
        return summaries_of(self.base, self.loaded, encoder, encoded.ids, settings)

    def logits(self, texts: Sequence[Text]) -> np.ndarray:
        """Logits (B, C) float32 of texts.

        Raises:
            DataError: as `predict`; or the adapter writes texts, which are not read off logits.
        """
        if self.form == "source":
            raise DataError("an adapter that writes summaries has no logits of answers", "use predict")
        rows = [self._parts(number, text) for number, text in enumerate(texts)]
        if self.form == "text" and len({len(row) for row in rows}) > 1:
            raise DataError("some texts are pairs and some are not")
        return self._logits(rows)

    def _logits(self, rows: Sequence[tuple[str, ...]]) -> np.ndarray:
        """Logits of the texts of examples, as a split holds them."""
        if not rows:
            return np.empty((0, self.record.num_outputs), np.float32)
        room, length = self.loaded.adapter.method.num_virtual_tokens, self.record.max_length
        if self.record.prompt is not None:
            prompts = PromptEncoder(self.base.tokenizer, self.record.prompt)
            told = prompts.content_free(length, room) if self.record.prompt.calibration == "content-free" else None
            encoded, targets = prompts.encode_texts(rows, length, room), np.zeros(len(rows), np.int64)
            return self.logits_of(prompted(encoded, prompts, targets, training=False, reference=told))
        encoded = TextEncoder(self.base.tokenizer).encode_texts(rows, length, room, self.form)
        return self.logits_of(tokenized(encoded, np.zeros(len(rows))))

    def num_truncated(self, rows: Sequence[tuple[str, ...]]) -> int:
        """How many of these rows, each the texts of an example, are cut to what the adapter reads."""
        room, length = self.loaded.adapter.method.num_virtual_tokens, self.record.max_length
        prompt, tokenizer = self.record.prompt, self.base.tokenizer
        encoder = TextEncoder(tokenizer) if prompt is None else PromptEncoder(tokenizer, prompt)
        return encoder.encode_texts(rows, length, room, self.form).num_truncated

    def logits_of(self, examples: Examples) -> np.ndarray:
        """Logits float32 of tokenized examples; see `Examples.logits`."""
        base, loaded = self.base, self.loaded
        prefix = base.arch.hf_prefix
        pooler = {name: value for name, value in loaded.base_params.items() if name in loaded.head.frozen_names}
        params = {
            name.removeprefix(prefix): value.to(base.dtype)
            for name, value in loaded.base_params.items()
            if name not in base.pooler
        }

        def head(rows_ND: Tensor, next_N: Tensor | None) -> Tensor:
            own = {**base.pooler, **pooler}
            return loaded.head.forward(loaded.head_params, rows_ND, pooler_params=own, next_N=next_N)

        with Driver(base) as driver:
            return infer(
                driver, loaded.adapter, head, examples, num_outputs=loaded.head.num_outputs, params=params or None
            )

    def evaluate(self, dataset: Dataset, split: str) -> dict[str, float]:
        """Metrics on a split of labelled data, headline first.

        Args:
            dataset: with the same kind of task and no other classes.
            split: name of the split.

        Raises:
            DataError: another task, or classes the adapter does not know.
        """
        record = self.record
        if dataset.task != record.task and not {dataset.task, record.task} <= {*CLASSES}:
            raise DataError(f"{dataset.name} is for {dataset.task}, the adapter for {record.task}")
        rows = dataset.splits[split]
        labels = {str(label) for label in rows.labels}
        if self.form == "words":
            labels = {tag for label in labels for tag in label.split(" ")}
        unknown = sorted(labels - set(record.label_names)) if record.label_names else []
        if unknown:
            raise DataError(
                f"{rows.source} has labels that the adapter does not know: {', '.join(unknown[:5])}",
                f"it knows {', '.join(record.label_names)}",
            )
        same = dataset.label_names == record.label_names
        metrics = dataset.metrics if same else (record.metric,)
        positive = dataset.positive if dataset.positive in record.label_names else None
        task = make_task(
            record.task,
            label_names=record.label_names,
            metrics=metrics,
            positive=positive,
            mentions=record.mentions,
        )
        if self.form == "text" and rows.texts and len(rows.texts[0]) not in self._num_texts:
            raise DataError(
                f"{rows.source} has {len(rows.texts[0])} texts a row, the adapter reads {self._num_texts[0]}"
            )
        if isinstance(task, Summarization):
            return task.score(self._summaries(rows.texts), rows.labels)
        return task.metrics(task.targets(rows), self._logits(rows.texts))

    @property
    def _num_texts(self) -> tuple[int, ...]:
        return (1, 2) if self.record.num_texts is None else (self.record.num_texts,)

    def _parts(self, number: int, text: object) -> tuple[str, ...]:
        parts: Sequence[object] = text if isinstance(text, tuple | list) else (text,)
        if self.form == "choices":
            return _question(number, parts)
        if self.form == "words":
            return _sentence(number, text)
        if self.form == "document":
            return _document(number, text)
        strings = tuple(part for part in parts if isinstance(part, str))
        wanted = {1: "a string", 2: "a pair of strings", None: "a string or a pair of strings"}[self.record.num_texts]
        if len(strings) < len(parts) or len(parts) not in self._num_texts:
            raise DataError(f"text {number} is {text!r:.60}, the adapter reads {wanted}")
        return strings


def _sentence(number: int, text: object) -> tuple[str, ...]:
    """The words of a sentence."""
    parts: Sequence[object] = text if isinstance(text, tuple | list) else text.split() if isinstance(text, str) else ()
    words = tuple(part for part in parts if isinstance(part, str) and part.strip())
    if not words or len(words) < len(parts):
        raise DataError(f"text {number} is {text!r:.60}, the adapter reads words: a list of them, or a string")
    return words


def _document(number: int, text: object) -> tuple[str, ...]:
    """The sentences of a document, each its words with blanks between them."""
    sentences: Iterable[object] = text if isinstance(text, tuple | list) else (text,)
    try:
        rows = [_sentence(number, sentence) for sentence in sentences]
    except DataError:
        rows = []
    if not rows or any(" " in word for row in rows for word in row):
        raise DataError(
            f"text {number} is {text!r:.60}, the adapter reads documents: lists of sentences, each a list of words or a"
            " string"
        )
    return tuple(" ".join(row) for row in rows)


def _question(number: int, parts: Sequence[object]) -> tuple[str, ...]:
    """A question and its choices, one after the other."""
    if len(parts) == 2 and isinstance(parts[0], str) and isinstance(parts[1], tuple | list):
        choices = [choice for choice in parts[1] if isinstance(choice, str)]
        if len(choices) == len(parts[1]) and 2 <= len(choices) <= len(LETTERS):
            return (parts[0], *choices)
    raise DataError(
        f"text {number} is {parts!r:.60}, the adapter reads a question and a list of 2 to {len(LETTERS)} choices"
    )


def load_adapter(folder: str | Path, model: str | Base | None = None, *, labels: Sequence[str] = ()) -> Predictor:
    """Load an adapter with its base model.

    Args:
        folder: of the adapter, written by Remora or by peft.
        model: the base, if it lies elsewhere than recorded: alias, folder, Hub id, or a loaded one.
        labels: names of the classes in the order of the outputs, for an adapter from peft, whose files have none; by
            default those in the base's configuration.

    Raises:
        AdapterError: the folder is damaged, the base is another one, or peft's adapter is not of a kind Remora has.
        ModelError: the base cannot be loaded.
    """
    folder = Path(folder)
    if not (folder / RECORD_FILE).is_file() and (folder / PEFT_CONFIG).is_file():
        return _from_peft(folder, model, labels)
    record = read_record(folder)
    if labels:
        raise ConfigError(f"{folder} has labels of its own: {', '.join(record.label_names)}", "leave the labels out")
    find: Callable[..., Base] = load_base
    prompts = record.prompt is not None
    if isinstance(model, Base):
        base = model
    elif model is None and record.storage == "checkpoint":
        base = find(str(folder), dtype=getattr(torch, record.base.dtype), language_head=prompts)
    else:
        revision = record.base.revision if model is None else None
        base = find(
            model or record.base.name,
            revision=revision,
            dtype=getattr(torch, record.base.dtype),
            quantization=record.base.quantization,
            language_head=prompts,
        )
    return Predictor(base, load_onto(folder, record, base))


def _from_peft(folder: Path, model: str | Base | None, labels: Sequence[str]) -> Predictor:
    if isinstance(model, Base):
        return Predictor(model, import_adapter(folder, model, labels))
    file = read_peft_config(folder)
    if model is None and not file.base:
        raise AdapterError(f"{file.path} names no base model", "say which one it was trained on (--model)")
    base = load_base(model or file.base, revision=None if model else file.revision)
    return Predictor(base, import_adapter(folder, base, labels))
