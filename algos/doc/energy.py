"""A network that says how likely outcomes are to follow from situations, trained by contrast, and what it is shown."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from offline_rl.networks.mlp import MLP


class Energy(nn.Module):
    """f(outcome, situation), high where the one is likely to follow from the other.

    It is an MLP on both together; the first layer is applied to each apart, so that N outcomes which are compared
    with N situations pass it once.

    Args:
        situation_size: Size of what an outcome may follow from.
        outcome_size: Size of an outcome.
        hidden_dims: Widths of the hidden layers.
    """

    def __init__(self, situation_size: int, outcome_size: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.situation = MLP(situation_size, hidden_dims[0], [])
        self.outcome = MLP(outcome_size, hidden_dims[0], [])
        self.rest = MLP(hidden_dims[0], 1, hidden_dims[1:])

    def initialize(self, generator: np.random.Generator) -> None:
        """Draw all parameters from ``generator``."""
        for network in (self.situation, self.outcome, self.rest):
            network.initialize(generator)

    def forward(self, situation: Tensor, outcome: Tensor, pairs: Tensor, *, frozen: bool = False) -> Tensor:
        """Return f ``(N, M)`` of situation n and outcome ``pairs[n, m]``.

        Args:
            situation: ``(N, S)``.
            outcome: ``(R, P)``.
            pairs: ``(N, M)``, numbers of outcomes.
            frozen: Parameters are constants; gradients of the situations are computed.
        """
        first: list[Callable[[Tensor], Tensor]] = [
            network.frozen if frozen else network for network in (self.situation, self.outcome, self.rest)
        ]
        hidden = (first[0](situation)[0][:, None] + first[1](outcome)[0][pairs]).relu()
        return first[2](hidden.flatten(0, 1))[0].view(pairs.shape)


def pairs_of(count: int, uniform: Tensor) -> Tensor:
    """Return for each of ``count`` outcomes its own number, and then those of M others, ``(count, 1 + M)``.

    Args:
        count: How many outcomes.
        uniform: ``(count, M)`` from U[0, 1).
    """
    own, others = torch.arange(count, device=uniform.device)[:, None], max(count - 1, 1)
    distance = 1 + (uniform * others).long().clamp(max=others - 1)
    return torch.cat((own, (own + distance) % count), 1)
