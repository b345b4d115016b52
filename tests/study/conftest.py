"""A study on a tiny model and its files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remora.config.load import build_study
from remora.config.schema import StudyConfig
from tests.moods import write_data, write_model

Configure = Callable[..., StudyConfig]


@pytest.fixture(scope="session")
def mood_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("moods")
    return write_model(folder / "model"), write_data(folder / "moods.csv")


@pytest.fixture
def configure(mood_files: tuple[Path, Path]) -> Configure:
    """Makes a study of the tiny model; keywords are sections of its configuration."""
    model, data = mood_files

    def make(**sections: Any) -> StudyConfig:
        tree = {"model": {"id": str(model), "dtype": "float32"}, "data": {"path": str(data)}, **sections}
        return build_study(tree)

    return make
