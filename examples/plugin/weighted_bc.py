"""Return-weighted behaviour cloning: imitates every episode, the better ones more.

An algorithm in a package of its own: ``pip install examples/plugin``, then ``offline-rl train weighted_bc``.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from offline_rl.agent import Agent, AgentConfig, Batch, Metrics
from offline_rl.data.packed import PackedRows
from offline_rl.networks import DeterministicActor
from offline_rl.settings import Positive


@dataclass(frozen=True)
class Config(AgentConfig):
    """Settings of return-weighted behaviour cloning."""

    temperature: Positive = 1.0
    """In standard deviations of the episodes' returns: small keeps to the best episodes, large is plain cloning."""
    learning_rate: Positive = 3e-4
    """Adam's learning rate."""


class WeightedBC(Agent):
    r"""min_π  E[w (π(s) - a)²],   w ∝ exp(return of the row's episode / (temperature · std)), with mean 1."""

    name = "weighted_bc"
    config_class = Config
    cycle = 1  # every update does the same, whatever its number: a GPU may repeat it
    stackable = True  # it changes optimisers alone: agents may be trained as one, and updates compiled
    stackable_settings = ("learning_rate",)  # not temperature, which ``prepare`` reads

    def build_policy(self) -> None:
        """Make one actor; a saved agent is loaded with this method alone."""
        self.actor = DeterministicActor(self.observation_size, self.action_size, self.config.hidden_dims)

    def build_learner(self) -> None:
        """Give the actor its optimiser; critics and other networks that only training needs would be made here."""
        self.optimizer("actor", self.actor, self.config.learning_rate)

    def prepare(self, rows: PackedRows) -> None:
        """Weigh each row of the dataset once."""
        returns = np.repeat(rows.episode_returns, np.diff(rows.episode_bounds))
        weights = np.exp((returns - returns.max()) / (self.config.temperature * returns.std() + 1e-8))
        self.weights = torch.from_numpy(weights / weights.mean()).to(self.device, self.dtype)

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return E[w (π(s) - a)²]."""
        errors = (self.actor(batch.observation) - batch.action).square().mean(1)
        return (self.weights[batch.index] * errors).mean(), {"error": errors.detach().mean()}

    def update(self, batch: Batch, step: int) -> Metrics:
        """Update the actor."""
        return self.minimize(batch, actor=self.actor_loss)

    def policy(self, observation: Tensor) -> Tensor:
        """Return π(s)."""
        return self.actor(observation)
