r"""SPOT: supported policy optimisation.

Paper: Jialong Wu, Haixu Wu, Zihan Qiu, Jianmin Wang, Mingsheng Long. Supported Policy Optimization for Offline
Reinforcement Learning. NeurIPS 2022, arXiv 2202.06239. Authors' code: github.com/thuml/SPOT, revision 26a7de7.

SPOT is TD3 with a penalty for actions that are improbable in the data. A conditional VAE, trained before, gives a lower
bound of the log-probability of π(s); the penalty is its negative.

Deviations from the authors' code: the first ``vae_steps`` updates of a run train the VAE, for which the authors have a
second program; so every seed has a VAE of its own, and a run needs that many updates more. There are 100,000 of them,
where their loop makes 100,001. Left out are options that no published setting uses: several samples in the bound, the
importance-weighted bound, Q not divided by its mean size; and the end of a run whose Q exceeds 10,000. As there, the
target's actor keeps its dropout, and the penalty is -ELBO but for a factor and a constant.

Not verified: no score of the paper has been reproduced yet, and its text was not at hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar

from torch import Tensor

from offline_rl.agent import About, Batch, Draw, Metrics, Normal, Uniform
from offline_rl.algos import td3_bc
from offline_rl.errors import AgentError
from offline_rl.networks import ConditionalVAE
from offline_rl.networks.dropout import KEY_SIZE, Dropout
from offline_rl.networks.vae import kl_divergence
from offline_rl.settings import AtLeast, AtMost, Count, Fraction, NonNegative, Positive


@dataclass(frozen=True)
class Config(td3_bc.Config):
    """Settings of SPOT; the defaults are the authors', whose λ for each task are the presets."""

    alpha: NonNegative = field(init=False, default=1.0)
    """No option: Q is divided by its mean size, and λ weighs the constraint."""
    constraint_weight: NonNegative = 1.0
    """Weight λ of the support constraint; "lambd" in the authors' code."""
    dropout: Annotated[float, AtLeast(0), AtMost(0.99)] = 0.1
    """Share of the actor's hidden activations that are dropped in training."""
    vae_steps: Annotated[int, AtLeast(0)] = 100_000
    """Updates at the beginning of a run that train the VAE, and nothing else."""
    vae_hidden_dims: Annotated[list[int], AtLeast(1)] = field(default_factory=lambda: [750, 750])
    """Widths of the hidden layers of the VAE's encoder, and of its decoder."""
    vae_learning_rate: Positive = 1e-3
    """Adam's learning rate for the VAE."""
    kl_weight: NonNegative = 0.5
    """Weight β of the VAE's divergence from its prior, in its own loss and in the constraint."""
    cool_online: bool = False
    """Let λ fall in proportion to the updates of an online phase."""
    cooling_steps: Count = 1_000_000
    """Updates of an online phase in which λ would fall to 0."""
    cooled_share: Fraction = 0.2
    """Share of λ below which it does not fall; "lambd_end" in the authors' code."""


class SPOT(td3_bc.TD3BC):
    r"""min_π  -E[Q₁(s, π(s))] / E|Q₁(s, π(s))| + λ E[-ELBO(s, π(s))].

    -ELBO(s, a) = (VAE(s, a) - a)² + β KL(encoder(s, a) ‖ N(0, 1)), means over entries, is also what the VAE minimises
    on the data, before; then it is constant. The critics are TD3's. The actor has dropout, the target's actor too.
    """

    name = "spot"
    about = About(
        method="TD3 that pays for actions which a VAE finds improbable in the data",
        use_when="if TD3+BC holds the policy too close to single actions",
        paper="Wu et al. 2022, arXiv 2202.06239",
    )
    config_class = Config
    stackable_settings = (
        *(name for name in td3_bc.TD3BC.stackable_settings if name != "alpha"),
        "constraint_weight",
        "vae_learning_rate",
        "kl_weight",
    )
    config: Config

    def build_learner(self) -> None:
        """Make TD3's critics and targets, and the VAE."""
        c, length = self.config, self.length.offline
        # Not self.steps: nothing but this refusal knows where the run ends.
        if c.vae_steps and c.vae_steps >= length:
            raise AgentError(
                f"vae_steps is {c.vae_steps} and the run has {length} offline updates, so none is left for the policy;"
                " give a smaller --vae_steps, or more --steps"
            )
        super().build_learner()
        self.vae = ConditionalVAE(self.observation_size, self.action_size, c.vae_hidden_dims)
        self.optimizer("vae", self.vae, c.vae_learning_rate)

    def draws(self) -> dict[str, Draw]:
        """Ask for the noise on the target's actions and that of the VAE, and for the keys of dropout."""
        keys = {"dropout": Uniform(KEY_SIZE), "target_dropout": Uniform(KEY_SIZE)} if self.config.dropout else {}
        return {**super().draws(), "latent": Normal(self.vae.latent_size), **keys}

    def dropout(self, batch: Batch, name: str) -> Dropout | None:
        """Return the dropout of a draw; None if there is none, so that networks take their fastest way."""
        return Dropout(self.config.dropout, batch.draws[name]) if self.config.dropout else None

    def next_action(self, batch: Batch) -> Tensor:
        """Return π'(s') ``(B, A)``, what the target's actor does in the next states, with dropout."""
        action: Tensor = self.target_actor(batch.next_observation, self.dropout(batch, "target_dropout"))
        return action

    def negative_bound(self, batch: Batch, action: Tensor, *, frozen: bool = False) -> tuple[Tensor, Metrics]:
        """Return the mean of -ELBO(s, a) and its parts; ``frozen`` makes the VAE constant."""
        mean, log_std = self.vae.encode(batch.observation, action, frozen=frozen)
        latent = mean + log_std.exp() * batch.draws["latent"]
        error = (self.vae.decode(batch.observation, latent, frozen=frozen) - action).square().mean()
        divergence = kl_divergence(mean, log_std)
        metrics = {"reconstruction_error": error.detach(), "kl": divergence.detach()}
        return error + self.config.kl_weight * divergence, metrics

    def vae_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return E[-ELBO(s, a)] of the dataset's actions."""
        return self.negative_bound(batch, batch.action)

    def actor_loss(self, batch: Batch, share: float = 1.0) -> tuple[Tensor, Metrics]:
        """Return -E[Q₁(s, π(s))] / E|Q₁(s, π(s))| + λ E[-ELBO(s, π(s))], with a share of λ."""
        action = self.actor(batch.observation, self.dropout(batch, "dropout"))
        q = self.critic.frozen(batch.observation, action, count=1)[0]
        constraint, _ = self.negative_bound(batch, action, frozen=True)
        metrics = {"constraint": constraint.detach(), "policy_q": q.detach().mean()}
        return self.config.constraint_weight * share * constraint - q.mean() / q.detach().abs().mean(), metrics

    def share_of_weight(self, step: int) -> float:
        """Return how much of λ is left at update ``step``."""
        c = self.config
        if self.phase == "offline" or not c.cool_online:
            return 1.0
        return max(c.cooled_share, 1 - (step - self.steps) / c.cooling_steps)

    def update(self, batch: Batch, step: int) -> Metrics:
        """Update the VAE alone in the first ``vae_steps``; then update as TD3 does."""
        if step <= self.config.vae_steps:
            return self.minimize(batch, vae=self.vae_loss)
        metrics = self.minimize(batch, critic=self.critic_loss)
        if step % self.config.policy_delay == 0:
            metrics |= self.minimize(batch, actor=partial(self.actor_loss, share=self.share_of_weight(step)))
            self.track_targets(self.config.target_rate)
        return metrics

    def repeats(self, step: int) -> bool:
        """Say that updates of the policy do; those of the VAE, which come first, are others."""
        return step > self.config.vae_steps

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # configs/offline of the authors' code, which change nothing but λ.
        "halfcheetah-medium-v2": {"constraint_weight": 0.05},
        "halfcheetah-medium-replay-v2": {"constraint_weight": 0.05},
        "halfcheetah-medium-expert-v2": {"constraint_weight": 1.0},
        "hopper-medium-v2": {"constraint_weight": 0.1},
        "hopper-medium-replay-v2": {"constraint_weight": 0.1},
        "hopper-medium-expert-v2": {"constraint_weight": 0.2},
        "walker2d-medium-v2": {"constraint_weight": 0.2},
        "walker2d-medium-replay-v2": {"constraint_weight": 0.2},
        "walker2d-medium-expert-v2": {"constraint_weight": 0.5},
    }
    """The authors' λ; none are published for other datasets of locomotion."""
