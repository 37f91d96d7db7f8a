"""What the log says of updates: means over the interval since its last row.

Sums stay on the device, in float64; until somebody asks, nothing waits for it.
"""

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from offline_rl.agent import Metrics
from offline_rl.training.checkpoint import prefixed, select

Names = tuple[str, ...]
Vector = tuple[Names, Tensor]
"""Metrics of one update: their names, and their values ``(K,)`` in float64."""


class Means:
    """The means of one replica's metrics since the last report.

    A metric that only some updates have is the mean over these; one that none of them had keeps its last mean.
    """

    def __init__(self) -> None:
        # By the names that come together, so that an update costs one addition.
        self._sums: dict[Names, Tensor] = {}
        self._counts: dict[Names, int] = {}
        self._last: dict[str, float] = {}

    def add(self, metrics: Metrics) -> None:
        """Count an update's metrics in."""
        add_vectors([self], [vectors(metrics)])

    def report(self) -> dict[str, float]:
        """Return the means, and begin a new interval; this waits for the device."""
        self._last = self.so_far()
        for names in self._sums:
            self._sums[names].zero_()
            self._counts[names] = 0
        return dict(self._last)

    def so_far(self) -> dict[str, float]:
        """Return the means, and let the interval go on; this waits for the device."""
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names in sorted(self._sums):  # in the same order after a resumption, for the same last bits
            for name, value in zip(names, self._sums[names].tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + self._counts[names]
        return self._last | {name: value / counts[name] for name, value in sums.items() if counts[name]}

    def state(self) -> dict[str, Tensor]:
        """Return what continuing in the middle of an interval needs."""
        sums = {
            json.dumps(names): torch.cat((values, values.new_tensor([self._counts[names]])))
            for names, values in self._sums.items()
            if self._counts[names]
        }
        last = {name: torch.tensor(value, dtype=torch.float64) for name, value in self._last.items()}
        return prefixed(sums, "sums/") | prefixed(last, "last/")

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state` returned."""
        stored = {tuple(json.loads(names)): values for names, values in select(state, "sums/").items()}
        self._sums = {names: values[:-1].clone() for names, values in stored.items()}
        self._counts = {names: int(values[-1]) for names, values in stored.items()}
        self._last = {name: float(value) for name, value in select(state, "last/").items()}

    def sum_for(self, names: Names, values: Tensor) -> Tensor:
        """Count an update; return the sum that its ``values`` are to be added to."""
        found = self._sums.get(names)
        if found is None or found.device != values.device:
            found = torch.zeros_like(values) if found is None else found.to(values.device)
            self._sums[names] = found
        self._counts[names] = self._counts.get(names, 0) + 1
        return found


def vectors(metrics: Metrics) -> list[Vector]:
    """Return an update's metrics as vectors; timings apart, which the host may have measured."""
    return [(names, _stacked([metrics[name] for name in names], 0)) for names in _together(metrics)]


def vectors_of_replicas(metrics: Metrics, count: int) -> list[list[Vector]]:
    """Return what :func:`vectors` does for each of ``count`` replicas, from metrics that are ``(count,)``."""
    parts = [
        [(names, own) for own in _stacked([metrics[name] for name in names], 1).unbind()]
        for names in _together(metrics)
    ]
    return [[part[place] for part in parts] for place in range(count)]


def add_vectors(means: Sequence[Means], updates: Sequence[Sequence[Vector]]) -> None:
    """Count in one update of each replica: for all of them one operation on the device."""
    sums = [own.sum_for(*vector) for own, update in zip(means, updates, strict=True) for vector in update]
    if sums:
        torch._foreach_add_(sums, [values for update in updates for _, values in update])


def _together(metrics: Metrics) -> list[Names]:
    timings = tuple(name for name in metrics if name.startswith("timing/"))
    others = tuple(name for name in metrics if name not in timings)
    return [names for names in (others, timings) if names]


@torch.no_grad()
def _stacked(values: Sequence[Tensor], dim: int) -> Tensor:
    return torch.stack(list(values), dim).double()
