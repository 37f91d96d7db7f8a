"""Rewards learned from comparisons: pairs of segments, the fit of a reward model, its features, and tables of rewards.

Labels are y = P(second segment preferred), a tie is 1/2. The difference of a pair is D = R(second) - R(first). The
warm-up fits a reward model by maximum likelihood, every pair counting the same.

The lower level learns from a table with one reward for each row of the dataset, never from the rows' own. All of them,
learned or not, pass through one affine map r̂ = s₀ r + b whose constants are found once. Equal-length segments do not
tell a constant added to every reward, which matters where episodes end early: b is therefore a choice with a name. No
mean is subtracted, for then a constant reward and none would be the same.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from offline_rl.agent import ParameterGroup
from offline_rl.algos.iql import RETURN_RANGE
from offline_rl.data.packed import PackedRows
from offline_rl.draws import Stream
from offline_rl.errors import AgentError
from offline_rl.networks.reward import RewardModel
from offline_rl.preferences.pairs import Pairs

Source = Literal["learned", "oracle", "zero", "average"]
SHIFTS = {"none": 0.0, "pt": 0.5}
"""b by name; "pt" is what the code of the Preference Transformer adds on locomotion, a bonus for staying alive."""
PART = 2048
"""Rows that are evaluated at once: what a cache can hold is quicker."""


@dataclass(frozen=True)
class Comparisons:
    """N pairs of segments of L steps.

    Attributes:
        observation: ``(N, 2, L, O)``, as networks see them.
        action: ``(N, 2, L, A)``.
        label: ``(N,)``, y.
        probability: ``(N,)``, that with which the label was drawn; NaN where it is not known.
    """

    observation: Tensor
    action: Tensor
    label: Tensor
    probability: Tensor

    @classmethod
    def of(cls, pairs: Pairs, device: torch.device, dtype: torch.dtype) -> "Comparisons":
        """Put pairs on ``device``."""
        arrays = (pairs.observation, pairs.action, pairs.label, pairs.probability)
        return cls(*(torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype) for array in arrays))

    def __len__(self) -> int:
        return len(self.label)

    @property
    def length(self) -> int:
        """L."""
        return self.observation.shape[2]

    def part(self, index: Tensor | slice) -> "Comparisons":
        """Return some of the pairs."""
        return Comparisons(*(column[index] for column in vars(self).values()))

    def joined(self, other: "Comparisons") -> "Comparisons":
        """Return these pairs, then the others."""
        return Comparisons(*map(torch.cat, zip(vars(self).values(), vars(other).values(), strict=True)))

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return all steps as rows: observations ``(2 N L, O)`` and actions ``(2 N L, A)``."""
        return self.observation.flatten(0, -2), self.action.flatten(0, -2)

    def per_pair(self, values: Tensor) -> Tensor:
        """Give values ``(..., 2 N L)`` of the rows the shape ``(..., N, 2, L)``."""
        return values.view(*values.shape[:-1], *self.observation.shape[:3])


def differences(rewards: Tensor, *, mean: bool = False) -> Tensor:
    """Return D ``(..., N)`` of the rewards ``(..., N, 2, L)``; returns are sums over steps, or means."""
    returns = rewards.mean(-1) if mean else rewards.sum(-1)
    return returns[..., 1] - returns[..., 0]


def log_likelihood(difference: Tensor, label: Tensor) -> Tensor:
    """Return y log σ(D) + (1 - y) log σ(-D), of Bradley and Terry."""
    likelihood: Tensor = label * logsigmoid(difference) + (1 - label) * logsigmoid(-difference)
    return likelihood


def entropy(probability: Tensor) -> Tensor:
    """Return the entropy in nats of coins that fall on one side with these probabilities."""
    first, second = (torch.xlogy(p, p) for p in (1 - probability, probability))
    return -(first + second)


@torch.no_grad()
def label_entropy(comparisons: Comparisons, predicted: Tensor) -> Tensor:
    """Return H(y) ``(N,)``, the part of the cross-entropy that no reward can explain.

    It is that of the probability with which the label was drawn; if that is not known, the soft label's own (a tie's is
    log 2); for a hard label, that of the ``predicted`` probability ``(N,)``, a constant in [0, log 2].
    """
    unknown = comparisons.probability.isnan()
    hard = (comparisons.label == 0) | (comparisons.label == 1)
    label = torch.where(hard, predicted, comparisons.label)
    known = torch.where(unknown, label, comparisons.probability)
    return entropy(known).clamp(0, math.log(2))


def excess(difference: Tensor, comparisons: Comparisons, predicted: Tensor, *, raw: bool = False) -> Tensor:
    """Return e ``(..., N)``: the log-likelihood plus H(y), or without it if ``raw``."""
    likelihood = log_likelihood(difference, comparisons.label)
    return likelihood if raw else likelihood + label_entropy(comparisons, predicted)


def accuracy(difference: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the ``weight``-ed share of pairs without ties whose order the differences ``(..., N)`` tell; 0 if none."""
    counted = (label != 0.5).to(difference.dtype)
    counted = counted if weight is None else counted * weight
    right = ((difference > 0) == (label > 0.5)).to(difference.dtype)
    return (right * counted).sum(-1) / counted.sum().clamp_min(1e-12)


@dataclass(frozen=True)
class Preset:
    """A published way to make and fit a reward model.

    Attributes:
        hidden_dims: Widths of its hidden layers.
        count: Networks; the prediction is their mean.
        slope: Of LeakyReLU, 0 for ReLU.
        squashed: Whether a tanh ends it.
        mean: Whether a segment's return is the mean over its steps, not the sum.
        batch: Pairs in a batch.
        epochs: At most so many.
        enough: Share of pairs predicted correctly after which an epoch is the last one; above 1 for never.
        keep_best: Keep the weights of the epoch with the best likelihood of the held-out pairs.
    """

    hidden_dims: tuple[int, ...]
    count: int
    slope: float
    squashed: bool
    mean: bool
    batch: int
    epochs: int
    enough: float
    keep_best: bool


PRESETS = {
    "unirlhf": Preset((256, 256, 256), 3, 0.01, True, False, 64, 50, 0.968, False),
    "pt_mr": Preset((256, 256), 1, 0.0, False, True, 256, 10_000, 2.0, True),
}
"""Uni-RLHF's ensemble, and the MLP baseline of the Preference Transformer's code [C], but for its held-out pairs.

That code looks for the best epoch on a tenth of the pairs that it trains on; here these are apart.
"""
LEARNING_RATE = 3e-4
"""Adam's, of both."""


def member_differences(model: RewardModel, comparisons: Comparisons, *, mean: bool) -> Tensor:
    """Return D ``(count, B)`` of each network; comparisons ``(count, B, ...)`` give each network pairs of its own."""
    observation, action = (column.flatten(-4, -2) for column in (comparisons.observation, comparisons.action))
    rewards = model(observation, action)
    return differences(rewards.view(-1, *comparisons.observation.shape[-4:-1]), mean=mean)


def fit(  # noqa: PLR0917
    model: RewardModel, training: Comparisons, held_out: Comparisons, preset: Preset, epochs: int, seed: int
) -> ParameterGroup:
    """Fit ``model`` by Adam; each network sees the pairs in an order of its own.

    Returns:
        The optimiser, whose ``flat`` holds the weights.
    """
    group, stream = ParameterGroup(model, LEARNING_RATE), Stream(seed, "fit")
    best, best_weights = group.flat.new_full((), -torch.inf), group.flat.clone()
    for epoch in range(epochs):
        order = torch.from_numpy(stream.at(epoch).random((model.count, len(training))).argsort(1))
        right = []
        for index in torch.split(order.to(group.flat.device), preset.batch, 1):
            part = training.part(index)
            difference = member_differences(model, part, mean=preset.mean)
            loss = -log_likelihood(difference, part.label).mean(1).sum()
            group.step(torch.autograd.grad(loss, group.parameters))
            right.append((difference.detach(), part.label))
        if preset.keep_best:
            quality = _held_out_likelihood(model, held_out, mean=preset.mean)
            better = quality > best
            best, best_weights = torch.where(better, quality, best), torch.where(better, group.flat, best_weights)
        if float(_accuracy(right)) > preset.enough:
            break
    if preset.keep_best:
        group.flat.copy_(best_weights)
    return group


def _accuracy(batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    difference, label = (torch.cat(columns, 1) for columns in zip(*batches, strict=True))
    return accuracy(difference.flatten(), label.flatten())


@torch.no_grad()
def _held_out_likelihood(model: RewardModel, held_out: Comparisons, *, mean: bool) -> Tensor:
    return log_likelihood(member_differences(model, held_out, mean=mean), held_out.label).mean()


def parts(count: int) -> Iterator[slice]:
    """Cut ``count`` rows into slices of at most PART."""
    return (slice(first, first + PART) for first in range(0, count, PART))


@torch.no_grad()
def by_parts(
    function: Callable[[Tensor, Tensor], Tensor], observation: Tensor, action: Tensor, dtype: torch.dtype, dim: int = 0
) -> Tensor:
    """Return what ``function`` makes of rows ``(N, O)`` and ``(N, A)``, some at a time, joined along ``dim``."""
    return torch.cat([function(observation[p].to(dtype), action[p].to(dtype)) for p in parts(len(action))], dim)


@dataclass(frozen=True)
class Features:
    """f(s, a): standardised last activations of a reward model, projected onto random orthonormal directions, / √F.

    Attributes:
        model: The frozen model.
        mean: ``(H,)``, of its activations over the dataset.
        projection: ``(H, F)``, orthonormal columns over the activations' standard deviations and √F.
    """

    model: RewardModel
    mean: Tensor
    projection: Tensor

    @classmethod
    def of(cls, model: RewardModel, observation: Tensor, action: Tensor, size: int, seed: int) -> "Features":
        """Standardise by the dataset's rows ``(N, ...)``; ``size`` is F."""
        dtype = model.layers[0].dtype
        total = square = torch.zeros((), dtype=torch.float64, device=action.device)
        with torch.no_grad():
            for part in parts(len(action)):
                values = model.features(observation[part].to(dtype), action[part].to(dtype)).double()
                total, square = total + values.sum(0), square + values.square().sum(0)
        mean = total / len(action)
        std = (square / len(action) - mean.square()).clamp_min(0).sqrt().clamp_min(1e-6)
        directions = orthonormal(model.feature_size, size, seed).to(action.device)
        return cls(model, mean.to(dtype), (directions / std[:, None] / math.sqrt(size)).to(dtype))

    def __call__(self, observation: Tensor, action: Tensor) -> Tensor:
        """Map observations ``(B, O)`` and actions ``(B, A)`` to f ``(B, F)``."""
        return (self.model.features(observation, action) - self.mean) @ self.projection


def orthonormal(height: int, width: int, seed: int) -> Tensor:
    """Draw ``width`` orthonormal columns of ``height`` entries, float64."""
    basis, triangle = np.linalg.qr(Stream(seed, "projection").at(0).standard_normal((height, width)))
    return torch.from_numpy(basis * np.sign(np.diagonal(triangle)))


def episode_returns(rows: PackedRows, rewards: Tensor) -> np.ndarray:
    """Return the sums ``(E,)`` of ``rewards`` ``(N,)`` over the rows of each episode, float64."""
    before = np.concatenate([[0.0], np.cumsum(rewards.double().cpu().numpy())])
    return np.diff(before[rows.episode_bounds])


def scale_of(returns: np.ndarray) -> float:
    """Return s₀ = 1000 / (largest - smallest return).

    Raises:
        AgentError: All returns are equal.
    """
    spread = float(returns.max() - returns.min())
    if not spread > 0:
        raise AgentError(
            f"scale_rewards divides by the range of episode returns, but all {len(returns)} are equal;"
            " give --scale_rewards False"
        )
    return RETURN_RANGE / spread


def table_without_learning(
    source: Source, rows: PackedRows, dtype: torch.dtype, *, scaled: bool, shift: float
) -> Tensor:
    """Return the table ``(N,)`` of a baseline: the dataset's rewards (IQL's own preset), their mean, or zeros."""
    reward = rows.columns().reward.to(dtype)
    if source == "zero":
        reward = torch.zeros_like(reward)
    elif source == "average":
        reward = torch.full_like(reward, float(reward.double().mean()))
    scale = scale_of(rows.episode_returns) if scaled and source != "zero" else 1.0
    return reward * scale + shift


def correlation(rewards: Tensor, rows: PackedRows) -> Tensor:
    """Return Pearson's correlation of ``rewards`` ``(N,)`` with the dataset's; 0 where these are not known."""
    true = rows.columns().reward.double()
    known = true.isfinite()
    ours, true = (torch.where(known, values, 0) for values in (rewards.double(), true))
    count = known.sum().clamp_min(1)
    ours, true = (torch.where(known, values - values.sum() / count, 0) for values in (ours, true))
    return (ours * true).sum() / (ours.square().sum() * true.square().sum()).sqrt().clamp_min(1e-300)
