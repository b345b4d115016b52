"""The published numbers of parameters of the recipe komin2024, from bases of BERTić's width with one and two layers."""

from math import prod

from remora.cli.build import RECIPES, check_study
from remora.methods.base import num_params
from remora.methods.registry import get_method
from remora.models.base import Base
from remora.models.heads import HeadTemplate
from remora.results.recipe_schema import RecipeInfo
from remora.study.recipe_file import load_recipe
from tests.tiny import tiny_base

WIDTH, LAYERS, VOCABULARY, SMALL_VOCABULARY = 768, 12, 32000, 100
RECIPE = load_recipe(RECIPES / "komin2024.yaml")


def electra(num_layers: int) -> Base:
    return tiny_base(
        "electra", vocab_size=SMALL_VOCABULARY, hidden_size=WIDTH, embedding_size=WIDTH, intermediate_size=4 * WIDTH,
        num_attention_heads=12, num_hidden_layers=num_layers, max_position_embeddings=512,
    )  # fmt: skip


def published(info: RecipeInfo, row: str) -> float:
    return next(each.value for each in info.published if (each.row, each.measure) == (row, "trained_params"))


def test_trained_parameters_are_the_published_ones() -> None:
    one, two = electra(1), electra(2)
    head = sum(map(prod, HeadTemplate(base=one, num_outputs=2).shapes.values()))
    entry = next(each for each in check_study(RECIPE.studies["boolq_sl"], "").methods if each.row_label == "LoRA")
    method = get_method(entry.id, dict(entry.settings))
    lora = [num_params(method, base) for base in (one, two)]
    assert lora[0] + (LAYERS - 1) * (lora[1] - lora[0]) + head == published(RECIPE.info, "LoRA")
    full = one.num_params + (LAYERS - 1) * (two.num_params - one.num_params)
    full += (VOCABULARY - SMALL_VOCABULARY) * WIDTH
    assert full + head == published(RECIPE.info, "full fine-tuning")
