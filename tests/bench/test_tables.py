"""The page and the picture are made from result files alone, and from the same files the same bytes."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.profile_step import kinds
from bench.tables import evaluation_table, profile_table, scaling_tables, write_tables


def turn(rate: float) -> dict[str, Any]:
    return {
        "examples_per_second": rate,
        "tokens_per_second": 14 * rate,
        "tokens_computed_per_second": 38 * rate,
        "peak_rss_bytes": 2**30,
        "load_before": 0.1,
        "grad_norm_min": 0.2,
        "grad_norm_max": 0.9,
        "train_loss": 0.6,
        "notes": {},
    }


def result(name: str) -> dict[str, Any]:
    rates = {"remora": 120.0, "one process, fp32": 30.0}
    return {
        "machine": {
            "cores": 2,
            "architecture": "x86_64",
            "extensions": ["avx2"],
            "memory_gib": 8,
            "system": "Linux",
            "python": "3.11",
            "torch": "2",
            "transformers": "5",
            "peft": "0",
        },
        "case": name,
        "data": "sst2",
        "model": "minilm",
        "what": "1 trial of lora on query and value",
        "trials": 1,
        "examples_per_trial": 800,
        "base_dropout": True,
        "cores": 2,
        "strongest_peer": "one process, fp32",
        "test_rows": 400,
        "quality": {"trials": ["lora"], "remora": 0.8, "peer": 0.81, "low": 0.77, "high": 0.85, "inside": True},
        "ratio_strongest": 4.0,
        "ratio_default": 4.0,
        "ratio_published": 12.0,
        "product_rate_per_core": {"fp32": 5e10, "bf16": 1e11},
        "bound_examples_per_second": 600.0,
        "fraction_of_bound": {side: rate / 600 for side, rate in rates.items()},
        "arrangements": {
            side: {"examples_per_second": rate, "turns": [turn(rate - 1), turn(rate), turn(rate + 1)]}
            for side, rate in rates.items()
        },
    }


def test_page_and_picture(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "single.json").write_text(json.dumps(result("single")))
    pages = [write_tables(results, tmp_path / docs, ["single", "absent"]) for docs in ("a", "b")]
    assert pages[0] == pages[1]
    assert "| single | minilm | sst2 | 1 | 120 | 4.00 | 4.00 | 12.00 | 20 % |" in pages[0]
    assert "Remora 80.0, peer 81.0 (95 % over items 77.0 to 85.0)" in pages[0]
    assert "| Remora | 120.0 (119.0 to 121.0) |" in pages[0]
    pictures = [(tmp_path / docs / "benchmarks.svg").read_bytes() for docs in ("a", "b")]
    assert pictures[0] == pictures[1]
    assert b"<svg" in pictures[0]


def test_a_page_without_results_has_no_table(tmp_path: Path) -> None:
    assert "|" not in write_tables(tmp_path, tmp_path / "docs", ["single"])


def test_growth_is_told_per_example() -> None:
    found = {
        "examples": [100, 200, 400],
        "seconds": [[1.0, 1.2, 0.9], [2.0, 2.0, 2.0], [4.4, 4.4, 9.0]],
        "many_lanes": 64,
        "many_seconds": 10.0,
        "many_examples": 3000,
        "many_peak_bytes": 2**30,
    }
    text = scaling_tables(found)
    assert "| 400 | 4.40 | 11.00 | 1.100 |" in text
    assert "64 lanes in one pack: 3000 examples in 10.0 s, 300 examples/s on one core, 1024 MiB" in text


def test_evaluation_is_told_in_rows_a_second() -> None:
    found = [{"data": "sst2", "lanes": 4, "rows": 100, "apart": [2.0, 1.0, 4.0], "together": [1.0, 1.0, 4.0]}]
    assert "| sst2 | 100 | 200 | 400 | 1.00 |" in evaluation_table(found)


def test_a_profile_is_told_by_kinds_of_operations_that_add_up_to_the_step() -> None:
    own_time = {
        "aten::mm": 50.0,
        "aten::addmm": 20.0,
        "_ActivationBackward": 5.0,
        "_Activation": 5.0,
        "aten::view": 20.0,
    }
    shares = kinds(own_time)
    assert {kind: share for kind, share in shares.items() if share > 1e-12} == pytest.approx(
        {"matrix products": 0.7, "activations": 0.1, "the rest": 0.2}
    )
    text = profile_table({"sweep8": {"lanes": 4, "threads": 1, "seconds": 0.1, "shares": shares}})
    assert "sweep8, 4 lanes" in text
    assert "| matrix products | 70.0 % |" in text
    assert "| the rest | 20.0 % |" in text
