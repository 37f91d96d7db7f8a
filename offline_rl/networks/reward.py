"""Reward models: several MLPs evaluated in one batched product, and a linear head on features of theirs."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from offline_rl.networks.initializers import uniform

ACTION_LIMIT = 0.999
"""Where actions are cut before a reward model sees them."""


class RewardModel(nn.Module):
    """``count`` independent estimates r(s, a), of raw observations: a normalisation of what comes in is undone.

    Args:
        mean: ``(O,)``, subtracted from the observations that come in.
        std: ``(O,)``, by which they were then divided.
        action_size: A.
        hidden_dims: Widths of the hidden layers.
        count: How many networks.
        slope: Of the hidden layers' activation below 0: LeakyReLU's, or 0 for ReLU.
        squashed: Whether a tanh ends each network, so that rewards lie in (-1, 1).
    """

    mean: Tensor
    std: Tensor

    def __init__(  # noqa: PLR0917
        self,
        mean: np.ndarray,
        std: np.ndarray,
        action_size: int,
        hidden_dims: Sequence[int],
        count: int,
        slope: float,
        *,
        squashed: bool,
    ) -> None:
        super().__init__()
        self.count, self.feature_size = count, count * hidden_dims[-1]
        self._slope, self._squashed = slope, squashed
        self.register_buffer("mean", torch.from_numpy(mean), persistent=False)
        self.register_buffer("std", torch.from_numpy(std), persistent=False)
        self.layers = nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise([len(mean) + action_size, *hidden_dims, 1]):
            self.layers.append(nn.Parameter(torch.empty(count, fan_out, fan_in)))
            self.layers.append(nn.Parameter(torch.empty(count, fan_out)))

    def initialize(self, generator: np.random.Generator) -> None:
        """Draw weights and biases from ``generator``, as PyTorch's linear layers start."""
        for weight, bias in zip(self.layers[0::2], self.layers[1::2], strict=True):
            for parameter, start in zip((weight, bias), uniform(generator, tuple(weight.shape), False), strict=True):
                parameter.data.copy_(torch.from_numpy(start))

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Map observations ``(..., B, O)`` and actions ``(..., B, A)`` to rewards ``(count, B)``.

        With a leading dimension ``count``, each network sees rows of its own.
        """
        output = self._linear(-1, self._hidden(observation, action))[..., 0]
        return output.tanh() if self._squashed else output

    def features(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return the last hidden activations ``(B, count H)`` of all networks side by side."""
        return self._hidden(observation, action).transpose(0, 1).flatten(1)

    def _hidden(self, observation: Tensor, action: Tensor) -> Tensor:
        x = torch.cat((observation * self.std + self.mean, action.clamp(-ACTION_LIMIT, ACTION_LIMIT)), -1)
        hidden = x.expand(self.count, *x.shape[-2:])
        for layer in range(len(self.layers) // 2 - 1):
            hidden = nn.functional.leaky_relu(self._linear(layer, hidden), self._slope, inplace=True)
        return hidden

    def _linear(self, layer: int, x: Tensor) -> Tensor:
        weights, biases = self.layers[0::2], self.layers[1::2]
        return torch.baddbmm(biases[layer][:, None], x, weights[layer].transpose(1, 2))


class LinearHead(nn.Module):
    """A correction cᵀ f of a reward, cut to [-1, 1]; c starts at 0.

    Args:
        feature_size: Entries of f.
    """

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(feature_size))

    def initialize(self, generator: np.random.Generator) -> None:
        """Put c to 0; nothing is drawn."""
        self.weight.data.zero_()

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(..., F)`` to corrections ``(...)``."""
        return (features @ self.weight).clamp(-1, 1)
