"""The recorded episodes, and the policy in question, as estimators read them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offline_rl.agent import Agent, SequenceAgent
from offline_rl.data.packed import Columns, PackedRows
from offline_rl.data.preprocessing import ROUNDING
from offline_rl.draws import Stream
from offline_rl.errors import AgentError, DivergedError

BLOCK = 2048
"""Rows that the policy or the critics see at once, where all rows are gone through."""
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Log:
    """N recorded rows in E episodes.

    Attributes:
        rows: The rows as the agent's networks see them, with raw rewards.
    """

    rows: PackedRows

    @cached_property
    def columns(self) -> Columns:
        """The rows' columns."""
        return self.rows.columns()

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first row of each episode, ``(E,)``."""
        return self.rows.episode_bounds[:-1]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Rows of each episode, ``(E,)``."""
        return np.diff(self.rows.episode_bounds)

    @cached_property
    def episode(self) -> NDArray[np.int64]:
        """The episode of each row, ``(N,)``."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def step(self) -> NDArray[np.int64]:
        """The place of each row in its episode, ``(N,)``, counted from 0."""
        return np.arange(len(self.rows)) - np.repeat(self.starts, self.lengths)

    @cached_property
    def moments(self) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of each entry of the rows' observations, ``(O,)``; 1 where nothing varies."""
        found = [_moments(column.cpu().double().numpy()) for column in self.columns.observation.T]
        mean, spread = np.array(found).T
        return mean, spread

    @cached_property
    def reward(self) -> FloatArray:
        """Raw rewards ``(N,)``."""
        return self.columns.reward.cpu().double().numpy()

    @cached_property
    def ended(self) -> NDArray[np.bool_]:
        """Whether each episode ended in a terminal state, ``(E,)``; the others were cut."""
        ended: NDArray[np.bool_] = self.columns.terminated.cpu().numpy()[self.rows.episode_bounds[1:] - 1] > 0
        return ended

    @property
    def used(self) -> NDArray[np.bool_]:
        """Which episodes ``(E,)`` count for the data's own value: complete ones, or all if none is."""
        complete = self.rows.episode_complete
        return complete if complete.any() else np.ones_like(complete)

    def returns(self, discount: float) -> FloatArray:
        """Return the discounted return of each episode as far as its rows go, ``(E,)``."""
        weighted = self.reward * discount ** self.step.astype(np.float64)
        return np.add.reduceat(weighted, self.starts)

    def returns_to_go(self, discount: float) -> FloatArray:
        """Return Σ_i γ^i r_{t+i} up to the end of the episode for each row, ``(N,)``."""
        found, total = np.empty(len(self.rows)), np.zeros(len(self.lengths))
        # Step by step from the end, all episodes at once.
        for back in range(1, int(self.lengths.max()) + 1):
            own = np.flatnonzero(self.lengths >= back)
            place = self.rows.episode_bounds[own + 1] - back
            total[own] = self.reward[place] + discount * total[own]
            found[place] = total[own]
        return found

    def bootstrap(self, members: int, seed: int) -> FloatArray:
        """Return weights ``(members, E)`` of episodes, each from Exp(1): the Bayesian bootstrap (Rubin, 1981)."""
        stream = Stream(seed, "estimate/bootstrap")
        return np.stack([stream.at(member).standard_exponential(len(self.lengths)) for member in range(members)])


class Policy:
    """The policy whose value is asked for.

    Args:
        agent: The agent.
        noise: Take its exploration noise, too; one whose method is a random policy always does.

    Raises:
        AgentError: It acts on what came before, or cannot explore.
    """

    def __init__(self, agent: Agent, *, noise: bool = False) -> None:
        if isinstance(agent, SequenceAgent):
            raise AgentError(
                f"{agent.name} acts on past steps and on a target return, which no critic of states and actions can"
                " judge; estimate an agent that acts on the observation alone"
            )
        self.random = noise or agent.stochastic
        if self.random and not agent.explores():
            raise AgentError(f"{agent.name} has no way to explore; leave out noise")
        self.agent = agent

    def act(self, observation: Tensor, noise: Tensor | None) -> Tensor:
        """Return the actions ``(B, A)`` in normalised observations ``(B, O)``, with ``noise`` ``(B, A)`` if random."""
        with torch.no_grad():
            if self.random:
                assert noise is not None
                return self.agent.explore(observation, noise).clamp(-1, 1)
            return self.agent.policy(observation).clamp(-1, 1)

    def noise(self, stream: Stream, step: int, rows: int, device: torch.device) -> Tensor | None:
        """Return noise ``(rows, A)`` for a random policy, a function of the stream and the step; else None."""
        if not self.random:
            return None
        return torch.from_numpy(stream.at(step).standard_normal((rows, self.agent.action_size), np.float32)).to(device)

    def act_on_all(self, observation: Tensor, stream: Stream) -> Tensor:
        """Return the actions ``(N, A)`` in all of many observations, block by block.

        Raises:
            DivergedError: An action is not finite.
        """
        action = torch.cat(
            [
                self.act(observation[part], self.noise(stream, number, len(observation[part]), observation.device))
                for number, part in enumerate(blocks(len(observation)))
            ]
        )
        if not bool(action.isfinite().all()):
            self.agent.refuse_divergence()
            raise DivergedError(f"{self.agent.name} answers recorded observations with NaN or infinity; train it again")
        return action


def blocks(count: int) -> Iterator[slice]:
    """Yield the parts of so many rows."""
    for first in range(0, count, BLOCK):
        yield slice(first, min(first + BLOCK, count))


def _moments(column: FloatArray) -> tuple[float, float]:
    mean, spread = float(column.mean()), float(column.std())
    return mean, spread if spread > ROUNDING * float(np.abs(column).max()) else 1.0
