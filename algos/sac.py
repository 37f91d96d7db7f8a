r"""SAC: soft actor-critic, which learns by doing: `offline-rl collect sac` trains it from nothing in the environment.

Papers: Tuomas Haarnoja, Aurick Zhou, Pieter Abbeel, Sergey Levine. Soft Actor-Critic: Off-Policy Maximum Entropy Deep
Reinforcement Learning with a Stochastic Actor. ICML 2018, arXiv 1801.01290; with a learned temperature: Tuomas Haarnoja
and others. Soft Actor-Critic Algorithms and Applications. arXiv 1812.05905.

All losses are differentiated at the parameters from before the update, then all step together. CQL is this algorithm
with values that are pushed down outside the data. SAC itself is no offline algorithm: trained on a dataset alone it is
the plain off-policy baseline, and nothing makes its values of actions right that the dataset does not have.

Deviations: initial weights, and a log-std that starts near -1, are those of github.com/young-geng/JaxCQL, as in CQL.

Not verified: no published return has been reproduced yet; the papers were not at hand, their settings and equations are
as commonly quoted.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from offline_rl.agent import About, Agent, AgentConfig, Batch, Draw, Loss, Metrics, Normal
from offline_rl.networks import Critic, LayerNorm, Scalar, SquashedGaussian, SquashedGaussianActor
from offline_rl.networks.gaussian import squashed_log_likelihood
from offline_rl.networks.initializers import lecun
from offline_rl.settings import Fraction, Positive

ACTION_LIMIT = 1 - 1e-5
"""Largest recorded action whose density is asked for; a tanh never reaches 1."""


@dataclass(frozen=True)
class Config(AgentConfig):
    """Settings of SAC; the defaults are the second paper's."""

    normalize: bool = False
    """Normalise observations by the dataset's mean and standard deviation."""
    layer_norm: bool = False
    """Normalise the critics' hidden layers before their ReLU."""
    discount: Fraction = 0.99
    """Discount factor γ."""
    target_rate: Fraction = 0.005
    """Rate at which targets follow the critics."""
    actor_learning_rate: Positive = 3e-4
    """Adam's learning rate for the policy."""
    critic_learning_rate: Positive = 3e-4
    """Adam's learning rate for the critics."""
    temperature_learning_rate: Positive = 3e-4
    """Adam's learning rate for the logarithm of the policy's temperature."""
    reward_scale: float = 1.0
    """Factor on every reward."""
    reward_shift: float = 0.0
    """Added to every reward after scaling."""


class SAC(Agent):
    r"""max_π  E[min_i Q_i(s, a) - η log π(a | s)], a ~ π(s), with a temperature η that keeps the entropy at -A.

    The critics minimise Σ_i E[(Q_i(s, a) - y)²] with y = r + γ (1 - d) (min_i Q'_i(s', a') - η log π(a' | s')),
    a' ~ π(s').
    """

    name = "sac"
    about = About(
        method="soft actor-critic",
        use_when="to collect data, with offline-rl collect sac",
        paper="Haarnoja et al. 2018, arXiv 1812.05905",
    )
    config_class: ClassVar[type[AgentConfig]] = Config
    cycle = 1
    stackable = True
    stackable_settings: ClassVar[tuple[str, ...]] = (
        "discount",
        "target_rate",
        "actor_learning_rate",
        "critic_learning_rate",
        "temperature_learning_rate",
        "reward_scale",
        "reward_shift",
    )
    config: Config

    def build_policy(self) -> None:
        """Make the policy."""
        self.actor = SquashedGaussianActor(self.observation_size, self.action_size, self.config.hidden_dims)

    def build_learner(self) -> None:
        """Make the policy's temperature, and two critics with a slowly moving copy."""
        c = self.config
        self.critic = self.make_critics()
        self.optimizer("critic", self.critic, c.critic_learning_rate)
        self.target_critic = self.target_of("critic")
        self.log_temperature = Scalar()
        self.optimizer("actor", self.actor, c.actor_learning_rate)
        self.optimizer("temperature", self.log_temperature, c.temperature_learning_rate)

    def make_critics(self) -> Critic:
        """Make the critics; algorithms that build on this one have others."""
        c, sizes = self.config, (self.observation_size, self.action_size)
        norm: LayerNorm = "before" if c.layer_norm else "none"
        return Critic(*sizes, c.hidden_dims, initializer=lecun, layer_norm=norm)

    def draws(self) -> dict[str, Draw]:
        """Ask for the noise of the policy's loss and of the target."""
        return {"policy": Normal("action"), "target": Normal("action")}

    def transformed(self, batch: Batch) -> Batch:
        """Return the batch with scaled and shifted rewards, and actions in [-1, 1]."""
        reward = batch.reward * self.config.reward_scale + self.config.reward_shift
        return dataclasses.replace(batch, action=batch.action.clamp(-1, 1), reward=reward)

    @torch.no_grad()
    def critic_target(self, batch: Batch, there: SquashedGaussian) -> Tensor:
        """Return y ``(B,)`` for the policy ``there``, in the next states."""
        action, log_likelihood = there.sample(batch.draws["target"])
        q: Tensor = self.target_critic(batch.next_observation, action).amin(0)
        value: Tensor = q - self.log_temperature().exp() * log_likelihood
        return batch.reward + self.config.discount * (1 - batch.terminated) * value

    def critic_loss(self, batch: Batch, target: Tensor) -> tuple[Tensor, Metrics]:
        """Return Σ_i E[(Q_i(s, a) - y)²]."""
        q = self.critic(batch.observation, batch.action)
        return (q - target).square().mean(1).sum(), {"q": q.detach().amin(0).mean()}

    def actor_loss(
        self, batch: Batch, action: Tensor, log_likelihood: Tensor, q_weight: Tensor | float
    ) -> tuple[Tensor, Metrics]:
        """Return E[η log π(a | s) - q_weight min_i Q_i(s, a)] for actions ``(B, A)`` sampled from the policy."""
        temperature = self.log_temperature().exp().detach()
        q = self.critic.frozen(batch.observation, action).amin(0)
        metrics = {"policy_q": q.detach().mean(), "temperature": temperature}
        return (temperature * log_likelihood - q_weight * q).mean(), metrics

    def temperature_loss(self, batch: Batch, log_likelihood: Tensor) -> tuple[Tensor, Metrics]:
        """Return -log η (E[log π(a | s)] - A), whose slope raises η while the entropy is below -A."""
        mean = log_likelihood.mean()
        return -self.log_temperature() * (mean - self.action_size), {"entropy": -mean}

    def losses(self, batch: Batch, step: int) -> dict[str, Loss]:
        """Return all losses of an update."""
        with torch.no_grad():
            there = self.actor(batch.next_observation)
        return self.losses_of(batch, self.actor(batch.observation), there)

    def losses_of(
        self, batch: Batch, here: SquashedGaussian, there: SquashedGaussian, q_weight: Tensor | float = 1.0
    ) -> dict[str, Loss]:
        """Return all losses for the policy ``here``, in the states, and ``there``, in the next ones."""
        action, log_likelihood = here.sample(batch.draws["policy"])
        return {
            "actor": partial(self.actor_loss, action=action, log_likelihood=log_likelihood, q_weight=q_weight),
            "temperature": partial(self.temperature_loss, log_likelihood=log_likelihood.detach()),
            "critic": self.critic_loss_of(batch, here, there),
        }

    def critic_loss_of(self, batch: Batch, here: SquashedGaussian, there: SquashedGaussian) -> Loss:
        """Return the critics' loss for the policy ``here``, in the states, and ``there``, in the next ones."""
        return partial(self.critic_loss, target=self.critic_target(batch, there))

    def update(self, batch: Batch, step: int) -> Metrics:
        """Update everything at once, then the targets."""
        batch = self.transformed(batch)
        metrics = self.minimize(batch, **self.losses(batch, step))
        self.track_targets(self.config.target_rate)
        return metrics

    def policy(self, observation: Tensor) -> Tensor:
        """Return the tanh of the policy's mean."""
        return self.actor(observation).mean.tanh()  # type: ignore[no-any-return]

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return a sample of the policy."""
        return self.actor(observation).sample(noise)[0]  # type: ignore[no-any-return]

    def log_density(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return log π(a | s); an action at the end of its range counts as one that a tanh can reach."""
        here, u = self.actor(observation), action.clamp(-ACTION_LIMIT, ACTION_LIMIT).atanh()
        return squashed_log_likelihood(u, (u - here.mean) / here.log_std.exp(), here.log_std)

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """One setting serves all locomotion tasks."""
