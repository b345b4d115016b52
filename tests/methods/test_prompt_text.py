"""Prompts that start from a text."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from remora.errors import ConfigError
from remora.methods.base import init_adapter, weights_at
from remora.methods.registry import get_method
from remora.models.base import Base
from tests.tiny import tiny_base


class Letters:
    """A token per letter; special tokens where they are not declined."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        own = [ord(letter) - ord("a") + 5 for letter in text if letter.isalpha()]
        return [1, *own, 2] if add_special_tokens else own


def prompt_from(base: Base, **settings: Any) -> torch.Tensor:
    method = get_method("prompt-tuning", {"init": "text", **settings})
    sites = method.sites(base)
    adapter = init_adapter(method, sites, partial(weights_at, base), 0)
    (prompt,) = adapter.trained().values()
    return prompt


@pytest.mark.parametrize(("num", "words"), [(2, "ba"), (3, "bad"), (8, "badbadba")])
def test_starts_as_the_embeddings_of_the_text_over_again(num: int, words: str) -> None:
    base = replace(tiny_base("bert"), tokenizer=Letters())
    table = base.model.get_submodule(base.arch.embedding).get_parameter("weight")
    expected = table[[ord(letter) - ord("a") + 5 for letter in words]]
    assert torch.equal(prompt_from(base, num_virtual_tokens=num, text="bad"), expected)


def test_a_text_without_tokens_and_a_base_without_tokenizer() -> None:
    base = tiny_base("bert")
    with pytest.raises(ConfigError, match="'bad': the base has no tokenizer"):
        prompt_from(base, text="bad")
    with pytest.raises(ConfigError, match="'12': it has no tokens"):
        prompt_from(replace(base, tokenizer=Letters()), text="12")


@pytest.mark.parametrize("settings", [{"init": "text"}, {"text": "bad"}, {"init": "text", "text": "  "}])
def test_init_and_text_belong_together(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="belong together"):
        get_method("prompt-tuning", settings)
