"""The analysis as a whole: closed forms, invariances, broken studies, and error rates on small simulated studies."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from remora.errors import ConfigError, DataError
from remora.seeds import numpy_rng
from remora.study.statistics import Analysis, MethodCost, StudyScores, analyse, holm

SKILLS = {"full": 0.86, "lora": 0.86, "dora": 0.85, "ia3": 0.80, "head": 0.70}


def simulate(skills=SKILLS, *, num_seeds=3, num_items=400, seed_sd=0.01, seed=0) -> StudyScores:
    """Accuracy of methods whose errors sit mostly on the same hard items; each seed also shifts the skill."""
    rng = numpy_rng(seed, "simulate")
    item = rng.standard_normal(num_items)
    rows = {}
    for label, skill in skills.items():
        affinity = rng.standard_normal(num_items)
        threshold = stats.norm.ppf(skill)
        shift = rng.normal(0, seed_sd / stats.norm.pdf(threshold), num_seeds)
        own = rng.standard_normal((num_seeds, num_items))
        latent = np.sqrt(0.8) * item + np.sqrt(0.1) * affinity + np.sqrt(0.1) * own
        rows[label] = (latent >= threshold + shift[:, None]).astype(np.int64)
    return StudyScores(metric="accuracy", targets=np.zeros(num_items, np.int64), predictions=rows)


def run(scores: StudyScores, *, reference="full", margin=1.0, prefer="quality", costs=None, seed=0, draws=4000):
    return analyse(
        scores,
        reference=reference,
        margin=margin,
        prefer=prefer,
        costs=costs or {},
        rng=numpy_rng(seed, "analyse"),
        item_draws=500,
        noise_draws=draws,
    )


def test_means_order_and_reference():
    scores = simulate()
    result = run(scores)
    assert [entry.label for entry in result.methods] == list(SKILLS)
    assert result.reference == "full"
    assert result.adjustment == "holm"
    for label, rows in scores.predictions.items():
        entry = result.method(label)
        assert entry.mean == pytest.approx((rows == 0).mean())
        assert entry.per_seed == pytest.approx((rows == 0).mean(axis=1))
        assert 0 <= entry.low < entry.mean < entry.high <= 1
    lora = result.comparison("lora")
    assert lora.difference == pytest.approx(result.method("lora").mean - result.method("full").mean)
    assert lora.simultaneous_low < lora.low < lora.difference < lora.high < lora.simultaneous_high
    assert result.comparison("full") is None


def test_two_methods_without_item_noise_of_their_own_reduce_to_the_paired_t_test_over_seeds():
    # Both methods are right on the same items but for what their seeds change, on endless items: seeds are all.
    rng = numpy_rng(1)
    rows = {}
    for label in ("a", "b"):
        accuracy = rng.normal(0.85, 0.02, 5)
        rows[label] = np.stack([np.arange(50_000) >= value * 50_000 for value in accuracy]).astype(np.int64)
    scores = StudyScores(metric="accuracy", targets=np.zeros(50_000, np.int64), predictions=rows)
    comparison = run(scores, reference="a").comparison("b")
    a, b = ((rows[label] == 0).mean(axis=1) for label in ("a", "b"))
    expected = stats.ttest_rel(b, a)
    assert comparison.se == pytest.approx(float((b - a).std(ddof=1) / np.sqrt(5)), rel=0.02)
    assert comparison.p == pytest.approx(float(expected.pvalue), rel=0.05)


def test_the_same_study_gives_the_same_analysis_and_the_order_of_methods_does_not_matter():
    scores = simulate()
    assert run(scores) == run(scores)
    turned = replace(scores, predictions=dict(reversed(scores.predictions.items())))
    one, other = run(scores, draws=40_000), run(turned, draws=40_000)
    assert set(one.best_set) == set(other.best_set)
    for label in SKILLS:
        a, b = one.method(label), other.method(label)
        assert (a.mean, a.low, a.high) == pytest.approx((b.mean, b.low, b.high))
        assert a.loss == pytest.approx(b.loss, abs=1e-3)
    assert one.comparison("ia3").p == pytest.approx(other.comparison("ia3").p)


def test_names_of_methods_and_the_order_of_seeds_do_not_matter():
    scores = simulate()
    names = {label: f"<{i}> {label}" for i, label in enumerate(SKILLS)}
    renamed = replace(scores, predictions={names[label]: rows for label, rows in scores.predictions.items()})
    one, other = run(scores), run(renamed, reference=names["full"])
    assert [entry.high for entry in one.methods] == [entry.high for entry in other.methods]
    assert [names[label] for label in one.best_set] == list(other.best_set)
    shuffled = replace(
        scores,
        predictions={label: rows[[2, 0, 1]] for label, rows in scores.predictions.items()},
        seeds=dict.fromkeys(SKILLS, (12, 10, 11)),
    )
    third = run(shuffled)
    assert [entry.low for entry in third.methods] == pytest.approx([entry.low for entry in one.methods])


def test_without_a_reference_the_best_is_taken_and_all_pairs_count():
    scores = simulate()
    fixed, free = run(scores), run(scores, reference=None)
    assert free.adjustment == "max-t"
    assert free.reference == free.recommendation.leader
    head_fixed = fixed.comparison("lora") or fixed.comparison("dora")
    assert head_fixed is not None
    for entry in free.comparisons:
        assert entry.p_adjusted >= entry.p


def test_a_clearly_worse_method_leaves_the_set_and_differs_from_the_reference():
    result = run(simulate())
    assert "head" not in result.best_set
    assert "full" in result.best_set
    head = result.comparison("head")
    assert head.p_adjusted < 0.001
    assert head.simultaneous_high < 0
    assert result.method("head").loss > 0.1


def test_holm():
    adjusted = holm(np.array([0.04, 0.01, 0.03, 0.5]))
    assert adjusted == pytest.approx([0.09, 0.04, 0.09, 0.5])


def test_prefer_and_costs_choose_among_the_methods_within_the_margin():
    scores = simulate(num_items=4000, num_seeds=5, seed_sd=0.003)
    costs = {
        "full": MethodCost(adapter_params=22_000_000, adapter_bytes=90_000_000, step_seconds=0.5),
        "lora": MethodCost(adapter_params=70_000, adapter_bytes=290_000, step_seconds=0.2),
        "dora": MethodCost(adapter_params=78_000, adapter_bytes=320_000, step_seconds=0.1),
    }
    chosen = {prefer: run(scores, margin=4.0, prefer=prefer, costs=costs) for prefer in ("quality", "size", "speed")}
    for prefer, result in chosen.items():
        advice = result.recommendation
        assert advice.decidable
        assert advice.label in advice.eligible
        assert advice.loss <= 0.04
        assert advice.prefer == prefer
        assert advice.label in advice.text
    eligible = set(chosen["size"].recommendation.eligible)
    assert chosen["size"].recommendation.label == "lora"
    assert chosen["speed"].recommendation.label == ("dora" if "dora" in eligible else "lora")
    means = {label: chosen["quality"].method(label).mean for label in eligible}
    assert chosen["quality"].recommendation.label == max(means, key=lambda label: means[label])


def test_what_cannot_be_decided_says_what_would():
    result = run(simulate(num_items=300), margin=1.0)
    advice = result.recommendation
    assert not advice.decidable
    assert advice.label is None
    assert advice.reason == "undecided"
    assert advice.need_items is None or advice.need_items > 300
    assert advice.need_seeds is None or advice.need_seeds > 3
    assert advice.need_items or advice.need_seeds
    assert "ot decidable" in advice.text


def test_more_noise_asks_for_more_items():
    def need(seed_sd: float) -> float:
        advice = run(simulate(num_items=1000, num_seeds=5, seed_sd=seed_sd)).recommendation
        return advice.need_items or np.inf

    assert 1000 < need(0.002) < need(0.02)


def test_one_seed_is_not_decidable_and_says_so():
    result = run(simulate(num_seeds=1))
    assert result.recommendation.reason == "one-seed"
    assert not result.recommendation.decidable
    assert any("one seed per method" in warning for warning in result.warnings)
    assert result.components.seed_sd is None
    assert result.method("lora").seed_sd is None


def test_failed_seeds_and_methods_without_results():
    scores = simulate()
    rows = dict(scores.predictions)
    rows["lora"] = rows["lora"][[0, 2]]
    rows["dora"] = rows["dora"][:0]
    broken = replace(scores, predictions=rows, seeds={"lora": (0, 2), "dora": ()}, failed={"lora": 1, "dora": 3})
    result = run(broken)
    lora, dora = result.method("lora"), result.method("dora")
    assert (lora.seeds, lora.failed) == (2, 1)
    assert lora.mean is not None
    assert (dora.seeds, dora.failed, dora.mean, dora.low, dora.in_best_set) == (0, 3, None, None, False)
    assert result.comparison("dora") is None
    assert any("dora" in warning for warning in result.warnings)


def test_the_reference_may_have_failed():
    scores = simulate()
    rows = {**scores.predictions, "full": np.zeros((0, 400), np.int64)}
    result = run(replace(scores, predictions=rows))
    assert result.adjustment == "max-t"
    assert result.reference != "full"


def test_nothing_finished():
    result = run(StudyScores(metric="accuracy", targets=np.zeros(10), predictions={"full": np.zeros((0, 10))}))
    assert result.recommendation.reason == "no-result"
    assert result.methods[0].mean is None
    assert result.best_set == ()


def test_one_method_beside_baselines_is_taken():
    scores = simulate({"lora": 0.85, "majority": 0.6})
    rows = {**scores.predictions, "majority": scores.predictions["majority"][:1]}
    result = run(replace(scores, predictions=rows, baselines=frozenset({"majority"})), reference=None)
    assert result.recommendation.label == "lora"
    assert result.recommendation.reason == "only-method"


def test_baselines_have_intervals_but_cannot_be_the_best_and_lend_no_variance():
    scores = simulate()
    rng = numpy_rng(2)
    untrained = (rng.random((3, 400)) < np.array([[0.1], [0.5], [0.9]])).astype(np.int64)
    rows = {**scores.predictions, "majority": np.zeros((1, 400), np.int64), "untrained": untrained}
    result = run(replace(scores, predictions=rows, baselines=frozenset({"majority", "untrained"})))
    plain = run(scores)
    # All items have class 0, so answering 0 is always right, and yet no method.
    majority = result.method("majority")
    assert majority.mean == 1.0
    assert majority.seed_sd == 0.0
    assert majority.high == 1.0 > majority.low
    assert not majority.in_best_set
    assert majority.loss is None
    assert result.best_set == plain.best_set
    assert result.method("lora").seed_sd == pytest.approx(plain.method("lora").seed_sd)
    assert result.method("untrained").seed_sd > 0.2


def test_equal_predictions_everywhere_claim_nothing():
    row = np.tile((np.arange(200) < 20).astype(np.int64), (3, 1))
    scores = StudyScores(metric="accuracy", targets=np.zeros(200, np.int64), predictions={"full": row, "lora": row})
    result = run(scores)
    comparison = result.comparison("lora")
    assert comparison.difference == 0
    assert comparison.p == pytest.approx(1.0)
    assert comparison.low < 0 < comparison.high
    assert set(result.best_set) == {"full", "lora"}


@pytest.mark.parametrize("metric", ["macro_f1", "weighted_f1", "f1", "matthews"])
def test_classification_metrics(metric: str):
    scores = simulate()
    targets = (numpy_rng(3).random(400) < 0.4).astype(np.int64)
    rows = {label: np.bitwise_xor(wrong, targets) for label, wrong in scores.predictions.items()}
    result = run(replace(scores, metric=metric, targets=targets, predictions=rows))
    assert result.best_set[0] == "full"
    assert "head" not in result.best_set
    for entry in result.methods:
        assert entry.low < entry.mean < entry.high <= 1


@pytest.mark.parametrize("metric", ["pearson", "spearman", "mse"])
def test_regression_metrics_and_their_direction(metric: str):
    rng = numpy_rng(4)
    targets = rng.standard_normal(300)
    item = rng.standard_normal(300)
    rows = {
        label: targets + noise * (0.8 * item + 0.6 * rng.standard_normal((3, 300)))
        for label, noise in {"full": 0.5, "lora": 0.5, "head": 1.2}.items()
    }
    result = run(StudyScores(metric=metric, targets=targets, predictions=rows))
    assert "head" not in result.best_set
    head = result.comparison("head")
    assert (head.difference > 0) == (metric == "mse")
    assert head.low < head.difference < head.high
    for entry in result.methods:
        assert entry.low < entry.mean < entry.high


def test_constant_predictions_of_a_regression_are_no_error():
    targets = numpy_rng(5).standard_normal(100)
    rows = {"full": np.zeros((2, 100)), "lora": np.ones((2, 100))}
    result = run(StudyScores(metric="pearson", targets=targets, predictions=rows))
    assert result.method("lora").mean == 0.0
    assert result.comparison("lora").p == pytest.approx(1.0)


def test_what_does_not_fit_is_refused():
    scores = simulate()
    with pytest.raises(ConfigError, match="bleu"):
        run(replace(scores, metric="bleu"))
    with pytest.raises(ConfigError, match="reference 'nobody'"):
        run(scores, reference="nobody")
    with pytest.raises(ConfigError, match="margin"):
        run(scores, margin=-1.0)
    with pytest.raises(DataError, match="shape"):
        run(replace(scores, predictions={"full": np.zeros((2, 7), np.int64)}))
    with pytest.raises(DataError, match="distinct seed"):
        run(replace(scores, seeds={"lora": (1, 1, 2)}))
    with pytest.raises(DataError, match="not finite"):
        run(replace(scores, predictions={"full": np.full((2, 400), np.nan)}))
    with pytest.raises(DataError, match="1 items"):
        run(StudyScores(metric="accuracy", targets=np.zeros(1), predictions={"full": np.zeros((2, 1))}))


STUDIES = 250
TIED = dict.fromkeys(("full", "a", "b", "c", "d"), 0.87)


@pytest.fixture(scope="module")
def tied() -> list[tuple[StudyScores, Analysis]]:
    """Studies of five equal methods with two seeds each."""
    drawn = [simulate(TIED, num_items=2000, num_seeds=2, seed=study) for study in range(STUDIES)]
    return [(scores, run(scores, seed=study, draws=1000)) for study, scores in enumerate(drawn)]


class TestErrorRates:
    """Small simulations with fixed seeds; bounds are 4 binomial standard errors wide. The full ones are in bench/."""

    def test_false_alarms_and_coverage_when_nothing_differs(self, tied: list[tuple[StudyScores, Analysis]]):
        pair = np.mean([entry.p < 0.05 for _, result in tied for entry in result.comparisons])
        family = np.mean([min(entry.p_adjusted for entry in result.comparisons) < 0.05 for _, result in tied])
        left_out = np.mean([label not in result.best_set for _, result in tied for label in TIED])
        covered = np.mean([entry.low <= 0.87 <= entry.high for _, result in tied for entry in result.methods])
        slack = 4 * np.sqrt(0.05 * 0.95 / STUDIES)
        assert pair < 0.05 + slack
        assert family < 0.05 + slack
        assert left_out < 0.05 + slack
        assert covered > 0.95 - slack
        # Too few alarms would mean that intervals are wider than they need be.
        assert pair > 0.015

    def test_the_losses_are_bounded_and_the_best_is_rarely_oversold(self, tied: list[tuple[StudyScores, Analysis]]):
        luck = np.mean([max(e.mean for e in result.methods) - 0.87 for _, result in tied])
        said = np.mean([result.recommendation.optimism for _, result in tied])
        assert said == pytest.approx(luck, abs=0.004)

    def test_a_true_difference_is_found_where_the_tool_says_it_can(self):
        skills = {**TIED, "worse": 0.84}
        found: list[bool] = []
        for study in range(120):
            scores = simulate(skills, num_items=2000, num_seeds=5, seed_sd=0.006, seed=study)
            entry = run(scores, seed=study, draws=1000).comparison("worse")
            if entry.detectable <= 0.03:
                found.append(entry.p_adjusted < 0.05)
        assert len(found) > 60
        assert np.mean(found) > 0.8

    def test_ignoring_seeds_would_raise_false_alarms(self, tied: list[tuple[StudyScores, Analysis]]):
        # The negative control: a test over items alone that takes the mean of two seeds for the method itself.
        alarms: list[bool] = []
        for scores, _ in tied:
            right = {label: (rows == 0).mean(axis=0) for label, rows in scores.predictions.items()}
            alarms += [stats.ttest_rel(right[label], right["full"]).pvalue < 0.05 for label in TIED if label != "full"]
        assert np.mean(alarms) > 0.12
