"""One episode for each of many seeds, all stepped together, with one call of the policy a step."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offline_rl.envs.dynamics import Dynamics, make_env
from offline_rl.envs.layout import Layout, flattened, goal_distance
from offline_rl.envs.registry import Robot
from offline_rl.envs.tasks import Task
from offline_rl.errors import AgentError, TaskError

if TYPE_CHECKING:
    import gymnasium

Policy = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Observations (E, O) to actions (E, A); row e is always the episode of the e-th seed."""

RewardedPolicy = Callable[[NDArray[np.float32], NDArray[np.float64]], NDArray[np.float32]]
"""Observations (E, O), and what the last actions earned (E,), 0 before the first, to actions (E, A)."""

StepCallback = Callable[[int, Any, float], None]
"""Told of episode e, its environment and what its last step earned: after the reset (0), and after each step."""


@dataclass(frozen=True)
class RolloutResult:
    """What E episodes gave.

    Attributes:
        returns: undiscounted return of each episode, float64 (E,).
        lengths: steps of each episode, int64 (E,).
        outcomes: what the environment says of goals, see `Outcome`, float64 (E,) each; empty where it says nothing.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    outcomes: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


class Outcome:
    """What an environment says of goals in one episode.

    `success` is 1 if any step after the reset counts as one, by `info["success"]` or `info["is_success"]`, else 0.
    `goal_distance` is that after the last step, by `info["goal_distance"]` or the goals in the observation.
    """

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def see(self, observation: Any, info: Mapping[str, Any]) -> None:
        """Take note of a step: of the observation as the environment gives it."""
        success = info.get("success", info.get("is_success"))
        if success is not None:
            self.values["success"] = max(self.values.get("success", 0.0), float(bool(success)))
        distance = info.get("goal_distance", goal_distance(observation))
        if distance is not None:
            self.values["goal_distance"] = float(distance)


def collected(outcomes: Sequence[Outcome]) -> dict[str, NDArray[np.float64]]:
    """Return what all episodes (E,) have said, by its name; NaN where one has not."""
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.values)
    return {name: np.array([outcome.values.get(name, np.nan) for outcome in outcomes]) for name in names}


def rollout(
    policy: Policy | RewardedPolicy,
    task: Task,
    dynamics: Dynamics,
    seeds: Sequence[int],
    *,
    tell_rewards: bool = False,
    on_step: StepCallback | None = None,
) -> RolloutResult:
    """Plays one episode per seed, from reset to termination or the task's time limit.

    An episode depends on its seed and on the policy's answers to its own row alone: environments are reused from call
    to call, but a reset leaves no trace of the past; and an episode that has ended stays in the batch with its last
    observation, so that the policy always computes on batches of the same shape. Threads may play at the same time.

    Args:
        policy: maps observations, float32 (E, O), to actions (E, A); actions are clipped to the action space.
        task: the task to play.
        dynamics: see `offline_rl.envs.make_env`.
        seeds: one non-negative reset seed per episode, E in all.
        tell_rewards: call the policy with the rewards of the last step as well; an ended episode's are 0.
        on_step: Called after each reset and step with the row, its environment and the reward; must change nothing.

    Returns:
        Returns, lengths and outcomes, in the order of the seeds.

    Raises:
        AgentError: the policy answers with another shape than (E, A), or with a number that is not finite.
        TaskError: as `make_env`.
    """
    environments = _environments(task.robot, dynamics, len(seeds))
    layout = layout_of(environments[0], task.robot.name) if environments else None
    outcomes = [Outcome() for _ in seeds]
    returns = np.zeros(len(seeds), np.float64)
    lengths = np.zeros(len(seeds), np.int64)
    observations = np.zeros((len(seeds), task.robot.observation_size), np.float32)
    for row, (environment, seed) in enumerate(zip(environments, seeds, strict=True)):
        seen, _ = environment.reset(seed=int(seed))
        observations[row] = vector_of(layout, seen, task.robot.name)
        if on_step:
            on_step(row, environment, 0.0)
    running = list(range(len(seeds)))
    rewards = np.zeros(len(seeds), np.float64)
    for _ in range(task.robot.max_episode_steps):
        if not running:
            break
        # Copies, because a policy may keep what it is given, and the rows are overwritten below.
        given: Any = (observations.copy(), rewards.copy()) if tell_rewards else (observations.copy(),)
        actions = _checked_actions(policy(*given), task.robot, environments)
        still_running = []
        rewards[:] = 0
        for row in running:
            seen, reward, terminated, truncated, info = environments[row].step(actions[row])
            observations[row] = vector_of(layout, seen, task.robot.name)
            outcomes[row].see(seen, info)
            rewards[row] = float(reward)
            returns[row] += rewards[row]
            lengths[row] += 1
            if on_step:
                on_step(row, environments[row], float(rewards[row]))
            if not (terminated or truncated):
                still_running.append(row)
        running = still_running
    return RolloutResult(returns, lengths, collected(outcomes))


def layout_of(environment: "gymnasium.Env[Any, Any]", name: str) -> Layout | None:
    """Return the layout of an environment's observations; None if they are vectors already.

    Raises:
        TaskError: They hold something else than numbers.
    """
    try:
        return Layout.of_space(environment.observation_space)
    except ValueError as error:
        raise TaskError(f"{name} has observations with {error}; agents here see vectors of numbers only") from None


def vector_of(layout: Layout | None, observation: Any, name: str) -> NDArray[Any]:
    """Return an environment's observation as a vector `(O,)`.

    Raises:
        TaskError: It is not what the environment's observation space says.
    """
    try:
        return flattened(layout, observation)
    except ValueError as error:
        raise TaskError(f"{name} gave an observation that is not of its own observation space: {error}") from None


def _environments(robot: Robot, dynamics: Dynamics, count: int) -> "list[gymnasium.Env[Any, Any]]":
    """Return so many bare environments (no time limit), the same ones each time: compiling a model takes long."""
    pool = _pool(robot, dynamics)
    while len(pool) < count:
        pool.append(make_env(Task(robot.name, robot), dynamics).unwrapped)
    return pool[:count]


def _pool(robot: Robot, dynamics: Dynamics) -> "list[gymnasium.Env[Any, Any]]":
    """Return this thread's environments of a robot, a list that grows and is never emptied."""
    if not hasattr(_own, "pools"):
        _own.pools = defaultdict(list)
    pool: list[gymnasium.Env[Any, Any]] = _own.pools[robot, dynamics]
    return pool


_own = threading.local()
"""What belongs to one thread: two that shared environments would step each other's."""


def _checked_actions(
    actions: NDArray[np.float32], robot: Robot, environments: "Sequence[gymnasium.Env[Any, Any]]"
) -> NDArray[np.float32]:
    """Return the actions, float32 (E, A), clipped to the action space."""
    count = len(environments)
    if np.shape(actions) != (count, robot.action_size):
        raise AgentError(
            f"the policy's actions have shape {np.shape(actions)}, but {count} episodes of {robot.name} need"
            f" {(count, robot.action_size)}"
        )
    if not np.isfinite(actions).all():
        raise AgentError(f"the policy's actions for {robot.name} hold a number that is not finite")
    space: Any = environments[0].action_space
    return np.clip(np.asarray(actions, np.float32), space.low, space.high)
