r"""Fitted Q evaluation: critics that learn Q^π from recorded rows.

Le, Voloshin, Yue (2019), "Batch Policy Learning under Constraints", arXiv 1903.08738, with a slowly moving target
network instead of rounds of regression. Critic k minimises, over rows (s, a, r, d, s') of episodes e,

    E[w_ke (Q_k(s, a) - y_k)²],   y_k = r + γ (1 - d) Q'_k(s', π(s')),

d being 1 where the episode truly ended: a time limit bootstraps. The weights w_ke ~ Exp(1) are a Bayesian bootstrap of
whole episodes, because rows of one episode depend on each other, and weigh the start states likewise:

    V_k = Σ_e w_ke Q_k(s_e0, π(s_e0)) / Σ_e w_ke.

The critics learn (Q - m) / σ, with m and σ the mean and the deviation of the recorded returns-to-go. The solution is
the same, and what a critic begins with is the data's own mean. They see each entry of an observation less its mean over
the rows, divided by its standard deviation, whatever the agent sees: one that learned from raw units may have entries
of very different size.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from offline_rl.agent import Adam, ParameterGroup, Target
from offline_rl.agent.optimizer import flatten
from offline_rl.draws import Stream
from offline_rl.estimation.log import FloatArray, Log, Policy, blocks
from offline_rl.estimation.options import EstimateOptions
from offline_rl.networks import Critic

SAMPLES = 16
"""Actions of a random policy over which a state's value is a mean."""
PASSES = 8.0
"""How many time constants of the target network the updates last, by default: what is left of a wrong start is e⁻⁸."""
SLOWEST, FASTEST = 0.005, 0.5
"""Bounds of the default target rate."""


def horizon_of(log: Log, discount: float) -> float:
    """Return over how many steps a value is summed: 1 / (1 - γ), or the length of episodes where that is less."""
    return min(1 / max(1 - discount, 1e-9), float(log.lengths.mean()))


def target_rate(options: EstimateOptions, horizon: float) -> float:
    """Return the rate τ at which targets follow the critics.

    The mean of Q moves towards its solution with the time constant h / τ updates, h being the horizon.
    """
    if options.target_rate is not None:
        return options.target_rate
    return float(np.clip(PASSES * horizon / options.updates, SLOWEST, FASTEST))


class FittedQ:
    """An ensemble of critics under way.

    Args:
        log: The recorded episodes.
        policy: Whose value they learn.
        discounts: For each γ there are ``options.members`` critics, with the same bootstrap samples.
        options: How they learn.

    Attributes:
        update: Gradient steps made.
        passes: For each γ, how many time constants of the target network all updates last.
    """

    def __init__(self, log: Log, policy: Policy, discounts: Sequence[float], options: EstimateOptions) -> None:
        self._log, self._policy, self._options = log, policy, options
        self._device = log.rows.device
        self.update = 0
        count = len(discounts) * options.members
        self.bootstrap = log.bootstrap(options.members, options.seed)
        self._weights = self._tensor(np.tile(self.bootstrap, (len(discounts), 1)))
        self._episode = torch.from_numpy(log.episode).to(self._device)
        self._discount = self._tensor(np.repeat(discounts, options.members))[:, None]
        units = [_unit(log, discount) for discount in discounts]
        self._center, self._scale = (
            self._tensor(np.repeat(values, options.members))[:, None] for values in zip(*units, strict=True)
        )
        self._mean, self._spread = map(self._tensor, log.moments)
        columns = log.columns
        sizes = columns.observation.shape[1], columns.action.shape[1]
        self.critic = Critic(*sizes, options.hidden_dims, count).to(self._device)
        self.critic.initialize(Stream(options.seed, "estimate/init").at(0))
        self._group = ParameterGroup(self.critic, Adam(options.learning_rate, decay_steps=options.updates))
        target = Critic(*sizes, options.hidden_dims, count).to(self._device).requires_grad_(False)
        target.load_state_dict(self.critic.state_dict())
        self._target = Target(target, flatten(target), self._group.flat)
        horizons = [horizon_of(log, discount) for discount in discounts]
        self._rate = target_rate(options, max(horizons))
        self.passes = [self._rate * options.updates / horizon for horizon in horizons]
        self._rows = Stream(options.seed, "estimate/index")
        self._noise = Stream(options.seed, "estimate/noise")
        # A policy without chance answers the same each time: once for all rows.
        self._next_action = None if policy.random else policy.act_on_all(columns.next_observation, self._noise)

    def run(self, until: int) -> None:
        """Make the gradient steps up to and including number ``until``."""
        for step in range(self.update + 1, until + 1):
            self._step(step)
        self.update = max(self.update, until)

    def _step(self, step: int) -> None:
        rows = self._rows.at(step).integers(len(self._log.rows), size=self._options.batch_size)
        index = torch.from_numpy(rows).to(self._device)
        batch = self._log.rows.columns(index)
        if self._next_action is None:
            noise = self._policy.noise(self._noise, step, len(index), self._device)
            action = self._policy.act(batch.next_observation, noise)
        else:
            action = self._next_action.index_select(0, index)
        target = self.target_of(batch.reward, batch.terminated, batch.next_observation, action)
        weight = self._weights.index_select(1, self._episode.index_select(0, index))
        error = self.critic(self._seen(batch.observation), batch.action) - target
        self._group.step(self._group.gradients((weight * error.square()).mean(1).sum()))
        self._target.track(self._rate)

    @torch.no_grad()
    def target_of(self, reward: Tensor, terminated: Tensor, next_observation: Tensor, action: Tensor) -> Tensor:
        """Return what each critic's output should be, ``(count, B)``."""
        later: Tensor = self._center + self._scale * self._target.network(self._seen(next_observation), action)
        target: Tensor = (reward + self._discount * (1 - terminated) * later - self._center) / self._scale
        return target

    @torch.no_grad()
    def q(self, observation: Tensor, action: Tensor) -> FloatArray:
        """Return each critic's Q ``(count, N)`` of the agent's observations and actions, in units of reward."""
        parts = [self.critic(self._seen(observation[part]), action[part]) for part in blocks(len(observation))]
        return (self._center + self._scale * torch.cat(parts, 1)).cpu().double().numpy()

    def state_values(self, observation: Tensor) -> FloatArray:
        """Return each critic's V ``(count, N)``: Q of the policy's action, or the mean over several of a random one."""
        several = SAMPLES if self._policy.random else 1
        total = np.zeros((len(self._discount), len(observation)))
        for sample in range(several):
            stream = Stream(self._options.seed, f"estimate/value/{sample}")
            total += self.q(observation, self._policy.act_on_all(observation, stream))
        return total / several

    def values(self) -> FloatArray:
        """Return each critic's estimate ``(discounts, members)`` of the policy's value."""
        starts = torch.from_numpy(self._log.starts.copy()).to(self._device)
        observation = self._log.columns.observation.index_select(0, starts)
        found = self.state_values(observation).reshape(-1, *self.bootstrap.shape)
        mean: FloatArray = (self.bootstrap * found).sum(-1) / self.bootstrap.sum(-1)
        return mean

    def state(self) -> dict[str, Tensor]:
        """Return all that continuing exactly needs."""
        return {**self._group.state(), "target": self._target.flat}

    def load_state(self, state: Mapping[str, Tensor], update: int) -> None:
        """Put back what :meth:`state` returned after so many updates."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        self.update = update

    def _seen(self, observation: Tensor) -> Tensor:
        """Return what critics see ``(N, O)`` of observations as the agent sees them."""
        return (observation - self._mean) / self._spread

    def _tensor(self, values: FloatArray) -> Tensor:
        return torch.from_numpy(np.asarray(values, np.float32)).to(self._device)


def _unit(log: Log, discount: float) -> tuple[float, float]:
    """Return mean and deviation of the returns-to-go; 1 for the deviation of what does not vary."""
    returns = log.returns_to_go(discount)
    spread = float(returns.std())
    return float(returns.mean()), spread if spread > 1e-6 * max(1.0, float(np.abs(returns).max())) else 1.0
