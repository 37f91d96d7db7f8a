r"""A2PR: adaptive advantage-guided policy regularisation.

Paper: Tenglong Liu, Yang Li, Yixing Lan, Hao Gao, Wei Pan, Xin Xu. Adaptive Advantage-Guided Policy Regularization for
Offline Reinforcement Learning. ICML 2024, arXiv 2405.19909. Authors' code: github.com/ltlhuuu/A2PR, revision f92a2a4.

A2PR is TD3+BC with another reference action, and only where one is worth it: a VAE learns the dataset's actions of
positive advantage, and the policy is pulled to the better of the dataset's action and the VAE's version of its own.

Deviations from the authors' code: none in the numbers. The value of the next state, which nothing uses, and gradients
that are thrown away are not computed. As there, the VAE encodes π(s) and the gradient runs through the reconstruction
(``sample_prior`` and ``detach_candidate`` are two other readings); filter, choice, gate and actor use Q₁ alone, and V
from before its own update; the filter's threshold is 0; the networks are deeper than TD3+BC's.

Not verified, since only the paper's abstract and tables quoted by others were at hand: the paper's own form of the
gate, how its text draws the VAE's action, which evaluations its scores average, and its settings for AntMaze and for
halfcheetah-random and walker2d-random.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from offline_rl.agent import About, Agent, Batch, Metrics, Normal
from offline_rl.algos import td3_bc
from offline_rl.networks import MLP, ConditionalVAE, Critic, DeterministicActor
from offline_rl.networks.vae import kl_divergence
from offline_rl.settings import AtLeast, Positive

PRIOR_BOUND = 0.5
"""Where latents drawn from the prior are cut, as in the authors' decoder, which never uses them."""


@dataclass(frozen=True)
class Config(td3_bc.Config):
    """Settings of A2PR; the defaults are one setting for all tasks, the authors' settings are the presets."""

    hidden_dims: Annotated[list[int], AtLeast(1)] = field(default_factory=lambda: [256, 256, 256, 256])
    """Widths of the hidden layers of the value network, and of both critics without critic_hidden_dims."""
    actor_hidden_dims: Annotated[list[int], AtLeast(1)] = field(default_factory=lambda: [256, 256, 256])
    """Widths of the hidden layers of the actor."""
    vae_hidden_dims: Annotated[list[int], AtLeast(1)] = field(default_factory=lambda: [750, 750])
    """Widths of the hidden layers of the VAE's encoder, and of its decoder."""
    value_learning_rate: Positive = 3e-4
    """Adam's learning rate for the value network."""
    vae_learning_rate: Positive = 1e-3
    """Adam's learning rate for the VAE."""
    reconstruction_weight: float = 1.0
    """Weight w₁ of the VAE's reconstruction error; "vae_weight" in the authors' code."""
    kl_weight: float = 0.5
    """Weight of the VAE's divergence from its prior."""
    constraint_weight: float = 1.0
    """Weight w₂ of the pull to the reference where the gate is open; "mask" in the authors' code."""
    sample_prior: bool = False
    """Ablation: the VAE's action is a sample of its prior, not the reconstruction of the policy's own action."""
    detach_candidate: bool = False
    """Ablation: the VAE's action is a constant to the actor, no gradient runs through it."""


@dataclass(frozen=True)
class AdvantageGate:
    """Values of a batch, which open or close the pull: of the critics after their update, of V before its own.

    Attributes:
        q: ``(B,)``, Q₁(s, a).
        value: ``(B,)``, V(s); its loss needs the gradient, everything else only compares with it.
        value_target: ``(B,)``, what V is to become.
    """

    q: Tensor
    value: Tensor
    value_target: Tensor

    def accepts(self) -> Tensor:
        """Say of which rows ``(B,)`` the VAE learns the action: those of positive advantage, Q₁(s, a) > V(s)."""
        return self.q > self.value

    def prefers(self, candidate_q: Tensor) -> Tensor:
        """Say for which rows ``(B,)`` the VAE's action ã is the reference: Q₁(s, ã) ≥ Q₁(s, a)."""
        return candidate_q >= self.q

    def is_open(self, candidate_q: Tensor) -> Tensor:
        """Say for which rows ``(B,)`` there is a pull: Q₁(s, ã) ≥ V(s) or Q₁(s, a) > V(s)."""
        return (candidate_q >= self.value) | (self.q > self.value)


class A2PR(Agent):
    r"""min_π  -λ E[Q₁(s, π(s))] + w₂ E[G (π(s) - b)²],   λ = α / E|Q₁(s, π(s))|.

    ã = VAE(s, π(s)) encodes and decodes the policy's action, b is ã where Q₁(s, ã) ≥ Q₁(s, a) and else a, and G is 1
    where ã or a is better than V(s), else 0. The VAE minimises w₁ E[1{Q₁(s, a) > V(s)} (VAE(s, a) - a)²] + ½ KL,
    the critics what TD3+BC's do, with target y, and V E[(V(s) - min(y, r + γ (1 - d) min_i Q_i(s', a')))²], a' being
    the noisy action of the target's actor.
    """

    name = "a2pr"
    about = About(
        method="TD3+BC, pulled to the better of a VAE's and the dataset's action",
        use_when="if TD3+BC works, but many actions of the data are bad",
        paper="Liu et al. 2024, arXiv 2405.19909",
    )
    config_class = Config
    stackable = True
    stackable_settings = (
        *td3_bc.TD3BC.stackable_settings,
        "value_learning_rate",
        "vae_learning_rate",
        "reconstruction_weight",
        "kl_weight",
        "constraint_weight",
    )
    config: Config

    def build_policy(self) -> None:
        """Make the actor."""
        self.actor = DeterministicActor(self.observation_size, self.action_size, self.config.actor_hidden_dims)

    def build_learner(self) -> None:
        """Make the critics, slowly moving copies of them and of the actor, the value network and the VAE."""
        c, sizes = self.config, (self.observation_size, self.action_size)
        self.cycle = c.policy_delay
        self.critic = td3_bc.critics(c, *sizes)
        self.value = MLP(self.observation_size, 1, c.hidden_dims)
        self.vae = ConditionalVAE(*sizes, c.vae_hidden_dims)
        self.optimizer("actor", self.actor, c.actor_learning_rate)
        self.optimizer("critic", self.critic, c.critic_learning_rate)
        self.optimizer("value", self.value, c.value_learning_rate)
        self.optimizer("vae", self.vae, c.vae_learning_rate)
        self.target_actor = self.target_of("actor")
        self.target_critic = self.target_of("critic")

    def draws(self) -> dict[str, Normal]:
        """Ask for the noise on the target's actions, and for that of the VAE in its own loss and in the actor's."""
        latent = Normal(self.vae.latent_size)
        return {"target": Normal("action"), "vae": latent, "candidate": latent}

    @torch.no_grad()
    def next_action(self, batch: Batch) -> Tensor:
        """Return a' ``(B, A)``, the actions of the target's actor in the next states, with clipped noise."""
        c = self.config
        noise = (batch.draws["target"] * c.policy_noise).clamp(-c.noise_clip, c.noise_clip)
        action: Tensor = self.target_actor(batch.next_observation) + noise
        return action.clamp(-1, 1)

    @torch.no_grad()
    def bootstrap(self, batch: Batch, critic: Critic, next_action: Tensor) -> Tensor:
        """Return r + γ (1 - d) min_i Q_i(s', a') ``(B,)`` of the critics given."""
        value: Tensor = critic(batch.next_observation, next_action).amin(0)
        reward = batch.reward * self.config.reward_scale + self.config.reward_shift
        return reward + self.config.discount * (1 - batch.terminated) * value

    def critic_loss(self, batch: Batch, target: Tensor) -> tuple[Tensor, Metrics]:
        """Return Σ_i E[(Q_i(s, a) - y)²]."""
        q = self.critic(batch.observation, batch.action)
        return (q - target).square().mean(1).sum(), {"q": q.detach().mean()}

    def advantage_gate(self, batch: Batch, next_action: Tensor, target: Tensor) -> AdvantageGate:
        """Compare the batch's values; V's target is the smaller of the critics' old ``target`` y and their new one."""
        with torch.no_grad():
            value_target = torch.minimum(target, self.bootstrap(batch, self.critic, next_action))
            q = self.critic.frozen(batch.observation, batch.action, count=1)[0]
        return AdvantageGate(q, self.value(batch.observation)[0, :, 0], value_target)

    def value_loss(self, batch: Batch, advantage: AdvantageGate) -> tuple[Tensor, Metrics]:
        """Return E[(V(s) - y_V)²]."""
        value = advantage.value
        return (value - advantage.value_target).square().mean(), {"value": value.detach().mean()}

    def vae_loss(self, batch: Batch, advantage: AdvantageGate) -> tuple[Tensor, Metrics]:
        """Return w₁ E[accepted (VAE(s, a) - a)²] + ½ KL; both means run over all rows, accepted or not."""
        reconstruction, mean, log_std = self.vae(batch.observation, batch.action, batch.draws["vae"])
        accepted = advantage.accepts().to(self.dtype)
        error = accepted * (reconstruction - batch.action).square().mean(1)
        divergence = kl_divergence(mean, log_std)
        metrics = {
            "accepted": accepted.mean(),
            "reconstruction_error": error.detach().sum() / accepted.sum().clamp_min(1),
            "kl": divergence.detach(),
        }
        return self.config.reconstruction_weight * error.mean() + self.config.kl_weight * divergence, metrics

    def actor_loss(self, batch: Batch, advantage: AdvantageGate) -> tuple[Tensor, Metrics]:
        """Return -λ E[Q₁(s, π(s))] + w₂ E[gate (π(s) - reference)²]; the mean runs over rows and action entries."""
        action = self.actor(batch.observation)
        q = self.critic.frozen(batch.observation, action, count=1)[0]
        weight = self.config.alpha / q.detach().abs().mean()
        reference, gate, metrics = self.reference_action(batch, action, advantage)
        constraint = self.config.constraint_weight * (gate[:, None] * (action - reference).square()).mean()
        return constraint - weight * q.mean(), {"constraint": constraint.detach(), "lambda": weight} | metrics

    def reference_action(
        self, batch: Batch, action: Tensor, advantage: AdvantageGate
    ) -> tuple[Tensor, Tensor, Metrics]:
        """Return the reference ``(B, A)``, the gate ``(B,)``, 0 or 1, and the shares of rows they concern."""
        candidate = self.candidate(batch, action)
        with torch.no_grad():
            candidate_q = self.critic.frozen(batch.observation, candidate, count=1)[0]
        prefers, gate = advantage.prefers(candidate_q), advantage.is_open(candidate_q).to(self.dtype)
        metrics = {"gated": gate.mean(), "vae_reference": prefers.to(self.dtype).mean()}
        return torch.where(prefers[:, None], candidate, batch.action), gate, metrics

    def candidate(self, batch: Batch, action: Tensor) -> Tensor:
        """Return the VAE's actions ã ``(B, A)``; the gradient of the policy's actions runs through them."""
        noise = batch.draws["candidate"]
        if self.config.sample_prior:
            return self.vae.decode(batch.observation, noise.clamp(-PRIOR_BOUND, PRIOR_BOUND), frozen=True)
        return self.vae.frozen(batch.observation, action.detach() if self.config.detach_candidate else action, noise)

    def update(self, batch: Batch, step: int) -> Metrics:
        """Update critics, value and VAE, and every ``policy_delay`` steps the actor and all targets."""
        next_action = self.next_action(batch)
        target = self.bootstrap(batch, self.target_critic, next_action)
        metrics = self.minimize(batch, critic=partial(self.critic_loss, target=target))
        advantage = self.advantage_gate(batch, next_action, target)
        # Neither of the two depends on what the other one changes.
        metrics |= self.minimize(
            batch,
            value=partial(self.value_loss, advantage=advantage),
            vae=partial(self.vae_loss, advantage=advantage),
        )
        if step % self.config.policy_delay == 0:
            metrics |= self.minimize(batch, actor=partial(self.actor_loss, advantage=advantage))
            self.track_targets(self.config.target_rate)
        return metrics

    def policy(self, observation: Tensor) -> Tensor:
        """Return π(s)."""
        return self.actor(observation)  # type: ignore[no-any-return]

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return π(s) with normal noise, as TD3 explores."""
        return (self.actor(observation) + self.config.exploration_noise * noise).clamp(-1, 1)  # type: ignore[no-any-return]

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Every command for halfcheetah that the authors have published.
        "halfcheetah-*": {"alpha": 40.0},
        # The README of the authors' code.
        "halfcheetah-medium-v2": {"alpha": 40.0},
        "hopper-medium-v2": {"constraint_weight": 0.4, "discount": 0.995},
        "walker2d-medium-v2": {"reconstruction_weight": 1.5},
        # Lists of commands in its README of May 2024, since deleted.
        "halfcheetah-medium-replay-v2": {
            "alpha": 40.0,
            "reconstruction_weight": 1.5,
            "constraint_weight": 0.8,
            "discount": 0.995,
        },
        # The first list has a constraint weight of 10.
        "halfcheetah-medium-expert-v2": {"alpha": 40.0, "constraint_weight": 15.0},
        "hopper-medium-replay-v2": {"reconstruction_weight": 1.5, "constraint_weight": 0.5},
        "hopper-medium-expert-v2": {"constraint_weight": 4.0},
        "hopper-random-v2": {"reconstruction_weight": 1.5, "constraint_weight": 1.5, "discount": 0.995},
        # The later list has a constraint weight of 1.5.
        "walker2d-medium-replay-v2": {"reconstruction_weight": 1.5, "constraint_weight": 1.2, "discount": 0.995},
        # A discount of 0.995 stands beside the default there.
        "walker2d-medium-expert-v2": {"constraint_weight": 0.8},
    }
    """The authors' settings; none are published for the other datasets of hopper and walker2d."""
