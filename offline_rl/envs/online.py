"""The environment in which an agent goes on learning; stopped anywhere, it continues exactly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offline_rl.draws import Stream, derived_seed
from offline_rl.envs.dynamics import Dynamics, make_env
from offline_rl.envs.registry import Robot
from offline_rl.envs.robotics import ROBOTICS
from offline_rl.envs.tasks import Task
from offline_rl.errors import TaskError

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.envs.mujoco import MujocoEnv


@dataclass(frozen=True)
class Transition:
    """One step of an environment.

    Attributes:
        observation: ``(O,)`` float32, before the step.
        action: ``(A,)`` float32, as the environment took it.
        reward: What it gave.
        terminated: Whether the episode truly ended; a time limit is no end.
        truncated: Whether it was cut here, by the time limit alone.
        next_observation: ``(O,)`` float32, after the step, also where the episode was cut.
        positions: MuJoCo's ``qpos`` before the step, float32.
        velocities: MuJoCo's ``qvel`` before the step, float32.
    """

    observation: NDArray[np.float32]
    action: NDArray[np.float32]
    reward: float
    terminated: bool
    truncated: bool
    next_observation: NDArray[np.float32]
    positions: NDArray[np.float32]
    velocities: NDArray[np.float32]


class RandomActions:
    """Actions drawn uniformly from [-1, 1]; the one of a step is a pure function of the seed.

    Args:
        seed: The collector's.
        size: A.
    """

    def __init__(self, seed: int, size: int) -> None:
        self._stream = Stream(seed, "random-action")
        self._size = size

    def at(self, step: int) -> NDArray[np.float32]:
        """Return the action ``(A,)`` of a step."""
        return 2 * self._stream.at(step).random(self._size, np.float32) - 1


def why_not_continued(robot: Robot, environment: "gymnasium.Env[Any, Any]") -> str | None:
    """Say why an environment that was stopped inside an episode could not be continued exactly; None if it can."""
    if not (hasattr(environment.unwrapped, "model") and hasattr(environment.unwrapped, "data")):
        return f"{robot.name} is no MuJoCo environment"
    if robot.env_id.startswith(ROBOTICS):
        return f"the goals of {robot.name} are no part of MuJoCo's state"
    return None


class OnlineEnvironment:
    """Episodes one after the other. The start of each is a pure function of the seed and the episode's number.

    Args:
        task: What is played.
        dynamics: See :func:`offline_rl.envs.make_env`.
        seed: The agent's.

    Raises:
        TaskError: It could not be continued.
    """

    def __init__(self, task: Task, dynamics: Dynamics, seed: int) -> None:
        self._environment = cast("MujocoEnv", make_env(task, dynamics).unwrapped)
        if reason := why_not_continued(task.robot, self._environment):
            raise TaskError(
                f"{reason}, so steps in it could not be resumed; collect data of it by Minari's DataCollector"
            )
        self._limit = task.robot.max_episode_steps
        self._seed = seed
        self._episode = self._elapsed = 0
        self._return = self._last_return = self._last_length = 0.0
        self.observation = self._reset()

    def step(self, action: NDArray[np.float32]) -> Transition:
        """Act; at an episode's end begin the next."""
        data = self._environment.data
        positions, velocities = data.qpos.astype(np.float32), data.qvel.astype(np.float32)
        raw, reward, terminated, _, _ = self._environment.step(action)
        observation, self.observation = self.observation, np.asarray(raw, np.float32)
        self._elapsed += 1
        transition = Transition(
            observation=observation,
            action=action,
            reward=float(reward),
            terminated=bool(terminated),
            truncated=self._elapsed == self._limit and not terminated,
            next_observation=self.observation,
            positions=positions,
            velocities=velocities,
        )
        self._return += transition.reward
        if transition.terminated or transition.truncated:
            self._last_return, self._last_length = self._return, float(self._elapsed)
            self._episode += 1
            self._elapsed, self._return = 0, 0.0
            self.observation = self._reset()
        return transition

    @property
    def joints(self) -> tuple[int, int]:
        """Numbers in ``qpos`` and in ``qvel``."""
        model = self._environment.model
        return int(model.nq), int(model.nv)

    def metrics(self) -> dict[str, float]:
        """Return how many episodes have ended, and the return and length of the last one, once there is one."""
        last = {"online_return": self._last_return, "online_length": self._last_length}
        return {"online_episodes": float(self._episode), **(last if self._episode else {})}

    def state(self) -> dict[str, Tensor]:
        """Return all that continuing exactly needs.

        The physics are MuJoCo's whole integration state: positions and velocities lack the solver's warm start. The
        ant's reward also reads the bodies' positions before a step; MuJoCo leaves them at the last part of the step
        before, so they do not follow from the state.
        """
        counters = [self._episode, self._elapsed, self._return, self._last_return, self._last_length]
        return {
            "physics": torch.from_numpy(self._physics()),
            "bodies": torch.from_numpy(self._environment.data.xpos.copy()),
            "observation": torch.from_numpy(self.observation.copy()),
            "counters": torch.tensor(counters, dtype=torch.float64),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state` returned."""
        import mujoco

        model, data = self._environment.model, self._environment.data
        mujoco.mj_setState(model, data, state["physics"].numpy(), mujoco.mjtState.mjSTATE_INTEGRATION)
        data.xpos[:] = state["bodies"].numpy()
        self.observation = state["observation"].numpy().copy()
        episode, elapsed, *returns = state["counters"].tolist()
        self._episode, self._elapsed = int(episode), int(elapsed)
        self._return, self._last_return, self._last_length = returns

    def _physics(self) -> NDArray[np.float64]:
        import mujoco

        model, data = self._environment.model, self._environment.data
        state = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        return state

    def _reset(self) -> NDArray[np.float32]:
        observation, _ = self._environment.reset(seed=derived_seed(self._seed, "online-episode", self._episode))
        return np.asarray(observation, np.float32)
