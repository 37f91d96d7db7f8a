import itertools

import numpy as np
import pytest

from offline_rl.envs import find_task, make_env
from offline_rl.envs.online import OnlineEnvironment

ROBOTS = ["hopper", "walker2d", "halfcheetah"]


def actions(count, size, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, size)).astype(np.float32)


def play(environment, some):
    return [environment.step(action) for action in some]


def same(first, second):
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in vars(first))


def make(robot, seed=0):
    return OnlineEnvironment(find_task(robot), "plain" if robot == "ant" else "d4rl", seed)


@pytest.mark.parametrize("robot", [*ROBOTS, "ant"])
def test_a_stored_state_continues_to_the_very_same_numbers(robot):
    """Through many episodes; broken by leaving out the solver's warm start, or, for the ant, the bodies' positions."""
    some = actions(600, find_task(robot).robot.action_size)
    straight = make(robot)
    expected = play(straight, some)
    for stop in (1, 37, 250, 411):
        first, second = make(robot), make(robot)
        play(first, some[:stop])
        play(second, actions(50, find_task(robot).robot.action_size, seed=9))
        second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
        assert all(same(a, b) for a, b in zip(play(second, some[stop:]), expected[stop:], strict=True))
        assert second.metrics() == straight.metrics()


def test_positions_and_velocities_alone_would_not_do():
    """Guard the test above: it must be able to tell."""
    some = actions(600, 6)
    expected = play(make("walker2d"), some)
    differ = []
    for stop in range(1, 200, 7):
        first, restored = make("walker2d"), make("walker2d")
        play(first, some[:stop])
        state, data = first.state(), first._environment.data
        restored.load_state(state)
        restored._environment.reset()
        restored._environment.set_state(data.qpos.copy(), data.qvel.copy())
        restored.observation = first.observation
        differ += [not same(a, b) for a, b in zip(play(restored, some[stop:200]), expected[stop:200], strict=True)]
    assert any(differ)


def test_transitions_are_those_of_the_environment():
    environment = make("hopper")
    some = actions(300, 3)
    played = play(environment, some)
    for before, after in itertools.pairwise(played):
        if not before.terminated:
            assert np.array_equal(before.next_observation, after.observation)
    ends = [number for number, step in enumerate(played) if step.terminated]
    assert ends, "a random hopper falls"
    assert not np.array_equal(played[ends[0]].next_observation, played[ends[0] + 1].observation)
    assert environment.metrics()["online_episodes"] == len(ends)
    rewards = [step.reward for step in played]
    assert environment.metrics()["online_return"] == pytest.approx(sum(rewards[ends[-2] + 1 : ends[-1] + 1]))
    assert environment.metrics()["online_length"] == ends[-1] - ends[-2]
    assert not any(step.truncated for step in played)
    for step in played:
        assert np.array_equal(np.concatenate([step.positions[1:], step.velocities.clip(-10, 10)]), step.observation)


def test_a_time_limit_ends_an_episode_but_terminates_nothing():
    environment = make("halfcheetah")
    played = play(environment, np.zeros((1001, 6), np.float32))
    assert not any(step.terminated for step in played)
    assert [number for number, step in enumerate(played) if step.truncated] == [999]
    assert environment.metrics() | {"online_return": 0} == {
        "online_episodes": 1,
        "online_length": 1000,
        "online_return": 0,
    }
    assert not np.array_equal(played[999].next_observation, played[1000].observation)


def test_episodes_begin_anew_and_differ_from_seed_to_seed():
    starts = []
    for seed in (0, 0, 1):
        environment = make("hopper", seed)
        starts.append(environment.observation)
        play(environment, actions(100, 3))
        starts.append(environment.observation)
    assert np.array_equal(starts[0], starts[2])
    assert np.array_equal(starts[1], starts[3])
    assert not np.array_equal(starts[0], starts[4])
    assert not np.array_equal(starts[0], starts[1])


def test_nothing_is_shared_with_other_environments():
    some = actions(100, 3)
    expected = play(make("hopper"), some)
    environment, other = make("hopper"), make_env("hopper")
    other.reset(seed=5)
    for action, step in zip(some, expected, strict=True):
        assert same(environment.step(action), step)
        other.step(-action)
        if not other.unwrapped.is_healthy:
            other.reset()
