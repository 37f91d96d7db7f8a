"""The k nearest states of a few queries: products with all states, tile by tile, then exact distances.

Beside :class:`offline_rl.neighbors.index.NeighborIndex`, which finds one rank for millions of queries of a known
dataset, this compiles nothing, builds nothing, and does not mind states that are equal.
"""

import torch
from torch import Tensor

TILE = 16_384
"""States in one product."""
QUERIES = 512
"""Queries in one product."""
SPARE = 8
"""Candidates beyond k, so that rounding of the product loses none of the nearest."""


def nearest_states(states: Tensor, queries: Tensor, count: int) -> Tensor:
    """Return the places ``(B, count)`` of the states nearest to each query, nearest first.

    Args:
        states: ``(N, O)``, at least ``count``.
        queries: ``(B, O)``.
        count: k.
    """
    center = states.double().mean(0)
    tiles = [part.double() - center for part in torch.split(states, TILE)]
    norms = [part.square().sum(1) for part in tiles]

    def nearest(some: Tensor) -> Tensor:
        """Answer for some queries: a product in float64 chooses candidates, direct differences decide."""
        found, first = [], 0
        for tile, norm in zip(tiles, norms, strict=True):
            distance = torch.addmm(norm, some.double() - center, tile.t(), alpha=-2)
            found.append(first + distance.topk(min(count + SPARE, len(tile)), dim=1, largest=False).indices)
            first += len(tile)
        candidates = torch.cat(found, 1).sort(dim=1).values
        exact = (states[candidates].double() - some.double()[:, None]).square().sum(2)
        return candidates.gather(1, exact.argsort(dim=1, stable=True)[:, :count])

    return torch.cat([nearest(part) for part in torch.split(queries, QUERIES)])
