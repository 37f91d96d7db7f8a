"""The bandit over a pool of policies, on pools whose answer is known."""

import re
from pathlib import Path

import numpy as np
import pytest

from offline_rl.analysis.bandit import BanditCurve, chosen


def whole(count, trials):
    return np.broadcast_to(np.arange(count), (trials, count))


def test_policies_without_noise_are_told_apart_by_one_episode_each():
    """After k of n episodes the choice is the best of k policies drawn without replacement: worked out by hand."""
    values = chosen([[0.0], [30.0], [60.0]], whole(3, 30_000), arms=3, pulls=5)
    assert values.mean(0) == pytest.approx([30.0, 50.0, 60.0, 60.0, 60.0], abs=0.5)
    assert (values[:, 2:] == 60.0).all()


def test_a_trial_takes_only_some_of_the_pool():
    """Two of three: the best of two drawn without replacement is 60 in two of three trials, else 30."""
    values = chosen([[0.0], [30.0], [60.0]], whole(3, 30_000), arms=2, pulls=4)
    assert values[:, -1].mean() == pytest.approx(50.0, abs=0.5)
    assert set(values[:, -1]) == {30.0, 60.0}


def test_the_choice_is_valued_by_its_mean_and_not_by_the_luck_of_its_episodes():
    """A policy that scores 0 or 100 is worth 50, whatever it has scored."""
    values = chosen([[0.0, 100.0]] * 4, whole(4, 500), pulls=20)
    assert (values == 50.0).all()


def test_who_does_not_explore_keeps_the_first_lucky_policy():
    """Policy 0 scores 0 or 90, policy 1 always 40; greedy after one episode each, the bad luck of 0 is never undone.

    If 0 begins with 0 (half of the trials), greed stays with 1 for ever. If it begins with 90, its mean falls below 40
    in some trials later, never to be played again. With a bonus in the size of the scores it is found in the end.
    """
    greedy, curious = (
        chosen([[0.0, 90.0], [40.0]], whole(2, 2000), arms=2, pulls=400, exploration=bonus) for bonus in (0.0, 60.0)
    )
    assert greedy[:, 1].mean() == pytest.approx(42.5, abs=0.3)
    assert greedy[:, -1].mean() < 42.5
    assert curious[:, -1].mean() > 44.0


def test_a_curve_with_its_interval():
    generator = np.random.default_rng(2)
    means = generator.normal(50, 10, 16)
    curve = BanditCurve.of((means[:, None] + generator.normal(0, 2, (16, 100))).tolist(), arms=4, pulls=30)
    assert (curve.policies, curve.arms, curve.mean.shape) == (16, 4, (30,))
    assert curve.mean[0] == pytest.approx(means.mean(), abs=1.0)
    # The expected best of four of them, without replacement.
    drawn = [means[generator.permutation(16)[:4]].max() for _ in range(20_000)]
    assert curve.mean[-1] == pytest.approx(np.mean(drawn), abs=0.7)
    assert (curve.low <= curve.mean + 0.5).all()
    assert (curve.mean - 0.5 <= curve.high).all()
    assert curve.high[0] - curve.low[0] == pytest.approx(2 * 1.96 * means.std() / 4, rel=0.35)
    again = BanditCurve.of([[1.0, 2.0]], pulls=3)
    assert (again.low, again.high, again.mean.tolist()) == (None, None, [1.5, 1.5, 1.5])


def test_draws_are_repeated_to_the_bit():
    episodes = np.random.default_rng(3).normal(0, 1, (5, 7)).tolist()
    once, again, other = (chosen(episodes, whole(5, 50), 3, 20, seed=seed) for seed in (1, 1, 2))
    assert (once == again).all()
    assert (once != other).any()


def test_policies_may_have_played_different_numbers_of_episodes():
    """Broken by padding that is drawn as if it were a score."""
    values = chosen([[50.0], [60.0, 60.0, 60.0]], whole(2, 300), pulls=12)
    assert (values[:, 1:] == 60.0).all()


@pytest.mark.parametrize("page", ["sweep", "compare"])
def test_the_example_on_the_page_holds(page):
    text = (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    exec(code, {})
