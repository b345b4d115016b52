"""Predicted peak memory against sums by hand, and how a study is reduced until it fits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remora.config.load import read_study
from remora.config.schema import EngineConfig
from remora.errors import ResourceError
from remora.results.schema import Study
from remora.results.store import STUDY_FILE, read_record
from remora.study import api
from remora.study.context import StudyContext, open_context
from remora.study.memory import fit_memory, largest_pass, pack_memory, peak_memory
from remora.study.rows import StudyRow, study_rows
from remora.study.stages import plan_stages
from tests.study.conftest import Configure
from tests.study.figures import MB, round_probe, row_probe


def opened(configure: Configure, **sections: Any) -> tuple[StudyContext, tuple[StudyRow, ...]]:
    context = open_context(configure(**sections))
    return context, study_rows(context.config, context.base)


def test_a_pass_is_as_long_as_its_batches_can_become() -> None:
    lengths = np.array([10, 20, 30])
    spread = float(np.sqrt(200 / 3))
    assert largest_pass(lengths, 16, 2400) == int(np.ceil(16 * 20 + 3 * 4 * spread))
    assert largest_pass(lengths, 16, 300) == 300
    assert largest_pass(lengths, 1, 2400) == 30
    assert largest_pass(lengths, 64, 7) == 30
    assert largest_pass(np.full(5, 12), 4, 2400) == 48


def test_a_pack_keeps_what_its_lanes_keep_and_one_pass(configure: Configure) -> None:
    sections = {"protocol": {"seeds": 1, "lr": 1e-3}, "engine": {"lanes": 4}}
    context, rows = opened(configure, methods=["lora", "vera"], **sections)
    probe = round_probe(context)
    probe = replace(probe, rows={**probe.rows, "VeRA": row_probe(kept=5 * MB, bytes_per_token=MB)})
    stages = plan_stages(context, rows)
    full, shared = stages.packs()[-1]
    lengths = context.encoded("train").lengths
    one, three = largest_pass(lengths, 16, 2400), largest_pass(lengths, 48, 2400)
    assert [trial.label for trial in full.trials] == ["full fine-tuning"]
    assert pack_memory(context, full, probe) == 100 * MB + 25 * MB + 2 * (1024 * one + MB)
    weights = replace(probe.rows["full fine-tuning"], copies=40 * MB)
    heavier = replace(probe, rows={**probe.rows, "full fine-tuning": weights})
    assert pack_memory(context, full, heavier) == 100 * MB + 40 * MB + 2 * (1024 * one + MB)
    assert [trial.label for trial in shared.trials] == ["LoRA", "VeRA", "head only"]
    handed_over = 5 * MB // 4
    assert pack_memory(context, shared, probe) == (1 + 5 + 1) * MB + handed_over + 2 * (MB * three + MB)


def test_the_peak_counts_what_is_shared_once(configure: Configure) -> None:
    sections: dict[str, Any] = {"methods": ["lora"], "protocol": {"seeds": 2, "lr": 1e-3}, "engine": {"workers": 2}}
    context, rows = opened(configure, **sections)
    probe = round_probe(context)
    lengths = context.encoded("train").lengths
    worker = 300 * MB + 145_000_000 + 125 * MB + 2 * (1024 * largest_pass(lengths, 16, 2400) + MB)
    assert peak_memory(context, rows, probe) == 200 * MB + 300 * MB + 2 * worker
    alone = replace(context, config=context.config.model_copy(update={"engine": EngineConfig(workers=1)}))
    assert peak_memory(alone, rows, probe) == 200 * MB + 300 * MB + worker


def test_passes_shrink_then_workers_go_then_passes_shrink_further(configure: Configure) -> None:
    sections = {"methods": ["lora"], "protocol": {"full": False}, "engine": {"workers": 3, "lanes": 4}}
    context, rows = opened(configure, **sections)
    probe = replace(round_probe(context), rows={"LoRA": row_probe(bytes_per_token=MB), "head only": row_probe(kept=9)})
    assert fit_memory(context, rows, probe, 10**12) == (context.config.engine, ())
    longest = int(context.encoded("train").lengths.max())
    seen: list[tuple[int, int | None]] = []
    for free in range(6000 * MB, 560 * MB, -10 * MB):
        engine, words = fit_memory(context, rows, probe, free)
        assert (engine, words) == fit_memory(context, rows, probe, free)
        if not seen or seen[-1] != (engine.pass_tokens, engine.workers):
            seen.append((engine.pass_tokens, engine.workers))
        held = probe.idle.own + probe.idle.shared
        reduced = replace(context, config=context.config.model_copy(update={"engine": engine}))
        assert peak_memory(reduced, rows, probe) - held <= free
        assert engine.lanes == 4
    workers = [count for _, count in seen]
    tokens = [size for size, _ in seen]
    assert tokens == sorted(tokens, reverse=True)
    assert workers == sorted(workers, key=lambda count: -(count or 0))
    assert {size for size, count in seen if count == 3} <= {2400, 1200, 600}
    assert {size for size, count in seen if count == 2} == {600}
    assert {size for size, count in seen if count == 1} > {600}
    assert min(tokens) >= longest
    assert words[-1] == "workers from 3 to 1"


def test_too_little_memory_is_told_with_what_to_do(configure: Configure) -> None:
    context, rows = opened(configure, methods=["lora"])
    with pytest.raises(ResourceError) as caught:
        fit_memory(context, rows, round_probe(context), 50 * MB)
    assert caught.value.exit_code == 4
    assert "52.4 MB are free" in caught.value.message
    assert "--no-full" in caught.value.hint
    without, rows = opened(configure, methods=["lora"], protocol={"full": False})
    with pytest.raises(ResourceError) as caught:
        fit_memory(without, rows, round_probe(without), 50 * MB)
    assert "--no-full" not in caught.value.hint
    assert "max_length" in caught.value.hint


class Quiet:
    """A watcher that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def stage(self, name: str, total: int) -> None: ...
    def trial_started(self, trial: str) -> None: ...
    def trial_step(self, trial: str, step: int, total: int, loss: float, metric: float | None) -> None: ...
    def trial_finished(self, trial: str, status: str, metric: float | None) -> None: ...
    def finished(self) -> None: ...
    def note(self, text: str) -> None:
        self.notes.append(text)


def test_reductions_are_recorded_and_kept_on_resume(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StoppedError(Exception):
        pass

    def stop(run: Any) -> None:
        raise StoppedError

    monkeypatch.setattr(api._Run, "train", stop)
    monkeypatch.setattr(api, "run_probe", lambda context, rows, **_: round_probe(context))
    config = configure(methods=["lora"], engine={"workers": 2, "lanes": 4})
    run_dir, told = tmp_path / "run", Quiet()
    monkeypatch.setattr(api, "free_bytes", lambda: 700 * MB)
    with pytest.raises(StoppedError):
        api.run_study(config, run_dir, progress=told)
    written = read_study(run_dir / "study.yaml")
    assert (written.engine.tokens_per_pass, written.engine.workers, written.engine.lanes) == (600, 1, 4)
    words = ("tokens per pass from 2400 to 600", "workers from 2 to 1")
    assert read_record(run_dir / STUDY_FILE, Study).reductions == words
    assert [f"to fit the memory: {word}" for word in words] == told.notes[1:]

    monkeypatch.setattr(api, "free_bytes", lambda: 10**12)
    with pytest.raises(StoppedError):
        api.run_study(config, run_dir, progress=told)
    assert read_study(run_dir / "study.yaml") == written
    assert read_record(run_dir / STUDY_FILE, Study).reductions == words
    monkeypatch.setattr(api, "free_bytes", lambda: 0)
    with pytest.raises(StoppedError):
        api.run_study(config, run_dir, progress=told)
    with pytest.raises(ResourceError):
        api.run_study(config, tmp_path / "other", progress=told)
    assert not (tmp_path / "other").exists()
