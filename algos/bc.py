"""Behaviour cloning, of the whole dataset or of its best episodes.

There is no one paper: regression on the dataset's actions is the baseline of every offline-RL table. ``--top_fraction
0.1`` makes the "10 % BC" of the Decision Transformer paper (Lili Chen et al., NeurIPS 2021, arXiv 2106.01345).

Deviations: the fraction counts episodes, as in CORL; the Decision Transformer's code counts time steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from offline_rl.agent import About, Agent, AgentConfig, Batch, Metrics
from offline_rl.data.packed import PackedRows
from offline_rl.networks import DeterministicActor
from offline_rl.settings import Above, AtMost, Positive


@dataclass(frozen=True)
class Config(AgentConfig):
    """Settings of behaviour cloning; the defaults are CORL's."""

    top_fraction: Annotated[float, Above(0), AtMost(1)] = 1.0
    """Share of the episodes, those of highest return, that is imitated; 0.1 gives 10 % BC."""
    learning_rate: Positive = 3e-4
    """Adam's learning rate."""


class BC(Agent):
    r"""min_π  E[(π(s) - a)²], the mean over rows and action entries."""

    name = "bc"
    about = About(
        method="behaviour cloning: imitates the data, or its best episodes",
        use_when="always, as the baseline: alone, and with --top_fraction 0.1",
        needs="rewards for --top_fraction only",
    )
    config_class = Config
    cycle = 1
    stackable = True
    stackable_settings = ("learning_rate",)
    config: Config

    def build_policy(self) -> None:
        """Make one actor."""
        self.actor = DeterministicActor(self.observation_size, self.action_size, self.config.hidden_dims)

    def build_learner(self) -> None:
        """Give the actor its optimiser."""
        self.optimizer("actor", self.actor, self.config.learning_rate)

    def prepare(self, rows: PackedRows) -> None:
        """Keep the rows of the best episodes."""
        if self.config.top_fraction < 1:
            # A little more before cutting: 0.29 of 100 episodes are 29, which floating point puts below.
            count = max(1, int(self.config.top_fraction * len(rows.episode_returns) + 1e-9))
            best = np.sort(np.argsort(-rows.episode_returns, kind="stable")[:count])
            bounds = rows.episode_bounds
            kept = np.concatenate([np.arange(bounds[episode], bounds[episode + 1]) for episode in best])
            self.rows = torch.from_numpy(kept).to(self.device)

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return E[(π(s) - a)²]."""
        return (self.actor(batch.observation) - batch.action).square().mean(), {}

    def update(self, batch: Batch, step: int) -> Metrics:
        """Update the actor."""
        return self.minimize(batch, actor=self.actor_loss)

    def policy(self, observation: Tensor) -> Tensor:
        """Return π(s)."""
        return self.actor(observation)  # type: ignore[no-any-return]

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """One setting serves all tasks."""
