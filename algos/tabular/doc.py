r"""Dichotomy of Control on tables: the objective of ``algos/doc/`` with no network, no sample and no inner loop.

Paper: Sherry Yang, Dale Schuurmans, Pieter Abbeel, Ofir Nachum. Dichotomy of Control: Separating What You Can Control
from What You Cannot. ICLR 2023, arXiv 2210.13435. Authors' code: folder ``dichotomy_of_control`` of
github.com/google-research/google-research.

Every distinct trajectory n of the data, of frequency w_n, has a table row q(z | n). Given q, the best policy, energy,
value and prior are ratios of counts; what is left is a smooth function of q alone:

    min_q  E[-Σ_t log π(a_t | s_t, z)] + β E_f,     E_f = E[Σ_t log p(o_t | s_t, a_t, z) / ρ(o_t)],

o_t being the reward, the next state and whether the episode ended, and ρ its frequency among all steps.

Deviations from the authors' code: there the encoder *lowers* -E_f, the wrong sign, so z collects luck; its value shapes
q; its choice runs over latents that never occur; and its constraint knows the reward only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offline_rl.agent import ParameterGroup
from offline_rl.draws import Stream
from offline_rl.envs.finite import Episodes, FiniteProblem


@dataclass(frozen=True)
class Config:
    """Settings of tabular DoC."""

    latents: int = 4
    """Number of values that z can take."""
    beta: float = 1.0
    """Weight of the constraint; a negative one is the authors' code's mistake."""
    learning_rate: float = 0.05
    """Adam's learning rate."""
    steps: int = 1500
    """Steps of the optimisation, each over all data."""
    least_mass: float = 0.01
    """Latents that the prior gives less probability are not chosen."""
    reward_only: bool = False
    """Ablation: the constraint forgets the next state, and luck that is only to be seen there is taken for skill."""


class Counts:
    """The distinct trajectories of some episodes, and what happens in them.

    All methods take q as ``(..., N, Z)``, a distribution of z for each of N trajectories.

    Args:
        problem: Whose episodes.
        episodes: The data.
        reward_only: Outcomes are rewards alone.

    Attributes:
        weight: ``(N,)``, w_n.
        returns: ``(N,)``.
        start: ``(N,)``, first states.
    """

    def __init__(self, problem: FiniteProblem, episodes: Episodes, reward_only: bool = False) -> None:
        self.state_count, self.action_count = problem.state_count, problem.action_count
        whole = np.concatenate(list(vars(episodes).values()), axis=1, dtype=np.float64)
        _, first, count = np.unique(whole, axis=0, return_index=True, return_counts=True)
        self.weight = torch.from_numpy(count / count.sum())
        self.returns = torch.from_numpy(episodes.returns[first])
        self.start = torch.from_numpy(episodes.state[first, 0])
        trajectory, time = np.nonzero(episodes.mask[first])
        state, action, *outcome = (
            vars(episodes)[name][first][trajectory, time]
            for name in ("state", "action", "reward", *(() if reward_only else ("next_state", "terminated")))
        )
        step_weight = self.weight.numpy()[trajectory]
        _, outcome_number = np.unique(np.stack(outcome, 1), axis=0, return_inverse=True)
        pair = state * self.action_count + action
        triples, triple = np.unique(np.stack([pair, outcome_number], 1), axis=0, return_inverse=True)
        visits = np.zeros((len(first), len(triples)))
        np.add.at(visits, (trajectory, triple), step_weight)
        frequency = np.bincount(outcome_number, step_weight) / step_weight.sum()
        self._visits = torch.from_numpy(visits)
        self._pair = torch.from_numpy(triples[:, 0])
        self._log_frequency = torch.from_numpy(np.log(frequency)[triples[:, 1]])

    def policy_loss(self, q: Tensor) -> Tensor:
        """Return E[-Σ_t log π(a_t | s_t, z)] ``(...)`` of the best policy, in nats."""
        pairs = self._pairs(self._triples(q))
        return _log_product(pairs.sum(-2)).sum((-2, -1)) - _log_product(pairs).sum((-3, -2, -1))

    def energy(self, q: Tensor) -> Tensor:
        """Return E_f ``(...)`` of the best energy, in nats: what s, a and z together say of the outcome."""
        triples = self._triples(q)
        known = _log_product(triples).sum((-2, -1)) - _log_product(self._pairs(triples)).sum((-3, -2, -1))
        return known - (triples.sum(-1) * self._log_frequency).sum(-1)

    def floor(self) -> Tensor:
        """Return E_f of a z that knows nothing, the least there is: what s and a alone say of the outcome."""
        return self.energy(torch.ones(len(self.weight), 1, dtype=torch.float64))

    def information(self, q: Tensor) -> Tensor:
        """Return MI(o; z | s, a) ``(...)`` in nats, summed over an episode's steps: what the constraint makes 0."""
        return self.energy(q) - self.floor()

    def policy(self, q: Tensor) -> Tensor:
        """Return π(a | s, z) ``(..., Z, S, A)``; even where the data never goes."""
        pairs = self._pairs(self._triples(q)).movedim(-1, -3)
        total = pairs.sum(-1, keepdim=True)
        return torch.where(total > 1e-12, pairs / total.clamp_min(1e-12), 1 / self.action_count)

    def prior(self, q: Tensor, start: int) -> Tensor:
        """Return p(z | s_0) ``(..., Z)``."""
        mass = ((self.weight * (self.start == start))[:, None] * q).sum(-2)
        return mass / mass.sum(-1, keepdim=True)

    def value(self, q: Tensor, start: int) -> Tensor:
        """Return V(s_0, z) ``(..., Z)``, the mean return of the trajectories behind each z."""
        weight = (self.weight * (self.start == start))[:, None] * q
        return (weight * self.returns[:, None]).sum(-2) / weight.sum(-2).clamp_min(1e-12)

    def _triples(self, q: Tensor) -> Tensor:
        """Return how often each (s, a, o) meets each z, ``(..., U, Z)``."""
        return self._visits.T @ q

    def _pairs(self, triples: Tensor) -> Tensor:
        """Return how often each (s, a) meets each z, ``(..., S, A, Z)``."""
        shape = *triples.shape[:-2], self.state_count * self.action_count, triples.shape[-1]
        pairs = torch.zeros(shape, dtype=triples.dtype).index_add(-2, self._pair, triples)
        return pairs.view(*shape[:-2], self.state_count, self.action_count, shape[-1])


@dataclass(frozen=True)
class Solution:
    """What one seed came to.

    Attributes:
        counts: The data.
        posterior: q(z | n), ``(N, Z)``.
        least_mass: Latents of less prior probability are not chosen.
    """

    counts: Counts
    posterior: Tensor
    least_mass: float

    @cached_property
    def policies(self) -> NDArray[np.float64]:
        """π(a | s, z), ``(Z, S, A)``."""
        return np.asarray(self.counts.policy(self.posterior).numpy())

    def candidates(self, start: int = 0) -> dict[int, float]:
        """Return V(s_0, z) of each z that the prior knows: the return it promises."""
        mass, value = self.counts.prior(self.posterior, start), self.counts.value(self.posterior, start)
        return {z: float(value[z]) for z in range(len(mass)) if mass[z] > self.least_mass}

    def chosen(self, start: int = 0) -> int:
        """Return z*, the latent of the highest promise."""
        candidates = self.candidates(start)
        return max(candidates, key=candidates.__getitem__)


def solve(
    problem: FiniteProblem, episodes: Episodes, config: Config, seeds: Sequence[int], logits: Tensor | None = None
) -> list[Solution]:
    """Minimise the objective, for all seeds at once.

    Args:
        problem: Whose episodes.
        episodes: The data.
        config: The settings.
        seeds: Each decides the table it begins with, of N(0, 1).
        logits: ``(N, Z)``, the table that all begin with instead.

    Returns:
        One solution for each seed.
    """
    counts = Counts(problem, episodes, config.reward_only)
    shape = len(counts.weight), config.latents
    drawn = [torch.from_numpy(Stream(seed, "init/posterior").at(0).standard_normal(shape)) for seed in seeds]
    table = nn.ParameterList([torch.stack(drawn) if logits is None else logits.double().repeat(len(seeds), 1, 1)])
    group = ParameterGroup(table, config.learning_rate)
    for _ in range(config.steps):
        q = table[0].softmax(-1)
        loss = counts.policy_loss(q) + config.beta * counts.energy(q)
        group.step(torch.autograd.grad(loss.sum(), group.parameters))
    posterior = table[0].detach().softmax(-1)
    return [Solution(counts, q, config.least_mass) for q in posterior]


def return_conditioned(problem: FiniteProblem, episodes: Episodes, target: float) -> NDArray[np.float64]:
    """Return π(a | s, R = target) ``(S, A)``: imitation of the episodes with this return; even where there are none."""
    return _imitated(problem, episodes, episodes.returns == target)


def cloned(problem: FiniteProblem, episodes: Episodes) -> NDArray[np.float64]:
    """Return π(a | s) ``(S, A)``: imitation of all episodes; even where there are none."""
    return _imitated(problem, episodes, np.ones(len(episodes.returns), bool))


def _imitated(problem: FiniteProblem, episodes: Episodes, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    mask = episodes.mask & kept[:, None]
    counts = np.zeros((problem.state_count, problem.action_count))
    np.add.at(counts, (episodes.state[mask], episodes.action[mask]), 1.0)
    total = counts.sum(1, keepdims=True)
    return np.asarray(np.where(total > 0, counts / np.maximum(total, 1), 1 / problem.action_count))


def _log_product(x: Tensor) -> Tensor:
    """Return x log x, 0 at 0."""
    return torch.xlogy(x, x.clamp_min(1e-300))
