"""The online phase of one agent: it acts, what happens is kept, and updates draw from all there is.

One environment step comes before each update. Deviation from FamO2O's authors' code, where a ring of two million rows
overwrites the oldest offline data once it is full: here nothing is overwritten.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from offline_rl.agent import Agent
from offline_rl.data.packed import PackedRows, packed
from offline_rl.data.replay import Replay
from offline_rl.draws import Stream
from offline_rl.envs.dynamics import Dynamics
from offline_rl.envs.online import OnlineEnvironment, RandomActions, Transition
from offline_rl.envs.tasks import Task
from offline_rl.errors import DivergedError
from offline_rl.training.checkpoint import prefixed, select


class Interaction:
    """What an agent does and collects online.

    Args:
        agent: Who acts.
        rows: The dataset it was trained on.
        task: What is played.
        dynamics: See :func:`offline_rl.envs.make_env`.
        random_steps: Up to and including this step, actions are drawn uniformly.
    """

    def __init__(self, agent: Agent, rows: PackedRows, task: Task, dynamics: Dynamics, random_steps: int = 0) -> None:
        self._agent = agent
        self._random, self._random_steps = RandomActions(agent.seed, agent.action_size), random_steps
        self._environment = OnlineEnvironment(task, dynamics, agent.seed)
        self._noise = Stream(agent.seed, "exploration")
        self.replay = Replay(rows, agent.length.online)

    def step(self, step: int) -> Transition:
        """Make the environment step that comes before update ``step``."""
        happened = self._environment.step(self._action(step))
        row = packed(
            self._agent.preprocessing,
            observations=happened.observation[None],
            actions=happened.action[None],
            rewards=[happened.reward],
            terminated=[happened.terminated],
            next_observations=happened.next_observation[None],
        )
        self.replay.append(row)
        return happened

    def _action(self, step: int) -> NDArray[np.float32]:
        if step <= self._random_steps:
            return self._agent.preprocessing.to_environment(self._random.at(step))
        noise = self._noise.at(step).standard_normal(self._agent.action_size, np.float32)
        try:
            return self._agent.act_with_noise(self._environment.observation, noise)
        except DivergedError:  # it stands still instead of ending the run of its neighbours
            return np.zeros(self._agent.action_size, np.float32)

    def metrics(self) -> dict[str, float]:
        """Return what the log says of the episodes so far."""
        return self._environment.metrics()

    def state(self, stored: int) -> dict[str, Tensor]:
        """Return all that continuing exactly needs, of the collected rows only those after the first ``stored``."""
        # A copy: the rows go to another process, and a view's whole memory would go with it.
        return prefixed(self._environment.state(), "environment/") | {"replay": self.replay.online(stored).clone()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state` returned, with all rows."""
        self._environment.load_state(select(state, "environment/"))
        self.replay.append(state["replay"].numpy().astype(np.float32, copy=False))
