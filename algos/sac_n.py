r"""SAC-N: soft actor-critic with many critics, whose smallest value is believed.

Paper: Gaon An, Seungyong Moon, Jang-Hyun Kim, Hyun Oh Song. Uncertainty-Based Offline Reinforcement Learning with
Diversified Q-Ensemble. NeurIPS 2021, arXiv 2110.01548. Code followed: github.com/snu-mllab/EDAC, with a negative eta.

This is ``algos/sac.py`` with N critics: critics disagree about actions that the data does not have, so the smallest
value of many is low there. All losses are differentiated at the parameters from before the update, as in the authors'
code; CORL's steps one network after the other.

Networks and their start are the authors': three hidden layers, hidden biases of 0.1, last layers from U(-0.003, 0.003)
in the critics and U(-0.001, 0.001) in the policy, and a log-std that is cut at -5 and 2.

Deviations: the density of tanh is exact, where CORL adds 1e-6 to its slope. Hidden weights are U(-1/√in, 1/√in) in all
networks; CORL's critics have 1/√256 in the first layer, too.

Not verified: no score has been reproduced yet, and no update was made on a GPU. How the authors' policy draws its
hidden weights, and their settings for random, expert and full-replay data, were not at hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar

from torch import Tensor

from offline_rl.agent import About, AgentConfig, Batch, Metrics
from offline_rl.algos import sac
from offline_rl.networks import Critic, SquashedGaussianActor
from offline_rl.networks.initializers import small_last
from offline_rl.settings import AtLeast, Count

CRITIC_BOUND, ACTOR_BOUND = 3e-3, 1e-3
"""Largest weight of the last layers at the start."""
LOG_STD_BOUNDS = -5.0, 2.0
"""Where the policy's log-std is cut."""


@dataclass(frozen=True)
class Config(sac.Config):
    """Settings of SAC-N; the defaults are the authors'."""

    hidden_dims: Annotated[list[int], AtLeast(1)] = field(default_factory=lambda: [256, 256, 256])
    """Widths of the hidden layers of every network."""
    layer_norm: bool = field(init=False, default=False)
    num_critics: Count = 10
    """Number N of critics; the more, the lower the values outside the data, and time and memory grow with it."""


class SACN(sac.SAC):
    r"""max_π  E[min_i Q_i(s, a) - α log π(a | s)], a ~ π(s), over N critics; the temperature α keeps the entropy at -A.

    The critics minimise Σ_i E[(Q_i(s, a) - y)²] with y = r + γ (1 - d) (min_i Q'_i(s', a') - α log π(a' | s')),
    a' ~ π(s').
    """

    name = "sac_n"
    about = About(
        method="soft actor-critic with many critics, whose smallest value is believed",
        use_when="as EDAC without its extra hyperparameter, if there is memory for many critics",
        paper="An et al. 2021, arXiv 2110.01548",
    )
    config_class: ClassVar[type[AgentConfig]] = Config
    config: Config

    def build_policy(self) -> None:
        """Make the policy."""
        self.actor = SquashedGaussianActor(
            self.observation_size,
            self.action_size,
            self.config.hidden_dims,
            scaled_std=False,
            log_std_bounds=LOG_STD_BOUNDS,
            initializer=partial(small_last, bound=ACTOR_BOUND),
        )

    def make_critics(self) -> Critic:
        """Make N critics."""
        return Critic(
            self.observation_size,
            self.action_size,
            self.config.hidden_dims,
            self.config.num_critics,
            initializer=partial(small_last, bound=CRITIC_BOUND),
        )

    def critic_loss(self, batch: Batch, target: Tensor) -> tuple[Tensor, Metrics]:
        """Return Σ_i E[(Q_i(s, a) - y)²], and how far the critics are apart at the data."""
        q = self.critic(batch.observation, batch.action)
        metrics = {"q": q.detach().amin(0).mean(), "q_std": q.detach().std(0, correction=0).mean()}
        return (q - target).square().mean(1).sum(), metrics

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # CORL's, configs/sac_n; those that remain of configs/offline/sac_n say the same.
        **{
            f"{robot}-{kind}-v2": {"num_critics": count}
            for robot, count in (("halfcheetah", 10), ("hopper", 200), ("walker2d", 20))
            for kind in ("medium", "medium-replay", "medium-expert")
        },
        "hopper-medium-v2": {"num_critics": 500},
    }
    """CORL's, for the nine tasks that it publishes."""
