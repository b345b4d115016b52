from pathlib import Path

import pytest

from tests.results.synthetic import ROWS, build_run


@pytest.fixture(scope="session")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of 13 rows and 3 seeds; only to be read."""
    return build_run(tmp_path_factory.mktemp("runs") / "comparison")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Majority, untrained, full and LoRA with 2 seeds; only to be read."""
    rows = (*ROWS[:2], *ROWS[3:5])
    return build_run(tmp_path_factory.mktemp("runs") / "small", rows=rows, num_seeds=2, num_test=150)
