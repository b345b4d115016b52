"""The page on reliability holds the counts of a run, all of them, and nothing else."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.faults import effort

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reliability_page", ROOT / "scripts" / "reliability_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_are_the_sums_of_what_was_counted(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tally.jsonl"
    monkeypatch.setattr(effort, "TALLY", str(path))
    for _, what in script.PROMISES:
        effort.tally(what, 1000)
        effort.tally(what, 234)
    cost = {"checkpoint_bytes": 2_500_000, "checkpoint_seconds": [0.3, 0.1, 0.2], "step_seconds": 0.05}
    shares = {"checkpoint_share": 0.0033, "check_share": 0.0004}
    text = script.page(script.read_tally(path), "some machine", {"two trials": {**cost, **shares}})
    assert text.count("| 1,234 ") == len(script.PROMISES)
    assert "some machine" in text
    assert "| two trials | 2.5 MB | 200 ms | 50 ms | 0.33 % of the time | 0.04 % of the time |" in text


def test_a_promise_that_was_not_tried_gives_no_page(script: ModuleType) -> None:
    counts = {what: 1 for _, what in script.PROMISES[1:]}
    with pytest.raises(SystemExit, match=script.PROMISES[0][1]):
        script.page(counts, "", {})


def test_every_key_of_the_page_is_counted_somewhere(script: ModuleType) -> None:
    tests = [*(ROOT / "tests" / "faults").glob("test_*.py"), ROOT / "tests" / "study" / "test_killed.py"]
    text = "".join(path.read_text() for path in tests if path != Path(__file__))
    for _, what in script.PROMISES:
        assert f'tally("{what}"' in text


def test_without_a_full_run_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effort, "TALLY", None)
    monkeypatch.chdir(tmp_path)
    effort.tally("names tried", 5)
    assert list(tmp_path.iterdir()) == []
