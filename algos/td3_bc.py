r"""TD3+BC: TD3 with a behaviour-cloning term.

Paper: Scott Fujimoto, Shixiang Shane Gu. A Minimalist Approach to Offline Reinforcement Learning. NeurIPS 2021,
arXiv 2106.06860. Authors' code: github.com/sfujim/TD3_BC.

Deviations: none in the update. Targets move every ``policy_delay`` updates, after the actor, as in the authors' code.
``critic_hidden_dims`` and ``critic_layer_norm`` are not theirs: they give the critics that later work compares with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from offline_rl.agent import About, Agent, AgentConfig, Batch, Draw, Metrics, Normal
from offline_rl.networks import Critic, DeterministicActor, LayerNorm
from offline_rl.networks.initializers import Initializer, uniform
from offline_rl.settings import AtLeast, Count, Fraction, NonNegative, Positive


@dataclass(frozen=True)
class Config(AgentConfig):
    """Settings of TD3+BC; the defaults are the authors'."""

    alpha: NonNegative = 2.5
    """Weight of the Q term against the behaviour-cloning term."""
    discount: Fraction = 0.99
    """Discount factor γ."""
    target_rate: Fraction = 0.005
    """Rate τ at which targets follow the online networks."""
    policy_noise: NonNegative = 0.2
    """Standard deviation of the noise on the target's actions."""
    noise_clip: NonNegative = 0.5
    """Bound of that noise."""
    policy_delay: Count = 2
    """Critic updates for each update of the actor and the targets."""
    actor_learning_rate: Positive = 3e-4
    """Adam's learning rate for the actor."""
    critic_learning_rate: Positive = 3e-4
    """Adam's learning rate for both critics."""
    exploration_noise: NonNegative = 0.1
    """Standard deviation of the noise on actions in the online phase."""
    reward_scale: float = 1.0
    """Factor on every reward."""
    reward_shift: float = 0.0
    """Added to every reward after scaling."""
    critic_hidden_dims: Annotated[list[int], AtLeast(1)] = field(default_factory=list)
    """Widths of the hidden layers of both critics; if empty, those in hidden_dims."""
    critic_layer_norm: LayerNorm = "none"
    """Whether the critics' hidden layers are normalised, before or after their ReLU."""


def critics(config: Config, observation_size: int, action_size: int, initializer: Initializer = uniform) -> Critic:
    """Make the two critics that the settings ask for."""
    widths, norm = config.critic_hidden_dims or config.hidden_dims, config.critic_layer_norm
    return Critic(observation_size, action_size, widths, count=2, initializer=initializer, layer_norm=norm)


class TD3BC(Agent):
    r"""min_π  -λ E[Q₁(s, π(s))] + E[(π(s) - a)²],   λ = α / E|Q₁(s, π(s))|  (equations 4 and 5).

    The critics minimise E[(Q_i(s, a) - y)²] with y = r + γ (1 - d) min_i Q'_i(s', π'(s') + ε), ε clipped normal noise.
    """

    name = "td3_bc"
    about = About(
        method="TD3 with a behaviour-cloning term",
        use_when="first: it is simple and has one important hyperparameter, alpha",
        paper="Fujimoto & Gu 2021, arXiv 2106.06860",
    )
    config_class: ClassVar[type[AgentConfig]] = Config
    stackable = True
    stackable_settings: ClassVar[tuple[str, ...]] = (
        "alpha",
        "discount",
        "target_rate",
        "policy_noise",
        "noise_clip",
        "actor_learning_rate",
        "critic_learning_rate",
        "exploration_noise",
        "reward_scale",
        "reward_shift",
    )
    config: Config

    def build_policy(self) -> None:
        """Make one actor."""
        self.actor = DeterministicActor(self.observation_size, self.action_size, self.config.hidden_dims)

    def build_learner(self) -> None:
        """Make two critics, and a slowly moving copy of them and of the actor."""
        self.cycle = self.config.policy_delay
        self.critic = self.make_critics()
        self.optimizer("actor", self.actor, self.config.actor_learning_rate)
        self.optimizer("critic", self.critic, self.config.critic_learning_rate)
        self.target_actor = self.target_of("actor")
        self.target_critic = self.target_of("critic")

    def make_critics(self) -> Critic:
        """Make two critics."""
        return critics(self.config, self.observation_size, self.action_size)

    def draws(self) -> dict[str, Draw]:
        """Ask for the noise on the target's actions."""
        return {"target": Normal("action")}

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return Σ_i E[(Q_i(s, a) - y)²]."""
        return self.critic_error(batch, self.critic_target(batch))

    def critic_error(self, batch: Batch, target: Tensor) -> tuple[Tensor, Metrics]:
        """Return Σ_i E[(Q_i(s, a) - y)²] for the target y ``(B,)``."""
        q = self.critic(batch.observation, batch.action)
        return (q - target).square().mean(1).sum(), {"q": q.detach().mean()}

    @torch.no_grad()
    def critic_target(self, batch: Batch) -> Tensor:
        """Return y ``(B,)``, the clipped double-Q target with smoothed target actions."""
        c = self.config
        noise = (batch.draws["target"] * c.policy_noise).clamp(-c.noise_clip, c.noise_clip)
        action = (self.next_action(batch) + noise).clamp(-1, 1)
        reward = batch.reward * c.reward_scale + c.reward_shift
        return reward + c.discount * (1 - batch.terminated) * self.next_value(batch, action)

    def next_value(self, batch: Batch, action: Tensor) -> Tensor:
        """Return min_i Q'_i(s', a') ``(B,)``, what the next states are worth with the actions ``(B, A)``."""
        return self.target_critic(batch.next_observation, action).amin(0)  # type: ignore[no-any-return]

    def next_action(self, batch: Batch) -> Tensor:
        """Return π'(s') ``(B, A)``, what the target's actor does in the next states, before noise."""
        return self.target_actor(batch.next_observation)  # type: ignore[no-any-return]

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return -λ E[Q₁(s, π(s))] + E[(π(s) - reference)²]; the mean runs over rows and action entries."""
        action = self.actor(batch.observation)
        q = self.critic.frozen(batch.observation, action, count=1)[0]
        weight = self.config.alpha / q.detach().abs().mean()
        reference, metrics = self.reference_action(batch, action)
        constraint = (action - reference).square().mean()
        return constraint - weight * q.mean(), {"constraint": constraint.detach(), "lambda": weight} | metrics

    def reference_action(self, batch: Batch, action: Tensor) -> tuple[Tensor, Metrics]:
        """Return the actions ``(B, A)`` that the policy is pulled to, and metrics: the dataset's own, and none."""
        return batch.action, {}

    def update(self, batch: Batch, step: int) -> Metrics:
        """Update the critics, and every ``policy_delay`` steps the actor and all targets."""
        metrics = self.minimize(batch, critic=self.critic_loss)
        if step % self.config.policy_delay == 0:
            metrics |= self.minimize(batch, actor=self.actor_loss)
            self.track_targets(self.config.target_rate)
        return metrics

    def policy(self, observation: Tensor) -> Tensor:
        """Return π(s)."""
        return self.actor(observation)  # type: ignore[no-any-return]

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return π(s) with normal noise, as TD3 explores."""
        return (self.actor(observation) + self.config.exploration_noise * noise).clamp(-1, 1)  # type: ignore[no-any-return]

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """The authors use one setting for all locomotion tasks (paper, section 6)."""
