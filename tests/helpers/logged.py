"""Small problems with finitely many states and one continuous action, whose values are known, and recorded episodes.

An action a moves the world as u = clip((1 + a) / 2, 0, 1): the next state is drawn from (1 - u) P₀ + u P₁, and the
reward is r₀ + r₁ a plus noise. A policy is normal, N(mean of the state, std²); values follow from P and r by linear
equations, with the normal distribution integrated on a fine grid. Observations are one-hot.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from offline_rl.agent import Agent, AgentConfig
from offline_rl.data import Dataset
from offline_rl.data.preprocessing import Preprocessing

BOUND = 4.0
"""Actions lie within ± this, far beyond where a normal policy of these tests goes."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A problem, the policy that makes its data, and how long its episodes are.

    Attributes:
        moves: ``(2, S, S + 1)``, P₀ and P₁; the last column is the terminal state.
        reward: ``(2, S)``, r₀ and r₁.
        limit: Steps after which an episode is cut.
        behavior: ``(S,)`` means of the data's policy.
        std: Its standard deviation.
        discount: γ.
        noise: Standard deviation of rewards.
    """

    moves: np.ndarray
    reward: np.ndarray
    limit: int
    behavior: np.ndarray
    std: float = 0.5
    discount: float = 0.9
    noise: float = 0.1

    @property
    def states(self):
        return self.moves.shape[1]

    def value(self, mean, std, discount=None):
        """Return the exact value (S,) of a policy; it starts in state 0."""
        discount = self.discount if discount is None else discount
        grid = np.linspace(-8, 8, 4001)
        weight = np.exp(-(grid**2) / 2)
        action = np.asarray(mean)[:, None] + std * grid
        weight /= weight.sum()
        u = (np.clip((1 + action) / 2, 0, 1) * weight).sum(1)
        earned = self.reward[0] + self.reward[1] * (action * weight).sum(1)
        moved = (1 - u)[:, None] * self.moves[0] + u[:, None] * self.moves[1]
        return np.linalg.solve(np.eye(self.states) - discount * moved[:, :-1], earned)

    def collect(self, episodes, seed):
        """Return columns of recorded episodes, with the flags that they should have."""
        rng, steps = np.random.default_rng(seed), []
        state, alive = np.zeros(episodes, int), np.ones(episodes, bool)
        cumulated = self.moves.cumsum(2)
        for step in range(self.limit):
            action = (self.behavior[state] + self.std * rng.standard_normal(episodes)).clip(-BOUND, BOUND)
            u = np.clip((1 + action) / 2, 0, 1)[:, None]
            chances = (1 - u) * cumulated[0, state] + u * cumulated[1, state]
            following = (rng.random((episodes, 1)) > chances).sum(1).clip(max=self.states)
            earned = self.reward[0, state] + self.reward[1, state] * action + self.noise * rng.standard_normal(episodes)
            ended = following == self.states
            cut = ~ended & (step == self.limit - 1)
            steps.append((alive, state, action, earned, following, ended, cut))
            alive = alive & ~ended
            state = np.where(ended, 0, following)
        alive, state, action, reward, following, ended, cut = (np.stack(own, 1) for own in zip(*steps, strict=True))
        state, action, reward, following, ended, cut = (
            own[alive] for own in (state, action, reward, following, ended, cut)
        )
        seen = np.eye(self.states + 1)[:, : self.states]
        return {
            "observations": seen[state],
            "actions": action[:, None],
            "rewards": reward,
            "terminated": ended,
            "truncated": cut,
            "next_observations": seen[following],
        }

    def dataset(self, episodes, seed, **changes):
        """Return recorded episodes, with some columns changed."""
        columns = {**self.collect(episodes, seed), **changes}
        return Dataset.from_arrays(**columns, action_bounds=(-BOUND, BOUND))


def chain():
    """Go right to reach the end: five states, the right one terminal and worth 1."""
    moves = np.zeros((2, 4, 5))
    for state in range(4):
        moves[0, state, max(0, state - 1)] = 1
        moves[1, state, state + 1] = 1
    reward = np.array([[0.0, 0.0, 0.0, 1.0], [-0.1, -0.1, -0.1, 0.0]])
    return Problem(moves, reward, 60, np.array([0.4, 0.2, 0.0, 0.2]))


def ring():
    """Go around three states for ever; the recording is cut every 15 steps."""
    moves = np.zeros((2, 3, 4))
    for state in range(3):
        moves[0, state, state] = 1
        moves[1, state, (state + 1) % 3] = 1
    return Problem(moves, np.array([[1.0, 0.0, 2.0], [0.0, 0.3, -0.3]]), 15, np.array([0.0, 0.3, -0.3]))


def hazard():
    """Earn more by actions after which more often the episode ends."""
    moves = np.zeros((2, 2, 3))
    moves[0] = [[0.5, 0.45, 0.05], [0.3, 0.6, 0.1]]
    moves[1] = [[0.4, 0.3, 0.3], [0.2, 0.3, 0.5]]
    return Problem(moves, np.array([[0.5, 1.0], [0.5, 0.5]]), 40, np.array([0.0, -0.2]))


def additive():
    """Move by chance alone, so that Q is linear in the state's one-hot vector and the action."""
    chances = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]])
    return Problem(
        np.stack([chances, chances]), np.array([[0.5, 1.0], [0.4, 0.4]]), 40, np.array([0.0, 0.2]), noise=0.3
    )


PROBLEMS = {"chain": chain, "ring": ring, "hazard": hazard}


class Table(nn.Module):
    """A mean for each state."""

    def __init__(self, states):
        super().__init__()
        self.mean = nn.Parameter(torch.empty(states))

    def initialize(self, generator):
        self.mean.data.zero_()


class NormalAgent(Agent):
    """Acts as N(mean of the state, std²), or as the mean alone; nothing is learned."""

    name = "normal"
    config_class = AgentConfig
    std = 0.3

    def build_policy(self):
        self.actor = Table(self.observation_size)

    def build_learner(self):
        """Learn nothing."""

    def policy(self, observation):
        return (observation @ self.actor.mean)[:, None] / BOUND

    def explore(self, observation, noise):
        return self.policy(observation) + self.std / BOUND * noise

    def log_density(self, observation, action):
        error = (action - self.policy(observation)) / (self.std / BOUND)
        return -(error.square() / 2 + np.log(self.std / BOUND) + np.log(2 * np.pi) / 2).sum(1)


def agent_of(dataset, mean, std=0.3):
    """Return an agent with these means."""
    sizes = dataset.observation_size, dataset.action_size
    preprocessing = Preprocessing.fit(dataset, normalize=False)
    agent = NormalAgent(AgentConfig(normalize=False), *sizes, preprocessing=preprocessing, learning=False)
    agent.actor.mean.data[:] = torch.as_tensor(mean, dtype=torch.float32)
    agent.std = std
    return agent
