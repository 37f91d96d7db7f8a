import math

import numpy as np
import pytest
from scipy import stats

from offline_rl.analysis.statistics import Estimate, student_t


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
