import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from offline_rl.analysis.statistics import (
    BudgetCurve,
    Difference,
    Estimate,
    Noise,
    best_of,
    bootstrap,
    interquartile_mean,
    optimality_gap,
    probability_of_improvement,
    profile,
    student_t,
)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_the_quantile_is_scipys(level):
    """Fails if the sums run one term short, or if odd and even degrees of freedom are swapped."""
    for freedom in range(1, 101):
        assert student_t(freedom, level) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=1e-10)


def test_an_interval_worked_by_hand():
    estimate = Estimate.of([1.0, 2.0, 3.0])
    assert (estimate.mean, estimate.count) == (2.0, 3)
    assert estimate.half_width == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert str(estimate) == "2.0 ± 2.5"


def test_an_interval_covers_the_mean_as_often_as_it_says():
    """Fails with n in place of n - 1, and with the normal distribution's 1.96, which covers 81 % of three seeds."""
    samples = np.random.default_rng(0).normal(5.0, 2.0, (4000, 3))
    estimates = [Estimate.of(sample.tolist()) for sample in samples]
    covered = np.mean([abs(estimate.mean - 5.0) <= estimate.half_width for estimate in estimates])
    assert covered == pytest.approx(0.95, abs=0.012)


def test_one_seed_has_no_interval():
    estimate = Estimate.of([7.25])
    assert estimate == Estimate(7.25, None, 1)
    assert str(estimate) == "7.2 ± –"


def test_equal_seeds_have_an_interval_without_width():
    assert Estimate.of([3.0, 3.0]).half_width == 0.0


@pytest.fixture(scope="module")
def runs():
    """Make ten runs of two methods on four tasks."""
    generator = np.random.default_rng(7)
    return [generator.normal(mean, spread, (10, 4)).round(3).T.tolist() for mean, spread in ((70, 20), (60, 25))]


def test_aggregates_are_rliables(runs):
    """Recorded from rliable 1.2.0, whose pins exclude ours; ends agree to two decimals of a score from 0 to 1.

    Fails if episodes or tasks are drawn in place of runs, or runs across tasks.
    """
    ours, theirs = runs
    assert interquartile_mean(ours) == pytest.approx(63.1167, abs=1e-9)
    assert optimality_gap(ours) == pytest.approx(37.903675, abs=1e-9)
    assert probability_of_improvement(ours, theirs) == pytest.approx(0.53)
    assert profile(ours, [40.0, 60.0, 80.0]) == pytest.approx([0.9, 0.6, 0.1])
    assert bootstrap(interquartile_mean, ours) == pytest.approx((57.78, 67.94), abs=0.5)
    assert bootstrap(optimality_gap, ours) == pytest.approx((33.00, 42.79), abs=0.5)
    assert bootstrap(probability_of_improvement, ours, theirs) == pytest.approx((0.4025, 0.6575), abs=0.015)
    low, high = bootstrap(lambda tasks: profile(tasks, [40.0, 60.0, 80.0]), ours)
    assert low == pytest.approx([0.8, 0.45, 0.025], abs=0.026)
    assert high == pytest.approx([0.975, 0.75, 0.2], abs=0.026)


def test_the_interquartile_mean_is_scipys(runs):
    assert interquartile_mean(runs[0]) == pytest.approx(stats.trim_mean(np.ravel(runs[0]), 0.25))


def test_a_bootstrap_is_repeated_to_the_bit(runs):
    once, again, other = (bootstrap(interquartile_mean, runs[0], replicates=100, seed=seed) for seed in (1, 1, 2))
    assert once == again
    assert once != other


def test_a_difference_is_welchs(runs):
    for ours, theirs in ((runs[0][0], runs[1][0]), (runs[0][1][:3], runs[1][1][:5]), ([1.0, 2.0, 4.0], [9.0, 9.1])):
        found = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
        difference = Difference.of(ours, theirs)
        assert difference.mean - difference.half_width == pytest.approx(found.low, abs=0.01, rel=0.005)
        assert difference.mean + difference.half_width == pytest.approx(found.high, abs=0.01, rel=0.005)
    assert Difference.of([1.0, 2.0, 4.0], [9.0, 9.1]).is_noise is False
    assert Difference.of([1.0, 2.0, 4.0], [2.0, 3.0]).is_noise is True
    assert Difference.of([1.0], [9.0, 9.1]).is_noise is None


def test_seeds_and_episodes_are_told_apart():
    """Fails if the episodes' variance is not divided by their number."""
    generator = np.random.default_rng(3)
    agents = generator.normal(50, 6, 4000)
    played = agents[:, None] + generator.normal(0, 20, (4000, 25))
    noise = Noise.of(played.mean(axis=1).tolist(), played.std(axis=1).tolist(), 25)
    assert (noise.seeds, noise.episodes) == pytest.approx((6, 4), rel=0.05)


def test_the_best_of_some_tries_worked_by_hand():
    assert [best_of([0.0, 10.0], tries) for tries in (1, 2, 3)] == [5.0, 7.5, 8.75]


@pytest.mark.parametrize("tries", [1, 2, 3, 4])
def test_the_best_of_some_tries_is_the_mean_over_all_draws(tries):
    """Fails without replacement, or with a rank that is off by one."""
    values = [3.0, -1.0, 8.0, 8.0, 4.5]
    draws = itertools.product(values, repeat=tries)
    assert best_of(values, tries) == pytest.approx(np.mean([max(draw) for draw in draws]))


def test_a_budget_curve_grows_from_the_mean_towards_the_best():
    values = np.random.default_rng(5).normal(50, 10, 12).tolist()
    curve = BudgetCurve.of(values)
    assert curve.tries == [1, 2, 3, 5, 10, 12]
    assert curve.best[0] == pytest.approx(np.mean(values))
    assert curve.best == sorted(curve.best)
    assert np.mean(values) < curve.best[-1] < max(values)
    assert all(low < best < high for low, best, high in zip(curve.low, curve.best, curve.high, strict=True))
    down = BudgetCurve.of([-value for value in values], maximize=False)
    assert down.best == pytest.approx([-best for best in curve.best])
    assert down.low == pytest.approx([-high for high in curve.high])
    assert down.high == pytest.approx([-low for low in curve.low])
    assert BudgetCurve.of([4.0], tries=[1, 7]) == BudgetCurve([1, 7], [4.0, 4.0], None, None)


@pytest.mark.slow
def test_a_budget_curves_interval_covers_the_truth():
    """Fails with an interval of the draws' maximum in place of that of its expectation."""
    values, truth = np.random.default_rng(6).uniform(0, 1, (60, 40)), 3 / 4
    curves = [BudgetCurve.of(sample.tolist(), tries=[3]) for sample in values]
    covered = np.mean([curve.low[0] <= truth <= curve.high[0] for curve in curves])
    assert 0.85 <= covered <= 1.0
    assert np.mean([curve.high[0] - curve.low[0] for curve in curves]) < 0.2


def test_committed_coverage_of_what_stands_in_cells_is_as_promised():
    """Fails with 1.96 for Student's t, or with a percentile bootstrap in cells, which covers less."""
    measured = json.loads((Path(__file__).parents[2] / "results" / "coverage.json").read_text())["coverage"]
    for name in ("mean, Student's t", "difference, Student's t"):
        assert all(0.93 <= share <= 0.97 for share in measured[name].values())
    assert measured["mean, bootstrap"]["3"] < 0.93
