"""The GPU benchmark runs from end to end on a CPU with a tiny model; the page says what was measured, if anything."""

import json
import os
import subprocess
import sys

import pytest
import torch

from bench import gpu
from bench.gpu_models import MODELS
from bench.gpu_sides import Timing
from bench.tables import gpu_section


def test_both_sides_train_the_tiny_model() -> None:
    command = [sys.executable, "-m", "bench.gpu", "--smoke", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    tree = json.loads(done.stdout.splitlines()[-1])
    model = tree["models"]["smoke"]
    assert set(model["remora"]) == set(model["ratios"]) == {"1", "2"}
    for row in (*model["remora"].values(), *model["peer"].values()):
        assert row["examples_per_second"] > 0
        assert 0 < row["grad_norm_min"] <= row["grad_norm_max"]
        assert row["peak_bytes"] is None
    text = gpu_section(tree)
    assert "Remora, 2 lane(s)" in text
    assert "Not measured" not in text


def test_without_results_the_page_says_so() -> None:
    assert "Not measured: no GPU was at hand" in gpu_section(None)


def test_without_a_device_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 4
    assert "--smoke" in capsys.readouterr().err


@pytest.mark.parametrize("norms", [(0.0, 1.0), (0.5, float("inf")), (float("nan"), 1.0)])
def test_a_side_that_did_not_train_is_an_error(norms: tuple[float, float]) -> None:
    with pytest.raises(RuntimeError, match="did not train"):
        Timing(seconds=1.0, examples=1, peak_bytes=None, grad_norm_min=norms[0], grad_norm_max=norms[1])


def test_sizes_are_those_of_the_models_named() -> None:
    assert gpu.linear_weights(MODELS["roberta-base-size"]) == 12 * (4 * 768**2 + 2 * 768 * 3072)
    assert gpu.linear_weights(MODELS["llama-7b-size"]) == 32 * (4 * 4096**2 + 3 * 4096 * 11008)


def test_the_peak_is_known_given_or_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 0)
    for name, expected in (("NVIDIA H200", 989e12), ("NVIDIA L40S", 362e12), ("NVIDIA L4", 121e12), ("Other", None)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert gpu.peak_flops(device, None) == expected
    assert gpu.peak_flops(device, 100.0) == 1e14
