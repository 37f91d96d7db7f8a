r"""EDAC: SAC-N with fewer critics, which are kept different.

Paper: Gaon An, Seungyong Moon, Jang-Hyun Kim, Hyun Oh Song. Uncertainty-Based Offline Reinforcement Learning with
Diversified Q-Ensemble. NeurIPS 2021, arXiv 2110.01548. Code followed: github.com/snu-mllab/EDAC.

This is ``algos/sac_n.py`` with one more term in the critics' loss: the cosine similarity of the critics' gradients by
the action. Critics whose gradients differ disagree as soon as an action leaves the data, so that fewer of them do.

All pairs of critics are compared, as in the paper and in CORL. One version of the authors' code compares only
min(N, A) of them, drawn at random. Pairs are not compared one by one: the sum over all pairs is the squared length of
the sum of all unit gradients, less their own.

Deviations: SAC-N's. Not verified: what is not verified of SAC-N. No score has been reproduced yet.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from offline_rl.agent import About, AgentConfig, Batch, Metrics
from offline_rl.algos import sac_n
from offline_rl.settings import AtLeast, NonNegative

SMALLEST = 1e-10
"""Added to the length of a gradient before it is divided by it."""


@dataclass(frozen=True)
class Config(sac_n.Config):
    """Settings of EDAC; the defaults are the authors'."""

    num_critics: Annotated[int, AtLeast(2)] = 10
    """Number N of critics, of which 10 to 50 do; time and memory grow with it."""
    eta: NonNegative = 1.0
    """Weight η of the similarity of the critics' action gradients; the more, the more different the critics."""


class EDAC(sac_n.SACN):
    r"""max_π  E[min_i Q_i(s, a) - α log π(a | s)], a ~ π(s), over N critics; the temperature α keeps the entropy at -A.

    The critics minimise Σ_i E[(Q_i(s, a) - y)²] + η / (N - 1) E[Σ_{i≠j} cos(∇ₐ Q_i(s, a), ∇ₐ Q_j(s, a))], with
    y = r + γ (1 - d) (min_i Q'_i(s', a') - α log π(a' | s')), a' ~ π(s').
    """

    name = "edac"
    about = About(
        method="SAC-N with fewer critics, which are kept different",
        use_when="to compare with high published scores, if there is a GPU and time for millions of updates",
        paper="An et al. 2021, arXiv 2110.01548",
    )
    config_class: ClassVar[type[AgentConfig]] = Config
    stackable_settings = (*sac_n.SACN.stackable_settings, "eta")
    config: Config

    def similarity(self, batch: Batch) -> Tensor:
        """Return E[Σ_{i≠j} cos(∇ₐ Q_i(s, a), ∇ₐ Q_j(s, a))] / (N - 1), from -N / (N - 1) to N."""
        gradient = self.critic.action_gradient(batch.observation, batch.action)
        unit = gradient / (torch.linalg.vector_norm(gradient, dim=2, keepdim=True) + SMALLEST)
        pairs = unit.sum(0).square().sum(1) - unit.square().sum((0, 2))
        return pairs.mean() / (self.config.num_critics - 1)  # type: ignore[no-any-return]

    def critic_loss(self, batch: Batch, target: Tensor) -> tuple[Tensor, Metrics]:
        """Return SAC-N's loss and η times the similarity; of metrics also the mean cosine of a pair."""
        loss, metrics = super().critic_loss(batch, target)
        similarity = self.similarity(batch)
        cosine = similarity.detach() / self.config.num_critics
        return loss + self.config.eta * similarity, metrics | {"cosine": cosine}

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # CORL's, configs/edac.
        **{
            f"{robot}-{kind}-v2": {"num_critics": count, "eta": 1.0}
            for robot, count in (("halfcheetah", 10), ("hopper", 50), ("walker2d", 10))
            for kind in ("medium", "medium-replay", "medium-expert")
        },
        "halfcheetah-medium-expert-v2": {"num_critics": 10, "eta": 5.0},
        "walker2d-medium-expert-v2": {"num_critics": 10, "eta": 5.0},
    }
    """CORL's, for the nine tasks that it publishes."""
