"""Means over seeds, and how far they can be trusted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95
"""Probability with which an interval covers the mean, if seeds scatter normally."""


@dataclass(frozen=True)
class Estimate:
    """The mean of some values, and the half width of its two-sided 95 % Student-t interval; None for a single value."""

    mean: float
    half_width: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Estimate the mean of independent values, at least one, such as the scores of several seeds."""
        count, mean = len(values), math.fsum(values) / len(values)
        if count == 1:
            return cls(mean, None, count)
        variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
        return cls(mean, student_t(count - 1) * math.sqrt(variance / count), count)

    def __str__(self) -> str:
        return self.rounded(1)

    def rounded(self, digits: int) -> str:
        """Return both with so many digits after the point."""
        return f"{self.mean:.{digits}f} ± " + ("–" if self.half_width is None else f"{self.half_width:.{digits}f}")


def student_t(freedom: int, level: float = LEVEL) -> float:
    """Return the t that a Student-t variable of so many degrees of freedom exceeds in size with probability 1 - level.

    With t = √freedom · tan θ, that probability grows with θ, so θ is found by bisection.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _probability(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _probability(theta: float, freedom: int) -> float:
    """Return P(|T| < √freedom · tan θ): a finite sum, Abramowitz & Stegun 26.7.3 (odd) and 26.7.4 (even)."""
    odd = freedom % 2
    term, total = math.cos(theta) if odd else 1.0, 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= math.cos(theta) ** 2 * (power + 1) / (power + 2)
    return 2 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total
