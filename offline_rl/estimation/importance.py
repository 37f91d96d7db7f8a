r"""Importance sampling, for a policy whose density is known, with a fitted policy of the data.

Weights are products of ρ_t = π(a_t | s_t) / b(a_t | s_t) along an episode, w_t = Π_{i ≤ t} ρ_i, and are normalised over
the episodes at each step t. Per-decision weighted importance sampling (Precup, Sutton, Singh, 2000) is

    V = Σ_t γ^t Σ_e w̃_t^e r_t^e,   w̃_t^e = w_t^e / Σ_e' w_t^e',

and weighted doubly robust (Thomas and Brunskill, 2016, arXiv 1604.00923) is

    V = Σ_t γ^t Σ_e (w̃_t^e (r_t^e - Q(s_t^e, a_t^e)) + w̃_{t-1}^e V(s_t^e)).

An episode that ended in a terminal state keeps its last weight and earns nothing more. One that was cut leaves the sums
of the first estimator after its last row; for the second V of the state it was cut in stands for the rest.

The data's policy b is a normal distribution whose mean and deviation are one small network's, fitted by maximum
likelihood to all rows. Where its fit is wrong, so are the weights.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from offline_rl.agent import Adam, Agent, ParameterGroup
from offline_rl.draws import Stream
from offline_rl.estimation.log import FloatArray, Log, blocks
from offline_rl.networks.gaussian import log_likelihood
from offline_rl.networks.mlp import MLP

HIDDEN, UPDATES, BATCH, RATE = (64, 64), 2000, 256, 1e-3
"""The fitted policy's network and its training."""
LOG_STD = -5.0, 2.0
"""Where the fitted log-deviation is cut."""


class Behaviour:
    """The policy that made the data, as it was fitted to it.

    Args:
        log: The recorded episodes.
        seed: Decides initial weights and batches.
        updates: Gradient steps.
    """

    def __init__(self, log: Log, seed: int, updates: int) -> None:
        columns, device = log.columns, log.rows.device
        self._network = MLP(columns.observation.shape[1], 2 * columns.action.shape[1], HIDDEN).to(device)
        self._network.initialize(Stream(seed, "estimate/behaviour/init").at(0))
        group = ParameterGroup(self._network, Adam(RATE, decay_steps=updates))
        stream = Stream(seed, "estimate/behaviour/index")
        for step in range(1, updates + 1):
            index = torch.from_numpy(stream.at(step).integers(len(log.rows), size=BATCH)).to(device)
            batch = log.rows.columns(index)
            group.step(group.gradients(-self._log_density(batch.observation, batch.action).mean()))

    def _log_density(self, observation: Tensor, action: Tensor) -> Tensor:
        mean, log_std = self._network(observation)[0].chunk(2, 1)
        log_std = log_std.clamp(*LOG_STD)
        return log_likelihood((action - mean) / log_std.exp(), log_std)

    @torch.no_grad()
    def log_density(self, observation: Tensor, action: Tensor) -> FloatArray:
        """Return log b(a | s) ``(N,)``."""
        parts = [self._log_density(observation[part], action[part]) for part in blocks(len(observation))]
        return torch.cat(parts).cpu().double().numpy()


@dataclass(frozen=True, eq=False)
class Steps:
    """Recorded steps as importance weights need them.

    Attributes:
        bounds: ``(E + 1,)``; rows of episode e are ``bounds[e]:bounds[e + 1]``.
        ended: ``(E,)``, whether an episode ended in a terminal state.
        reward: ``(N,)``.
        log_ratio: ``(N,)``, log ρ.
        q: ``(N,)``, Q of the recorded action.
        v: ``(N,)``, V of the state.
        v_cut: ``(E,)``, V of the state in which an episode was cut; unused where it ended.
    """

    bounds: np.ndarray
    ended: np.ndarray
    reward: FloatArray
    log_ratio: FloatArray
    q: FloatArray
    v: FloatArray
    v_cut: FloatArray


@dataclass(frozen=True, eq=False)
class Weighted:
    """What importance weights come to, for R bootstrap samples of the episodes.

    Attributes:
        per_decision: ``(R,)``.
        doubly_robust: ``(R,)``.
        effective_episodes: ``(R,)``.
    """

    per_decision: FloatArray
    doubly_robust: FloatArray
    effective_episodes: FloatArray


def weighted(steps: Steps, discount: float, bootstrap: FloatArray) -> Weighted:
    """Return both estimates, for weights ``(R, E)`` of the episodes.

    Weights are kept as logarithms and divided by the largest of a step, so that products of any length are computed.
    """
    lengths, size = np.diff(steps.bounds), len(bootstrap)
    log_weight = np.zeros(len(lengths))
    before, before_sum = np.ones(len(lengths)), bootstrap.sum(1)
    direct, robust, effective, total = np.zeros(size), np.zeros(size), np.zeros(size), 0.0
    for step in range(int(lengths.max()) + 1):
        # What was cut before this step leaves the one estimate, and counts by its last state's value in the other.
        cut = (lengths == step) & ~steps.ended
        robust += discount**step * (bootstrap @ np.where(cut, before * steps.v_cut, 0.0)) / before_sum
        alive = np.flatnonzero(lengths > step)
        if not len(alive):
            break
        row = steps.bounds[alive] + step
        robust += discount**step * (bootstrap[:, alive] @ (before[alive] * steps.v[row])) / before_sum
        log_weight[alive] += steps.log_ratio[row]
        before = np.exp(log_weight - log_weight.max())
        before_sum = bootstrap @ before
        robust += (
            discount**step * (bootstrap[:, alive] @ (before[alive] * (steps.reward[row] - steps.q[row]))) / before_sum
        )
        sampled = steps.ended | (lengths > step)
        known = np.where(sampled, np.exp(np.minimum(log_weight - log_weight[sampled].max(), 0)), 0.0)
        known_sum = bootstrap @ known
        direct += discount**step * (bootstrap[:, alive] @ (known[alive] * steps.reward[row])) / known_sum
        effective += discount**step * known_sum**2 / (bootstrap @ known**2)
        total += discount**step
    return Weighted(direct, robust, effective / total)


def bootstrap_weights(replicates: int, episodes: int, seed: int) -> FloatArray:
    """Return bootstrap weights ``(1 + replicates, E)``, of which the first are all 1: the estimate itself."""
    stream = Stream(seed, "estimate/importance")
    drawn = [stream.at(number).standard_exponential(episodes) for number in range(replicates)]
    return np.stack([np.ones(episodes), *drawn])


@torch.no_grad()
def log_density(agent: Agent, observation: Tensor, action: Tensor) -> FloatArray:
    """Return log π(a | s) ``(N,)``, block by block."""
    parts = [agent.log_density(observation[part], action[part]) for part in blocks(len(observation))]
    return torch.cat(parts).cpu().double().numpy()
