"""The calibration: simulated studies have the truth they claim, components are recovered, A/A studies are found."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bench.aa_studies import subsampled, twins
from bench.calibrate_statistics import main
from bench.calibration_cells import run_cell
from bench.run_scores import RunScores, read_scores
from bench.simulated_studies import World, labels, latent_correlation
from bench.variance_components import VarianceComponents, fit, read_components
from remora.errors import DataError
from remora.results.store import read_run, write_result
from remora.seeds import numpy_rng
from tests.results.synthetic import ROWS, FakeRow, build_run

COMPONENTS = VarianceComponents(
    name="test",
    accuracy=0.85,
    seed_sd=0.01,
    order_share=0.3,
    between_methods=0.6,
    between_seeds=0.8,
    seed_sd_spread=0.0,
)


def test_latent_correlation_gives_the_correlation_of_outcomes():
    rho = latent_correlation(0.85, 0.6)
    level = stats.norm.ppf(0.85)
    both = stats.multivariate_normal.cdf([level, level], mean=[0, 0], cov=[[1, rho], [rho, 1]])
    assert (both - 0.85**2) / (0.85 * 0.15) == pytest.approx(0.6, abs=1e-4)
    assert latent_correlation(0.85, 0.0) == 0.0
    assert latent_correlation(0.85, 1.0) == pytest.approx(1.0, abs=1e-6)


def test_simulated_studies_have_the_truth_they_claim():
    world = World(COMPONENTS)
    truth = np.array([0.85, 0.82, 0.90])
    wrong = np.concatenate([world.wrong(truth, 4000, 4, numpy_rng(1, study)) for study in range(60)], axis=2)
    assert 1 - wrong.mean(axis=(1, 2)) == pytest.approx(truth, abs=0.004)
    shift, variance = world.shifts(np.ones(3), 4000, numpy_rng(2))
    assert shift.std(axis=1) == pytest.approx(np.sqrt(variance), rel=0.05)
    assert np.corrcoef(shift)[0, 1] == pytest.approx(0.3, abs=0.06)


def test_fitting_recovers_the_components():
    world = World(COMPONENTS)
    runs: list[RunScores] = []
    for study in range(8):
        wrong = world.wrong(np.full(6, 0.85), 4000, 5, numpy_rng(3, study))
        right = dict(zip(labels(6), 1 - wrong.astype(np.int64), strict=True))
        scores = world.study(np.full(6, 0.85), 10, 5, numpy_rng(3, study))
        seeds = {label: tuple(range(5)) for label in right}
        scores = type(scores)(
            metric="accuracy", targets=np.ones(4000), predictions=right, seeds=seeds, baselines=frozenset()
        )
        runs.append(RunScores(name="test", scores=scores, right=right, twins=()))
    found = fit(runs)
    assert found.accuracy == pytest.approx(0.85, abs=0.01)
    assert found.seed_sd == pytest.approx(0.01, rel=0.25)
    assert found.order_share == pytest.approx(0.3, abs=0.25)
    assert found.between_methods == pytest.approx(0.6, abs=0.04)
    assert found.between_seeds == pytest.approx(0.8, abs=0.03)
    assert found.seed_sd_spread < 0.35


@pytest.mark.parametrize("scenario", ["tie", "gap", "tuned", "uneven", "need", "matthews", "pearson"])
def test_every_scenario_measures_shares(scenario: str):
    cell = run_cell(scenario, World(COMPONENTS), 2, 200, 4, 100, 0)
    again = run_cell(scenario, World(COMPONENTS), 2, 200, 4, 100, 0)
    assert cell == again
    for name, entry in cell.measures.items():
        if name.startswith(("alarm", "cover", "power", "able", "decided", "wrong")) and entry.value is not None:
            assert 0 <= entry.value <= 1


def aa_run(folder: Path) -> Path:
    """A finished study in which lora was entered twice, the second time in another stream."""
    twin = FakeRow(
        method="lora",
        label="lora again",
        family="reparameterized",
        skill=2.5,
        params=(73_728, 2310, 0),
        lrs=ROWS[4].lrs,
    )
    build_run(folder, rows=(*ROWS[:5], twin), num_seeds=3, num_test=300)
    run = read_run(folder)
    for trial in run.trials:
        if trial.label == "lora again":
            write_result(folder, trial.model_copy(update={"stream": "again"}))
    return folder


def test_twins_of_a_real_study_are_found_and_subsampled(tmp_path: Path):
    run = read_scores(aa_run(tmp_path / "run"))
    assert run.twins == (("lora", "lora again", True),)
    assert run.scores.baselines == {"majority", "untrained"}
    assert run.right["lora"].mean() == pytest.approx(
        np.mean([trial.metrics["test"]["accuracy"] for trial in read_run(tmp_path / "run").of("lora", "final")])
    )
    (pair,) = twins([run], 0)
    assert pair.low <= pair.difference <= pair.high
    assert (pair.seeds, pair.items) == (3, 300)
    (small,) = subsampled([run], [2, 5], [100, 2000], 10, 0)
    assert (small.seeds, small.items, small.pairs, small.se) == (2, 100, 1, None)


def test_the_page_is_written_from_both_parts(tmp_path: Path):
    source = tmp_path / "components.json"
    sets = [asdict(COMPONENTS)]
    source.write_text(json.dumps({"schema": 1, "source": "made up for a test", "sets": sets}))
    page, store = tmp_path / "page.md", tmp_path / "results.json"
    common = ["--out", str(page), "--json", str(store), "--seeds", "2", "--items", "200"]
    main(["--components", str(source), "--studies", "2", *common])
    assert "made up for a test" in page.read_text()
    assert "A/A studies on real runs" not in page.read_text()
    main(["--run-dir", str(aa_run(tmp_path / "run")), "--subsamples", "3", *common])
    text = page.read_text()
    assert "lora / lora again" in text
    assert "made up for a test" in text
    assert str(tmp_path) not in text


def test_components_must_be_named_and_readable(tmp_path: Path):
    with pytest.raises(SystemExit):
        main(["--json", str(tmp_path / "absent.json")])
    broken = tmp_path / "broken.json"
    broken.write_text('{"sets": []}')
    with pytest.raises(DataError, match=r"broken\.json"):
        read_components(broken)
