"""How much each pair counts under a policy: a tempered, self-normalised likelihood ratio of its two segments.

The ratio corrects the actions inside segments, not the states in which segments start: a ratio of stationary densities
would be needed for that, and is not estimated. Ours [X]; that the ratio of a KL-regularised policy needs no density of
the behaviour, log π/μ = (Q - V)/τ, is derived [D].
"""

import torch
from torch import Tensor

BISECTIONS = 60
"""Steps of the search for κ; more than float64 can tell apart."""


def weights(z: Tensor, kappa: Tensor | float) -> Tensor:
    """Return ω = softmax(κ z) ``(N,)`` of the log-ratios z ``(N,)`` of pairs."""
    return torch.softmax(kappa * z, 0)


def effective_size(weight: Tensor) -> Tensor:
    """Return 1 / Σ ω²: as many pairs of equal weight would tell as much."""
    return 1 / weight.square().sum()


@torch.no_grad()
def choose_kappa(z: Tensor, share: float) -> Tensor:
    """Return the largest κ in [0, 1] with 1 / Σ ω² ≥ share · N, a number that is held constant for a round.

    The effective size falls as κ grows, so bisection finds it. Nothing waits for the device.
    """
    least = share * len(z)
    low, high = torch.zeros((), dtype=z.dtype, device=z.device), torch.ones((), dtype=z.dtype, device=z.device)
    low = torch.where(effective_size(weights(z, high)) >= least, high, low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = effective_size(weights(z, middle)) >= least
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return low
