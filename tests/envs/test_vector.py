"""Lock-step rollouts against episodes played one by one."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from offline_rl.envs import ROBOTS, find_task, make_env
from offline_rl.envs.vector import RolloutResult, _own, _pool, rollout
from offline_rl.errors import AgentError

SEEDS = (5, 0, 2**31, 5)


class LinearPolicy:
    """A fixed policy whose answer to a row does not depend on the other rows, not even by rounding."""

    def __init__(self, robot: str, scale: float = 0.1) -> None:
        shape = (ROBOTS[robot].action_size, ROBOTS[robot].observation_size)
        self.weight = np.random.default_rng(7).normal(0.0, scale, shape).astype(np.float32)
        self.seen: list[NDArray[np.float32]] = []

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        self.seen.append(observations)
        actions: NDArray[np.float32] = (observations[:, None, :] * self.weight).sum(axis=-1)
        return actions


def play_alone(robot: str, seed: int) -> tuple[float, int]:
    environment: Any = make_env(robot)
    policy = LinearPolicy(robot)
    observation, _ = environment.reset(seed=seed)
    total, length, ended = 0.0, 0, False
    while not ended:
        action = np.clip(policy(observation[None].astype(np.float32))[0], -1.0, 1.0)
        observation, reward, terminated, truncated, _ = environment.step(action)
        total, length, ended = total + float(reward), length + 1, terminated or truncated
    return total, length


def assert_equal(one: RolloutResult, other: RolloutResult) -> None:
    np.testing.assert_array_equal(one.returns, other.returns)
    np.testing.assert_array_equal(one.lengths, other.lengths)


@pytest.mark.parametrize("robot", ["hopper", "halfcheetah", "walker2d"])
def test_a_rollout_equals_episodes_played_alone(robot: str) -> None:
    result = rollout(LinearPolicy(robot), find_task(robot), "d4rl", SEEDS)
    alone = [play_alone(robot, seed) for seed in SEEDS]
    assert result.returns.dtype == np.float64
    assert result.lengths.dtype == np.int64
    assert list(zip(result.returns, result.lengths, strict=True)) == alone
    assert len(set(result.returns)) == len(set(SEEDS))


def test_an_episode_does_not_depend_on_its_company() -> None:
    task = find_task("walker2d")
    together = rollout(LinearPolicy("walker2d"), task, "d4rl", SEEDS)
    backwards = rollout(LinearPolicy("walker2d"), task, "d4rl", SEEDS[::-1])
    alone = rollout(LinearPolicy("walker2d"), task, "d4rl", SEEDS[2:3])
    assert_equal(together, RolloutResult(backwards.returns[::-1], backwards.lengths[::-1]))
    assert_equal(RolloutResult(together.returns[2:3], together.lengths[2:3]), alone)


def test_used_environments_play_as_new_ones() -> None:
    task = find_task("hopper")
    _own.__dict__.clear()
    new = rollout(LinearPolicy("hopper"), task, "d4rl", SEEDS)
    before = list(_pool(task.robot, "d4rl"))
    rollout(LinearPolicy("hopper", scale=2.0), task, "d4rl", (11, 12, 13, 14, 15))
    used = rollout(LinearPolicy("hopper"), task, "d4rl", SEEDS)
    assert_equal(used, new)
    assert _pool(task.robot, "d4rl")[: len(before)] == before


def test_threads_do_not_step_each_others_environments() -> None:
    task = find_task("hopper")

    def play(seed: int) -> list[float]:
        return rollout(LinearPolicy("hopper"), task, "d4rl", [seed, seed + 1]).returns.tolist()

    alone = [play(seed) for seed in range(0, 40, 2)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(play, range(0, 40, 2))) == alone


@pytest.mark.parametrize("robot", ["hopper", "halfcheetah", "walker2d"])
def test_a_reset_leaves_no_trace_of_the_past(robot: str) -> None:
    """Including the solver's warm start, which is state that no observation shows."""
    new, used = (make_env(robot).unwrapped for _ in range(2))
    used.reset(seed=1)
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1.0, 1.0, (50, ROBOTS[robot].action_size)).astype(np.float32)
    for action in actions[::-1]:
        used.step(action)
    np.testing.assert_array_equal(trace(used, actions), trace(new, actions))


def trace(environment: Any, actions: NDArray[np.float32]) -> NDArray[np.float64]:
    """Plays an episode; returns its simulator states with the solver's warm starts, (T + 1, nq + 2 nv)."""
    environment.reset(seed=2)
    data = environment.data
    states = [np.concatenate([data.qpos, data.qvel, data.qacc_warmstart])]
    for action in actions:
        environment.step(action)
        states.append(np.concatenate([data.qpos, data.qvel, data.qacc_warmstart]))
    return np.array(states)


def test_the_batch_keeps_its_size_and_ended_episodes_their_last_observation() -> None:
    policy = LinearPolicy("walker2d")
    result = rollout(policy, find_task("walker2d"), "d4rl", SEEDS)
    assert len(policy.seen) == result.lengths.max()
    assert {(batch.shape, batch.dtype) for batch in policy.seen} == {((len(SEEDS), 17), np.dtype(np.float32))}
    shortest = int(result.lengths.argmin())
    after_the_end = np.array([batch[shortest] for batch in policy.seen[result.lengths.min() :]])
    assert len(after_the_end) > 0
    np.testing.assert_array_equal(after_the_end, np.broadcast_to(after_the_end[0], after_the_end.shape))
    assert (policy.seen[result.lengths.min() - 1][shortest] != after_the_end[0]).any()


def test_a_kept_batch_is_not_overwritten() -> None:
    policy = LinearPolicy("hopper")
    rollout(policy, find_task("hopper"), "d4rl", (0,))
    assert (policy.seen[0] != policy.seen[1]).any()


def test_actions_are_clipped() -> None:
    def strong(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full((len(observations), 6), 50.0, np.float32)

    def clipped(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ones((len(observations), 6), np.float32)

    task = find_task("walker2d")
    assert_equal(rollout(strong, task, "d4rl", (0, 1)), rollout(clipped, task, "d4rl", (0, 1)))


def test_dynamics_are_kept_apart_and_the_time_limit_is_1000() -> None:
    task = find_task("halfcheetah")
    d4rl, plain = (rollout(LinearPolicy("halfcheetah"), task, dynamics, (0,)) for dynamics in ("d4rl", "plain"))
    assert d4rl.lengths == plain.lengths == 1000
    assert d4rl.returns != plain.returns


def test_no_seeds_give_no_episodes() -> None:
    result = rollout(LinearPolicy("hopper"), find_task("hopper"), "d4rl", ())
    assert result.returns.shape == result.lengths.shape == (0,)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros(3, np.float32), r"shape \(3,\), but 1 episodes of hopper need \(1, 3\)"),
        (np.full((1, 3), np.nan, np.float32), "not finite"),
        (np.full((1, 3), np.inf, np.float32), "not finite"),
    ],
)
def test_a_bad_policy_is_told_so(actions: NDArray[np.float32], message: str) -> None:
    with pytest.raises(AgentError, match=message):
        rollout(lambda _: actions, find_task("hopper"), "d4rl", (0,))
