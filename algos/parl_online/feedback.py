r"""Comparisons as they come in: which segments are shown, who answers, and how the rewards follow.

A round takes new pairs of segments from the last episodes, lets the teacher answer, and fits the reward model to all
answers there are. That is the alternation of PEBBLE, with the settings of B-Pref's code [C]. A-PARL's upper steps come
after the fit:

    ν ← ν + Adam[ ∇ mean_i ℓ_i  (direct, all pairs)  +  m · min(1, χ ‖direct‖/‖dist‖) dist  (the newest pairs) ]

with ``dist`` of ``hypergradient.py``. That the newest pairs stand for the present policy, that older ones keep the
direct term alone, the limit χ and the number of steps are ours [X]. The first round has no upper steps: the policy has
not learned from rewards yet, so nothing is known of how it follows them.

Deviations from B-Pref's code: thresholds of the teachers are shares of the mean reward of a step in the last ten
episodes, not of these episodes' returns over the longest episode, and a threshold of a mean that is not positive asks
nothing; a noisy teacher's temperature is in standard deviations of the round's differences; skipped pairs are replaced.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline_rl.agent import Metrics, OptimizerGroup
from offline_rl.algos.parl.reward_learning import (
    Comparisons,
    accuracy,
    differences,
    excess,
    log_likelihood,
    member_differences,
)
from offline_rl.algos.parl_online import hypergradient as implicit
from offline_rl.draws import Stream, derived_seed
from offline_rl.networks import SquashedGaussian
from offline_rl.networks.gaussian import squashed_log_likelihood
from offline_rl.networks.reward import RewardModel
from offline_rl.preferences.experience import Experience, IntArray, first_rows
from offline_rl.preferences.segments import segment_rows
from offline_rl.preferences.teacher import Teacher, standard_teacher

if TYPE_CHECKING:
    from offline_rl.algos.parl_online.agent import Config

LAST_EPISODES = 10
"""Of which a teacher's thresholds are shares."""
CANDIDATES = 10
"""Times as many pairs as are asked for, of which those are taken on which the networks disagree most."""
TESTED_PAIRS = 200
"""Pairs of the round's episodes, not those asked, by which metrics judge the rewards."""
EPOCH_LIMIT = 10_000
"""More than the epochs of any round: the numbers of orders do not meet."""
EDGE = 1 - 1e-6
"""Where recorded actions are cut before the tanh is undone."""

DoubleArray = npt.NDArray[np.float64]


class Policy(Protocol):
    """The lower level, as the distribution term sees it."""

    def distribution(self, observation: Tensor) -> SquashedGaussian:
        """Return π ``(B, A)`` in states ``(B, O)``."""

    def temperature(self) -> Tensor:
        """Return η."""

    @property
    def parameters(self) -> list[Tensor]:
        """θ."""


class Feedback:
    """The answers so far and the rewards learned from them.

    Args:
        config: The settings.
        model: The reward model.
        group: Its optimiser.
        seed: Decides which pairs are drawn, the teacher's luck and the order of the pairs.

    Attributes:
        rounds: How many there were.
        start: ``(N, 2)`` first rows of the pairs' segments, among the agent's own.
        label: ``(N,)``, 1 for the second, 0 for the first, 1/2 for neither.
        probability: ``(N,)``, with which the teacher gives the label 1.
        newest: How many pairs are of the last round, at the end.
        fitted: Whether there are rewards to learn from.
        given: Labelled pairs that a file brought, instead of a teacher's.
    """

    def __init__(self, config: "Config", model: RewardModel, group: OptimizerGroup, seed: int) -> None:
        self._config, self._model, self._group, self._seed = config, model, group, seed
        self.rounds = self.newest = 0
        self.start: IntArray = np.zeros((0, 2), np.int64)
        self.label: DoubleArray = np.zeros(0)
        self.probability: DoubleArray = np.zeros(0)
        self.fitted = False
        self.given: Comparisons | None = None

    @property
    def asks(self) -> bool:
        """Whether another round comes."""
        return not self.fitted if self.given is not None else len(self.label) < self._config.num_labels

    def round(self, experience: Experience, policy: Policy) -> Metrics | None:
        """Ask, fit, and take A-PARL's steps; None if there are no answers yet, or no episode is long enough to ask."""
        c = self._config
        segments = experience.segments(c.segment_length, c.pool_episodes)
        if self.given is None and segments is None:
            return None
        if self.given is None:
            assert segments is not None
            asked = first_rows(segments, CANDIDATES * c.labels_per_round, self._seed, 2 * self.rounds)
            self._answer(experience, asked)
            if not len(self.label):  # the teacher has skipped all there were
                return None
        pairs = self.comparisons(experience)
        metrics = self._fit(pairs)
        if self.fitted and c.mixture and c.hyper_mode != "none" and self.newest > 1:
            metrics |= self._follow(pairs, policy)
        self.fitted = True
        self.rounds += 1
        if segments is not None:
            tested = first_rows(segments, TESTED_PAIRS, self._seed, 2 * self.rounds - 1)
            metrics |= self._judged(experience, tested)
        number = metrics["reward_loss"].new_tensor
        return metrics | {"labels": number(float(len(pairs))), "rounds": number(float(self.rounds))}

    def reward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return the mean reward ``(B,)`` of the networks."""
        mean: Tensor = self._model(observation, action).mean(0)
        return mean

    def comparisons(self, experience: Experience) -> Comparisons:
        """Return all labelled pairs, in the order in which they came."""
        if self.given is not None:
            return self.given
        return self._pairs(experience, self.start, self.label, self.probability)

    def state(self) -> dict[str, Tensor]:
        """Return what continuing needs besides networks and optimisers; the segments are rows of the replay."""
        numbers = [self.rounds, self.newest, int(self.fitted)]
        arrays = {"start": self.start, "label": self.label, "probability": self.probability}
        state = {f"feedback/{name}": torch.from_numpy(array.copy()) for name, array in arrays.items()}
        return state | {"feedback/numbers": torch.tensor(numbers)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put it back."""
        self.start, self.label, self.probability = (
            state[f"feedback/{name}"].numpy().copy() for name in ("start", "label", "probability")
        )
        self.rounds, self.newest, fitted = (int(number) for number in state["feedback/numbers"])
        self.fitted = bool(fitted)

    def _pairs(
        self, experience: Experience, start: IntArray, label: DoubleArray, probability: DoubleArray
    ) -> Comparisons:
        observation, action = experience.steps(segment_rows(start, self._config.segment_length))
        flat, dtype = self._group.flat, self._group.flat.dtype
        labels = (torch.from_numpy(array).to(flat.device, dtype) for array in (label, probability))
        return Comparisons(observation.to(dtype), action.to(dtype), *labels)

    # Who answers

    def _answer(self, experience: Experience, asked: IntArray) -> None:
        """Let the teacher label the pairs worth asking about, of those at the rows ``asked`` ``(M, 2)``."""
        c = self._config
        rewards = experience.rewards(segment_rows(asked, c.segment_length))
        mean_reward = experience.mean_reward(LAST_EPISODES)
        teacher = _able(standard_teacher(c.teacher), mean_reward)
        answered = np.flatnonzero(teacher.answers(rewards, mean_reward))
        count = min(c.labels_per_round, c.num_labels - len(self.label))
        chosen = answered[self._worth_asking(experience, asked[answered], count)]
        seed = derived_seed(self._seed, "teacher", self.rounds)
        label, probability = teacher.labels(rewards[chosen], mean_reward, seed)
        self.start = np.concatenate([self.start, asked[chosen]])
        self.label = np.concatenate([self.label, label])
        self.probability = np.concatenate([self.probability, probability])
        self.newest = len(label)

    @torch.no_grad()
    def _worth_asking(self, experience: Experience, start: IntArray, count: int) -> IntArray:
        """Return numbers of the pairs on which the networks disagree most; of the first ones as long as none knows."""
        if not self.fitted or self._config.queries == "uniform" or not len(start):
            return np.arange(min(count, len(start)))
        unknown = np.full(len(start), np.nan)
        preferred = member_differences(self._model, self._pairs(experience, start, unknown, unknown), mean=False)
        disagreement = preferred.sigmoid().std(0).cpu().numpy()
        return np.sort(np.argsort(-disagreement, kind="stable")[:count])

    # How the rewards follow

    def _fit(self, pairs: Comparisons) -> Metrics:
        """Fit every network to all pairs, each in an order of its own, until they are right or the epochs are over."""
        c, stream = self._config, Stream(self._seed, "fit")
        loss, right = pairs.label.new_zeros(()), pairs.label.new_zeros(())
        for epoch in range(c.reward_epochs):
            order = stream.at(self.rounds * EPOCH_LIMIT + epoch).random((self._model.count, len(pairs))).argsort(1)
            index = torch.from_numpy(order).to(self._group.flat.device)
            seen = []
            for part in torch.split(index, c.reward_batch, 1):
                batch = pairs.part(part)
                difference = member_differences(self._model, batch, mean=False)
                loss = -log_likelihood(difference, batch.label).mean(1).sum()
                self._group.step(self._group.gradients(loss))
                seen.append((difference.detach().flatten(), batch.label.flatten()))
            right = accuracy(*(torch.cat(column) for column in zip(*seen, strict=True)))
            if float(right) > c.reward_accuracy:
                break
        return {"reward_loss": loss.detach(), "reward_accuracy": right}

    @torch.no_grad()
    def _judged(self, experience: Experience, tested: IntArray) -> Metrics:
        """Say how often the rewards rank pairs that nobody was asked about as the true rewards do."""
        returns = experience.rewards(segment_rows(tested, self._config.segment_length)).sum(2)
        label = np.where(returns[:, 0] == returns[:, 1], 0.5, returns[:, 0] < returns[:, 1]).astype(np.float64)
        pairs = self._pairs(experience, tested, label, label)
        difference = member_differences(self._model, pairs, mean=False).mean(0)
        return {"held_out_accuracy": accuracy(difference, pairs.label)}

    def _follow(self, pairs: Comparisons, policy: Policy) -> Metrics:
        """Take the upper steps; ``pairs`` end with the newest."""
        c, stream = self._config, Stream(self._seed, "upper")
        newest = pairs.part(slice(len(pairs) - self.newest, None))
        shares = []
        for step in range(c.upper_steps):
            luck = stream.at(self.rounds * EPOCH_LIMIT + step)
            index = torch.from_numpy((luck.random(c.reward_batch) * len(pairs)).astype(np.int64))
            batch = pairs.part(index.to(self._group.flat.device))
            difference = member_differences(self._model, batch, mean=False)
            direct = self._group.gradients(-log_likelihood(difference, batch.label).mean(1).sum())
            noise = luck.standard_normal(newest.action.shape, np.float32)
            surrogate = self.surrogate(newest, policy, torch.from_numpy(noise).to(newest.action))
            moved = self._group.gradients(-surrogate)
            share = c.distribution_limit * _length(direct) / _length(moved).clamp_min(1e-12)
            weight = c.mixture * share.clamp(max=1)
            self._group.step(tuple(d + weight * g for d, g in zip(direct, moved, strict=True)))
            shares.append(weight * _length(moved) / _length(direct).clamp_min(1e-12))
        return {"distribution_share": torch.stack(shares).mean()}

    def surrogate(self, newest: Comparisons, policy: Policy, noise: Tensor) -> Tensor:
        """Return a number whose gradient in ν is the distribution term.

        Args:
            newest: B pairs of the present policy's segments.
            policy: The lower level.
            noise: ``(B, 2, L, A)`` from N(0, 1), for the actions that "onestep" compares the recorded ones with.
        """
        c, (observation, action) = self._config, newest.rows()
        reward = newest.per_pair(self.reward(observation, action))
        with torch.no_grad():
            difference = differences(reward)
            pull = implicit.centred(excess(difference, newest, difference.sigmoid())) / len(newest)
        temperature = policy.temperature().detach()
        if c.hyper_mode == "onestep":
            with torch.no_grad():
                own = policy.distribution(observation).sample(noise.flatten(0, -2))[0]
            other = newest.per_pair(self.reward(observation, own))
            return c.reward_scale / temperature * (pull[:, None, None] * (reward - other)).sum()
        parameters = policy.parameters
        there = policy.distribution(observation)
        likelihood = newest.per_pair(_likelihood(there, action))
        weight = c.discount ** torch.arange(newest.length, dtype=reward.dtype, device=reward.device)
        divergence = (weight * newest.per_pair(_divergence(there))).sum(-1).mean()
        score = (pull[:, None, None] * likelihood).sum()
        v = implicit.adjoint(score, divergence, parameters, float(temperature), c.cg_damping, c.cg_iterations)
        slope = implicit.along(likelihood, parameters, v)
        return c.reward_scale * implicit.trajectory_surrogate(reward.flatten(0, 1), slope.flatten(0, 1), c.discount)


def _able(teacher: Teacher, mean_reward: float) -> Teacher:
    """Return a teacher without thresholds where there is no mean to take shares of."""
    return teacher if mean_reward > 0 else dataclasses.replace(teacher, skip=0.0, equal=0.0)


def _length(gradients: tuple[Tensor, ...]) -> Tensor:
    length: Tensor = torch.stack([gradient.norm() for gradient in gradients]).norm()
    return length


def _likelihood(policy: SquashedGaussian, action: Tensor) -> Tensor:
    """Return log π ``(B,)`` of actions ``(B, A)`` in [-1, 1]."""
    u = action.clamp(-EDGE, EDGE).atanh()
    return squashed_log_likelihood(u, (u - policy.mean) / policy.log_std.exp(), policy.log_std)


def _divergence(policy: SquashedGaussian) -> Tensor:
    """Return KL(π_now ‖ π) ``(B,)``, which is 0 here; its second derivatives are the Fisher information."""
    now = policy.detach()
    variance = ((2 * now.log_std).exp() + (now.mean - policy.mean).square()) / (2 * policy.log_std).exp()
    divergence: Tensor = (policy.log_std - now.log_std + (variance - 1) / 2).sum(-1)
    return divergence
