r"""FamO2O: a family of policies with state-adaptive balances, for offline-to-online reinforcement learning.

Paper: Shenzhi Wang, Qisen Yang, Jiawei Gao, Matthieu Gaetan Lin, Hao Chen, Liwei Wu, Ning Jia, Shiji Song, Gao Huang.
Train Once, Get a Family: State-Adaptive Balances for Offline-to-Online Reinforcement Learning. NeurIPS 2023, arXiv
2310.17966. Authors' code: github.com/LeapLabTHU/FamO2O, revision ea9cb01; its two halves are the two bases here.

Deviations from the authors' code: on IQL a row is weighed by its own β, not by the mean over all β of the batch, with
which their policy learns next to nothing of β (``released_weights``); on CQL β keeps to its interval
(``released_mapping``: low + x (high - low)), the next state has a β of its own (``released_next_balance``); each use of
β has its own noise. The bases deviate as they say.

Not verified: every number of the paper, of which only the abstract and the code were at hand; and on IQL the settings
for locomotion, of which the authors published none: interval and ``balance_every`` are those of two ports by others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from offline_rl.agent import About, AgentConfig, Batch, Draw, Loss, Metrics, Normal, Variants
from offline_rl.algos import cql, iql
from offline_rl.algos.famo2o.balance import (
    DRAWS,
    EMBEDDING_SIZE,
    ON_IQL,
    TARGET_ENTROPY,
    BalanceModel,
    balance_signals,
    for_chosen_balance,
    with_balance,
)
from offline_rl.errors import AgentError
from offline_rl.networks import GaussianActor, Scalar, SquashedGaussian, SquashedGaussianActor
from offline_rl.settings import Count, NonNegative, Positive


@dataclass(frozen=True)
class Config(AgentConfig):
    """Settings of FamO2O on either base; the defaults are those of locomotion."""

    beta_low: NonNegative = 1.0
    """Lower end of the balances' interval."""
    beta_high: float = 5.0
    """Upper end of the balances' interval, where Q counts most."""
    balance_every: Count = 5
    """Updates for each update of the balance model."""
    balance_learning_rate: Positive = 3e-4
    """Adam's learning rate for the balance model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta_low > self.beta_high:
            raise AgentError(f"beta_low is {self.beta_low}; it must be at most beta_high, which is {self.beta_high}")

    @classmethod
    def upgraded(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record's settings by the names of today; None was once the base's default of some."""
        own = ("beta_low", "beta_high", "balance_every")
        return {n: value for n, value in super().upgraded(settings).items() if value is not None or n not in own}


@dataclass(frozen=True)
class IQLConfig(iql.Config, Config):
    """Settings of FamO2O on IQL."""

    base: Literal["iql"] = "iql"
    """Algorithm that gives the critics, and whose policy becomes a family: "iql" or "cql"."""
    temperature_learning_rate: Positive = 3e-4
    """Adam's learning rate for the logarithm of the balance model's temperature."""
    released_weights: bool = False
    """Weigh each row by the mean over all β of the batch, as the released code does, not by its own."""
    beta: NonNegative = field(init=False, default=3.0)
    """No option: the balances take its place."""
    deterministic: bool = field(init=False, default=False)
    """No option: the universal policy has noise."""
    exploration_noise: NonNegative = field(init=False, default=0.0)
    """No option: the universal policy's own noise explores."""


@dataclass(frozen=True)
class CQLConfig(cql.Config, Config):
    """Settings of FamO2O on CQL."""

    base: Literal["cql"] = "cql"
    """Algorithm that gives the critics, and whose policy becomes a family: "iql" or "cql"."""
    beta_low: NonNegative = 0.5
    """Lower end of the balances' interval."""
    beta_high: float = 1.5
    """Upper end of the balances' interval, where Q counts most."""
    balance_every: Count = 1
    """Updates for each update of the balance model."""
    conservative_weight: NonNegative = 1.0
    """Weight α of the conservative term; CQL by itself has 5."""
    layer_norm: bool = True
    """Normalise the critics' hidden layers before their ReLU; CQL by itself does not."""
    released_mapping: bool = False
    """Map to balances as the released code does, -0.5 ... 1.5 instead of 0.5 ... 1.5."""
    released_next_balance: bool = False
    """Give the next state the state's balance, as the released code does."""


class OnIQL(iql.IQL):
    r"""A universal policy π(a | s, β) for an interval of balances β, and a model b(β | s) of which one suits a state.

    On IQL:  max_π E[min(exp(β A), 100) log π(a | s, β)],  max_b E[min_i Q'_i(s, π(s, β)) - η log b(x | s)],

    where β = low + (x + 1) / 2 (high - low) with x = tanh(u), u normal. For π, β ~ U(low, high) offline and β ~ b(s)
    online. η keeps b's entropy at -0.5. The critics are IQL's and never see β.
    """

    name = "famo2o"
    about = About(
        method="a family of IQL or CQL policies; chooses a balance in each state",
        use_when="to train online after offline, if states need different amounts of caution",
        paper="Wang et al. 2023, arXiv 2310.17966",
    )
    config_class: ClassVar[type[AgentConfig]] = IQLConfig
    stackable_settings = (
        "expectile",
        "weight_limit",
        "discount",
        "target_rate",
        "actor_learning_rate",
        "critic_learning_rate",
        "value_learning_rate",
        "balance_learning_rate",
        "temperature_learning_rate",
        "reward_shift",
    )
    acting_networks = ("actor", "balance")
    actor: GaussianActor
    config: IQLConfig

    def build_policy(self) -> None:
        """Make the universal policy and the balance model."""
        c, size = self.config, self.observation_size
        self.actor = GaussianActor(size + EMBEDDING_SIZE, self.action_size, c.hidden_dims, iql.LOG_STD_BOUNDS)
        self.balance = BalanceModel(SquashedGaussianActor(size, 1, c.hidden_dims, **ON_IQL), c.beta_low, c.beta_high)

    def build_learner(self) -> None:
        """Make IQL's critics, and the balance model's temperature."""
        c = self.config
        self.cycle = c.balance_every
        self.build_critics()
        self.optimizer("actor", self.actor, c.actor_learning_rate)
        self.optimizer("balance", self.balance, c.balance_learning_rate)
        self.log_temperature = Scalar()
        self.optimizer("temperature", self.log_temperature, c.temperature_learning_rate)

    def draws(self) -> dict[str, Draw]:
        """Ask for β in the policy's loss in either phase, and for β and action in the balance model's."""
        return {**super().draws(), **DRAWS}

    def actor_loss(self, batch: Batch, advantage: Tensor) -> tuple[Tensor, Metrics]:
        """Return -E[min(exp(β A), limit) log π(a | s, β)] with a β for each row; as released, A meets every row's β."""
        beta = self.balance.for_policy(batch, self.phase)
        every = beta[:, None] if self.config.released_weights else beta
        weight, metrics = self.weights(every * advantage)
        return (weight * self.imitation_loss(with_balance(batch.observation, beta), batch.action)).mean(), metrics

    def balance_loss(self, batch: Batch, balance: SquashedGaussian) -> tuple[Tensor, Metrics]:
        """Return E[η log b(x | s) - min_i Q'_i(s, a)], a ~ π(s, β)."""
        x, log_likelihood = balance.sample(batch.draws["balance"])
        mean = self.actor.frozen(with_balance(batch.observation, self.balance.to_beta(x)))
        action = mean + self.actor.log_std().detach().exp() * batch.draws["balance_action"]
        q = self.target_critic(batch.observation, action).amin(0)
        temperature = self.log_temperature().exp().detach()
        metrics = {"balance_q": q.detach().mean(), "temperature": temperature} | self.balance.metrics(balance)
        return (temperature * log_likelihood - q).mean(), metrics

    def temperature_loss(self, batch: Batch, balance: SquashedGaussian) -> tuple[Tensor, Metrics]:
        """Return η (H - target) for the entropy H = -E[log b(x | s)]."""
        entropy = -balance.detach().sample(batch.draws["balance"])[1].mean()
        return self.log_temperature().exp() * (entropy - TARGET_ENTROPY), {"entropy": entropy}

    def losses(self, batch: Batch, q: Tensor, step: int) -> dict[str, Loss]:
        """Return IQL's losses after V's, and now and then those of the balance model and its temperature."""
        losses = super().losses(batch, q, step)
        if step % self.config.balance_every == 0:
            balance = self.balance(batch.observation)
            losses["balance"] = partial(self.balance_loss, balance=balance)
            losses["temperature"] = partial(self.temperature_loss, balance=balance)
        return losses

    policy = for_chosen_balance(iql.IQL.policy)
    explore = for_chosen_balance(iql.IQL.explore)
    log_density = for_chosen_balance(iql.IQL.log_density)
    signals = balance_signals

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "antmaze-*": {
            "beta_low": 8.0,
            "beta_high": 14.0,
            "balance_every": 1,
            "expectile": 0.9,
            "scale_rewards": False,
            "reward_shift": -1.0,
        }
    }
    """The authors' configuration for AntMaze, of which their README names v0; one setting for all locomotion tasks."""


class OnCQL(cql.CQL):
    r"""A universal policy π(a | s, β) for an interval of balances β, and a model b(β | s) of which one suits a state.

    On CQL:  max_π E[β min_i Q_i(s, π(s, β)) - η log π(a | s, β)],  max_b E[min_i Q_i(s, π(s, β))],

    with β as on IQL. η keeps π's entropy at -A. The critics are CQL's and never see β.
    """

    name = "famo2o"
    config_class: ClassVar[type[AgentConfig]] = CQLConfig
    stackable_settings = (*cql.CQL.stackable_settings, "balance_learning_rate")
    acting_networks = ("actor", "balance")
    config: CQLConfig

    def build_policy(self) -> None:
        """Make the universal policy and the balance model."""
        c, size = self.config, self.observation_size
        self.actor = SquashedGaussianActor(size + EMBEDDING_SIZE, self.action_size, c.hidden_dims)
        actor = SquashedGaussianActor(size, 1, c.hidden_dims)
        self.balance = BalanceModel(actor, c.beta_low, c.beta_high, released=c.released_mapping)

    def build_learner(self) -> None:
        """Make CQL's critics and the policy's temperature."""
        super().build_learner()
        self.cycle = self.config.balance_every
        self.optimizer("balance", self.balance, self.config.balance_learning_rate)

    def draws(self) -> dict[str, Draw]:
        """Ask for CQL's, for those of β and of the balance model as on IQL, and for β in the next states."""
        return {**super().draws(), **DRAWS, "next_balance": Normal(1)}

    @torch.no_grad()
    def next_policy(self, batch: Batch) -> SquashedGaussian:
        """Return what the universal policy does in the next states, with balances sampled from b."""
        source, noise = batch.next_observation, batch.draws["next_balance"]
        if self.config.released_next_balance:
            source, noise = batch.observation, batch.draws["balance"]
        return self.actor(with_balance(batch.next_observation, self.balance.sampled(source, noise)))  # type: ignore[no-any-return]

    def balance_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return -E[min_i Q_i(s, a)], a ~ π(s, β)."""
        balance = self.balance(batch.observation)
        x, _ = balance.sample(batch.draws["balance"])
        policy = self.actor.frozen(with_balance(batch.observation, self.balance.to_beta(x)))
        q = self.critic.frozen(batch.observation, policy.sample(batch.draws["balance_action"])[0]).amin(0)
        return -q.mean(), {"balance_q": q.detach().mean()} | self.balance.metrics(balance)

    def losses(self, batch: Batch, step: int) -> dict[str, Loss]:
        """Return CQL's losses for the universal policy, where β weighs Q, and that of the balance model."""
        beta = self.balance.for_policy(batch, self.phase)
        here = self.actor(with_balance(batch.observation, beta))
        losses = self.losses_of(batch, here, self.next_policy(batch), q_weight=beta)
        if step % self.config.balance_every == 0:
            losses["balance"] = self.balance_loss
        return losses

    policy = for_chosen_balance(cql.CQL.policy)
    explore = for_chosen_balance(cql.CQL.explore)
    log_density = for_chosen_balance(cql.CQL.log_density)
    signals = balance_signals


FAMO2O = Variants("base", {"iql": OnIQL, "cql": OnCQL})
"""What the name ``famo2o`` stands for: ``--base`` chooses."""
