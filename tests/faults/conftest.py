"""Tests of what a study survives and of what a stranger's files can do: nothing; all carry the marker ``faults``."""

from pathlib import Path

import pytest

from tests.study.conftest import configure, mood_files

__all__ = ["configure", "mood_files"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)
