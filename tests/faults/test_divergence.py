"""A row that diverges in a study: it is shown as such, the others are what they are without it, the exit code is 5."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.commands import Done, remora
from tests.moods import write_data, write_model

METHODS = ("lora", "bitfit")
WILD = "lora:lr=1e30"
"""Its first steps are finite; then no number is."""


def compare(folder: Path, methods: str) -> tuple[Done, Path]:
    """Two epochs without tuning in float32, all trials in one pack."""
    run_dir = folder / f"run-{methods.count(',')}"
    command = ["compare", "--model", str(folder / "model")]
    command += ["--data", str(folder / "moods.csv"), "--methods", methods, "--no-full", "--seeds", "2"]
    command += ["protocol.lr=1e-3", "protocol.epochs=2", "model.dtype=float32", "engine.workers=1"]
    done = remora([*command, "engine.lanes=8", "--out", str(run_dir)])
    return done, run_dir


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path, Path]:
    """What the study said in which a row diverges, its run directory, and that of the same study without the row."""
    folder = tmp_path_factory.mktemp("diverging")
    write_model(folder / "model")
    write_data(folder / "moods.csv")
    calm, without = compare(folder, ",".join(METHODS))
    assert calm.returncode == 0, calm.stderr
    wild, beside = compare(folder, ",".join((METHODS[0], WILD, *METHODS[1:])))
    return wild, beside, without


def results(run_dir: Path) -> dict[tuple[str, int], dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in run_dir.glob("trials/*/result.json")]
    return {(each["label"], each["seed"]): each for each in found}


def test_it_is_told_with_the_step_and_the_study_goes_on(
    studies: tuple[Done, Path, Path],
) -> None:
    done, run_dir, _ = studies
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    for seed in (0, 1):
        lost = results(run_dir)["LoRA lr=1e+30", seed]
        assert lost["status"] == "diverged"
        assert lost["error"] == f"the loss was not finite at step {lost['steps'] + 1} of 22"
        lines = (run_dir / "trials" / lost["trial"] / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        assert [event["event"] for event in events] == ["started", "diverged"]
        assert events[-1]["step"] == lost["steps"]
        assert not (run_dir / "trials" / lost["trial"] / "adapter").exists()
    for page in ("report.md", "report.html"):
        assert "diverged" in (run_dir / page).read_text()


def test_its_neighbours_are_what_they_are_without_it(
    studies: tuple[Done, Path, Path],
) -> None:
    _, beside, without = studies
    expected, found = results(without), results(beside)
    assert {key for key in found if key not in expected} == {("LoRA lr=1e+30", 0), ("LoRA lr=1e+30", 1)}
    packs = {found[key]["pack"]["id"] for key in found if key[0] in ("LoRA", "BitFit", "LoRA lr=1e+30")}
    assert len(packs) == 1, "they are to share their steps"
    for key in [("LoRA", 0), ("LoRA", 1), ("BitFit", 0), ("BitFit", 1)]:
        assert found[key]["status"] == "done"
        assert found[key]["metrics"] == expected[key]["metrics"]
        ours, theirs = (
            load_file(next((folder / "trials" / each[key]["trial"] / "adapter").glob("*.safetensors")))
            for folder, each in ((beside, found), (without, expected))
        )
        assert set(ours) == set(theirs)
        for name, value in theirs.items():
            if not name.endswith("key.bias"):  # softmax cancels them; AdamW makes steps of their rounding
                np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-5, err_msg=name)
