"""Stochastic actors, and the likelihood of what they do."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from offline_rl.networks.initializers import Initializer, lecun, orthogonal
from offline_rl.networks.mlp import MLP


class GaussianActor(nn.Module):
    """π(a | s) = N(tanh(MLP(s)), std²) with one std for all states: the mean is squashed, the distribution is not.

    Args:
        observation_size: O.
        action_size: A.
        hidden_dims: Widths of the hidden layers.
        log_std_bounds: Where the log-std, which starts at 0, is cut when it is used.
        squash_mean: Whether the mean is squashed; without, it is MLP(s).
        initializer: How the weights start.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden_dims: Sequence[int],
        log_std_bounds: tuple[float, float],
        *,
        squash_mean: bool = True,
        initializer: Initializer = orthogonal,
    ) -> None:
        super().__init__()
        self.mlp = MLP(observation_size, action_size, hidden_dims, initializer=initializer)
        self.free_log_std = nn.Parameter(torch.empty(action_size))
        self._bounds, self._squash_mean = log_std_bounds, squash_mean

    def initialize(self, generator: np.random.Generator) -> None:
        """Draw the weights from ``generator``; the log-std starts at 0."""
        self.mlp.initialize(generator)
        self.free_log_std.data.zero_()

    def forward(self, observation: Tensor) -> Tensor:
        """Map observations ``(B, O)`` to the means ``(B, A)``."""
        return self._mean(self.mlp(observation)[0])

    def frozen(self, observation: Tensor) -> Tensor:
        """Means, without gradients for the weights."""
        return self._mean(self.mlp.frozen(observation)[0])

    def _mean(self, output: Tensor) -> Tensor:
        return output.tanh() if self._squash_mean else output

    def log_std(self) -> Tensor:
        """Return the log-std ``(A,)``."""
        return self.free_log_std.clamp(*self._bounds)


class SquashedGaussian(NamedTuple):
    """The distribution of tanh(u) with u ~ N(mean, std²), for a batch of states.

    Attributes:
        mean: ``(B, A)``.
        log_std: ``(B, A)``, or ``(A,)`` for all states.
    """

    mean: Tensor
    log_std: Tensor

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Turn ``noise`` ``(..., B, A)`` from N(0, 1) into samples like it, and their log-likelihoods ``(..., B)``."""
        u = self.mean + self.log_std.exp() * noise
        return u.tanh(), squashed_log_likelihood(u, noise, self.log_std)

    def detach(self) -> "SquashedGaussian":
        """Return the same as constants."""
        return SquashedGaussian(self.mean.detach(), self.log_std.detach())


class SquashedGaussianActor(nn.Module):
    """a = tanh(u), u ~ N(mean(s), std²).

    The std depends on the state, log std = c₁ h(s) + c₀, where mean and h are the two halves of one MLP's output
    and c₁ and c₀ are learned and start at 1 and -1, or log std = h(s); or it is one for all states and starts at 1.

    Args:
        observation_size: O.
        action_size: A.
        hidden_dims: Widths of the hidden layers.
        shared_std: Learn one std for all states.
        scaled_std: Learn c₁ and c₀; without, the log-std is h(s). It has no effect on a shared std.
        log_std_bounds: Where the log-std is cut when it is used.
        initializer: How the weights start.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden_dims: Sequence[int],
        *,
        shared_std: bool = False,
        scaled_std: bool = True,
        log_std_bounds: tuple[float, float] = (-20.0, 2.0),
        initializer: Initializer = lecun,
    ) -> None:
        super().__init__()
        self._shared_std, self._bounds = shared_std, log_std_bounds
        outputs, shapes = (1, [(action_size,)]) if shared_std else (2, [(), ()] if scaled_std else [])
        self.mlp = MLP(observation_size, outputs * action_size, hidden_dims, initializer=initializer)
        self.spread = nn.ParameterList([nn.Parameter(torch.empty(shape)) for shape in shapes])

    def initialize(self, generator: np.random.Generator) -> None:
        """Draw the weights from ``generator``."""
        self.mlp.initialize(generator)
        starts = (0.0,) if self._shared_std else (1.0, -1.0)[: len(self.spread)]
        for parameter, start in zip(self.spread, starts, strict=True):
            parameter.data.fill_(start)

    def forward(self, observation: Tensor) -> SquashedGaussian:
        """Map observations ``(B, O)`` to the distributions of their actions."""
        return self._distribution(self.mlp(observation)[0], *self.spread)

    def frozen(self, observation: Tensor) -> SquashedGaussian:
        """Distributions, without gradients for the parameters."""
        return self._distribution(self.mlp.frozen(observation)[0], *(own.detach() for own in self.spread))

    def plain(self, observation: Tensor) -> SquashedGaussian:
        """Map them by plain operations, which can be differentiated twice; the fused ones of a call cannot."""
        layers = [layer[0] for layer in self.mlp.layers]
        hidden = observation
        for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
            hidden = torch.addmm(bias, hidden, weight.T).relu()
        return self._distribution(torch.addmm(layers[-1], hidden, layers[-2].T), *self.spread)

    def _distribution(self, output: Tensor, *spread: Tensor) -> SquashedGaussian:
        if self._shared_std:
            return SquashedGaussian(output, spread[0].clamp(*self._bounds))
        mean, raw = output.chunk(2, 1)
        log_std = spread[0] * raw + spread[1] if spread else raw
        return SquashedGaussian(mean, log_std.clamp(*self._bounds))


def log_likelihood(noise: Tensor, log_std: Tensor) -> Tensor:
    """Return the log-density ``(...)`` of the points mean + std · noise ``(..., A)`` under N(mean, std²)."""
    return -(noise.square() / 2 + log_std + math.log(2 * math.pi) / 2).sum(-1)


def squashed_log_likelihood(u: Tensor, noise: Tensor, log_std: Tensor) -> Tensor:
    """Return the log-density ``(...)`` of tanh(u), with u = mean + std · noise ``(..., A)``.

    log(1 - tanh² u) is taken as 2 (log 2 - u - softplus(-2 u)), which is exact for large u, too.
    """
    slope = 2 * (math.log(2) - u - nn.functional.softplus(-2 * u))
    return log_likelihood(noise, log_std) - slope.sum(-1)
