r"""CQL: conservative Q-learning.

Paper: Aviral Kumar, Aurick Zhou, George Tucker, Sergey Levine. Conservative Q-Learning for Offline Reinforcement
Learning. NeurIPS 2020, arXiv 2006.04779. Code followed: github.com/young-geng/JaxCQL, on which FamO2O's authors build.

This is CQL(H) on a soft actor-critic with a fixed weight: no dual ascent, no cut of the conservative term, no entropy
in the critics' target, and importance weights for the sampled actions. All losses are differentiated at the parameters
from before the update, then all step together, as there.

Deviation from that code: actions collected online are cut like the dataset's.

Not verified: no score has been reproduced yet. CORL's published scores are of other settings: three hidden layers,
normalised states, weight 10, learning rates of 3e-5 for policy and temperature; and of two things that no option gives,
initial weights (orthogonal critics, the policy PyTorch's with a small last layer) and actions that are not cut. Its
update is this one. Its settings are no presets here; the page has them as options. JaxCQL's runs have 2 M updates.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from offline_rl.agent import Agent, AgentConfig, Batch, Draw, Loss, Metrics, Normal, Uniform, decimals
from offline_rl.networks import Critic, Scalar, SquashedGaussian, SquashedGaussianActor
from offline_rl.networks.initializers import lecun

ACTION_LIMIT = 0.999
"""Where the actions of a batch are cut, as in JaxCQL."""


@dataclass(frozen=True)
class Config(AgentConfig):
    """Settings of CQL; the defaults are JaxCQL's for locomotion."""

    normalize: bool = False
    """Normalise observations by the dataset's mean and standard deviation."""
    conservative_weight: float = 5.0
    """Weight α of the conservative term against the squared error; the more, the lower the values outside the data."""
    num_actions: int = 10
    """Sampled actions of each kind (uniform, the policy's, the policy's in the next state) in the conservative term."""
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
        self.require("num_actions", at_least=1)
        self.require("conservative_weight", at_least=0)
        self.require("discount", "target_rate", at_least=0, at_most=1)
        self.require("actor_learning_rate", "critic_learning_rate", "temperature_learning_rate", above=0)


class CQL(Agent):
    r"""max_π  E[min_i Q_i(s, a) - η log π(a | s)], a ~ π(s), with a temperature η that keeps the entropy at -A.

    The critics minimise Σ_i E[(Q_i(s, a) - y)² + α (log ∫ exp Q_i(s, ·) - Q_i(s, a))] (paper, equation 4), with
    y = r + γ (1 - d) min_i Q'_i(s', a'), a' ~ π(s'), and the integral estimated from sampled actions.
    """

    name = "cql"
    config_class: ClassVar[type[AgentConfig]] = Config
    cycle = 1
    stackable = True
    stackable_settings = decimals(Config)
    action_limit: ClassVar[float] = ACTION_LIMIT
    config: Config

    def build_policy(self) -> None:
        """Make the policy."""
        self.actor = SquashedGaussianActor(self.observation_size, self.action_size, self.config.hidden_dims)

    def build_learner(self) -> None:
        """Make the policy's temperature, and two critics with a slowly moving copy."""
        c, sizes = self.config, (self.observation_size, self.action_size)
        self.critic = Critic(*sizes, c.hidden_dims, initializer=lecun, layer_norm=c.layer_norm)
        self.optimizer("critic", self.critic, c.critic_learning_rate)
        self.target_critic = self.target_of("critic")
        self.log_temperature = Scalar()
        self.optimizer("actor", self.actor, c.actor_learning_rate)
        self.optimizer("temperature", self.log_temperature, c.temperature_learning_rate)

    def draws(self) -> dict[str, Draw]:
        """Ask for the noise of the policy's loss, of the target, and of the three kinds of sampled actions."""
        many = self.config.num_actions * self.action_size
        single = {"policy": Normal("action"), "target": Normal("action")}
        return {**single, "random": Uniform(many), "current": Normal(many), "next": Normal(many)}

    def transformed(self, batch: Batch) -> Batch:
        """Return the batch with scaled and shifted rewards, and actions that a tanh can reach."""
        reward = batch.reward * self.config.reward_scale + self.config.reward_shift
        action = batch.action.clamp(-self.action_limit, self.action_limit)
        return dataclasses.replace(batch, action=action, reward=reward)

    @torch.no_grad()
    def critic_target(self, batch: Batch, there: SquashedGaussian) -> Tensor:
        """Return y ``(B,)`` for the policy ``there``, in the next states."""
        action, _ = there.sample(batch.draws["target"])
        value: Tensor = self.target_critic(batch.next_observation, action).amin(0)
        return batch.reward + self.config.discount * (1 - batch.terminated) * value

    @torch.no_grad()
    def sampled_actions(self, batch: Batch, here: SquashedGaussian, there: SquashedGaussian) -> tuple[Tensor, Tensor]:
        """Return actions ``(3 K, B, A)`` for the conservative term, and their log-densities ``(3 K, B)``."""
        shape = len(batch.reward), self.config.num_actions, self.action_size
        random, current, following = (
            batch.draws[name].view(shape).movedim(1, 0) for name in ("random", "current", "next")
        )
        uniform = random.new_full(random.shape[:2], -self.action_size * math.log(2))
        kinds = ((2 * random - 1, uniform), there.sample(following), here.sample(current))
        actions, log_densities = zip(*kinds, strict=True)
        return torch.cat(actions), torch.cat(log_densities)

    def critic_loss(
        self, batch: Batch, target: Tensor, actions: Tensor, log_densities: Tensor
    ) -> tuple[Tensor, Metrics]:
        """Return Σ_i E[(Q_i(s, a) - y)² + α (log Σ exp(Q_i(s, ã) - log density(ã)) - Q_i(s, a))]."""
        candidates = torch.cat((batch.action[None], actions))
        count = len(candidates)
        values = self.critic(batch.observation.repeat(count, 1), candidates.flatten(0, 1)).unflatten(1, (count, -1))
        q = values[:, 0]
        gap = (values[:, 1:] - log_densities).logsumexp(1) - q
        loss = ((q - target).square() + self.config.conservative_weight * gap).mean(1).sum()
        return loss, {"q": q.detach().amin(0).mean(), "conservative_gap": gap.detach().mean()}

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
        actions, log_densities = self.sampled_actions(batch, here, there)
        target = self.critic_target(batch, there)
        return {
            "actor": partial(self.actor_loss, action=action, log_likelihood=log_likelihood, q_weight=q_weight),
            "temperature": partial(self.temperature_loss, log_likelihood=log_likelihood.detach()),
            "critic": partial(self.critic_loss, target=target, actions=actions, log_densities=log_densities),
        }

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

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """JaxCQL uses one setting, the defaults, for all locomotion tasks."""
