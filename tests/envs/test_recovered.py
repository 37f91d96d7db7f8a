"""Environments that a dataset brings along, among them such that are no robots of D4RL's."""

import gymnasium
import numpy as np
import pytest

from offline_rl.envs import find_task, make_env
from offline_rl.envs.recovered import check_playable, recovered_task
from offline_rl.envs.registry import RAW
from offline_rl.envs.tasks import Task
from offline_rl.envs.vector import rollout
from offline_rl.errors import TaskError


def pendulum(**changes):
    described = {"id": "Pendulum-v1", "kwargs": {"g": 5.0}, "max_episode_steps": 30, "wrappers": [], "references": None}
    return recovered_task({**described, **changes}, observation_size=3, action_size=1, mean_return=-100.0)


def strong(observations):
    """Push harder than [-1, 1], and than the pendulum's own [-2, 2]."""
    return np.clip(9 * observations[:, 2:], -3, 3).astype(np.float32)


def test_episodes_have_the_environments_own_bounds_settings_and_length():
    task = pendulum()
    assert (task.robot.reference, find_task(task)) == (RAW, task)
    result = rollout(strong, task, "plain", (1, 2))
    environment = gymnasium.make("Pendulum-v1", g=5.0)
    for seed, total in zip((1, 2), result.returns, strict=True):
        observation, _ = environment.reset(seed=seed)
        rewards = []
        for _ in range(30):
            action = np.clip(strong(observation[None].astype(np.float32))[0], -2, 2)
            observation, reward, *_ = environment.step(action)
            rewards.append(float(reward))
        assert total == pytest.approx(sum(rewards), abs=1e-4)
    assert result.lengths.tolist() == [30, 30]


def test_a_task_goes_through_json():
    task = pendulum()
    assert Task.from_json(task.to_json()) == task
    for wrong in ({"max_episode_steps": "long"}, {"reference": "mine"}, {"colour": "red"}):
        with pytest.raises(TaskError, match="a stored task cannot be read"):
            Task.from_json({"name": "x", "robot": {**task.to_json()["robot"], **wrong}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wrappers": ["TimeAware"]}, "behind TimeAware, which cannot be rebuilt"),
        ({"max_episode_steps": None}, "no time limit"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused(changes, message):
    with pytest.raises(TaskError, match=message):
        pendulum(**changes)


def test_what_cannot_be_played_is_refused():
    with pytest.raises(TaskError, match="no D4RL dynamics"):
        make_env(pendulum(), "d4rl")
    with pytest.raises(TaskError, match="cannot be made"):
        make_env(pendulum(id="Nowhere-v1", kwargs={}))
    with pytest.raises(TaskError, match="no MuJoCo environment"):
        check_playable(pendulum(), "plain", online=True)
    with pytest.raises(TaskError, match=r"shapes \(2,\) and \(1,\) here, but the data has 3 and 1"):
        check_playable(pendulum(id="MountainCarContinuous-v0", kwargs={}), "plain")
