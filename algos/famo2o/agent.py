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
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from offline_rl.agent import Agent, AgentConfig, Batch, Draw, Loss, Metrics, Normal, Uniform, decimals
from offline_rl.algos import cql, iql
from offline_rl.algos.famo2o.balance import EMBEDDING_SIZE, ON_IQL, TARGET_ENTROPY, BalanceModel, with_balance
from offline_rl.errors import AgentError
from offline_rl.networks import GaussianActor, Scalar, SquashedGaussian, SquashedGaussianActor

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "iql": {"beta_low": 1.0, "beta_high": 5.0, "balance_every": 5},
    "cql": {"beta_low": 0.5, "beta_high": 1.5, "balance_every": 1},
}
"""What None means on each base."""
RELEASED = "released_mapping", "released_next_balance"
"""Switches that bring back what the released code does on CQL."""
ONLY_ON: Mapping[str, tuple[str, ...]] = {
    "iql": ("expectile", "weight_limit", "value_learning_rate", "scale_rewards", "released_weights"),
    "cql": ("conservative_weight", "num_actions", "layer_norm", "reward_scale", *RELEASED),
}
"""Settings that have no meaning on the other base."""


@dataclass(frozen=True)
class Config(AgentConfig):
    """Settings of FamO2O; the defaults are those of locomotion."""

    base: Literal["iql", "cql"] = "iql"
    """Algorithm that gives the critics, and whose policy becomes a family."""
    normalize: bool = False
    """Normalise observations by the dataset's mean and standard deviation."""
    beta_low: float | None = None
    """Lower end of the balances' interval; None is 1 on IQL and 0.5 on CQL."""
    beta_high: float | None = None
    """Upper end of the balances' interval, where Q counts most; None is 5 on IQL and 1.5 on CQL."""
    balance_every: int | None = None
    """Updates for each update of the balance model; None is 5 on IQL and 1 on CQL."""
    balance_learning_rate: float = 3e-4
    """Adam's learning rate for the balance model."""
    actor_learning_rate: float = 3e-4
    """Adam's learning rate for the universal policy."""
    critic_learning_rate: float = 3e-4
    """Adam's learning rate for both critics."""
    temperature_learning_rate: float = 3e-4
    """Adam's learning rate for the logarithm of the temperature: the balance model's on IQL, the policy's on CQL."""
    discount: float = 0.99
    """Discount factor γ."""
    target_rate: float = 0.005
    """Rate at which targets follow the critics."""
    reward_shift: float = 0.0
    """Added to every reward after scaling."""
    expectile: float = 0.7
    """Only on IQL: expectile τ of Q that V learns."""
    weight_limit: float = 100.0
    """Only on IQL: where the weights exp(β A) are capped."""
    value_learning_rate: float = 3e-4
    """Only on IQL: Adam's learning rate for V."""
    scale_rewards: bool = True
    """Only on IQL: multiply rewards by 1000 / (best - worst episode return of the dataset)."""
    released_weights: bool = False
    """Only on IQL: weigh each row by the mean over all β of the batch, as the released code does, not by its own."""
    reward_scale: float = 1.0
    """Only on CQL: factor on every reward."""
    conservative_weight: float = 1.0
    """Only on CQL: weight of the conservative term; CQL by itself has 5."""
    num_actions: int = 10
    """Only on CQL: sampled actions of each kind in the conservative term."""
    layer_norm: bool = True
    """Only on CQL: normalise the critics' hidden layers before their ReLU; CQL by itself does not."""
    released_mapping: bool = False
    """Only on CQL: map to balances as the released code does, -0.5 ... 1.5 instead of 0.5 ... 1.5."""
    released_next_balance: bool = False
    """Only on CQL: give the next state the state's balance, as the released code does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ONLY_ON["cql" if self.base == "iql" else "iql"]:
            if getattr(self, name) != getattr(Config, name):
                raise AgentError(f"{name} has no meaning on {self.base}; leave it out, or choose the other --base")
        self.require("beta_low", "conservative_weight", at_least=0)
        self.require("balance_every", "num_actions", at_least=1)
        self.require("discount", "target_rate", "expectile", at_least=0, at_most=1)
        self.require("weight_limit", *(name for name in vars(self) if name.endswith("learning_rate")), above=0)
        if (low := self.on_base("beta_low")) > (high := self.on_base("beta_high")):
            raise AgentError(f"beta_low is {low}; it must be at most beta_high, which is {high}")

    def on_base(self, name: str) -> Any:
        """Return a setting, or the base's default where it is None."""
        return DEFAULTS[self.base][name] if getattr(self, name) is None else getattr(self, name)


class FamO2O(Agent):
    r"""A universal policy π(a | s, β) for an interval of balances β, and a model b(β | s) of which one suits a state.

    On IQL:  max_π E[min(exp(β A), 100) log π(a | s, β)],  max_b E[min_i Q'_i(s, π(s, β)) - η log b(x | s)],
    on CQL:  max_π E[β min_i Q_i(s, π(s, β)) - η log π(a | s, β)],  max_b E[min_i Q_i(s, π(s, β))],

    where β = low + (x + 1) / 2 (high - low) with x = tanh(u), u normal. For π, β ~ U(low, high) offline and β ~ b(s)
    online. On IQL η keeps b's entropy at -0.5, on CQL π's at -A. The critics are the base's and never see β.
    """

    name = "famo2o"
    config_class: ClassVar[type[AgentConfig]] = Config
    stackable, stackable_settings = True, decimals(Config)
    acting_networks = ("actor", "balance")
    config: Any

    def __new__(cls, config: Config | None = None, *sizes: int, **options: Any) -> "FamO2O":
        """Make an agent on the base that ``config`` names."""
        return super().__new__({"iql": OnIQL, "cql": OnCQL}[config.base] if config else cls)

    def build_balance(self, actor: SquashedGaussianActor) -> None:
        """Make the balance model of what gives a number in (-1, 1)."""
        c = self.config
        self.cycle = c.on_base("balance_every")
        self.balance = BalanceModel(actor, c.on_base("beta_low"), c.on_base("beta_high"), released=c.released_mapping)

    def draws(self) -> dict[str, Draw]:
        """Ask for the base's draws, for β in the policy's loss in either phase, and for β and action in the model's."""
        own: dict[str, Draw] = {"beta": Uniform(1), "online_beta": Normal(1), "balance": Normal(1)}
        return {**super().draws(), **own, "balance_action": Normal("action")}

    @torch.no_grad()
    def policy_beta(self, batch: Batch) -> Tensor:
        """Return the balances ``(B,)`` for which the policy learns: offline any, online those that b picks."""
        if self.phase == "offline":
            return self.balance.at(batch.draws["beta"])
        return self.balance.sampled(batch.observation, batch.draws["online_beta"])

    def policy(self, observation: Tensor) -> Tensor:
        """Return the universal policy's action for the balance chosen."""
        return super().policy(with_balance(observation, self.balance.chosen(observation)))

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return a sample of the universal policy; the balance is chosen as without noise."""
        return super().explore(with_balance(observation, self.balance.chosen(observation)), noise)

    def signals(self, observation: Tensor) -> dict[str, Tensor]:
        """Return the balances chosen."""
        return {"balance": self.balance.chosen(observation)}

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """One setting for all locomotion tasks."""


class OnIQL(FamO2O, iql.IQL):
    """FamO2O on IQL."""

    actor: GaussianActor

    def build_policy(self) -> None:
        """Make the universal policy and the balance model."""
        c, size = self.config, self.observation_size
        self.actor = GaussianActor(size + EMBEDDING_SIZE, self.action_size, c.hidden_dims, iql.LOG_STD_BOUNDS)
        self.build_balance(SquashedGaussianActor(size, 1, c.hidden_dims, **ON_IQL))

    def build_learner(self) -> None:
        """Make IQL's critics, and the balance model's temperature."""
        c = self.config
        self.build_critics()
        self.optimizer("actor", self.actor, c.actor_learning_rate)
        self.optimizer("balance", self.balance, c.balance_learning_rate)
        self.log_temperature = Scalar()
        self.optimizer("temperature", self.log_temperature, c.temperature_learning_rate)

    def actor_loss(self, batch: Batch, advantage: Tensor) -> tuple[Tensor, Metrics]:
        """Return -E[min(exp(β A), limit) log π(a | s, β)] with a β for each row; as released, A meets every row's β."""
        beta = self.policy_beta(batch)
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
        if step % self.config.on_base("balance_every") == 0:
            balance = self.balance(batch.observation)
            losses["balance"] = partial(self.balance_loss, balance=balance)
            losses["temperature"] = partial(self.temperature_loss, balance=balance)
        return losses


class OnCQL(FamO2O, cql.CQL):
    """FamO2O on CQL."""

    def build_policy(self) -> None:
        """Make the universal policy and the balance model."""
        size, hidden_dims = self.observation_size, self.config.hidden_dims
        self.actor = SquashedGaussianActor(size + EMBEDDING_SIZE, self.action_size, hidden_dims)
        self.build_balance(SquashedGaussianActor(size, 1, hidden_dims))

    def build_learner(self) -> None:
        """Make CQL's critics and the policy's temperature."""
        super().build_learner()
        self.optimizer("balance", self.balance, self.config.balance_learning_rate)

    def draws(self) -> dict[str, Draw]:
        """Ask for the noise of the next states' balances as well."""
        return {**super().draws(), "next_balance": Normal(1)}

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
        beta = self.policy_beta(batch)
        here = self.actor(with_balance(batch.observation, beta))
        losses = self.losses_of(batch, here, self.next_policy(batch), q_weight=beta)
        if step % self.config.on_base("balance_every") == 0:
            losses["balance"] = self.balance_loss
        return losses
