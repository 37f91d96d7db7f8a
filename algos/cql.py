r"""CQL: conservative Q-learning.

Paper: Aviral Kumar, Aurick Zhou, George Tucker, Sergey Levine. Conservative Q-Learning for Offline Reinforcement
Learning. NeurIPS 2020, arXiv 2006.04779. Code followed: github.com/young-geng/JaxCQL, on which FamO2O's authors build.

This is CQL(H) on the soft actor-critic of ``algos/sac.py`` with a fixed weight: no dual ascent, no cut of the
conservative term, no entropy in the critics' target, and importance weights for the sampled actions. All losses are
differentiated at the parameters from before the update, then all step together, as there.

Deviation from that code: actions collected online are cut like the dataset's.

Not verified: no score has been reproduced yet. CORL's published scores are of other settings: three hidden layers,
normalised states, weight 10, learning rates of 3e-5 for policy and temperature; and of two things that no option gives,
initial weights (orthogonal critics, the policy PyTorch's with a small last layer) and actions that are not cut. Its
update is this one. Its settings are no presets here; the page has them as options. JaxCQL's runs have 2 M updates.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from offline_rl.agent import About, AgentConfig, Batch, Draw, Loss, Metrics, Normal, Uniform
from offline_rl.algos import sac
from offline_rl.networks import SquashedGaussian
from offline_rl.settings import Count, NonNegative

ACTION_LIMIT = 0.999
"""Where the actions of a batch are cut, as in JaxCQL."""


@dataclass(frozen=True)
class Config(sac.Config):
    """Settings of CQL; the defaults are JaxCQL's for locomotion."""

    conservative_weight: NonNegative = 5.0
    """Weight α of the conservative term against the squared error; the more, the lower the values outside the data."""
    num_actions: Count = 10
    """Sampled actions of each kind (uniform, the policy's, the policy's in the next state) in the conservative term."""


class CQL(sac.SAC):
    r"""max_π  E[min_i Q_i(s, a) - η log π(a | s)], a ~ π(s), with a temperature η that keeps the entropy at -A.

    The critics minimise Σ_i E[(Q_i(s, a) - y)² + α (log ∫ exp Q_i(s, ·) - Q_i(s, a))] (paper, equation 4), with
    y = r + γ (1 - d) min_i Q'_i(s', a'), a' ~ π(s'), and the integral estimated from sampled actions.
    """

    name = "cql"
    about = About(
        method="soft actor-critic with lower values outside the data",
        use_when="if values must be cautious, and time allows",
        paper="Kumar et al. 2020, arXiv 2006.04779",
    )
    config_class: ClassVar[type[AgentConfig]] = Config
    stackable_settings = (*sac.SAC.stackable_settings, "conservative_weight")
    config: Config

    def draws(self) -> dict[str, Draw]:
        """Ask for the noise of the policy's loss, of the target, and of the three kinds of sampled actions."""
        many = self.config.num_actions * self.action_size
        return {**super().draws(), "random": Uniform(many), "current": Normal(many), "next": Normal(many)}

    def transformed(self, batch: Batch) -> Batch:
        """Return the batch with scaled and shifted rewards, and actions that a tanh can reach."""
        batch = super().transformed(batch)
        return dataclasses.replace(batch, action=batch.action.clamp(-ACTION_LIMIT, ACTION_LIMIT))

    @torch.no_grad()
    def critic_target(self, batch: Batch, there: SquashedGaussian) -> Tensor:
        """Return y ``(B,)`` for the policy ``there``, in the next states."""
        action, _ = there.sample(batch.draws["target"])
        value: Tensor = self.target_critic(batch.next_observation, action).amin(0)
        return batch.reward + self.config.discount * (1 - batch.terminated) * value

    @torch.no_grad()
    def sampled_actions(self, batch: Batch, here: SquashedGaussian, there: SquashedGaussian) -> tuple[Tensor, Tensor]:
        """Return actions ``(3 K, B, A)`` for the conservative term, and their log-densities ``(3 K, B)``."""
        shape = len(batch.reward), self.config.num_actions, self.action_size
        random, current, following = (
            batch.draws[name].view(shape).movedim(1, 0) for name in ("random", "current", "next")
        )
        uniform = random.new_full(random.shape[:2], -self.action_size * math.log(2))
        kinds = ((2 * random - 1, uniform), there.sample(following), here.sample(current))
        actions, log_densities = zip(*kinds, strict=True)
        return torch.cat(actions), torch.cat(log_densities)

    def conservative_loss(
        self, batch: Batch, target: Tensor, actions: Tensor, log_densities: Tensor
    ) -> tuple[Tensor, Metrics]:
        """Return Σ_i E[(Q_i(s, a) - y)² + α (log Σ exp(Q_i(s, ã) - log density(ã)) - Q_i(s, a))]."""
        candidates = torch.cat((batch.action[None], actions))
        count = len(candidates)
        values = self.critic(batch.observation.repeat(count, 1), candidates.flatten(0, 1)).unflatten(1, (count, -1))
        q = values[:, 0]
        gap = (values[:, 1:] - log_densities).logsumexp(1) - q
        loss = ((q - target).square() + self.config.conservative_weight * gap).mean(1).sum()
        return loss, {"q": q.detach().amin(0).mean(), "conservative_gap": gap.detach().mean()}

    def critic_loss_of(self, batch: Batch, here: SquashedGaussian, there: SquashedGaussian) -> Loss:
        """Return the critics' loss for the policy ``here``, in the states, and ``there``, in the next ones."""
        actions, log_densities = self.sampled_actions(batch, here, there)
        target = self.critic_target(batch, there)
        return partial(self.conservative_loss, target=target, actions=actions, log_densities=log_densities)

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """JaxCQL uses one setting, the defaults, for all locomotion tasks."""
