"""The tasks: which robot a name means, what a dataset for it must look like, and D4RL's normalised score.

A task's name may be a robot (`hopper`), a D4RL id (`hopper-medium-v2`), a Gymnasium id (`Hopper-v4`), or a robot with a
kind of data (`hopper-demo`, `hopper_medium_replay`). All of them lead to one of the robots in `registry`; the kind of
data and the version change neither the environment nor the score. Datasets with an environment of their own bring a
task that no name leads to; see `recovered`.

Everything here is plain Python and NumPy; no simulator is needed to look up a name or to compute a score.
"""

import dataclasses
import difflib
import json
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offline_rl.envs.described import check_described
from offline_rl.envs.registry import ENTRIES, REGISTERED, ROBOTS, SCORE_NAMES, SUCCESS, WALKERS, Robot
from offline_rl.errors import DatasetError, TaskError

UNSUPPORTED_FAMILIES = frozenset({"maze2d", "bullet", "carla", "flow", "minigrid"})
"""The other families of D4RL, as they are called in its ids."""


@dataclass(frozen=True)
class Task:
    """What an agent is trained for and scored on.

    Attributes:
        name: the name in its usual spelling, for instance `hopper-medium-v2`, `hopper` or `Hopper-v4`.
        robot: the robot that the name leads to.
    """

    name: str
    robot: Robot

    def __str__(self) -> str:
        return self.name

    def to_json(self) -> dict[str, Any]:
        """Return all of the task as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Task":
        """Rebuild from :meth:`to_json`.

        Raises:
            TaskError: The values describe no task, or an environment that no file may describe.
        """
        try:
            robot = Robot(**values["robot"])
            for field in dataclasses.fields(Robot):
                value = getattr(robot, field.name)
                if not isinstance(value, (int, float) if field.type is float else field.type):  # type: ignore[arg-type]
                    raise TypeError(f"{field.name} is {reprlib.repr(value)}")
            if robot.reference not in SCORE_NAMES:
                raise ValueError(f"reference is {reprlib.repr(robot.reference)}")
            kwargs = json.loads(robot.env_kwargs)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise TaskError(f"a stored task cannot be read ({error}); name the task instead") from None
        _check_stored(robot, kwargs)
        return cls(str(values["name"]), robot)


def _plain(name: str) -> str:
    """Return a name as it is compared: case, and the hyphen or underscore between its parts, do not matter."""
    return name.strip().lower().replace("_", "-")


def _check_stored(robot: Robot, kwargs: Any) -> None:
    """Refuse a robot that came from a file and is neither one of ours nor harmless."""
    if robot.d4rl:
        if robot != ROBOTS.get(robot.name):
            raise TaskError(
                f"a stored task cannot be read ({reprlib.repr(robot.name)} is not D4RL's as it is known here); name the"
                " task instead"
            )
        return
    if robot.maker != REGISTERED:
        raise TaskError(
            f"a stored task cannot be read ({reprlib.repr(robot.name)} is not D4RL's); name the task instead"
        )
    check_described(robot.env_id, kwargs, robot.max_episode_steps)
    low, high = robot.reference_min, robot.reference_max
    if not (math.isfinite(low) and math.isfinite(high) and low != high):
        raise TaskError(f"a stored task cannot be read (its score runs from {low} to {high}); name the task instead")


_TASKS = {
    _plain(name): Task(name, entry.robot) for entry in ENTRIES for name in dict.fromkeys((*entry.names, *entry.files))
}


def find_task(name: str | Task) -> Task:
    """Return the task that a name stands for.

    Args:
        name: a robot, a D4RL id, a Gymnasium id up to v4, or a robot and a kind of data; a task stands for itself.

    Raises:
        TaskError: the name is unknown, of a family that is not supported, or of a Gymnasium v5 environment.
    """
    task = name if isinstance(name, Task) else _TASKS.get(_plain(name))
    if task is None:
        assert isinstance(name, str)
        raise TaskError(_why_not(name))
    return task


def is_d4rls(name: object) -> bool:
    """Say whether a name, of whatever a file holds in its place, leads to one of D4RL's robots."""
    return isinstance(name, str) and _plain(name) in _TASKS


def _why_not(name: str) -> str:
    """Return the sentence for a name that is not a task's."""
    plain = _plain(name)
    if not UNSUPPORTED_FAMILIES.isdisjoint(re.split("[-/]", plain)):
        return f"task '{name}' is not supported yet; supported are {', '.join(ROBOTS)}"
    if plain.startswith("d4rl/"):
        return f"task '{name}' is a Minari dataset, which brings its own task; give it as --dataset, without --task"
    walkers = "|".join(WALKERS)
    recorded_in_v5 = re.fullmatch(rf"({walkers})-v5|mujoco/({walkers})/.*", plain)
    if recorded_in_v5:
        return (
            f"task '{name}' is not D4RL's: Gymnasium's v5 environments have other dynamics or rewards than those D4RL"
            f" was recorded in; D4RL's task is '{recorded_in_v5[1] or recorded_in_v5[2]}', and a Minari dataset brings"
            " its own without --task"
        )
    nearest = difflib.get_close_matches(plain, _TASKS, n=1, cutoff=0.7)
    if nearest:
        return f"unknown task '{name}'; did you mean '{_TASKS[nearest[0]].name}'?"
    return f"unknown task '{name}'; known are {', '.join(ROBOTS)} and D4RL's ids, such as 'hopper-medium-v2'"


@overload
def normalized_score(task: str | Task, returns: float) -> float: ...
@overload
def normalized_score(task: str | Task, returns: ArrayLike) -> float | NDArray[np.float64]: ...
def normalized_score(task: str | Task, returns: ArrayLike) -> float | NDArray[np.float64]:
    """Return the normalised score, 100 · (return - min) / (max - min): for D4RL 0 is a random policy, 100 an expert.

    Definition: Fu et al. 2020, "D4RL: Datasets for Deep Data-Driven Reinforcement Learning", section 5. D4RL's own
    `get_normalized_score` leaves out the factor 100.

    Where the score is the success rate, an episode scores 100 if its return is positive, which with a sparse reward is
    to have been at the goal, and else 0.

    Args:
        task: any name that `find_task` knows, or a task, whose `robot.reference` says what 0 and 100 are.
        returns: undiscounted returns of whole episodes, of any shape.

    Returns:
        Scores of the same shape; a float for a single return.

    Raises:
        TaskError: the task is unknown, or its returns are not comparable with D4RL's (ant, kitchen).
    """
    robot = find_task(task).robot
    if not robot.scored:
        raise TaskError(f"{robot.name} has no normalised score: {robot.unscored}")
    if robot.reference == SUCCESS:
        reached = np.where(np.asarray(returns, np.float64) > 0, 100.0, 0.0)
        return float(reached) if reached.ndim == 0 else reached
    scores = (
        100.0 * (np.asarray(returns, np.float64) - robot.reference_min) / (robot.reference_max - robot.reference_min)
    )
    return float(scores) if scores.ndim == 0 else scores


def mean_score(task: str | Task, returns: ArrayLike) -> float:
    """Return the mean normalised score of some episodes `(E,)`, or of one return.

    Args:
        task: as for `normalized_score`.
        returns: undiscounted returns of whole episodes.
    """
    if find_task(task).robot.reference == SUCCESS:
        return float(np.mean(normalized_score(task, returns)))
    return float(normalized_score(task, float(np.mean(np.asarray(returns, np.float64)))))


def check_fits(task: Task, observation_size: int, action_size: int, dataset: str = "the dataset") -> None:
    """Make sure that a dataset can have been recorded on a task's robot.

    Args:
        task: the task the dataset is to be used for.
        observation_size: O of the dataset.
        action_size: A of the dataset.
        dataset: what to call the dataset in the message, for instance "dataset 'hopper-medium-v2'".

    Raises:
        DatasetError: a size differs from the robot's; the message names both, and the robots that would fit.
    """
    robot = task.robot
    if (observation_size, action_size) == (robot.observation_size, robot.action_size):
        return
    fitting = [
        other.name
        for other in ROBOTS.values()
        if (observation_size, action_size) == (other.observation_size, other.action_size)
    ]
    remedy = f"use the task it was recorded on ({' or '.join(fitting)})" if fitting else "no known robot has such sizes"
    raise DatasetError(
        f"{dataset} has {observation_size} observation entries and {action_size} action entries, but {robot.name} has"
        f" {robot.observation_size} and {robot.action_size}; {remedy}"
    )
