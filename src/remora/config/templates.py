"""The templates of prompts: fixed text with fields in braces, ready-made or the user's own.

A field is replaced by a text as it is. Nothing in braces is ever looked up in anything or evaluated.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
INSTRUCTION = "instruction"
"""The field that stands for the instruction."""

ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
"""Taori et al. 2023, "Stanford Alpaca: an instruction-following LLaMA model", the prompt for examples with an input.
The response begins on a line of its own, as instruction and input do."""

READY_MADE = ("auto", "alpaca", "plain", "chat")
"""Templates that have a name: Alpaca's, the columns' names before their texts, the tokenizer's own for chats; auto is
what suits the kind of model."""


def pieces(template: str) -> tuple[tuple[str, bool], ...]:
    """What a template is made of.

    Args:
        template: text with fields in braces; a brace that is meant as such is written twice.

    Returns:
        Pieces in order: fixed text, or the name of a field (True).

    Raises:
        ValueError: a lone brace, a field without a name, or one that occurs twice.
    """
    found: list[tuple[str, bool]] = []
    text, at = "", 0
    for match in _FIELD.finditer(template):
        text += template[at : match.start()]
        at = match.end()
        if match[0] in ("{{", "}}"):
            text += match[0][0]
        elif match[1] is None:
            line = template.count("\n", 0, match.start()) + 1
            raise ValueError(f"a lone {match[0]!r} in line {line} of the template; write it twice to have it as text")
        elif not match[1].strip():
            raise ValueError("the template has a field without a name: {}")
        else:
            found += [(text, False), (match[1].strip(), True)]
            text = ""
    found.append((text + template[at:], False))
    names = [name for name, is_field in found if is_field]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"the template has the field {{{twice}}} twice")
    return tuple(piece for piece in found if piece[0])


def fields(template: str) -> tuple[str, ...]:
    """The names of the fields of a template, in order; raises as `pieces`."""
    return tuple(name for name, is_field in pieces(template) if is_field)


def column_problems(template: str, columns: Sequence[str]) -> list[str]:
    """What is wrong with a template of the user's own for data with these text columns."""
    used, known = fields(template), (*columns, INSTRUCTION)
    problems: list[str] = []
    for name in used:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {{{near[0]}}}?" if near else f"there are {', '.join(f'{{{each}}}' for each in known)}"
            problems.append(f"there is no field {{{name}}}; {hint}")
    return problems + [f"the template has no field {{{name}}}" for name in columns if name not in used]


def template_problem(template: str) -> str | None:
    """What is wrong with a template of the user's own, as far as it can be told without the data."""
    if template in READY_MADE:
        return None
    try:
        parts = pieces(template)
    except ValueError as error:
        return str(error)
    if not any(is_field and name != INSTRUCTION for name, is_field in parts):
        near = "" if re.search(r"\s", template) else f"; the ready-made ones are {', '.join(READY_MADE)}"
        return f"the template has no field for the text, such as {{text}}{near}"
    if parts[-1][1] or not parts[-1][0].strip():
        return "the template ends with its last field; end it with words such as Label:"
    return None
