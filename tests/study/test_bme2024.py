"""What the recipe bme2024 says of memory, against transformers' own shapes and the sizes of quantised weights."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from remora.cli.build import RECIPES
from remora.models.frozen_linear import linear_weight
from remora.models.nf4 import quantise
from remora.models.quantised import linear_layers
from remora.study.recipe_file import load_recipe

NF4_FIELDS = ("codes", "scale_codes", "scale_scales", "scale_offset")
SHAPES: dict[str, dict[str, Any]] = {
    "LLaMA-2 7B": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
                   "num_attention_heads": 32, "num_key_value_heads": 32},
    "LLaMA-2 13B": {"vocab_size": 32000, "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
                    "num_attention_heads": 40, "num_key_value_heads": 40},
    "LLaMA-2 70B": {"vocab_size": 32000, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
                    "num_attention_heads": 64, "num_key_value_heads": 8},
    "LLaMA-3 8B": {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                   "num_attention_heads": 32, "num_key_value_heads": 8},
    "LLaMA-3 70B": {"vocab_size": 128256, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
                    "num_attention_heads": 64, "num_key_value_heads": 8},
}  # fmt: skip
RANK = 8


def nf4_bytes(num: int) -> int:
    """By the recipe's words: 4 + 8/64 + 32/(64 * 256) bits per number and 4 bytes per layer."""
    return num // 2 + num // 64 + 4 * num // (64 * 256) + 4


def test_a_quantised_weight_has_the_size_that_is_said() -> None:
    held = quantise(torch.randn(512, 256))
    parts = [getattr(held, name) for name in NF4_FIELDS]
    assert sum(part.nbytes for part in parts) == nf4_bytes(512 * 256)


@pytest.mark.parametrize("name", SHAPES)
def test_memory_of_a_size(name: str) -> None:
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(LlamaConfig(**SHAPES[name], tie_word_embeddings=False))
    whole = sum(parameter.numel() for parameter in model.parameters())
    layers = [linear_weight(module) for _, module in linear_layers(model.model)]
    linear = sum(weight.numel() for weight in layers)
    quantised = sum(nf4_bytes(weight.numel()) for weight in layers) + 2 * (whole - linear)
    lora = sum(
        RANK * sum(linear_weight(module).shape)
        for path, module in linear_layers(model.model)
        if path.endswith(("q_proj", "v_proj"))
    )
    said = f"{name}: {whole:,} parameters; weights {2 * whole / 1e9:.2f} GB in bf16, {quantised / 1e9:.2f} GB in NF4; "
    said += f"LoRA {lora:,} numbers, {16 * lora / 1e6:.0f} MB."
    assert said in load_recipe(RECIPES / "bme2024.yaml").info.needs
