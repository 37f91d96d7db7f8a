"""Stopping trials early: successive halving at W&B's bands.

Source: Li et al., Hyperband (https://arxiv.org/abs/1603.06560), in the asynchronous form that W&B's sweeps use.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offline_rl.errors import SweepError, quoted
from offline_rl.sweep.space import check_keys, number

ETA_LIMIT = 1000
BRACKET_LIMIT = 50


@dataclass(frozen=True)
class Hyperband:
    """Keeps at each band the best 1/eta of the trials that have come so far.

    Attributes:
        bands: Numbers of logged values of the metric, ascending, at which trials are compared.
        eta: How many trials stand behind one that goes on.
        strict: Whether a trial must hold its place at every band behind it, and not only at the last.
        maximize: Whether more is better.
    """

    bands: tuple[int, ...]
    eta: float
    strict: bool
    maximize: bool

    @classmethod
    def read(cls, entry: Any, maximize: bool) -> "Hyperband":
        """Read ``early_terminate``.

        Raises:
            SweepError: Something is unknown or missing.
        """
        where = "early_terminate"
        check_keys(where, entry, ("type", "min_iter", "max_iter", "s", "eta", "strict"))
        if entry.get("type") != "hyperband":
            raise SweepError(f"{where}.type is {quoted(entry.get('type'))}; only hyperband is supported")
        eta = number(f"{where}.eta", entry.get("eta", 3))
        if not 1 < eta <= ETA_LIMIT:
            raise SweepError(f"{where}.eta is {eta}; it must be above 1 and at most {ETA_LIMIT}")
        strict = entry.get("strict", False)
        if not isinstance(strict, bool):
            raise SweepError(f"{where}.strict is {quoted(strict)}; it must be true or false")
        if ("min_iter" in entry) == ("max_iter" in entry):
            raise SweepError(f"{where} needs either min_iter, or max_iter and s")
        if "min_iter" in entry:
            if "s" in entry:
                raise SweepError(f"{where}.s belongs to max_iter; leave it out beside min_iter")
            first = number(f"{where}.min_iter", entry["min_iter"], integer=True)
            bands = [int(first * eta**k) for k in range(30)]
        else:
            last = number(f"{where}.max_iter", entry["max_iter"], integer=True)
            brackets = number(f"{where}.s", entry.get("s"), integer=True)
            if brackets > BRACKET_LIMIT:
                raise SweepError(f"{where}.s is {brackets:,}; it must be at most {BRACKET_LIMIT}")
            bands = [int(last / eta**k) for k in range(brackets, 0, -1) if last / eta**k >= 1]
        if not bands or bands[0] < 1:
            raise SweepError(f"{where} leaves no band; choose a larger min_iter or max_iter")
        return cls(tuple(sorted(set(bands))), eta, strict, maximize)

    def stops(self, own: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
        """Say whether a trial is to end.

        Args:
            own: Its logged values so far.
            others: Those of every other trial, whatever became of it.
        """
        reached = [band for band in self.bands if band <= len(own)]
        return any(self._loses(own, others, band) for band in (reached if self.strict else reached[-1:]))

    def _loses(self, own: Sequence[float], others: Sequence[Sequence[float]], band: int) -> bool:
        mine = self._rank(own[band - 1])
        rivals = [self._rank(history[band - 1]) for history in others if len(history) >= band]
        better = sum(rank < mine for rank in rivals)
        return better >= math.ceil((len(rivals) + 1) / self.eta) or math.isinf(mine)

    def _rank(self, value: float) -> float:
        """Return the value as a number that is smaller for a better one; what has diverged comes last."""
        if not math.isfinite(value):
            return math.inf
        return -value if self.maximize else value
