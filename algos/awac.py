r"""AWAC: advantage-weighted actor-critic.

Paper: Ashvin Nair, Abhishek Gupta, Murtaza Dalal, Sergey Levine. AWAC: Accelerating Online Reinforcement Learning with
Offline Datasets. arXiv 2006.09359. Authors' code: github.com/rail-berkeley/rlkit. Code followed: ``awac.py`` of CORL
(github.com/tinkoff-ai/CORL, revision 00d356a), which has published scores on D4RL's locomotion tasks.

The update, its order (critics, policy, targets), networks, initial weights and defaults are CORL's. So the policy sees
the new critics, and the critics see the old policy.

The authors' code, revision 1bfe7d9, with its settings for MuJoCo (examples/awac/mujoco), differs from CORL's, and so
from this one: weights are normalised over the batch and not capped (``normalize_weights``), all losses are
differentiated before the first step, the mean is squashed by tanh, samples are not cut, the log-std is a sigmoid
between -6 and 0, batches have 1024 rows, the policy has four hidden layers and a weight decay of 1e-4, the critics have
two hidden layers, and 50,000 updates come before the online phase.

Deviation from CORL: the policy's mean is cut to [-1, 1] where it acts, as sampled actions are; CORL hands it to the
environment as it is, which halfcheetah's cost of control sees.

Not verified: no score of the paper, or of CORL, has been reproduced yet. Of the paper only the abstract and quotations
were at hand, and of CORL's eighteen files of settings for locomotion eleven, which are equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from offline_rl.agent import About, Agent, AgentConfig, Batch, Draw, Metrics, Normal
from offline_rl.networks import Critic, GaussianActor
from offline_rl.networks.gaussian import log_likelihood
from offline_rl.networks.initializers import uniform
from offline_rl.settings import AtLeast, Fraction, Positive

LOG_STD_BOUNDS = -20.0, 2.0
"""Where the policy's log-std is cut."""


@dataclass(frozen=True)
class Config(AgentConfig):
    """Settings of AWAC; the defaults are CORL's for locomotion."""

    hidden_dims: Annotated[list[int], AtLeast(1)] = field(default_factory=lambda: [256, 256, 256])
    """Widths of the hidden layers of every network."""
    temperature: Positive = 0.3333
    """Temperature λ of the weights exp(A / λ): a large one clones the behaviour, a small one follows Q."""
    weight_limit: Positive = 100.0
    """Where the weights are capped."""
    normalize_weights: bool = False
    """Divide the weights by their mean over the batch instead of capping them, as the authors' code does."""
    discount: Fraction = 0.99
    """Discount factor γ."""
    target_rate: Fraction = 0.005
    """Rate at which targets follow the critics."""
    actor_learning_rate: Positive = 3e-4
    """Adam's learning rate for the policy."""
    critic_learning_rate: Positive = 3e-4
    """Adam's learning rate for both critics."""
    reward_scale: float = 1.0
    """Factor on every reward."""
    reward_shift: float = 0.0
    """Added to every reward after scaling."""


class AWAC(Agent):
    r"""max_π  E[min(exp(A / λ), 100) log π(a | s)],   A = min_i Q_i(s, a) - min_i Q_i(s, ã),   ã ~ π(s).

    The critics minimise Σ_i E[(Q_i(s, a) - y)²] with y = r + γ (1 - d) min_i Q'_i(s', a'), a' ~ π(s'). The policy is a
    normal distribution with one std for all states; ã and a' are cut to [-1, 1].
    """

    name = "awac"
    about = About(
        method="imitation weighted by the advantage over the policy's own action",
        use_when="as IQL's older relative, in comparisons and before an online phase",
        paper="Nair et al. 2020, arXiv 2006.09359",
    )
    config_class = Config
    cycle = 1
    stackable = True
    stackable_settings: ClassVar[tuple[str, ...]] = (
        "temperature",
        "weight_limit",
        "discount",
        "target_rate",
        "actor_learning_rate",
        "critic_learning_rate",
        "reward_scale",
        "reward_shift",
    )
    config: Config

    def build_policy(self) -> None:
        """Make the policy."""
        sizes = self.observation_size, self.action_size
        self.actor = GaussianActor(
            *sizes, self.config.hidden_dims, LOG_STD_BOUNDS, squash_mean=False, initializer=uniform
        )

    def build_learner(self) -> None:
        """Make two critics with a slowly moving copy."""
        self.critic = Critic(self.observation_size, self.action_size, self.config.hidden_dims, count=2)
        self.optimizer("actor", self.actor, self.config.actor_learning_rate)
        self.optimizer("critic", self.critic, self.config.critic_learning_rate)
        self.target_critic = self.target_of("critic")

    def draws(self) -> dict[str, Draw]:
        """Ask for the noise of the policy's actions in the states, and of those in the next states."""
        return {"policy": Normal("action"), "target": Normal("action")}

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return Σ_i E[(Q_i(s, a) - y)²]."""
        target = self.critic_target(batch)
        q = self.critic(batch.observation, batch.action)
        return (q - target).square().mean(1).sum(), {"q": q.detach().amin(0).mean()}

    @torch.no_grad()
    def critic_target(self, batch: Batch) -> Tensor:
        """Return y ``(B,)``."""
        action = self.explore(batch.next_observation, batch.draws["target"])
        value: Tensor = self.target_critic(batch.next_observation, action).amin(0)
        reward = batch.reward * self.config.reward_scale + self.config.reward_shift
        return reward + self.config.discount * (1 - batch.terminated) * value

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return -E[weight log π(a | s)], the density being that of the normal distribution, before any cut."""
        mean, log_std = self.actor(batch.observation), self.actor.log_std()
        sample = (mean + log_std.exp() * batch.draws["policy"]).clamp(-1, 1).detach()
        advantage = self.advantage(batch, sample)
        weight, metrics = self.weights(advantage)
        likelihood = log_likelihood((batch.action - mean) / log_std.exp(), log_std)
        loss = -(weight * likelihood).mean()
        return loss, {"advantage": advantage.mean(), "std": log_std.detach().exp().mean()} | metrics

    @torch.no_grad()
    def advantage(self, batch: Batch, sample: Tensor) -> Tensor:
        """Return A ``(B,)``: by how much the dataset's action is better than the policy's ``sample`` ``(B, A)``."""
        value: Tensor = self.critic(batch.observation, sample).amin(0)
        q: Tensor = self.critic(batch.observation, batch.action).amin(0)
        return q - value

    def weights(self, advantage: Tensor) -> tuple[Tensor, Metrics]:
        """Return the weights ``(B,)`` of imitation, and metrics of them."""
        exponent = advantage / self.config.temperature
        if self.config.normalize_weights:
            weight = exponent.softmax(0) * len(exponent)
            return weight, {"largest_weight": weight.amax()}
        weight = exponent.exp().clamp(max=self.config.weight_limit)
        return weight, {"capped": (weight >= self.config.weight_limit).to(self.dtype).mean(), "weight": weight.mean()}

    def update(self, batch: Batch, step: int) -> Metrics:
        """Update the critics, then the policy, then the targets."""
        metrics = self.minimize(batch, critic=self.critic_loss)
        metrics |= self.minimize(batch, actor=self.actor_loss)
        self.track_targets(self.config.target_rate)
        return metrics

    def policy(self, observation: Tensor) -> Tensor:
        """Return the policy's mean, cut to [-1, 1]."""
        return self.actor(observation).clamp(-1, 1)  # type: ignore[no-any-return]

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return a sample of the policy, cut to [-1, 1]."""
        return (self.actor(observation) + self.actor.log_std().exp() * noise).clamp(-1, 1)  # type: ignore[no-any-return]

    def log_density(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return log π(a | s) before the cut to [-1, 1]."""
        log_std = self.actor.log_std()
        return log_likelihood((action - self.actor(observation)) / log_std.exp(), log_std)

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """CORL uses one setting, the defaults, for all locomotion tasks (configs/offline/awac)."""
