r"""SAC: soft actor-critic, which learns by doing: `offline-rl collect sac` trains it from nothing in the environment.

Papers: Tuomas Haarnoja, Aurick Zhou, Pieter Abbeel, Sergey Levine. Soft Actor-Critic: Off-Policy Maximum Entropy Deep
Reinforcement Learning with a Stochastic Actor. ICML 2018, arXiv 1801.01290; with a learned temperature: Tuomas Haarnoja
and others. Soft Actor-Critic Algorithms and Applications. arXiv 1812.05905.

SAC is CQL whose values nobody pushes down, with the entropy in the critics' target; policy and temperature are CQL's,
and like there all losses are differentiated at the parameters from before the update, then all step together. It is no
offline algorithm: trained on a dataset alone it is the plain off-policy baseline, whose values of actions that nobody
recorded have no reason to be right.

Deviations: initial weights, and a log-std that starts near -1, are those of CQL here, github.com/young-geng/JaxCQL's.

Not verified: no published return has been reproduced yet; the papers were not at hand, their settings and equations are
as commonly quoted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from offline_rl.agent import AgentConfig, Batch, Draw, Loss, Metrics, Normal, decimals
from offline_rl.algos import cql
from offline_rl.networks import SquashedGaussian


@dataclass(frozen=True)
class Config(AgentConfig):
    """Settings of SAC; the defaults are the second paper's."""

    normalize: bool = False
    """Normalise observations by the dataset's mean and standard deviation."""
    layer_norm: bool = False
    """Normalise the critics' hidden layers before their ReLU."""
    discount: float = 0.99
    """Discount factor γ."""
    target_rate: float = 0.005
    """Rate at which targets follow the critics."""
    actor_learning_rate: float = 3e-4
    """Adam's learning rate for the policy."""
    critic_learning_rate: float = 3e-4
    """Adam's learning rate for both critics."""
    temperature_learning_rate: float = 3e-4
    """Adam's learning rate for the logarithm of the policy's temperature."""
    reward_scale: float = 1.0
    """Factor on every reward."""
    reward_shift: float = 0.0
    """Added to every reward after scaling."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("discount", "target_rate", at_least=0, at_most=1)
        self.require("actor_learning_rate", "critic_learning_rate", "temperature_learning_rate", above=0)


class SAC(cql.CQL):
    r"""max_π  E[min_i Q_i(s, a) - η log π(a | s)], a ~ π(s), with a temperature η that keeps the entropy at -A.

    The critics minimise Σ_i E[(Q_i(s, a) - y)²] with y = r + γ (1 - d) (min_i Q'_i(s', a') - η log π(a' | s')),
    a' ~ π(s').
    """

    name = "sac"
    config_class: ClassVar[type[AgentConfig]] = Config
    stackable_settings = decimals(Config)
    action_limit = 1.0
    config: Any

    def draws(self) -> dict[str, Draw]:
        """Ask for the noise of the policy's loss and of the target."""
        return {"policy": Normal("action"), "target": Normal("action")}

    @torch.no_grad()
    def critic_target(self, batch: Batch, there: SquashedGaussian) -> Tensor:
        """Return y ``(B,)`` for the policy ``there``, in the next states."""
        action, log_likelihood = there.sample(batch.draws["target"])
        q: Tensor = self.target_critic(batch.next_observation, action).amin(0)
        value: Tensor = q - self.log_temperature().exp() * log_likelihood
        return batch.reward + self.config.discount * (1 - batch.terminated) * value  # type: ignore[no-any-return]

    def squared_error(self, batch: Batch, target: Tensor) -> tuple[Tensor, Metrics]:
        """Return Σ_i E[(Q_i(s, a) - y)²]."""
        q = self.critic(batch.observation, batch.action)
        return (q - target).square().mean(1).sum(), {"q": q.detach().amin(0).mean()}

    def losses_of(
        self, batch: Batch, here: SquashedGaussian, there: SquashedGaussian, q_weight: Tensor | float = 1.0
    ) -> dict[str, Loss]:
        """Return all losses for the policy ``here``, in the states, and ``there``, in the next ones."""
        action, log_likelihood = here.sample(batch.draws["policy"])
        return {
            "actor": partial(self.actor_loss, action=action, log_likelihood=log_likelihood, q_weight=q_weight),
            "temperature": partial(self.temperature_loss, log_likelihood=log_likelihood.detach()),
            "critic": partial(self.squared_error, target=self.critic_target(batch, there)),
        }

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """One setting serves all locomotion tasks."""
