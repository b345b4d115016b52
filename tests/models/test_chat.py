"""Chat templates: kept from a folder, dropped from GGUF files, rendered in a sandbox that gives nothing away."""

import contextlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from remora.errors import ModelError
from remora.models.chat import render_chat
from remora.models.load import load_base
from tests.prompts import CHAT, causal_pair, write_model

MESSAGE = [{"role": "user", "content": "a film"}]
ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.system('touch ' + messages[0].content) }}",
    "{{ raise_exception.__globals__['sys'].modules['os'].system('touch ' + messages[0].content) }}",
    "{{ (messages | attr('__class__')).__base__ }}",
    "{{ namespace(__class__=1) }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ messages.append(1) }}",
    "{% for i in range(10 ** 9) %}x{% endfor %}",
    "{% include '/etc/passwd' %}",
)


@pytest.mark.parametrize("template", ESCAPES)
def test_a_malicious_template_does_nothing(template: str, tmp_path: Path) -> None:
    """It is refused with one clear error, or shows nothing but empty text; no file appears."""
    base = replace(causal_pair()[0], chat_template=template)
    target = tmp_path / "made"
    before = dict(os.environ)
    shown = ""
    with contextlib.suppress(ModelError):
        shown = render_chat(base, [{"role": "user", "content": str(target)}])
    assert shown.strip() == ""
    assert not target.exists()
    assert dict(os.environ) == before


def test_an_honest_template_is_rendered_and_the_day_is_always_the_same() -> None:
    base = replace(causal_pair()[0], chat_template=CHAT)
    assert render_chat(base, MESSAGE) == "<|im_start|>user\na film<|im_end|>\n<|im_start|>assistant\n"
    dated = replace(base, chat_template="{{ strftime_now('%d %b %Y') }}|{{ messages[0].content }}")
    assert render_chat(dated, MESSAGE) == "01 Jan 2025|a film"


def test_a_folder_keeps_its_template_and_the_tokenizer_has_none(tmp_path: Path) -> None:
    base = load_base(str(write_model(tmp_path / "model", chat=CHAT)))
    assert base.chat_template == CHAT
    assert base.tokenizer.chat_template is None
    assert load_base(str(write_model(tmp_path / "bare"))).chat_template is None
    with pytest.raises(ModelError, match="has no chat template"):
        render_chat(load_base(str(tmp_path / "bare")), MESSAGE)
