"""The seed component: closed forms, pooling, outliers, missing seeds."""

import numpy as np
import pytest

from remora.seeds import numpy_rng
from remora.study.seed_variance import seed_component


def component(table, *, flips=None, baseline=None, missing=(), grain=1e-6):
    """The component of an (M, S) table; `missing` are (method, seed) cells."""
    table = np.asarray(table, dtype=np.float64)
    cells = [(m, s) for m in range(len(table)) for s in range(table.shape[1]) if (m, s) not in missing]
    owner, seed = np.array(cells).T
    return seed_component(
        table[owner, seed],
        owner,
        seed,
        np.zeros(len(table)) if flips is None else np.asarray(flips),
        np.zeros(len(table), np.bool_) if baseline is None else np.asarray(baseline),
        grain=grain,
    )


def test_two_methods_give_the_paired_t_test():
    table = np.array([[0.80, 0.84, 0.81, 0.83, 0.80], [0.82, 0.83, 0.84, 0.84, 0.79]])
    found = component(table)
    gaps = table[0] - table[1]
    assert found.variance_L.sum() == pytest.approx(np.var(gaps, ddof=1))
    assert found.dof_L == pytest.approx([4.0, 4.0])


def test_the_balanced_table_gives_the_two_way_analysis_of_variance():
    rng = numpy_rng(1)
    table = rng.normal(0.8, 0.01, (6, 4)) + rng.normal(0, 0.03, 4)
    found = component(table)
    residual = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    square = (residual**2).sum() / 15
    between = 6 * np.var(table.mean(axis=0), ddof=1)
    assert found.order_variance == pytest.approx((between - square) / 6)
    assert found.order_error == pytest.approx((between / 6) ** 2 / 3)
    assert found.loading_LT == pytest.approx(np.full((6, 4), 0.25))


def test_a_shared_effect_of_the_seeds_leaves_the_methods_own_variance_alone():
    rng = numpy_rng(2)
    own = rng.normal(0, 0.01, (8, 5))
    plain, shifted = component(own), component(own + rng.normal(0, 0.2, 5))
    assert shifted.variance_L == pytest.approx(plain.variance_L)
    assert shifted.order_variance > 30 * plain.variance_L.max()


def test_variances_are_shrunk_and_degrees_of_freedom_grow():
    rng = numpy_rng(3)
    table = rng.normal(0, 0.01, (10, 3))
    found = component(table)
    own = np.var(table, axis=1, ddof=1)
    assert np.ptp(np.log(found.variance_L)) < np.ptp(np.log(own))
    assert (found.dof_L > 2).all()
    assert (found.dof_L <= 18).all()


def test_a_method_with_one_seed_borrows():
    table = numpy_rng(9).normal(0, 0.01, (6, 4))
    found = component(table, missing={(0, 1), (0, 2), (0, 3)})
    assert found.pooled_L.all()
    assert 0.3e-4 < found.variance_L[0] < 3e-4
    assert np.isfinite(found.dof_L[0])


def test_one_seed_each_means_nothing_is_known():
    found = component(np.array([[0.8], [0.9], [0.7]]))
    assert not found.known
    assert (found.variance_L == 0).all()


def test_one_method_keeps_its_plain_variance():
    found = component(np.array([[0.80, 0.82, 0.87]]))
    assert found.variance_L[0] == pytest.approx(np.var([0.80, 0.82, 0.87], ddof=1))
    assert found.dof_L[0] == pytest.approx(2.0)
    assert found.order_variance == 0.0


def test_a_wild_method_stands_alone_with_its_own_degrees_of_freedom():
    table = numpy_rng(5).normal(0, 0.005, (8, 5))
    table[3] *= 30
    found = component(table)
    assert found.pooled_L.tolist() == [True] * 3 + [False] + [True] * 4
    assert found.variance_L[3] == pytest.approx(np.var(table[3], ddof=1))
    assert found.dof_L[3] == 4
    assert found.variance_L[found.pooled_L].max() < 1e-4
    assert (found.loading_LT[3] == 0).all()


def test_baselines_stay_out_of_the_pool():
    table = numpy_rng(6).normal(0, 0.005, (5, 3))
    loud = table.copy()
    loud[4] = [0.2, 0.8, 0.4]
    baseline = [False, False, False, False, True]
    found = component(loud, baseline=baseline)
    assert found.variance_L[:4] == pytest.approx(component(table, baseline=baseline).variance_L[:4])
    assert found.variance_L[4] == pytest.approx(np.var(loud[4], ddof=1))
    deterministic = component(loud, baseline=baseline, missing={(4, 1), (4, 2)})
    assert deterministic.variance_L[4] == 0
    assert np.isinf(deterministic.dof_L[4])


def test_methods_whose_seeds_disagree_more_on_items_get_more_variance():
    table = numpy_rng(7).normal(0, 0.01, (6, 2))
    even = component(table, flips=[1e-4] * 6)
    uneven = component(table, flips=[4e-4] + [0.5e-4] * 5)
    assert uneven.variance_L[0] > even.variance_L[0]


def test_missing_seeds_are_handled_by_least_squares():
    rng = numpy_rng(8)
    effect = rng.normal(0, 0.05, 5)
    found = component(rng.normal(0, 0.01, (6, 5)) + effect, missing={(0, 0), (2, 4), (2, 3)})
    assert found.loading_LT[0].tolist() == [0, 0.25, 0.25, 0.25, 0.25]
    assert found.loading_LT[2].sum() == pytest.approx(1.0)
    assert np.sqrt(found.variance_L.mean()) == pytest.approx(0.01, rel=0.4)


def test_equal_scores_of_all_seeds_do_not_break():
    found = component(np.full((4, 3), 0.9), grain=1 / 200)
    assert np.isfinite(found.variance_L).all()
    assert (found.variance_L > 0).all()
