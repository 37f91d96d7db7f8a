"""What a sequence agent remembers of the episodes it is playing: windows that grow as the play goes on."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from offline_rl.data.windows import Steps
from offline_rl.errors import AgentError


class History:
    """The last K steps of each of E environments; how many these are, the first observation after a reset says.

    Args:
        length: K.
        action_size: A.

    Attributes:
        length: K.
        time: ``(E,)`` int64, steps made in each environment since its episode began.
    """

    def __init__(self, length: int, action_size: int) -> None:
        self.length = length
        self._action_size = action_size
        self.time = np.zeros(0, np.int64)
        self._steps: Steps | None = None
        self._received = torch.zeros(0)
        self._reward: np.ndarray | None = None

    @torch.inference_mode()
    def reset(self, mask: np.ndarray | None = None) -> None:
        """Forget the environments where ``mask`` ``(E,)`` is True, because a new episode begins there; None for all.

        Raises:
            AgentError: The mask is of another number of environments.
        """
        self._reward = None
        if mask is None or np.all(mask) or self._steps is None:
            self._steps = None
            return
        chosen = np.asarray(mask, bool).reshape(-1)
        self._check("reset's mask", len(chosen))
        self.time[chosen] = 0
        rows = torch.from_numpy(chosen).to(self._received.device)
        self._received[rows] = 0.0
        self._steps.mask[rows] = False

    def set_reward(self, reward: np.ndarray | float | None) -> None:
        """Keep the rewards ``(E,)`` of the last actions until the next observation; None counts as 0.

        Raises:
            AgentError: They are of another number of environments, or not finite.
        """
        self._reward = None
        if reward is None or self._steps is None:
            return
        values = np.asarray(reward, np.float64).reshape(-1)
        self._check("reward", len(values))
        if not np.isfinite(values).all():
            raise AgentError("reward holds NaN or infinity; check the environment that made it")
        # What came before an episode's first observation is not part of it.
        self._reward = np.where(self.time > 0, values, 0.0)

    def append_observation(self, observation: Tensor) -> Steps:
        """Add the observations ``(E, O)`` and return the last steps, at most K, the newest at the right.

        The newest action is still 0. ``return_to_go`` is counted from a return of 0: minus what was received before
        each step.

        Raises:
            AgentError: There are more or fewer environments than before, and no reset in between.
        """
        if self._steps is None:
            self.time = np.zeros(len(observation), np.int64)
            self._received = observation.new_zeros(len(observation), dtype=torch.float64)
        self._check("observation", len(observation))
        reward = np.zeros(len(observation)) if self._reward is None else self._reward
        previous_reward = torch.from_numpy(reward).to(observation.device)
        self._received = self._received + previous_reward
        newest = Steps(
            observation=observation,
            action=observation.new_zeros(len(observation), self._action_size),
            previous_reward=previous_reward.to(observation.dtype),
            return_to_go=-self._received.to(observation.dtype),
            time=torch.from_numpy(self.time.copy()).to(observation.device),
            mask=torch.ones_like(self._received, dtype=torch.bool),
        )
        self._steps = _appended(self._steps, newest, self.length)
        self._reward = None
        return self._steps

    def set_action(self, action: Tensor) -> None:
        """Note the actions ``(E, A)`` chosen for the observations seen last."""
        assert self._steps is not None
        self._steps.action[:, -1] = action
        self.time += 1

    def _check(self, what: str, count: int) -> None:
        if count != len(self.time):
            raise AgentError(
                f"{what} is of {count} environments, but the agent remembers {len(self.time)}; call reset() first"
            )


def _appended(steps: Steps | None, newest: Steps, length: int) -> Steps:
    """Put one more step ``(E, ...)`` at the right, and keep the last ``length``."""
    joined = {}
    for name, value in vars(newest).items():
        column = value[:, None]
        joined[name] = column if steps is None else torch.cat((vars(steps)[name], column), 1)[:, -length:]
    return dataclasses.replace(newest, **joined)
