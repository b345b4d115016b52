"""The prompts of a study: its template filled with instruction, columns and solved examples, and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from remora.config.schema import PromptConfig
from remora.config.templates import ALPACA, INSTRUCTION, column_problems, fields, pieces
from remora.data.dataset import Dataset, Note, Split, subset
from remora.data.prompts import Prompt, PromptEncoder
from remora.errors import ConfigError
from remora.models.base import Base
from remora.models.chat import render_chat
from remora.models.suggest import did_you_mean
from remora.seeds import numpy_rng

_BETWEEN = 4
"""Tokens set aside for what stands between solved examples: empty lines, or the end of a turn."""
OWN = "the model's own"
"""What stands for a template in records where an encoder-decoder reads a document as it was pretrained to."""
_STANDS_FOR = "RemoraPutsTextNumber{}Here"
"""What a chat template is given in the place of a text, so that no text of the data ever passes through it."""


def study_prompts(
    config: PromptConfig, dataset: Dataset, base: Base, max_length: int, seed: int, spare: int = 2
) -> tuple[PromptEncoder, Dataset]:
    """Put together how a study asks its language model, before anything is computed.

    Args:
        config: the settings.
        dataset: checked and split.
        base: a causal language model, for its tokenizer and perhaps its chat template.
        max_length: tokens of a prompt and its answer; each of K solved examples may take one part in K + 1 of them.
        seed: chooses the solved examples.
        spare: rows that must be left in train.

    Returns:
        The tokenizer of prompts, and the data without the examples that are shown in all of them.

    Raises:
        ConfigError: a template without a field, or with one that the data lack; words for classes that do not exist,
            have no tokens or begin those of another class; too many shots; or no room for text.
        ModelError: no chat template where one is asked for, or one that fails.
    """
    unknown = [name for name in config.labels if name not in dataset.label_names]
    if unknown:
        raise ConfigError(
            f"prompt.labels.{unknown[0]}: there is no such class{did_you_mean(unknown[0], dataset.label_names)}",
            f"the classes are {', '.join(dataset.label_names)}",
        )
    words = {name: config.labels.get(name, name) for name in dataset.label_names}
    instruction = config.instruction or _usual_instruction(words, len(dataset.text_columns))
    prompt = bare_prompt(config, instruction, dataset, base, words)
    encoder = PromptEncoder(base.tokenizer, prompt, dataset.label_places)
    dataset = replace(dataset, notes=(*dataset.notes, _note(prompt, config)))
    if not config.shots:
        return encoder, dataset
    chosen = choose_shots(dataset.train, dataset.label_names, config.shots, seed, spare)
    share = max_length // (config.shots + 1) - _BETWEEN
    if share < encoder.least:
        raise ConfigError(
            f"prompt.shots={config.shots}: so many solved examples do not fit into {max_length} tokens",
            "raise model.max_length, or take fewer shots",
        )
    solved = [(encoder.fit(dataset.train.texts[row], share), str(dataset.train.labels[row])) for row in chosen]
    if prompt.whole:
        parts = _chat_parts(
            base, _chat_content(instruction, dataset), [(texts, words[label]) for texts, label in solved]
        )
    else:
        before = "".join(f"{prompt.text(texts)[0]}{prompt.answer(label)}\n\n" for texts, label in solved)
        parts = _joined((before, *prompt.parts))
    encoder = PromptEncoder(
        base.tokenizer, prompt.model_copy(update={"parts": parts, "shots": config.shots}), dataset.label_places
    )
    rest = sorted(set(range(len(dataset.train))) - set(chosen))
    train = subset(dataset.train, rest, f"{dataset.train.source}, without the {config.shots} shown in every prompt")
    return encoder, replace(dataset, splits={**dataset.splits, "train": train})


def bare_prompt(
    config: PromptConfig, instruction: str, dataset: Dataset, base: Base, words: Mapping[str, str]
) -> Prompt:
    """The template filled with instruction and columns, without solved examples.

    Args:
        config: the settings.
        instruction: that stands in it where it has a place for one.
        dataset: for the names of its columns.
        base: for its chat template.
        words: shown for each class.

    Raises:
        ConfigError: a template without a field, or with one that the data lack.
        ModelError: no chat template where one is asked for, or one that fails.
    """
    if config.template == "auto":
        if base.arch.encoder_decoder:
            return _source_prompt(base, config.instruction)
        config = config.model_copy(update={"template": "alpaca"})
    chat = config.template == "chat"
    parts = _chat_parts(base, _chat_content(instruction, dataset), ()) if chat else _parts(config, instruction, dataset)
    return Prompt(
        template=config.template,
        instruction=config.instruction if config.template == "plain" else instruction,
        labels=dict(words),
        shots=0,
        calibration=config.calibration,
        parts=parts,
        whole=chat,
    )


def _source_prompt(base: Base, instruction: str | None) -> Prompt:
    """What an encoder reads: the document behind the words for the task that the model was pretrained with.

    T5's and Flan-T5's configurations name such words (``task_specific_params.summarization.prefix``; Raffel et al.
    2020, arXiv:1910.10683, section 2.4), BART's do not. An instruction replaces them and has a paragraph of its own.
    """
    settings: Any = base.config.to_dict().get("task_specific_params") or {}
    lead = settings.get("summarization", {}).get("prefix") or ""
    if instruction is not None:
        lead = f"{instruction}\n\n" if instruction else ""
    parts = _joined((lead, 0))
    return Prompt(template=OWN, instruction=instruction, labels={}, shots=0, calibration="none", parts=(*parts, ""))


def _chat_content(instruction: str, dataset: Dataset) -> tuple[str | int, ...]:
    content = _listed(dataset.text_columns) if len(dataset.text_columns) > 1 else (0,)
    return _joined((f"{instruction}\n\n", *content))


def _note(prompt: Prompt, config: PromptConfig) -> Note:
    """How a language model is asked, for the report."""
    words = ", ".join(name if name == word else f"{name} as {word!r}" for name, word in prompt.labels.items())
    told = ", answers calibrated by inputs that say nothing" if config.calibration == "content-free" else ""
    shown = prompt.template if len(prompt.template) < 40 else "of the study's own"
    message = f"texts are put to the language model in prompts: template {shown}, {config.shots} shots{told}; {words}"
    return Note(kind="prompts", message=message, count=len(prompt.labels))


def choose_shots(train: Split, classes: Sequence[str], shots: int, seed: int, spare: int = 2) -> list[int]:
    """Rows of train to be shown solved: as equally many of each class as can be, in mixed order.

    Args:
        train: the training split.
        classes: of the data.
        shots: how many.
        seed: decides which.
        spare: rows that must be left.

    Raises:
        ConfigError: too few rows would be left to train on.
    """
    if shots > len(train) - spare:
        left = ", and some must be left" if spare else ""
        raise ConfigError(f"prompt.shots={shots}: {train.source} has {len(train)} rows{left}", "take fewer shots")
    rng = numpy_rng(seed, "shots")
    rows = [[row for row, label in enumerate(train.labels) if label == name] for name in rng.permutation(classes)]
    queues = [[group[i] for i in rng.permutation(len(group))] for group in rows]
    found: list[int] = []
    while len(found) < shots:
        for queue in queues:
            if queue and len(found) < shots:
                found.append(queue.pop())
    return [found[i] for i in rng.permutation(shots)]


def _usual_instruction(words: Mapping[str, str], num_texts: int) -> str:
    what = "text" if num_texts == 1 else "pair of texts"
    return f"Classify the {what}. Answer with one of these: {', '.join(words.values())}."


def _listed(columns: Sequence[str]) -> tuple[str | int, ...]:
    """Every text behind its column's name, on a line of its own."""
    lines: list[str | int] = []
    for number, column in enumerate(columns):
        lines += [f"{column}: " if number == 0 else f"\n{column}: ", number]
    return tuple(lines)


def _joined(parts: Sequence[str | int]) -> tuple[str | int, ...]:
    """The same with fixed texts that stand side by side put together."""
    out: list[str | int] = []
    for part in parts:
        if isinstance(part, str) and out and isinstance(out[-1], str):
            out[-1] = out[-1] + part
        elif part != "":
            out.append(part)
    return tuple(out)


def _parts(config: PromptConfig, instruction: str, dataset: Dataset) -> tuple[str | int, ...]:
    columns = dataset.text_columns
    texts = _listed(columns) if len(columns) > 1 else (0,)
    if config.template == "plain":
        lead = f"{config.instruction}\n\n" if config.instruction else ""
        return _joined((lead, *_listed(columns), f"\n{dataset.label_column}: "))
    values: dict[str, tuple[str | int, ...]] = {INSTRUCTION: (instruction,)}
    template = ALPACA
    if config.template == "alpaca":
        values["input"] = texts
    else:
        template = config.template
        values |= {column: (number,) for number, column in enumerate(columns)}
        problems = column_problems(template, columns)
        if config.instruction and INSTRUCTION not in fields(template):
            problems.append("the template has no field {instruction} for prompt.instruction")
        if problems:
            raise ConfigError("\n".join(f"prompt.template: {problem}" for problem in problems))
    return _joined([part for text, is_field in pieces(template) for part in (values[text] if is_field else (text,))])


def _chat_parts(
    base: Base, content: Sequence[str | int], solved: Sequence[tuple[Sequence[str], str]]
) -> tuple[str | int, ...]:
    """The parts of a chat: solved examples as turns before, and in the last one the places of the texts."""

    def message(texts: Sequence[str]) -> dict[str, str]:
        return {"role": "user", "content": "".join(texts[p] if isinstance(p, int) else p for p in content)}

    numbers = [part for part in content if isinstance(part, int)]
    places = [_STANDS_FOR.format(number) for number in numbers]
    turns = [turn for texts, word in solved for turn in (message(texts), {"role": "assistant", "content": word})]
    rest = render_chat(base, [*turns, message(places)])
    parts: list[str | int] = []
    for number, place in zip(numbers, places, strict=True):
        before, found, rest = rest.partition(place)
        if not found or place in rest:
            raise ConfigError(
                f"the chat template of {base.name} does not show a message as it is, once",
                "set prompt.template=alpaca, or plain",
            )
        parts += [before, number]
    if not rest.strip():
        raise ConfigError(f"the chat template of {base.name} does not say where the answer begins", "use another one")
    return _joined((*parts, rest))
