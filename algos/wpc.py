r"""wPC: weighted policy constraints.

Paper: Zhiyong Peng, Changlin Han, Yadong Liu, Zongtan Zhou. Weighted Policy Constraints for Offline Reinforcement
Learning. AAAI 2023, doi 10.1609/aaai.v37i8.26130. Authors' code: github.com/qsa-fox/wPC, revision c07bae6.

wPC is TD3+BC whose policy is pulled only to actions of the dataset that are desirable, those with Q₁(s, a) > V(s). The
weight of the authors' code is this one, 1 or 0.

Deviations from the authors' code: none in the numbers. As there, the comparison is strict and has Q₁ from after the
critics' update and V from before its own; V learns the critics' target; the mean runs over all rows, desirable or not.
V steps after the actor here and before it there, which changes nothing, since the comparison has V from before.

Not verified: no score of the paper has been reproduced yet. Of the paper only the abstract was at hand, so not whether
it has other weights besides, or settings of its own for single tasks; the authors' script has one setting for all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from offline_rl.agent import About, Batch, Metrics
from offline_rl.algos import td3_bc
from offline_rl.networks import Value
from offline_rl.settings import Positive


@dataclass(frozen=True)
class Config(td3_bc.Config):
    """Settings of wPC; the defaults are the authors'."""

    value_learning_rate: Positive = 3e-4
    """Adam's learning rate for V."""


class WPC(td3_bc.TD3BC):
    r"""min_π  -λ E[Q₁(s, π(s))] + E[w (π(s) - a)²],   w = 1{Q₁(s, a) > V(s)},   λ = α / E|Q₁(s, π(s))|.

    The critics minimise what TD3+BC's do, with target y, and V minimises E[(V(s) - y)²].
    """

    name = "wpc"
    about = About(
        method="TD3+BC, pulled only to actions that are better than the state's value",
        use_when="if TD3+BC works, but many actions of the data are bad; cheaper than A2PR",
        paper="Peng et al. 2023",
    )
    config_class = Config
    stackable_settings = (*td3_bc.TD3BC.stackable_settings, "value_learning_rate")
    config: Config

    def build_learner(self) -> None:
        """Make what TD3+BC makes, and V."""
        super().build_learner()
        self.value = Value(self.observation_size, self.config.hidden_dims)
        self.optimizer("value", self.value, self.config.value_learning_rate)

    def value_loss(self, batch: Batch, target: Tensor) -> tuple[Tensor, Metrics]:
        """Return E[(V(s) - y)²] for the critics' target y ``(B,)``."""
        value = self.value(batch.observation)
        return (value - target).square().mean(), {"value": value.detach().mean()}

    def reference_action(self, batch: Batch, action: Tensor) -> tuple[Tensor, Metrics]:
        """Return the dataset's action where it is desirable and else the policy's own, which pulls nowhere."""
        desirable = self.desirable(batch)
        reference = torch.where(desirable[:, None], batch.action, action.detach())
        return reference, {"desirable": desirable.to(self.dtype).mean()}

    @torch.no_grad()
    def desirable(self, batch: Batch) -> Tensor:
        """Say of which rows ``(B,)`` the action is better than the state: Q₁(s, a) > V(s)."""
        q = self.critic.frozen(batch.observation, batch.action, count=1)[0]
        better: Tensor = q > self.value(batch.observation)
        return better

    def update(self, batch: Batch, step: int) -> Metrics:
        """Update as TD3+BC does, then V, which the actor sees as it was before."""
        target = self.critic_target(batch)
        metrics = self.minimize(batch, critic=partial(self.critic_error, target=target))
        if step % self.config.policy_delay == 0:
            metrics |= self.minimize(batch, actor=self.actor_loss)
            self.track_targets(self.config.target_rate)
        return metrics | self.minimize(batch, value=partial(self.value_loss, target=target))

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """The authors' script (main.py) has one setting, the defaults, for its twelve locomotion datasets."""
