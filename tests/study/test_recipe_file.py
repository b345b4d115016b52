"""Recipes of several studies: settings that lie over one another, grids, fair mode, data, and what is wrong in one."""

from pathlib import Path
from typing import Any

import pytest

from remora.cli.build import RECIPES, check_study
from remora.data.dataset import load_dataset
from remora.errors import ConfigError
from remora.study.recipe import differences, settings_text
from remora.study.recipe_file import load_recipe, studies_of

TEXT = """
recipe: {title: T, summary: S, citation: C}
shared:
  model: tiny
  data: {path: films, train_limit: 100}
  methods:
    - {id: lora, label: LoRA, settings: {rank: 4, lr: 1.0e-3}}
  protocol: {mode: published, lr: 5.0e-5, epochs: 3}
studies:
  one: {}
  two:
    data: news
    methods:
      - id: lora
        settings: {dropout: 0.1}
        grid: {rank: [2, 4], alpha: [8.0, 16.0, 32.0]}
    protocol: {epochs: 9}
small:
  shared: {data: {test_limit: 50}, protocol: {epochs: 2}}
  studies:
    two: {protocol: {seeds: 2}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "film2030.yaml"
    path.write_text(TEXT)
    return path


def settings(file: Path, study: str, **how: Any) -> Any:
    return check_study(load_recipe(file, **how).studies[study], str(file))


def test_a_study_has_the_shared_settings_and_its_own(file: Path) -> None:
    one, two = settings(file, "one"), settings(file, "two")
    assert (one.name, two.name) == ("film2030-one", "film2030-two")
    assert (one.data.path, one.data.train_limit, one.protocol.epochs) == ("films", 100, 3)
    assert (two.data.path, two.data.train_limit, two.protocol.epochs) == ("news", 100, 9)
    assert two.protocol.lr == one.protocol.lr == 5e-5


def test_the_small_form_lies_over_both(file: Path) -> None:
    one, two = settings(file, "one", small=True), settings(file, "two", small=True)
    assert (one.protocol.epochs, one.data.test_limit, one.data.train_limit) == (2, 50, 100)
    assert (two.protocol.epochs, two.protocol.seeds, one.protocol.seeds) == (2, 2, 5)


def test_the_command_line_wins_for_all_or_one(file: Path) -> None:
    given = ["protocol.epochs=7", "studies.two.protocol.epochs=8", "data.test_limit=9"]
    one, two = (settings(file, name, small=True, overrides=given) for name in ("one", "two"))
    assert (one.protocol.epochs, two.protocol.epochs) == (7, 8)
    assert one.data.test_limit == two.data.test_limit == 9


def test_a_grid_is_a_row_per_combination(file: Path) -> None:
    rows = [dict(entry.settings) for entry in settings(file, "two").methods]
    assert [(row["rank"], row["alpha"]) for row in rows] == [(r, a) for r in (2, 4) for a in (8.0, 16.0, 32.0)]
    assert all(row["dropout"] == 0.1 for row in rows)


def test_fair_mode_leaves_the_published_rates_out(file: Path) -> None:
    fair = settings(file, "one", overrides=["protocol.mode=fair"])
    assert fair.protocol.lr is None
    assert dict(fair.methods[0].settings) == {"rank": 4}
    given = settings(file, "one", overrides=["protocol.mode=fair", "protocol.lr=1e-4"])
    assert given.protocol.lr == 1e-4


def test_data_are_found_by_name_in_a_folder(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder films"):
        load_recipe(file, data=str(tmp_path / "nowhere"))
    for name in ("films", "news"):
        (tmp_path / "sets" / name).mkdir(parents=True)
    recipe = load_recipe(file, data=str(tmp_path / "sets"))
    assert check_study(recipe.studies["two"], "").data.path == "news"
    assert check_study(recipe.studies["two"], "").data.local == str(tmp_path / "sets" / "news")
    assert check_study(recipe.studies["two"], "").data.train_limit == 100


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("shared:", "sharde:"), r"film2030.yaml:3: a recipe has no section 'sharde'"),
        (("title: T", "titel: T"), r"film2030.yaml:2: recipe.titel: there is no such setting"),
        (("rank: [2, 4]", "rank: 2"), r"film2030.yaml:1\d: grid must give a list"),
        (("epochs: 9", "epoch: 9"), r"film2030.yaml:1\d: protocol.epoch: there is no such setting; did you mean"),
    ],
)
def test_what_is_wrong_has_its_place(file: Path, change: tuple[str, str], said: str) -> None:
    file.write_text(TEXT.replace(*change))
    with pytest.raises(ConfigError, match=said):
        settings(file, "two")


def test_overrides_of_no_study_and_no_small_form(file: Path) -> None:
    with pytest.raises(ConfigError, match="has no study 'three'"):
        load_recipe(file, overrides=["studies.three.protocol.epochs=1"])
    file.write_text(TEXT.partition("small:")[0])
    with pytest.raises(ConfigError, match="no small form"):
        load_recipe(file, small=True)


def test_settings_written_out_read_back_the_same(file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(file, small=True)
    configs = {name: check_study(tree, name) for name, tree in recipe.studies.items()}
    whole = tmp_path / "recipe.yaml"
    whole.write_text(settings_text(recipe, configs))
    assert {name: check_study(tree, name) for name, tree in studies_of(whole).items()} == configs
    assert load_recipe(whole).info == recipe.info


def test_what_differs_from_the_full_form_is_said(file: Path) -> None:
    full, small = settings(file, "two"), settings(file, "two", small=True, overrides=["model.id=minilm"])
    assert differences(full, small) == (
        "model.id: tiny, here minilm",
        "data.test_limit: not set, here 50",
        "protocol.epochs: 9, here 2",
        "protocol.seeds: 5, here 2",
    )
    assert differences(full, full) == ()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_right(path: Path) -> None:
    """Every study of every form, and that what was published is about rows and studies that there are."""
    assert path.read_text().startswith("# ")
    for tree in studies_of(path).values():
        assert check_study(tree, str(path)).methods
    if path.stem == "demo":
        return
    for small in (False, True):
        recipe = load_recipe(path, small=small)
        labels = {
            name: {entry.row_label for entry in check_study(tree, name).methods}
            for name, tree in recipe.studies.items()
        }
        for value in recipe.info.published:
            assert value.row in labels[value.study] | {"untrained model", "majority class", "zero-shot"}
        for picture in recipe.info.pictures:
            assert set(picture.studies) <= set(labels)


@pytest.mark.real
@pytest.mark.parametrize(
    "path", sorted(set(RECIPES.glob("*.yaml")) - {RECIPES / "demo.yaml"}), ids=lambda path: path.stem
)
def test_data_of_small_forms_are_there(path: Path, shared_data: Path) -> None:
    """As `remora run recipe:NAME --small --data FOLDER` finds them, each data set once."""
    recipe = load_recipe(path, small=True, data=str(shared_data))
    configs = {
        str(config.data.path): config for config in (check_study(tree, name) for name, tree in recipe.studies.items())
    }
    for name, config in configs.items():
        data = load_dataset(config.data)
        assert len(data.train) > 5, name
        assert len(data.splits["test"]) > 2, name
