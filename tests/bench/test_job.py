"""Job and answer files survive the trip between processes."""

from bench.cases import CASES, arrangements
from bench.job import Answer, Job, Trial, TrialAnswer


def test_a_job_comes_back_as_it_was() -> None:
    job = Job(
        side="peer", data="folder", trials=(Trial(lr=1e-3), Trial(method="full", seed=4, settings={})), max_steps=7
    )
    assert Job.from_json(job.to_json()) == job


def test_an_answer_comes_back_as_it_was() -> None:
    trial = TrialAnswer(
        seed=1, steps=3, train_loss=0.5, curve=(0.7, 0.3), grad_norm_min=0.1, grad_norm_max=0.2, predictions=(0, 1, 1)
    )
    answer = Answer(
        trials=(trial,),
        timed_examples=32,
        timed_seconds=0.5,
        timed_tokens_real=300,
        timed_tokens_computed=400,
        peak_rss_bytes=1,
        wall_seconds=2.0,
        notes={"base_dtype": "bfloat16"},
    )
    assert Answer.from_json(answer.to_json()) == answer
    assert answer.examples_per_second == 64


def test_every_case_has_a_strongest_candidate_and_the_published_one() -> None:
    for case in CASES:
        peers = arrangements(case)
        assert len({peer.name for peer in peers}) == len(peers)
        assert sum(peer.published for peer in peers) == 1
        assert {peer.precision for peer in peers if not peer.published} == {"fp32", "bf16"}
        assert any(peer.side_by_side for peer in peers) == case.side_by_side
        assert len({(trial.method, trial.seed) for trial in case.trials}) == len(case.trials)
