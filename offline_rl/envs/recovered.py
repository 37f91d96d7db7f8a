"""Tasks that a dataset brings along: the Gymnasium environment it was recorded in, and what a score means there.

Scores on such data are not D4RL's. By the first of these that is there, 0 and 100 are

1. the reference returns that the dataset itself states (Minari's `ref_min_score` and `ref_max_score`);
2. what random actions earn, from the table below, and the mean return of the data;
3. in mazes with a sparse reward, an episode that never reaches the goal, and one that does: a success rate;
4. nothing: the score is the return itself.
"""

import json
from collections.abc import Mapping
from typing import Any

from offline_rl.envs.described import check_described
from offline_rl.envs.dynamics import Dynamics, make_env
from offline_rl.envs.online import why_not_continued
from offline_rl.envs.registry import DENSE, MEASURED, RAW, SPARSE, STATED, SUCCESS, Robot
from offline_rl.envs.tasks import Task
from offline_rl.envs.vector import layout_of
from offline_rl.errors import TaskError

RANDOM_RETURNS = {
    "Hopper-v5": 17.63,  # standard error 0.57, 1,000 episodes
    "HalfCheetah-v5": -281.73,  # standard error 2.48, 1,000 episodes
    "Walker2d-v5": 1.78,  # standard error 0.20, 1,000 episodes
}
"""Mean return of uniform random actions, made by `python -m benchmarks.random_returns --episodes 1000`."""


def recovered_task(
    environment: Mapping[str, Any], *, observation_size: int, action_size: int, mean_return: float
) -> Task:
    """Return the task of a dataset that says which environment it was recorded in.

    Args:
        environment: `id`, Gymnasium's; `kwargs` it was made with; `max_episode_steps`; `wrappers` around it, by name;
            and the dataset's own reference returns as `references`, two numbers or None.
        observation_size: O of the dataset.
        action_size: A of the dataset.
        mean_return: the dataset's own.

    Returns:
        A task by the name of the environment's id, with Gymnasium's own dynamics.

    Raises:
        TaskError: the environment has no time limit, or is behind wrappers, which are not rebuilt; or it is described
            with what is not taken from a file, see :mod:`offline_rl.envs.described`.
    """
    name = environment["id"]
    if environment["wrappers"]:
        raise TaskError(
            f"the data was recorded in {name} behind {', '.join(environment['wrappers'])}, which cannot be rebuilt; "
            "train without evaluation by --eval_every 0 --final_episodes 0"
        )
    if environment["max_episode_steps"] is None:
        raise TaskError(
            f"the data was recorded in {name}, whose episodes have no time limit and may never end; "
            "train without evaluation by --eval_every 0 --final_episodes 0"
        )
    check_described(name, environment["kwargs"], environment["max_episode_steps"])
    low, high, reference = _references(environment, mean_return)
    robot = Robot(
        name=name,
        env_id=name,
        observation_size=observation_size,
        action_size=action_size,
        reference_min=low,
        reference_max=high,
        max_episode_steps=environment["max_episode_steps"],
        reference=reference,
        d4rl=False,
        env_kwargs=json.dumps(environment["kwargs"], sort_keys=True),
        reward=SPARSE if _is_sparse(environment) else DENSE,
    )
    return Task(name, robot)


def _references(environment: Mapping[str, Any], mean_return: float) -> tuple[float, float, str]:
    """Return the returns that score 0 and 100, and what they are."""
    if environment["references"]:
        low, high = environment["references"]
        return low, high, STATED
    # Rewards, and so the table, hold for the environment as Gymnasium makes it by default.
    random = RANDOM_RETURNS.get(environment["id"]) if not environment["kwargs"] else None
    if random is not None and random < mean_return:
        return random, mean_return, MEASURED
    if _is_sparse(environment):
        return 0.0, 1.0, SUCCESS
    return 0.0, 100.0, RAW


def _is_sparse(environment: Mapping[str, Any]) -> bool:
    """Say whether a maze of Gymnasium-Robotics rewards nothing but steps at the goal; its default is so."""
    maze = environment["id"].startswith(("AntMaze_", "PointMaze_"))
    return maze and environment["kwargs"].get("reward_type", SPARSE) == SPARSE and "Dense" not in environment["id"]


def check_playable(task: Task, dynamics: Dynamics, *, online: bool = False) -> None:
    """Make sure that a recovered environment is there, and is what the data was recorded in.

    Args:
        task: the task.
        dynamics: what was asked for; these environments have but `plain`.
        online: whether it is to be stopped and continued inside an episode, too.

    Raises:
        TaskError: the environment cannot be made, has other sizes, or cannot be continued.
    """
    environment = make_env(task, dynamics)
    robot, actions = task.robot, environment.action_space
    try:
        layout = layout_of(environment, robot.name)
        seen = (layout.size,) if layout else environment.observation_space.shape
    finally:
        environment.close()
    if [seen, actions.shape] != [(robot.observation_size,), (robot.action_size,)]:
        raise TaskError(
            f"{robot.name} has observations and actions of the shapes {seen} and {actions.shape} here, but"
            f" the data has {robot.observation_size} and {robot.action_size} numbers; install the Gymnasium it was "
            "recorded with, or train without evaluation by --eval_every 0 --final_episodes 0"
        )
    if online and (reason := why_not_continued(robot, environment)):
        raise TaskError(f"{reason}, so no run could be resumed in it; leave out online_steps")
