"""What a study settles when it is opened holds for every process that opens it again."""

import json
from pathlib import Path

import pytest
import torch

from remora.cli.progress import SilentProgress
from remora.config.load import build_study, read_study
from remora.config.schema import EngineConfig, ModelConfig
from remora.study import machine
from remora.study.api import run_study
from remora.study.context import open_context
from remora.study.machine import choose_dtype, dtype_name
from tests.moods import write_data, write_model


def test_the_type_that_was_measured_first_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that measure beside others may find another type faster; their trials would have other bits."""
    model, data = write_model(tmp_path / "model"), write_data(tmp_path / "moods.csv")
    usual = choose_dtype(ModelConfig(id=str(model)), EngineConfig(device="cpu"))
    other = torch.float32 if usual == torch.bfloat16 else torch.bfloat16
    monkeypatch.setattr(machine, "product_rate", lambda dtype: 10.0 if dtype == other else 1.0)
    config = build_study(
        {
            "model": {"id": str(model)},
            "data": {"path": str(data)},
            "methods": ["bitfit"],
            "protocol": {"full": False, "lr": 1e-3, "epochs": 1, "seeds": 1, "budget_seconds": 3600},
            "engine": {"device": "cpu"},
        }
    )
    run_dir = tmp_path / "run"
    run_study(config, run_dir, progress=SilentProgress())
    monkeypatch.undo()
    written = read_study(run_dir / "study.yaml")
    assert written.model.dtype == dtype_name(other)
    base = open_context(written).base
    assert base.dtype == other
    costs = json.loads((run_dir / "costs.json").read_text())["rows"]
    assert {cost["breakdown"]["base"] for cost in costs.values()} == {
        sum(each.nbytes for each in base.model.parameters())
    }
