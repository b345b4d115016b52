"""Labels texts with a causal language model, asked zero-shot or few-shot, or with an adapter; remembers every answer.

Answers are kept by the text's hash, in files of so many distinct texts, each written when it is whole. What is asked
together is a function of the texts that have no answer yet, in their order, so a run that was killed asks the same
again in the same company and ends with the same bytes; and a text that has an answer is never asked again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import remora
from remora.adapters.format import LoadedAdapter, filled_adapter, head_of
from remora.adapters.record import AdapterRecord, BaseRecord
from remora.config.schema import PromptConfig
from remora.data.dataset import Dataset, Split
from remora.data.kinds import CLASSES
from remora.data.prompts import Prompt
from remora.data.unlabelled import Unlabelled
from remora.errors import ConfigError, DataError
from remora.methods.registry import get_method
from remora.models.base import Base
from remora.models.language_head import require_causal
from remora.predict import Predictor
from remora.results.annotation_schema import ANNOTATION_FILE, ASKED_FILE, Annotation, Asked
from remora.results.labelled import LabelledFormat, labelled_text
from remora.results.store import read_record, write_atomic, write_record
from remora.study.agreement import agreement, confidence_bands
from remora.study.machine import dtype_name
from remora.study.progress import Progress
from remora.study.prompting import study_prompts

ANSWERS = "answers"
BATCH = 64
"""Distinct texts that are asked together, and whose answers are one file."""
_TOLD = 10
"""How often, about, a run says how far it is."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The label of a text, the probability that its labeller gives it, and those of all classes in their order."""

    label: str
    confidence: float
    scores: tuple[float, ...]


def labeller(
    base: Base,
    config: PromptConfig,
    *,
    columns: tuple[str, ...],
    classes: Sequence[str],
    max_length: int,
    solved: Unlabelled | None = None,
    seed: int = 0,
) -> Predictor:
    """A language model as it is, ready to be asked for classes.

    Args:
        base: a causal language model, loaded with its language-modelling head.
        config: how it is asked.
        columns: names of the text columns.
        classes: to choose from.
        max_length: tokens of a prompt and its answer.
        solved: labelled texts; `config.shots` of them are shown in every prompt.
        seed: chooses which.

    Raises:
        ConfigError: what is said about prompts does not fit classes or texts.
        ModelError: the base is no causal language model.
    """
    require_causal(base)
    if config.shots and (solved is None or solved.truths is None):
        raise ConfigError(f"prompt.shots={config.shots}: there are no solved examples", "give a file with --examples")
    texts, labels = (solved.texts, solved.truths or ()) if solved is not None else ((), ())
    train = Split(name="train", texts=texts, labels=labels, source=solved.source if solved else "", hash="")
    dataset = Dataset(
        name="",
        task="prompt-classification",
        text_columns=columns,
        label_column="label",
        label_names=tuple(sorted(classes)),
        metric="accuracy",
        metrics=("accuracy",),
        positive=None,
        splits={"train": train},
        notes=(),
        card=None,
        hash="",
    )
    encoder, _ = study_prompts(config, dataset, base, max_length, seed, spare=0)
    return _as_it_is(base, encoder.prompt, dataset, max_length)


def _as_it_is(base: Base, prompt: Prompt, dataset: Dataset, max_length: int) -> Predictor:
    """A predictor without a trained tensor."""
    method = get_method("head", {})
    record = AdapterRecord(
        remora=remora.__version__,
        method=method.name,
        settings=method.config.model_dump(mode="json"),
        label=f"{prompt.shots}-shot" if prompt.shots else "zero-shot",
        remark=None,
        task=dataset.task,
        label_names=dataset.label_names,
        num_texts=2 if len(dataset.text_columns) == 2 else 1,
        text_columns=dataset.text_columns,
        max_length=max_length,
        base=BaseRecord.of(base),
        data_name="",
        data_hash="",
        metric=dataset.metric,
        metrics={},
        hyperparameters={},
        seed=0,
        stream="",
        trial="",
        steps=0,
        prompt=prompt,
        storage="remora",
        files={},
    )
    loaded = LoadedAdapter(
        record=record,
        adapter=filled_adapter(method, base, {}, 0),
        head=head_of(base, record.num_outputs, record.head, prompt),
        head_params={},
        base_params={},
    )
    return Predictor(base, loaded)


def asked_of(predictor: Predictor) -> Asked:
    """Who is asked and how.

    Raises:
        ConfigError: an adapter that answers with something other than a class.
    """
    record, base = predictor.record, predictor.base
    if record.task not in CLASSES:
        raise ConfigError(f"the adapter is for {record.task}, not for classes", "choose one trained on classes")
    decides = record.model_dump(mode="json", exclude={"remora", "metrics", "data_name", "trial"})
    decides |= {"base": base.sha256, "dtype": dtype_name(base.dtype), "held": base.quantization}
    fingerprint = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    prompt = record.prompt
    asks = "the text alone" if prompt is None else prompt.text(tuple(f"[{name}]" for name in predictor.text_columns))[0]
    return Asked(
        fingerprint=fingerprint,
        model=base.name,
        dtype=dtype_name(base.dtype),
        quantization=base.quantization,
        max_length=record.max_length,
        how="adapter" if record.steps else record.label,
        asks=asks,
        label_names=record.label_names,
    )


def known_asked(folder: Path) -> Asked | None:
    """What a folder of answers says of how they were got; None where there is none."""
    path = folder / ASKED_FILE
    return read_record(path, Asked) if path.is_file() else None


def annotate(predictor: Predictor, texts: Sequence[tuple[str, ...]], folder: Path, progress: Progress) -> list[Answer]:
    """Label texts, or finish what was stopped.

    Args:
        predictor: the labeller.
        texts: per row one text, or a pair.
        folder: keeps the answers; made when missing.
        progress: told how far it is.

    Returns:
        An answer per row.

    Raises:
        ConfigError: the folder has answers to other questions.
        DataError: its files are damaged.
    """
    asked, before = asked_of(predictor), known_asked(folder)
    if before is not None and before.fingerprint != asked.fingerprint:
        raise ConfigError(
            f"{folder} holds answers of {before.model} ({before.how}) that was asked in another way",
            "give another --out",
        )
    if before is None:
        write_record(folder / ASKED_FILE, asked)
    keys = [_key(text) for text in texts]
    scores, number = _read_answers(folder / ANSWERS, len(asked.label_names))
    waiting = {key: text for key, text in zip(keys, texts, strict=True) if key not in scores}
    queue = list(waiting.items())
    if len(queue) < len(set(keys)):
        distinct = len(set(keys))
        progress.note(f"{distinct - len(queue)} of {distinct} distinct texts have an answer already")
    for start in range(0, len(queue), BATCH):
        batch = queue[start : start + BATCH]
        answers = predictor.predict([text[0] if len(text) == 1 else (text[0], text[1]) for _, text in batch])
        found = {
            key: tuple(answer.scores[name] for name in asked.label_names)
            for (key, _), answer in zip(batch, answers, strict=True)
        }
        _write_answers(folder / ANSWERS / f"{number:06d}.jsonl", found)
        scores |= found
        number += 1
        done = min(start + BATCH, len(queue))
        if _TOLD * done // len(queue) > _TOLD * start // len(queue):
            progress.note(f"{done} of {len(queue)} texts labelled")
    return [_answer(scores[key], asked.label_names) for key in keys]


def write_annotation(
    folder: Path,
    rows: Unlabelled,
    predictor: Predictor,
    answers: Sequence[Answer],
    *,
    form: LabelledFormat,
    min_confidence: float,
    command: str,
) -> Annotation:
    """Write the labelled file, and what came of it: counts, confidence, agreement with true labels where there are.

    Args:
        folder: gets both.
        rows: the texts.
        predictor: the labeller.
        answers: of every text.
        form: of the labelled file.
        min_confidence: what a label needs to be learnt from.
        command: that was run.
    """
    names = predictor.record.label_names
    labels, truths = [answer.label for answer in answers], rows.truths
    scores = [dict(zip(names, answer.scores, strict=True)) for answer in answers]
    name = f"labels.{form}"
    write_atomic(folder / name, labelled_text(rows.columns, rows.texts, labels, scores, truths, form).encode())
    right = None if truths is None else [a == b for a, b in zip(truths, labels, strict=True)]
    confidences = [answer.confidence for answer in answers]
    found = Annotation(
        source=rows.source,
        labelled=name,
        command=command,
        texts=len(labels),
        distinct=len(set(rows.texts)),
        truncated=predictor.num_truncated(rows.texts),
        labels={each: labels.count(each) for each in names},
        min_confidence=min_confidence,
        kept=sum(confidence >= min_confidence for confidence in confidences),
        bands=confidence_bands(confidences, right),
        agreement=None if truths is None else agreement(truths, labels, names),
    )
    write_record(folder / ANNOTATION_FILE, found)
    return found


def _answer(scores: tuple[float, ...], names: Sequence[str]) -> Answer:
    best = max(range(len(scores)), key=lambda place: scores[place])
    return Answer(label=names[best], confidence=scores[best], scores=scores)


def _key(text: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(text).encode()).hexdigest()


def _write_answers(path: Path, found: Mapping[str, tuple[float, ...]]) -> None:
    lines = [json.dumps({"text": key, "scores": scores}) for key, scores in found.items()]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _read_answers(folder: Path, num_classes: int) -> tuple[dict[str, tuple[float, ...]], int]:
    """All answers there are, by the text's hash, and the number of the next file."""
    found: dict[str, tuple[float, ...]] = {}
    number = 0
    for path in sorted(folder.glob("*.jsonl")):
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            found |= {str(row["text"]): tuple(float(score) for score in row["scores"]) for row in rows}
            number = int(path.stem) + 1
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged", "remove it; its texts are asked again") from error
    if any(len(scores) != num_classes for scores in found.values()):
        raise DataError(
            f"{folder} holds answers with another number of classes", "remove it; all texts are asked again"
        )
    return found, number
