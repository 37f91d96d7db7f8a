"""Finite problems against Gymnasium's lake and against sums by hand; each test names the mistake that breaks it."""

import numpy as np
import pytest

from offline_rl.data import Dataset
from offline_rl.envs.finite import bernoulli_bandit, frozen_lake, lucky_arm, shift_world, tie_world, two_step


def test_the_lake_is_gymnasiums():
    """Broken by an exchanged direction, a wall that lets through, or a hole that does not end the episode."""
    import gymnasium

    table = gymnasium.make("FrozenLake-v1", is_slippery=True).unwrapped.P
    lake = frozen_lake()
    tiles = "SFFFFHFHFFFHHFFG"
    for state in (number for number, tile in enumerate(tiles) if tile in "SF"):
        for action in range(4):
            ours, theirs = {}, {}
            for k in range(3):
                chosen = state, action, k
                key = int(lake.next_state[chosen]), float(lake.reward[chosen]), bool(lake.terminated[chosen])
                ours[key] = ours.get(key, 0) + lake.probability[chosen]
            for probability, next_state, reward, terminated in table[state][action]:
                key = int(next_state), float(reward), bool(terminated)
                theirs[key] = theirs.get(key, 0) + probability
            assert ours == pytest.approx(theirs)


def test_the_best_policy_of_the_lake_is_known():
    """Broken by a discount on the wrong side of the reward; 0.74 in 100 steps is the known optimum."""
    assert frozen_lake().value(frozen_lake().optimal(1.0)) == pytest.approx(0.74, abs=0.01)
    dry = frozen_lake(control=1.0)
    assert dry.value(dry.optimal()) == 1


@pytest.mark.parametrize("p", [0.1, 0.3, 0.45])
def test_success_says_nothing_about_the_arm(p):
    """Broken by data that pulls the other arm."""
    bandit = bernoulli_bandit(p)
    paid = bandit.behavior[0] * bandit.probability[0, :, 1]
    assert paid[1] / paid.sum() == pytest.approx(0.5)
    assert bandit.value(bandit.behavior) == pytest.approx(2 * p * (1 - p))
    assert bandit.value(np.array([[0.0, 1.0]])) == pytest.approx(1 - p)


def test_the_others_values():
    arm = lucky_arm()
    assert [arm.value(np.eye(2)[[k]]) for k in range(2)] == pytest.approx([0.5, 1.0])
    problem = two_step()
    for action, value in ((0, 1.0), (1, 2.0)):
        policy = problem.behavior.copy()
        policy[0] = np.eye(2)[action]
        assert problem.value(policy) == pytest.approx(value)


def test_played_returns_have_the_exact_mean():
    """Broken by a reward after the end, by outcomes that ignore the draw, or by a limit one step off."""
    for problem in (frozen_lake(0.7, 0.5), two_step(), lucky_arm()):
        returns = problem.collect(1500, seed=1).returns
        exact = problem.value(problem.behavior)
        assert abs(returns.mean() - exact) < 4 * returns.std() / np.sqrt(1500), problem.name


def test_an_episode_depends_on_its_number_and_the_seed_alone():
    """Broken by draws that depend on how many play."""
    lake = frozen_lake()
    many, few = lake.collect(30, seed=3), lake.collect(5, seed=3)
    assert all(np.array_equal(vars(many)[name][:5], vars(few)[name]) for name in vars(few))
    assert not np.array_equal(lake.collect(5, seed=4).state, few.state)
    assert len({tuple(row) for row in many.state}) > 20


def test_columns_become_a_dataset_of_the_same_episodes():
    """Broken by rows after the end, or by a cut episode that counts as ended."""
    lake = frozen_lake(epsilon=0.0)
    played = lake.collect(50, seed=0)
    dataset = Dataset.from_arrays(**lake.columns(played))
    assert np.array_equal(dataset.episode_returns, played.returns)
    assert np.array_equal(dataset.episode_lengths, played.mask.sum(1))
    assert dataset.truncated.sum() == (~played.terminated.any(1)).sum()
    assert np.array_equal(dataset.next_observations.argmax(1), played.next_state[played.mask])


def test_weights_of_actions_are_probabilities():
    """Broken by taking the largest: imitation of the mean would then never act as the data did."""
    bandit = bernoulli_bandit(0.1)
    played = bandit.play(lambda observation, _: np.tile([3.0, 1.0], (len(observation), 1)), 4000, 0)
    assert played.action.mean() == pytest.approx(0.25, abs=0.03)
    negative = bandit.play(lambda observation, _: np.tile([-3.0, 1.0], (len(observation), 1)), 100, 0)
    assert (negative.action == 1).all()
    none = bandit.play(lambda observation, _: np.zeros((len(observation), 2)), 4000, 0)
    assert none.action.mean() == pytest.approx(0.5, abs=0.04)


def test_the_better_of_two_regions_is_rare_and_the_one_of_ties_pays_more():
    rare, ties = shift_world(), tie_world()
    assert rare.value(rare.behavior) == pytest.approx(0.15 * 0.6 * 5)
    assert ties.value(ties.behavior) == pytest.approx(0.5 * 1.5 * 5)
    # All but the first of six steps pay: 1.1 in the better region of the one, 1.5 in that of the other.
    assert rare.value(rare.optimal()) == pytest.approx(1.1 * 5)
    assert ties.value(ties.optimal()) == pytest.approx(1.5 * 5)
    episodes = rare.collect(2000, seed=0)
    assert (episodes.state[:, 1] == 2).mean() == pytest.approx(0.15, abs=0.03)
    assert episodes.mask.all()
