r"""IQL: implicit Q-learning.

Paper: Ilya Kostrikov, Ashvin Nair, Sergey Levine. Offline Reinforcement Learning with Implicit Q-Learning. ICLR 2022,
arXiv 2110.06169. Authors' code: github.com/ikostrikov/implicit_q_learning.

The update, its order (V, policy, critics, targets), networks and defaults are those of the authors' code. So the policy
sees the new V and the old targets, the critics see the new V.

Deviations: returns for ``scale_rewards`` are those of the episodes as recorded, where the authors split what D4RL's
``qlearning_dataset`` leaves of them. As there, the fragment at a recording's end counts as an episode, although its
return is that of a few steps; CORL leaves it out, which can nearly double the factor (``scale_fragment``). Actions
collected online are cut to the open interval like the dataset's. ``deterministic`` is no part of the authors' code but
a choice of CORL (github.com/tinkoff-ai/CORL) for two tasks.

Of CORL the presets take the settings only. Its update differs: advantage and targets use V from before V's step, the
critics minimise the mean of their two errors and not the sum, layers start as PyTorch's do, and the log-std is cut to
[-20, 2].

Not verified: no score of the paper, or of CORL, has been reproduced yet.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from offline_rl.agent import About, Agent, AgentConfig, Batch, Draw, Loss, Metrics
from offline_rl.data.packed import PackedRows
from offline_rl.errors import AgentError
from offline_rl.networks import Critic, DeterministicActor, GaussianActor, Value
from offline_rl.networks.gaussian import log_likelihood
from offline_rl.networks.initializers import orthogonal
from offline_rl.settings import Fraction, NonNegative, Positive

ACTION_LIMIT = 1 - 1e-5
"""Where the actions of a batch are cut, as in the authors' code."""
RETURN_RANGE = 1000.0
"""Distance of the best from the worst episode return after ``scale_rewards``."""
LOG_STD_BOUNDS = -5.0, 2.0
"""Where the policy's log-std is cut."""


@dataclass(frozen=True)
class Config(AgentConfig):
    """Settings of IQL; the defaults are the authors' for locomotion."""

    normalize: bool = False
    """Normalise observations by the dataset's mean and standard deviation."""
    expectile: Fraction = 0.7
    """Expectile τ of Q that V learns: 0.5 is the mean, 1 would be the best action of the dataset."""
    beta: NonNegative = 3.0
    """Inverse temperature β of the weights exp(β A): 0 clones the behaviour, a large one follows Q."""
    weight_limit: Positive = 100.0
    """Where the weights are capped."""
    deterministic: bool = False
    """Learn a policy without noise, by weighted squared error instead of weighted likelihood."""
    exploration_noise: NonNegative = 0.03
    """Standard deviation of the noise on a deterministic policy's actions in the online phase."""
    discount: Fraction = 0.99
    """Discount factor γ."""
    target_rate: Fraction = 0.005
    """Rate at which targets follow the critics."""
    actor_learning_rate: Positive = 3e-4
    """Adam's learning rate for the policy; without an online phase it falls to 0 along half a cosine."""
    critic_learning_rate: Positive = 3e-4
    """Adam's learning rate for both critics."""
    value_learning_rate: Positive = 3e-4
    """Adam's learning rate for V."""
    scale_rewards: bool = True
    """Multiply rewards by 1000 / (best - worst episode return of the dataset)."""
    scale_fragment: bool = True
    """Let a fragment that the recording's end has cut count as an episode there; CORL leaves it out."""
    reward_shift: float = 0.0
    """Added to every reward after scaling."""


class IQL(Agent):
    r"""max_π  E[min(exp(β A), 100) log π(a | s)],   A = min_i Q'_i(s, a) - V(s)  (paper, equation 7).

    V minimises E[|τ - 1{A < 0}| A²] (equation 5), the critics Σ_i E[(Q_i(s, a) - r - γ (1 - d) V(s'))²] (equation 6).
    No action outside the dataset is ever evaluated.
    """

    name = "iql"
    about = About(
        method="expectile values and weighted imitation; never evaluates an action outside the data",
        use_when="if the data covers few actions, or before an online phase",
        paper="Kostrikov et al. 2022, arXiv 2110.06169",
    )
    config_class: ClassVar[type[AgentConfig]] = Config
    cycle = 1
    stackable = True
    stackable_settings: ClassVar[tuple[str, ...]] = (
        "expectile",
        "beta",
        "weight_limit",
        "exploration_noise",
        "discount",
        "target_rate",
        "actor_learning_rate",
        "critic_learning_rate",
        "value_learning_rate",
        "reward_shift",
    )
    config: Config

    def build_policy(self) -> None:
        """Make the policy."""
        c, sizes = self.config, (self.observation_size, self.action_size)
        self.actor: DeterministicActor | GaussianActor
        if c.deterministic:
            self.actor = DeterministicActor(*sizes, c.hidden_dims, initializer=orthogonal)
        else:
            self.actor = GaussianActor(*sizes, c.hidden_dims, LOG_STD_BOUNDS)

    def build_learner(self) -> None:
        """Make V, and two critics with a slowly moving copy."""
        self.build_critics()
        self.optimizer("actor", self.actor, self.config.actor_learning_rate, decays=True)

    def build_critics(self) -> None:
        """Make V, and the critics with their copy."""
        c = self.config
        self.reward_scale = 1.0
        self.value = Value(self.observation_size, c.hidden_dims, initializer=orthogonal)
        self.critic = Critic(self.observation_size, self.action_size, c.hidden_dims, initializer=orthogonal)
        self.optimizer("value", self.value, c.value_learning_rate)
        self.optimizer("critic", self.critic, c.critic_learning_rate)
        self.target_critic = self.target_of("critic")

    def draws(self) -> dict[str, Draw]:
        """Ask for nothing: an update draws no random numbers."""
        return {}

    def prepare(self, rows: PackedRows) -> None:
        """Find the factor for rewards."""
        if self.config.scale_rewards:
            whole = rows.episode_complete
            returns = rows.episode_returns if self.config.scale_fragment else rows.episode_returns[whole]
            if not len(returns) or not (spread := float(returns.max() - returns.min())) > 0:
                raise AgentError(
                    "scale_rewards divides by the range of the dataset's episode returns, but all"
                    f" {len(returns)} are equal; give --scale_rewards False"
                )
            self.reward_scale = RETURN_RANGE / spread

    def transformed(self, batch: Batch) -> Batch:
        """Return the batch with scaled and shifted rewards, and actions that a tanh can reach."""
        reward = batch.reward * self.reward_scale + self.config.reward_shift
        return dataclasses.replace(batch, action=batch.action.clamp(-ACTION_LIMIT, ACTION_LIMIT), reward=reward)

    def value_loss(self, batch: Batch, q: Tensor) -> tuple[Tensor, Metrics]:
        """Return E[|τ - 1{A < 0}| A²] for the targets' smaller value ``q`` ``(B,)``."""
        value = self.value(batch.observation)
        advantage = q - value
        weight = (self.config.expectile - (advantage < 0).to(self.dtype)).abs()
        return (weight * advantage.square()).mean(), {"value": value.detach().mean(), "q": q.mean()}

    def critic_loss(self, batch: Batch, target: Tensor) -> tuple[Tensor, Metrics]:
        """Return Σ_i E[(Q_i(s, a) - y)²] for the target y ``(B,)``."""
        q = self.critic(batch.observation, batch.action)
        return (q - target).square().mean(1).sum(), {}

    def actor_loss(self, batch: Batch, advantage: Tensor) -> tuple[Tensor, Metrics]:
        """Return the policy's weighted loss of imitation."""
        weight, metrics = self.weights(self.config.beta * advantage)
        return (weight * self.imitation_loss(batch.observation, batch.action)).mean(), metrics

    def weights(self, exponent: Tensor) -> tuple[Tensor, Metrics]:
        """Return the capped weights ``(B,)`` of imitation, and how many are capped."""
        weight = exponent.exp().clamp(max=self.config.weight_limit)
        return weight, {"capped": (weight >= self.config.weight_limit).to(self.dtype).mean(), "weight": weight.mean()}

    def imitation_loss(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return -log π(a | s) ``(B,)``, or ‖π(s) - a‖² of a deterministic policy."""
        mean = self.actor(observation)
        if isinstance(self.actor, DeterministicActor):
            return (mean - action).square().sum(1)  # type: ignore[no-any-return]
        log_std = self.actor.log_std()
        return -log_likelihood((action - mean) / log_std.exp(), log_std)

    def losses(self, batch: Batch, q: Tensor, step: int) -> dict[str, Loss]:
        """Return the losses that follow V's step; none of them depends on what another one changes."""
        with torch.no_grad():
            advantage = q - self.value(batch.observation)
            bootstrap = self.config.discount * (1 - batch.terminated) * self.value(batch.next_observation)
        return {
            "actor": partial(self.actor_loss, advantage=advantage),
            "critic": partial(self.critic_loss, target=batch.reward + bootstrap),
        }

    def update(self, batch: Batch, step: int) -> Metrics:
        """Update V, then policy and critics with the new V, then the targets."""
        batch = self.transformed(batch)
        with torch.no_grad():
            q = self.target_critic(batch.observation, batch.action).amin(0)
        metrics = self.minimize(batch, value=partial(self.value_loss, q=q))
        metrics |= self.minimize(batch, **self.losses(batch, q, step))
        self.track_targets(self.config.target_rate)
        return metrics

    def policy(self, observation: Tensor) -> Tensor:
        """Return the policy's mean."""
        return self.actor(observation)  # type: ignore[no-any-return]

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return a sample of the policy, cut to [-1, 1]."""
        if isinstance(self.actor, GaussianActor):
            noise = self.actor.log_std().exp() * noise
        else:
            noise = self.config.exploration_noise * noise
        return (self.actor(observation) + noise).clamp(-1, 1)  # type: ignore[no-any-return]

    def log_density(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return log π(a | s) before the cut to [-1, 1]."""
        if isinstance(self.actor, GaussianActor):
            log_std = self.actor.log_std()
        else:
            log_std = torch.full_like(action[0], self.config.exploration_noise).log()
        return log_likelihood((action - self.actor(observation)) / log_std.exp(), log_std)

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # CORL's offline settings, configs/offline/iql; rewards are raw except for two tasks of hopper.
        **{
            f"{robot}-{kind}-v2": {"normalize": True, "scale_rewards": False}
            for robot in ("halfcheetah", "hopper", "walker2d")
            for kind in ("random", "medium", "medium-replay", "medium-expert", "full-replay", "expert")
        },
        **{
            f"hopper-{kind}-v2": {
                "normalize": True,
                "deterministic": True,
                "target_rate": 0.001,
                "scale_fragment": False,
            }
            for kind in ("medium", "medium-replay")
        },
        "hopper-medium-expert-v2": {"normalize": True, "scale_rewards": False, "expectile": 0.5, "beta": 6.0},
        # The authors' configs/antmaze_config.py, for D4RL's v0, and their train_offline.py: r - 1.
        "antmaze-*": {"scale_rewards": False, "reward_shift": -1.0, "expectile": 0.9, "beta": 10.0},
    }
    """CORL's for locomotion, where the authors use one setting, the defaults; the authors' for AntMaze."""
