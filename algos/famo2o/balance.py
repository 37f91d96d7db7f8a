"""Balances, by which the policies of FamO2O's family differ: the model that picks them, and what policies see of them.

Paper: Shenzhi Wang et al. Train Once, Get a Family: State-Adaptive Balances for Offline-to-Online Reinforcement
Learning. NeurIPS 2023, arXiv 2310.17966. Authors' code: github.com/LeapLabTHU/FamO2O.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from offline_rl.agent import Batch, Draw, Normal, Phase, Uniform
from offline_rl.networks.gaussian import SquashedGaussian, SquashedGaussianActor
from offline_rl.networks.initializers import orthogonal

Method = TypeVar("Method", bound=Callable[..., Tensor])

EMBEDDING_SIZE = 6
"""Numbers that stand for a balance in a policy's input."""
LONGEST = 10_000.0
"""Divisors grow from 1 towards this one."""
BOUND_SHARE = 0.01
"""Part of the interval that counts as its end."""
ON_IQL: Mapping[str, Any] = {"shared_std": True, "log_std_bounds": (-10.0, 2.0), "initializer": orthogonal}
"""Of the balance model's actor on IQL: one std for all states, and how weights start."""
TARGET_ENTROPY = -0.5
"""Of x under the balance model on IQL."""

DRAWS: Mapping[str, Draw] = {
    "beta": Uniform(1),
    "online_beta": Normal(1),
    "balance": Normal(1),
    "balance_action": Normal("action"),
}
"""For β in the policy's loss offline and online, and for β and the action in the balance model's loss."""


def embedding(beta: Tensor) -> Tensor:
    """Return sines and cosines in turn ``(B, 6)`` of balances ``(B,)`` divided by 10000^(2 i / 6), i = 0, 1, 2."""
    divisors = [LONGEST ** (2 * i / EMBEDDING_SIZE) for i in range(EMBEDDING_SIZE // 2)]
    angles = torch.stack([beta / divisor for divisor in divisors], 1)
    return torch.stack((angles.sin(), angles.cos()), 2).flatten(1)


def with_balance(observation: Tensor, beta: Tensor) -> Tensor:
    """Return the input ``(B, O + 6)`` of a policy for observations ``(B, O)`` and balances ``(B,)``."""
    return torch.cat((observation, embedding(beta)), 1)


class BalanceModel(nn.Module):
    """b(β | s): x = tanh(u), u normal, and β = low + (x + 1) / 2 (high - low).

    Args:
        actor: Makes x, one number, of observations.
        low: Lower end of the interval.
        high: Upper end.
        released: Map as the released code on CQL does, β = low + x (high - low).
    """

    def __init__(self, actor: SquashedGaussianActor, low: float, high: float, *, released: bool = False) -> None:
        super().__init__()
        self.actor = actor
        self._low, self._length, self._released = low, high - low, released

    def initialize(self, generator: np.random.Generator) -> None:
        """Draw the weights from ``generator``."""
        self.actor.initialize(generator)

    def forward(self, observation: Tensor) -> SquashedGaussian:
        """Map observations ``(B, O)`` to the distributions of x ``(B, 1)``."""
        return self.actor(observation)  # type: ignore[no-any-return]

    def to_beta(self, x: Tensor) -> Tensor:
        """Map x ``(B, 1)`` in [-1, 1] to balances ``(B,)``."""
        return self.at(x if self._released else (x + 1) / 2)

    def at(self, share: Tensor) -> Tensor:
        """Map shares ``(B, 1)`` of the interval to balances ``(B,)``."""
        return self._low + share[:, 0] * self._length

    def sampled(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return balances ``(B,)`` for ``noise`` ``(B, 1)`` from N(0, 1)."""
        return self.to_beta(self(observation).sample(noise)[0])

    def chosen(self, observation: Tensor) -> Tensor:
        """Return the balances ``(B,)`` without noise."""
        return self.to_beta(self(observation).mean.tanh())

    def beside(self, observation: Tensor) -> Tensor:
        """Return the input ``(B, O + 6)`` of a policy that gets the balances without noise."""
        return with_balance(observation, self.chosen(observation))

    @torch.no_grad()
    def for_policy(self, batch: Batch, phase: Phase) -> Tensor:
        """Return the balances ``(B,)`` for which the policy learns: offline any, online those that the model picks."""
        if phase == "offline":
            return self.at(batch.draws["beta"])
        return self.sampled(batch.observation, batch.draws["online_beta"])

    @torch.no_grad()
    def metrics(self, distribution: SquashedGaussian) -> dict[str, Tensor]:
        """Describe the balances without noise of distributions, and how many lie at an end of the interval."""
        x = distribution.mean.tanh()
        beta = self.to_beta(x)
        at_bounds = (x.abs() > 1 - 2 * BOUND_SHARE).to(x.dtype).mean()
        moments = {"beta_mean": beta.mean(), "beta_std": beta.std(correction=0)}
        return moments | {"beta_min": beta.amin(), "beta_max": beta.amax(), "beta_at_bounds": at_bounds}


def for_chosen_balance(method: Method) -> Method:
    """Return ``policy`` or ``explore`` of a base, with the balance chosen without noise beside each observation."""

    @functools.wraps(method)
    def acting(agent: Any, observation: Tensor, *noise: Tensor) -> Tensor:
        return method(agent, agent.balance.beside(observation), *noise)

    return cast(Method, acting)


def balance_signals(agent: Any, observation: Tensor) -> dict[str, Tensor]:
    """Return the balances ``(B,)`` that an agent of either base chooses."""
    return {"balance": agent.balance.chosen(observation)}
