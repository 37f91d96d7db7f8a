"""Features of state-action pairs for the linear head of the reward, taken from the frozen warm-up model."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from offline_rl.draws import Stream
from offline_rl.networks.reward import RewardModel

PART = 2048
"""Rows that are evaluated at once: what a cache can hold is quicker."""


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
