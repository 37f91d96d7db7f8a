"""What trials are compared by."""

import math

import pytest

from offline_rl.errors import SweepError
from offline_rl.sweep.metric import Metric


def row(kind, step, seed, **values):
    return {"kind": kind, "step": step, "seed": seed, **values}


ROWS = [
    *(row("evaluation", 0, seed, score=1.0) for seed in (0, 1)),
    *(row("train", 5, seed, critic_loss=0.5 + seed) for seed in (0, 1)),
    row("evaluation", 10, 0, score=4.0),
    row("evaluation", 10, 1, score=8.0),
    row("evaluation", 20, 0, score=5.0),
]
FINAL = [row("evaluation", 20, 1, score=7.0), *(row("final", 30, seed, score=9.0 + seed) for seed in (0, 1))]


@pytest.mark.parametrize(
    ("name", "history", "value"),
    [
        ("score", [1.0, 6.0], 9.5),
        ("score_mean_10", [1.0, 3.5], (1.0 + 6.0 + 6.0 + 9.5) / 4),
        ("evaluation/score", [1.0, 6.0], 6.0),
        ("final/score", [1.0, 6.0], 9.5),
        ("train/critic_loss", [1.0], 1.0),
    ],
)
def test_seeds_count_by_their_mean_once_all_have_come(name, history, value):
    metric = Metric(name, maximize=True)
    assert metric.history(ROWS, 2) == history
    assert metric.value([*ROWS, *FINAL], 2) == value


def test_the_mean_of_the_last_ten_leaves_out_older_ones():
    rows = [row("evaluation", step, 0, score=float(step)) for step in range(12)]
    assert Metric("score_mean_10", maximize=True).history(rows, 1)[-2:] == [5.5, 6.5]


def test_rows_that_a_resumed_run_writes_again_count_once():
    assert Metric("score", maximize=True).history([*ROWS, *ROWS], 2) == [1.0, 6.0]


def test_a_diverged_seed_makes_the_trial_diverge():
    rows = [row("final", 30, 0, score=None), row("final", 30, 1, score=3.0)]
    assert math.isnan(Metric("score", maximize=True).value(rows, 2))


def test_a_metric_that_is_not_recorded_is_named():
    with pytest.raises(SweepError, match="the run recorded no train/q; choose another metric"):
        Metric("train/q", maximize=True).value(ROWS, 2)
