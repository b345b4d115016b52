"""Both sides train a few steps as subprocesses that start together, and report figures one can trust."""

import math
from pathlib import Path

import pytest

from bench.data import prepare
from bench.job import Job, Trial
from bench.launch import run_together


@pytest.mark.real
def test_both_sides_answer_the_same_question(tmp_path: Path, shared_data: Path) -> None:
    folder = prepare(shared_data, "mrpc", 48, tmp_path, num_validation=16)
    trials = (Trial(lr=1e-3, seed=0), Trial(lr=1e-3, seed=1))
    sides = [
        Job(side="remora", data=str(folder), trials=trials, max_steps=4, warmup_steps=2, evaluate=True, max_length=32),
        Job(side="peer", data=str(folder), trials=trials[:1], max_steps=4, warmup_steps=2, max_length=32),
    ]
    ours, theirs = run_together(sides)
    assert (ours.timed_examples, theirs.timed_examples) == (2 * 2 * 16, 2 * 16)
    for answer in (ours, theirs):
        assert answer.timed_seconds > 0
        assert 0 < answer.timed_tokens_real <= answer.timed_tokens_computed
        for trial in answer.trials:
            assert trial.steps == 4
            assert 0 < trial.grad_norm_min <= trial.grad_norm_max < math.inf
    assert [len(trial.predictions) for trial in ours.trials] == [408, 408]
    assert ours.trials[0].predictions != ours.trials[1].predictions or ours.trials[0].curve != ours.trials[1].curve


def test_a_failing_process_is_an_error_with_its_reason(tmp_path: Path) -> None:
    job = Job(side="peer", data=str(tmp_path / "absent" / "mrpc"), trials=(Trial(),))
    with pytest.raises(RuntimeError, match=r"train\.jsonl"):
        run_together([job])
