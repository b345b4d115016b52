import json
import math

import pytest
import torch

from remora.cli import checks
from remora.cli.checks import Check
from remora.cli.main import run_cli
from remora.engine.selftest import train_tiny
from remora.native import kernels
from remora.study import machine


def test_tiny_training_is_real_and_repeatable() -> None:
    loss, norm = train_tiny()
    assert math.isfinite(loss)
    assert norm > 0
    assert train_tiny() == (loss, norm)


def test_this_machine_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["doctor", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["ok"] is True
    names = [check["name"] for check in shown["checks"]]
    assert names[:3] == ["torch", "transformers", "safetensors"]
    assert {"precision", "quantisation", "threads", "memory", "disk", "cache", "training"} <= set(names)


def test_a_failed_check_has_a_hint_and_exit_code_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Check(name="cache", verdict="failed", found="read-only", hint="set REMORA_CACHE")
    monkeypatch.setattr(checks, "all_checks", lambda folder: [lambda: bad])
    assert run_cli(["doctor"]) == 4
    assert "hint: set REMORA_CACHE" in capsys.readouterr().out


@pytest.mark.parametrize(("version", "verdict"), [("2.9.1", "failed"), ("2.10.0+cpu", "ok"), ("3.0", "ok")])
def test_versions_are_compared_as_numbers(version: str, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.importlib.metadata, "version", lambda name: version)
    assert checks.check_version("torch").verdict == verdict


def test_precision_is_what_a_study_would_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {torch.float32: 50e9, torch.bfloat16: 150e9}
    monkeypatch.setattr(machine, "product_rate", lambda dtype: speeds[dtype])
    assert checks.check_precision().found.startswith("bfloat16 base; one thread multiplies 150 GFLOP/s in bfloat16, 50")
    speeds[torch.bfloat16] = 40e9
    assert checks.check_precision().found.startswith("float32 base")


def test_missing_kernels_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "status", lambda: (False, "no C compiler (cc, gcc, clang)"))
    check = checks.check_kernels()
    assert (check.verdict, check.found) == ("warning", "no C compiler (cc, gcc, clang)")
    assert "apt install gcc" in check.hint


def test_measuring_restores_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    assert checks.product_seconds(2, seconds=0.01) > 0
    assert torch.get_num_threads() == before


def test_little_memory_and_disk_are_warnings(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(checks, "MIN_MEMORY", 2**60)
    monkeypatch.setattr(checks, "MIN_DISK", 2**60)
    assert checks.check_memory().verdict == "warning"
    assert checks.check_disk(checks.Path.cwd()).verdict == "warning"


def test_unwritable_cache_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMORA_CACHE", "/dev/null/cache")
    check = checks.check_cache()
    assert check.verdict == "failed"
    assert "REMORA_CACHE" in check.hint
