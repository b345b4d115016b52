"""Chat templates: programs that came with a tokenizer, rendered in a sandbox, and only when a study asks for one.

transformers renders them in jinja2's ImmutableSandboxedEnvironment, which gives no attributes with leading underscores,
no calls that leave the template and no changes to what it is given; tests/models/test_chat.py tries. A template from a
GGUF file was dropped when the file was read.
"""

from collections.abc import Mapping, Sequence

from remora.errors import ModelError
from remora.models.base import Base
from remora.models.foreign import parsing

_SAME_DAY = "{% macro strftime_now(format) %}{{ format and '01 Jan 2025' }}{% endmacro %}"
"""Goes before a template that asks for the day: all processes of a study must see the same prompt."""


def render_chat(base: Base, messages: Sequence[Mapping[str, str]]) -> str:
    """Messages as a base's chat template writes them, up to where the answer begins.

    Args:
        base: the base model.
        messages: each with ``role`` and ``content``.

    Raises:
        ModelError: there is no template, or it fails.
    """
    template = base.chat_template
    if template is None:
        raise ModelError(
            f"{base.name} has no chat template in its tokenizer_config.json",
            "set prompt.template=alpaca, or plain, or text of your own; templates in GGUF files are not used",
        )
    if "strftime_now" in template:
        template = _SAME_DAY + template
    with parsing(f"{base.name}: its chat template cannot be rendered", "set prompt.template=alpaca, or plain"):
        return str(
            base.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
            )
        )
