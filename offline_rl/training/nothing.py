"""Runs that begin without any dataset: what takes its place, and the task that must then be named."""

import dataclasses
from typing import Any

import numpy as np

from offline_rl.agent import Agent
from offline_rl.data import Dataset
from offline_rl.envs.foreign import registered
from offline_rl.envs.tasks import find_task
from offline_rl.errors import RunError, TaskError
from offline_rl.training.options import TrainOptions

NO_DATASET = "none"
"""What ``--dataset`` says where there is none."""


def without_dataset(algorithm: type[Agent], options: TrainOptions) -> tuple[TrainOptions, Dataset]:
    """Return the options of a run without a dataset, in which all steps are online, and a dataset of no rows.

    Raises:
        OfflineRLError: The algorithm needs a dataset, or the run names no task that can be played, or no online steps.
    """
    if not algorithm.starts_empty:
        raise RunError(f"{algorithm.name} learns from a dataset, and none is given; name one with --dataset")
    if not options.online_steps:
        raise RunError("with dataset none an agent learns online alone; give --online_steps, such as 100000")
    if not options.task:
        raise TaskError("dataset none names no task; give one, for instance --task hopper, in Python task='hopper'")
    sizes, metadata = _described(options.task)
    data = _no_rows(f"{NO_DATASET}-{options.task}", *sizes, metadata | {"task": options.task})
    return dataclasses.replace(options, steps=0), data


def _described(name: str) -> tuple[tuple[int, int], dict[str, Any]]:
    """Return O and A of a task of ours, or of any Gymnasium id with boxes, and what a dataset of it would say of it."""
    try:
        robot = find_task(name).robot
    except TaskError:
        environment = registered(name)
        if environment is None:
            raise
    else:
        return (robot.observation_size, robot.action_size), {}
    import gymnasium

    spaces = environment.observation_space, environment.action_space
    limit = environment.spec.max_episode_steps if environment.spec else None
    environment.close()
    boxes = [space for space in spaces if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1]
    if len(boxes) < 2 or not boxes[1].is_bounded() or limit is None:
        raise TaskError(f"{name} needs observations and bounded actions that are boxes, and a time limit; name another")
    about = {"id": name, "kwargs": {}, "max_episode_steps": limit, "wrappers": [], "references": None}
    bounds = [boxes[1].low.tolist(), boxes[1].high.tolist()]
    return (boxes[0].shape[0], boxes[1].shape[0]), {"environment": about, "action_bounds": bounds}


def _no_rows(name: str, observation_size: int, action_size: int, metadata: dict[str, Any]) -> Dataset:
    observations, nothing = np.zeros((0, observation_size), np.float32), np.zeros(0, bool)
    return Dataset(
        name=name,
        observations=observations,
        actions=np.zeros((0, action_size), np.float32),
        rewards=np.zeros(0, np.float32),
        next_observations=observations.copy(),
        terminated=nothing,
        truncated=nothing.copy(),
        episode_bounds=np.zeros(1, np.int64),
        episode_returns=np.zeros(0),
        episode_lengths=np.zeros(0, np.int64),
        episode_complete=nothing.copy(),
        metadata=metadata,
    )
