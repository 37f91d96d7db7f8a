"""The lower level: IQL or TD3+BC, which also says how likely its policy makes recorded actions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from offline_rl.agent import Metrics, NestedConfig
from offline_rl.algos import iql, td3_bc
from offline_rl.networks import LayerNorm
from offline_rl.settings import NonNegative

RATIO_LIMIT = 5.0
"""Where a step's log-ratio β (Q - V) is cut, either side."""


@dataclass(frozen=True)
class OnIQL(NestedConfig, iql.Config):
    """Settings of IQL as the lower level: what it would do with rewards is no option, for PARL decides them."""

    kind: ClassVar[str] = "iql"
    scale_rewards: bool = field(init=False, default=False)
    scale_fragment: bool = field(init=False, default=True)
    reward_shift: float = field(init=False, default=0.0)
    exploration_noise: NonNegative = field(init=False, default=0.0)


@dataclass(frozen=True)
class OnTD3BC(NestedConfig, td3_bc.Config):
    """Settings of TD3+BC as the lower level; rewards are PARL's, and exploring is not asked for.

    Its critics are plain: the upper level differentiates through a step of theirs.
    """

    kind: ClassVar[str] = "td3_bc"
    reward_scale: float = field(init=False, default=1.0)
    reward_shift: float = field(init=False, default=0.0)
    exploration_noise: NonNegative = field(init=False, default=0.0)
    critic_layer_norm: LayerNorm = field(init=False, default="none")


class LowerIQL(iql.IQL):
    """IQL, unchanged; it remembers the weights of its last update."""

    weight: Tensor

    def weights(self, exponent: Tensor) -> tuple[Tensor, Metrics]:
        """Return IQL's weights, and remember them ``(B,)``."""
        self.weight, metrics = super().weights(exponent)
        return self.weight, metrics

    @torch.no_grad()
    def advantage(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return min_i Q'_i(s, a) - V(s) ``(B,)``, that of the policy's weights."""
        q: Tensor = self.target_critic(observation, action.clamp(-iql.ACTION_LIMIT, iql.ACTION_LIMIT)).amin(0)
        return q - self.value(observation)  # type: ignore[no-any-return]

    def log_ratio(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return log π(a | s) / μ(a | s) ``(B,)`` of the policy that the weights ask for: β (Q - V), cut to ±5."""
        return (self.config.beta * self.advantage(observation, action)).clamp(-RATIO_LIMIT, RATIO_LIMIT)

    @torch.no_grad()
    def sampled(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return actions ``(B, A)`` of the policy; one without noise gives its only one."""
        return self.policy(observation) if self.config.deterministic else self.explore(observation, noise)


class LowerTD3BC(td3_bc.TD3BC):
    """TD3+BC, unchanged.

    Attributes:
        spread: σ_w², a number: the median squared residual of recorded actions, once :meth:`measure` was called.
    """

    def build_learner(self) -> None:
        """Make TD3+BC's networks, and σ_w²."""
        super().build_learner()
        self.spread = torch.ones((), device=self.device, dtype=self.dtype)

    @torch.no_grad()
    def residual(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return ‖π(s) - a‖² / A ``(B,)``."""
        return (self.actor(observation) - action).square().mean(1)  # type: ignore[no-any-return]

    def measure(self, observation: Tensor, action: Tensor) -> None:
        """Set σ_w² to the median over recorded actions."""
        self.spread.copy_(self.residual(observation, action).median().clamp_min(1e-6))

    def log_ratio(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return -‖π(s) - a‖² / (2 σ_w² A) ``(B,)``."""
        return -self.residual(observation, action) / (2 * self.spread)

    def training_state(self) -> dict[str, Tensor]:
        """Return TD3+BC's state, and σ_w²."""
        return super().training_state() | {"spread": self.spread}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Put it back."""
        super().load_training_state(state)
        self.spread.copy_(state["spread"])


Lower = LowerIQL | LowerTD3BC


def lower_level(config: OnIQL | OnTD3BC, *sizes: int, **options: Any) -> Lower:
    """Make the lower level of these settings; it takes rewards as they are."""
    if isinstance(config, OnIQL):
        return LowerIQL(config, *sizes, **options)
    return LowerTD3BC(config, *sizes, **options)
