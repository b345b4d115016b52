"""One entry of a recipe as several studies: names, settings, overrides, choice, figures, and what is wrong in one."""

from pathlib import Path
from typing import Any

import pytest

from remora.cli.build import check_study
from remora.cli.recipes import full_forms, read_recipe
from remora.errors import ConfigError
from remora.study.recipe import differences, settings_text
from remora.study.recipe_file import load_recipe

TEXT = """
recipe:
  title: T
  summary: S
  citation: C
  published:
    - {study: sizes-b-20, row: LoRA of 2, measure: accuracy, value: 0.9}
  pictures:
    - {kind: table, studies: [sizes], measures: [accuracy], x: rank, y: train_rows, panel: model, caption: Table.}
    - {kind: curves, studies: [plain], caption: Lines.}
shared:
  model: {id: tiny, max_length: 64}
  data: films
  protocol: {mode: published, lr: 1.0e-3}
studies:
  plain:
    methods: [{id: lora}]
  sizes:
    vary:
      model: {a: base/a, b: {id: base/b, quantization: nf4}}
      data.train_limit: [20, 80]
    methods: [{id: lora, label: "LoRA of {rank}", grid: {rank: [2, 4]}}]
small:
  recipe: {summary: Smaller., published: []}
  studies:
    plain: null
    sizes:
      vary: {model: {c: base/c}, data.train_limit: [20, 40]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "film2030.yaml"
    path.write_text(TEXT)
    return path


def checked(file: Path, **how: Any) -> dict[str, Any]:
    return {name: check_study(tree, str(file)) for name, tree in load_recipe(file, **how).studies.items()}


def test_a_study_for_every_combination_of_values(file: Path) -> None:
    found = checked(file)
    assert list(found) == ["plain", "sizes-a-20", "sizes-a-80", "sizes-b-20", "sizes-b-80"]
    varied = [(each.model.id, each.model.quantization, each.data.train_limit) for each in found.values()]
    assert varied[1:] == [
        ("base/a", "none", 20),
        ("base/a", "none", 80),
        ("base/b", "nf4", 20),
        ("base/b", "nf4", 80),
    ]
    assert {each.model.max_length for each in found.values()} == {64}, "what is not varied stays"
    assert {each.data.path for each in found.values()} == {"films"}
    assert found["sizes-b-80"].name == "film2030-sizes-b-80"
    assert [entry.row_label for entry in found["sizes-b-80"].methods] == ["LoRA of 2", "LoRA of 4"]
    assert (found["plain"].model.id, found["plain"].data.train_limit) == ("tiny", None)


def test_the_small_form_varies_something_else_and_leaves_out(file: Path) -> None:
    recipe = load_recipe(file, small=True)
    assert list(recipe.studies) == ["sizes-c-20", "sizes-c-40"]
    assert (recipe.info.title, recipe.info.summary, recipe.info.published) == ("T", "Smaller.", ())
    assert recipe.info.pictures[0].studies == ("sizes-c-20", "sizes-c-40")


def test_figures_and_settings_of_an_entry_are_those_of_all_its_studies(file: Path) -> None:
    given = ["studies.sizes.protocol.epochs=7", "studies.sizes-b-80.protocol.epochs=8"]
    found = checked(file, overrides=given)
    assert [each.protocol.epochs for each in found.values()] == [3, 7, 7, 7, 8]
    assert load_recipe(file).info.pictures[0].studies == ("sizes-a-20", "sizes-a-80", "sizes-b-20", "sizes-b-80")


def test_some_studies_alone(file: Path) -> None:
    assert list(load_recipe(file, only=["sizes-*-80"]).studies) == ["sizes-a-80", "sizes-b-80"]
    assert list(load_recipe(file, only=["sizes-b-20", "plain"]).studies) == ["plain", "sizes-b-20"]
    assert len(load_recipe(file, only=["sizes"]).studies) == 4
    with pytest.raises(ConfigError, match="no study 'sizes-z-\\*'"):
        load_recipe(file, only=["plain", "sizes-z-*"])


def test_written_out_settings_vary_no_more(file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(file)
    whole = tmp_path / "recipe.yaml"
    whole.write_text(settings_text(recipe, checked(file)))
    again = load_recipe(whole)
    assert {name: check_study(tree, name) for name, tree in again.studies.items()} == checked(file)
    assert again.info == recipe.info


def test_a_study_of_another_name_is_compared_with_the_nearest(file: Path) -> None:
    recipe, configs = read_recipe(file, (), small=True)
    full = full_forms(file, recipe, configs)
    assert differences(full["sizes-c-20"], configs["sizes-c-20"]) == ("model.id: base/a, here base/c",)
    assert differences(full["sizes-c-40"], configs["sizes-c-40"]) == (
        "model.id: base/a, here base/c",
        "data.train_limit: 20, here 40",
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("data.train_limit: [20, 80]", "data.train_limit: 20"), r"film2030.yaml:2\d: vary.data.train_limit must give"),
        (("data.train_limit: [20, 80]", "data.path: [a/b]"), r"film2030.yaml:2\d: vary.data.path: 'a/b' cannot be"),
        (("data.train_limit: [20, 80]", "data.trian_limit: [20, 80]"), r"film2030.yaml:2\d: data.trian_limit: there"),
        (("data.train_limit: [20, 80]", "data.train_limit: [20, 20]"), r"two studies with the name sizes-a-20"),
        (("  plain:", "  sizes-a-20:"), r"two studies of the recipe have the same name"),
        (("  recipe: {summary", "  recipee: {summary"), r"film2030.yaml:\d+: the small form .* no section 'recipee'"),
    ],
)
def test_what_is_wrong_has_its_place(file: Path, change: tuple[str, str], said: str) -> None:
    file.write_text(TEXT.replace(*change))
    with pytest.raises(ConfigError, match=said):
        checked(file)
