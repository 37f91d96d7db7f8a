"""Behaviour policies, which choose the actions of a collection, and the recorder of the steps."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline_rl.agent import Agent, SequenceAgent
from offline_rl.collection.options import AgentOptions, CollectOptions, LearnerOptions
from offline_rl.data.packed import PackedRows, packed
from offline_rl.draws import Stream
from offline_rl.envs.online import OnlineEnvironment, RandomActions, Transition
from offline_rl.envs.tasks import Task
from offline_rl.errors import AgentError, RunError
from offline_rl.files import MAKE_ROOM, writing
from offline_rl.training.loop import make_updates
from offline_rl.training.replica import Replica

FLAGS = "terminals", "timeouts"


class Recorder:
    """All steps so far, as rows of float32.

    Args:
        task: What is played.
        joints: Numbers in MuJoCo's ``qpos`` and ``qvel``.
        capacity: Steps there will be.

    Raises:
        RunError: These are too many.
    """

    def __init__(self, task: Task, joints: tuple[int, int], capacity: int) -> None:
        size = task.robot.observation_size
        self.widths = {
            "observations": size,
            "actions": task.robot.action_size,
            "rewards": 1,
            "terminals": 1,
            "timeouts": 1,
            "next_observations": size,
            "infos/qpos": joints[0],
            "infos/qvel": joints[1],
        }
        self.width = sum(self.widths.values())
        try:
            # Memory that is not written to yet costs nothing.
            self._matrix = np.empty((capacity, self.width), np.float32)
        except MemoryError:
            raise RunError(f"steps is {capacity:,}, more than fit into memory; collect several files") from None
        self._count = 0

    def append(self, happened: Transition) -> None:
        """Add a step."""
        flags = [happened.reward, happened.terminated, happened.truncated]
        row = happened.observation, happened.action, flags, happened.next_observation
        self._matrix[self._count] = np.concatenate((*row, happened.positions, happened.velocities), dtype=np.float32)
        self._count += 1

    def rows(self, first: int = 0) -> npt.NDArray[np.float32]:
        """Return the rows ``(N, W)`` from number ``first`` on."""
        return self._matrix[first : self._count]

    def load_rows(self, rows: npt.NDArray[np.float32]) -> None:
        """Put back what :meth:`rows` returned."""
        self._count = len(rows)
        self._matrix[: self._count] = rows

    def episodes(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return returns and lengths of the episodes that have ended."""
        arrays = self.arrays()
        ends = np.flatnonzero(arrays["terminals"] | arrays["timeouts"])
        bounds = np.concatenate([[0], ends + 1])
        totals = np.concatenate([[0.0], np.cumsum(arrays["rewards"], dtype=np.float64)])
        return np.diff(totals[bounds]), np.diff(bounds)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the rows as D4RL's arrays."""
        parts = np.split(self.rows(), np.cumsum(list(self.widths.values()))[:-1], axis=1)
        arrays: dict[str, npt.NDArray[Any]] = dict(zip(self.widths, parts, strict=True))
        arrays |= {name: arrays[name][:, 0] for name in ("rewards", *FLAGS)}
        return arrays | {name: arrays[name].astype(bool) for name in FLAGS}


class Behavior(Protocol):
    """Plays the task step by step and appends each step to a :class:`Recorder`."""

    def step(self, step: int) -> None:
        """Make step number ``step``, counted from 1."""

    def state(self) -> dict[str, Tensor]:
        """Return all that continuing exactly needs besides the recorded rows."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state` returned; the recorder has its rows again."""


class RandomPolicy:
    """Plays uniformly random actions.

    Args:
        environment: The environment to play in.
        recorder: Stores the steps.
        options: The collection's options.
    """

    def __init__(self, environment: OnlineEnvironment, recorder: Recorder, options: CollectOptions) -> None:
        self._environment, self._recorder = environment, recorder
        self._actions = RandomActions(options.seed, recorder.widths["actions"])

    def action(self, step: int) -> npt.NDArray[np.float32]:
        """Return the action ``(A,)`` of a step."""
        return self._actions.at(step)

    def step(self, step: int) -> None:
        """Make a step."""
        self._recorder.append(self._environment.step(self.action(step)))

    def state(self) -> dict[str, Tensor]:
        """Return the environment's state."""
        return self._environment.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put the environment's state back."""
        self._environment.load_state(state)


class SavedAgent(RandomPolicy):
    """Plays with a saved agent; other arguments than ``agent`` are those of :class:`RandomPolicy`."""

    def __init__(self, environment: OnlineEnvironment, recorder: Recorder, options: AgentOptions, agent: Agent) -> None:
        super().__init__(environment, recorder, options)
        self._agent, self._options = agent, options
        self._noise = Stream(options.seed, "exploration")

    def action(self, step: int) -> npt.NDArray[np.float32]:
        """Return what the agent does, or tries."""
        noise = self._noise.at(step).standard_normal(self._recorder.widths["actions"], np.float32)
        if self._options.deterministic:
            action = self._answer(self._environment.observation, self._recorder.rows()[-1:])
            action = (action + np.float32(self._options.noise) * noise).clip(-1, 1)
        else:
            action = self._agent.act_with_noise(self._environment.observation, noise)
        if not np.isfinite(action).all():
            raise AgentError(f"{self._options.agent} answers with a number that is not finite; its training diverged")
        return action

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put the environment's state back, and remind an agent that remembers of the episode under way."""
        super().load_state(state)
        if not isinstance(self._agent, SequenceAgent):
            return
        arrays, rows = self._recorder.arrays(), self._recorder.rows()
        ends = np.flatnonzero(arrays["terminals"] | arrays["timeouts"])
        for number in range(int(ends[-1]) + 1 if len(ends) else 0, len(rows)):
            self._answer(arrays["observations"][number], rows[max(number - 1, 0) : number])

    def _answer(
        self, observation: npt.NDArray[np.float32], previous: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Return the action after the recorded row ``previous`` ``(1, W)``, or at the very beginning ``(0, W)``."""
        place = self._recorder.widths["observations"] + self._recorder.widths["actions"]
        reward, *ends = previous[0, place : place + 3] if len(previous) else (0.0, True)
        if any(ends):
            self._agent.reset()
            return self._agent.act(observation)
        return self._agent.act(observation, float(reward))


class Learner:
    """Trains a new agent on all of its own steps, with one update for each step.

    Args:
        agent: The agent that learns.
        task: The task that it plays.
        recorder: Stores the steps.
        options: The collection's options.
    """

    def __init__(self, agent: Agent, task: Task, recorder: Recorder, options: LearnerOptions) -> None:
        self._recorder, self._options = recorder, options
        rows = PackedRows.empty(agent.observation_size, agent.action_size)
        self.replica = Replica(
            agent,
            rows,
            task,
            options.dynamics,
            random_steps=options.random_steps,
            on_transition=recorder.append,
        )

    def step(self, step: int) -> None:
        """Make a step and an update; save the agent where a snapshot is asked for."""
        make_updates(self.replica, step, step)
        if step in self._options.snapshots:
            with writing(self._options.snapshots_folder, MAKE_ROOM):
                self.replica.agent.save(self._options.snapshots_folder / f"step-{step}")

    def state(self) -> dict[str, Tensor]:
        """Return networks, optimisers and environment."""
        if bad := [name for name, value in self.replica.metrics().items() if not math.isfinite(value)]:
            raise RunError(f"{self.replica.agent.name} has diverged ({bad[0]} is not finite); lower its learning rates")
        return self.replica.state(stored=len(self._recorder.rows()))

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put networks, optimisers, environment and replay back."""
        arrays = self._recorder.arrays()
        replay = packed(
            self.replica.agent.preprocessing,
            terminated=arrays["terminals"],
            **{name: arrays[name] for name in ("observations", "actions", "rewards", "next_observations")},
        )
        self.replica.load_state({**state, "online/replay": torch.from_numpy(replay)})
