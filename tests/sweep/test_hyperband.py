"""Stopping early: W&B's bands, and which trials go on."""

import math
import random

import pytest

from offline_rl.errors import SweepError
from offline_rl.sweep.hyperband import Hyperband


def band(maximize=True, **entry):
    return Hyperband.read({"type": "hyperband", **entry}, maximize)


def test_bands_are_wandbs():
    assert band(min_iter=3).bands[:4] == (3, 9, 27, 81)
    assert band(min_iter=2, eta=1.5).bands[:4] == (2, 3, 4, 6)
    assert band(max_iter=27, s=2).bands == (3, 9)
    assert band(max_iter=81, s=3, eta=3).bands == (3, 9, 27)
    assert band(max_iter=5, s=9, eta=2).bands == (1, 2)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_best_third_goes_on_in_either_direction(sign):
    rule = band(sign == 1, min_iter=2)
    histories = [[0.0, sign * value] for value in (5, 3, 9, 1, 7, 8)]
    going_on = [
        own[1] * sign
        for place, own in enumerate(histories)
        if not rule.stops(own, histories[:place] + histories[place + 1 :])
    ]
    assert going_on == [9, 8]


def test_nothing_is_decided_before_the_first_band():
    assert not band(min_iter=3).stops([0.0, 0.0], [[1.0, 2.0, 3.0]] * 9)
    assert band(min_iter=3).stops([0.0, 0.0, 0.0], [[1.0, 2.0, 3.0]] * 9)


def test_between_bands_the_value_at_the_last_band_counts():
    rule = band(min_iter=2)
    assert not rule.stops([0.0, 5.0, 0.0], [[0.0, 4.0, 9.0]] * 5)
    assert rule.stops([0.0, 3.0, 9.0], [[0.0, 4.0, 0.0]] * 5)


def test_strict_looks_at_every_band_behind():
    lucky = [0.0, 1.0, 0.0, 9.0]
    others = [[0.0, 5.0, 0.0, 0.0]] * 5
    assert not band(min_iter=2, eta=2).stops(lucky, others)
    assert band(min_iter=2, eta=2, strict=True).stops(lucky, others)


def test_a_trial_that_has_diverged_ends_at_the_next_band():
    rule = band(min_iter=2)
    assert rule.stops([1.0, math.nan], [])
    assert not rule.stops([math.nan, 1.0], [[math.nan, math.nan]] * 3)


def test_trials_that_are_alike_all_go_on():
    assert not band(min_iter=1).stops([1.0], [[1.0]] * 20)


@pytest.mark.parametrize("maximize", [True, False])
def test_of_sixteen_trials_in_any_order_a_third_stops(maximize):
    sign = 1 if maximize else -1
    for seed in range(20):
        qualities = list(range(16))
        random.Random(seed).shuffle(qualities)
        rule, histories, stopped = band(maximize, min_iter=2, eta=3), [], 0
        for quality in qualities:
            own = []
            while len(own) < 10 and not rule.stops(own, histories):
                own.append(sign * quality * (1 + len(own)))
            stopped += len(own) < 10
            histories.append(own)
        assert stopped >= 6, f"order {qualities}: {stopped} stopped"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "needs either min_iter, or max_iter and s"),
        ({"min_iter": 3, "max_iter": 9}, "needs either min_iter, or max_iter and s"),
        ({"min_iter": 3, "s": 2}, "s belongs to max_iter"),
        ({"max_iter": 9}, "early_terminate.s is None; it must be a whole number"),
        ({"min_iter": "1e1"}, "write 1.0e+1"),
        ({"min_iter": 0}, "leaves no band"),
        ({"max_iter": 2, "s": 2}, "leaves no band"),
        ({"min_iter": 3, "eta": 1}, "eta is 1; it must be above 1"),
        ({"min_iter": 3, "strict": "yes"}, "strict is 'yes'; it must be true or false"),
        ({"min_itr": 3}, "'min_itr' is not supported; did you mean min_iter?"),
    ],
)
def test_what_is_wrong_is_said_by_name(entry, message):
    with pytest.raises(SweepError) as raised:
        band(**entry)
    assert message in str(raised.value)
