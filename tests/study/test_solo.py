"""What a row costs: the same whether its process was started for it or is the child of one that measured others."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from remora.config.load import build_study, dump_yaml
from remora.results.schema import RowCost
from remora.study.context import open_context
from remora.study.processes import process_environment
from remora.study.rows import study_rows
from remora.study.solo import NUM_STEPS, Solo, faster, in_turns
from remora.study.trials import PlannedTrial, TrialMaker
from tests.moods import write_data, write_model

MIB = 2**20

ALONE = """
import json, sys
from pathlib import Path
import torch
from remora.config.load import read_study
from remora.study import solo
from remora.study.context import open_context
from remora.study.trials import PlannedTrial

torch.set_num_threads(2)
context = open_context(read_study(Path(sys.argv[1]) / "study.yaml"))
print(solo._solo(context, PlannedTrial.from_json(json.loads(sys.argv[2])), {}).model_dump_json())
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, PlannedTrial]]:
    """A run directory with its settings, and a trial of two rows."""
    folder = tmp_path_factory.mktemp("solo")
    model, data = write_model(folder / "model"), write_data(folder / "moods.csv")
    config = build_study(
        {
            "model": {"id": str(model), "dtype": "float32"},
            "data": {"path": str(data)},
            "methods": ["lora", "full"],
            "protocol": {"lr": 1e-3, "epochs": 1, "seeds": 1},
            "engine": {"device": "cpu"},
        }
    )
    (folder / "study.yaml").write_text(dump_yaml(config))
    context = open_context(config)
    rows = [row for row in study_rows(config, context.base) if row.method is not None]
    return folder, {row.id: TrialMaker(context).final(row, row.lrs[0])[0] for row in rows}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every trial has a process of its own")
def test_a_child_needs_as_much_as_a_process_of_its_own(study: tuple[Path, dict[str, PlannedTrial]]) -> None:
    """In any order: nothing of a large one before is counted to a small one."""
    folder, trials = study
    with Solo(folder, 2) as solo:
        children = [solo.measure(trials[name]) for name in ("full", "lora", "lora")]
        assert solo._process is not None  # pyright: ignore[reportPrivateUsage]
        assert solo._process.poll() is None, "it was to go on"  # pyright: ignore[reportPrivateUsage]
    alone = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder), json.dumps(trials["lora"].to_json())],
        capture_output=True, text=True, check=True, env=process_environment(2),
    )  # fmt: skip
    expected = RowCost.model_validate_json(alone.stdout.splitlines()[-1])
    assert expected.peak_bytes is not None
    for found in children[1:]:
        assert found.peak_bytes is not None
        assert abs(found.peak_bytes - expected.peak_bytes) < 40 * MIB
        assert len(found.memory_trace) == NUM_STEPS
        assert max(sample.bytes for sample in found.memory_trace) <= found.peak_bytes
        assert found.step_seconds is not None
        assert found.breakdown is not None
        assert expected.breakdown is not None
        assert found.breakdown.adapter == expected.breakdown.adapter < children[0].breakdown.adapter  # pyright: ignore


def test_a_row_that_fails_leaves_the_others_their_costs(study: tuple[Path, dict[str, PlannedTrial]]) -> None:
    folder, trials = study
    wrong = replace(trials["lora"], spec=replace(trials["lora"].spec, method="no such method"))
    with Solo(folder, 1) as solo:
        assert solo.measure(wrong) == RowCost()
        found = solo.measure(trials["lora"])
        assert found.step_seconds is not None
        assert found.examples_per_second is not None
        solo._process.kill()  # pyright: ignore
        assert solo.measure(trials["lora"]) == RowCost()
        assert solo.measure(trials["lora"]).step_seconds is not None


def test_pages_of_files_are_counted_by_place() -> None:
    from remora.study.resident import file_pages, resident

    if sys.platform != "linux":
        pytest.skip("Linux tells them")
    pages = file_pages()
    assert sum(pages.values()) == pytest.approx(resident().shared, rel=0.3)
    assert len(pages) > 20


def test_rows_take_turns_and_the_faster_turn_counts() -> None:
    assert in_turns(["a", "b", "c"]) == ["a", "b", "c", "c", "b", "a"]
    slow, fast, failed = RowCost(step_seconds=2.0), RowCost(step_seconds=1.0), RowCost()
    assert faster(slow, fast) == faster(fast, slow) == faster(fast, failed) == faster(failed, fast) == fast
    assert faster(failed, failed) == failed
