"""Pairs of segments with a preference, as tensors, and how well rewards explain them.

Labels are y = P(second segment preferred), a tie is 1/2. The difference of a pair is D = R(second) - R(first).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from offline_rl.preferences.pairs import Pairs


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
