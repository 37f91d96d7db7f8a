"""Means over seeds, and how far they can be trusted."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offline_rl.draws import Stream

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
        count, mean = len(values), _mean(values)
        if count == 1:
            return cls(mean, None, count)
        return cls(mean, student_t(count - 1) * math.sqrt(_variance(values) / count), count)

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


REPLICATES = 2000
"""How often runs are resampled; a percentile's end then moves in the second decimal."""
Scores = Sequence[Sequence[float]]
"""Scores of runs, one row for each task; rows may differ in length."""


def interquartile_mean(tasks: Scores) -> float:
    """Return the mean of the middle half of all runs (25 % trimmed at each end), as Agarwal et al., 2021."""
    scores = sorted(score for runs in tasks for score in runs)
    cut = len(scores) // 4
    return math.fsum(scores[cut : len(scores) - cut]) / (len(scores) - 2 * cut)


def optimality_gap(tasks: Scores, target: float = 100.0) -> float:
    """Return by how much runs fall short of ``target`` on average; what is above it counts as reached."""
    scores = [score for runs in tasks for score in runs]
    return target - math.fsum(min(score, target) for score in scores) / len(scores)


def profile(tasks: Scores, thresholds: Sequence[float]) -> list[float]:
    """Return the share of runs that score above each threshold: the mean over tasks, each weighing the same."""
    return [_mean([_mean([float(score > threshold) for score in runs]) for runs in tasks]) for threshold in thresholds]


def probability_of_improvement(ours: Scores, theirs: Scores) -> float:
    """Return the probability that a run of ours beats one of theirs on the same task, ties half: mean over tasks."""
    return _mean(
        [
            _mean([(a > b) + (a == b) / 2 for a in our_runs for b in their_runs])
            for our_runs, their_runs in zip(ours, theirs, strict=True)
        ]
    )


def bootstrap(
    statistic: Callable[..., float | list[float]], *samples: Scores, replicates: int = REPLICATES, seed: int = 0
) -> tuple[Any, Any]:
    """Return the ends of a 95 % percentile interval: runs are drawn with replacement within each task (stratified).

    Args:
        statistic: Of one argument for each sample; a number, or several.
        samples: Scores of runs by task; never of episodes, whose scatter is no scatter of training.
        replicates: How often the runs are drawn.
        seed: Of the draws, which are a pure function of it.

    Returns:
        The lower and the upper ends, each a number or an array like the statistic.
    """
    stream = Stream(seed, "bootstrap")
    values = []
    for replicate in range(replicates):
        generator = stream.at(replicate)
        drawn = [
            [np.asarray(runs)[generator.integers(len(runs), size=len(runs))] for runs in tasks] for tasks in samples
        ]
        values.append(statistic(*([runs.tolist() for runs in tasks] for tasks in drawn)))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.asarray(values), [tail, 1 - tail], axis=0)
    return low, high


def interval(statistic: Callable[..., float], *samples: Scores) -> tuple[float, float] | None:
    """Return the ends of :func:`bootstrap`'s interval; None where it would take what was not measured for certain.

    That is where a task has a single run, or where runs scatter so little that the statistic is the same in each draw.
    """
    if any(len(runs) < 2 for tasks in samples for runs in tasks):
        return None
    low, high = bootstrap(statistic, *samples)
    return (float(low), float(high)) if low < high else None


def best_of(values: Sequence[float], tries: int) -> float:
    """Return the expected best of so many settings drawn with replacement (Dodge et al., 2019, arXiv 1909.03004).

    Kurenkov and Kolesnikov (2022, arXiv 2110.04156) call it expected online performance where a try is a policy that is
    played online, and ReBRAC's authors report it so. With the values in order, v₁ ≤ … ≤ v_N, and k tries it is
    Σ_n v_n ((n / N)^k - ((n - 1) / N)^k).

    Args:
        values: The mean score of each setting, ``(N,)``; more is better.
        tries: The tuning budget k, in settings.
    """
    count = len(values)
    return math.fsum(
        value * ((rank / count) ** tries - ((rank - 1) / count) ** tries)
        for rank, value in enumerate(sorted(values), 1)
    )


BUDGETS = (1, 2, 3, 5, 10, 20, 50, 100)
"""Numbers of tries that tables of :func:`best_of` have."""


@dataclass(frozen=True)
class BudgetCurve:
    """What tuning came to against what it cost: :func:`best_of` for growing budgets, with intervals.

    Attributes:
        tries: Budgets, ``(K,)``, none above the number of settings N.
        best: The expected best value for each, ``(K,)``.
        low: Lower ends of 95 % percentile intervals, ``(K,)``, for which settings are drawn anew from those tried;
            None for a single setting.
        high: Their upper ends.
    """

    tries: list[int]
    best: list[float]
    low: list[float] | None
    high: list[float] | None

    @classmethod
    def of(cls, values: Sequence[float], *, maximize: bool = True, tries: Sequence[int] = ()) -> "BudgetCurve":
        """Return the curve of some settings that were drawn independently.

        The settings must be a sample of one search space, as a random search makes, or all of a grid. A search that
        learns from its trials draws better ones later, which no order of the values can undo.

        Args:
            values: The value of each setting, ``(N,)``, at least one.
            maximize: Whether more is better; else the expected lowest value is returned.
            tries: Budgets; by default those of :data:`BUDGETS` up to N, and N.
        """
        count, sign = len(values), 1 if maximize else -1
        budgets = list(tries) or sorted({*(budget for budget in BUDGETS if budget <= count), count})
        signed = [sign * value for value in values]

        def curve(tasks: Scores) -> list[float]:
            return [sign * best_of(tasks[0], budget) for budget in budgets]

        if count < 2:
            return cls(budgets, curve([signed]), None, None)
        low, high = bootstrap(curve, [signed])
        return cls(budgets, curve([signed]), low.tolist(), high.tolist())


@dataclass(frozen=True)
class Difference:
    """The difference of two means, ours less theirs, and the half width of its 95 % interval (Welch's t).

    Attributes:
        mean: The difference.
        half_width: None if a side has a single run, or no run differs from another.
    """

    mean: float
    half_width: float | None

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> "Difference":
        """Compare independent runs, whose variances may differ."""
        mean = _mean(ours) - _mean(theirs)
        if min(len(ours), len(theirs)) < 2:
            return cls(mean, None)
        parts = [(_variance(values) / len(values), len(values) - 1) for values in (ours, theirs)]
        total = sum(part for part, _ in parts)
        if not total:
            return cls(mean, None)
        freedom = total**2 / sum(part**2 / count for part, count in parts)
        return cls(mean, welch_t(freedom) * math.sqrt(total))

    @property
    def is_noise(self) -> bool | None:
        """Whether the interval holds zero; None without an interval."""
        return None if self.half_width is None else abs(self.mean) <= self.half_width


def welch_t(freedom: float) -> float:
    """Return Student's t for a fractional number of degrees of freedom, at least one.

    Found between its neighbours on a line over 1/freedom, along which t is nearly straight; see the tests for how near.
    """
    freedom = max(freedom, 1.0)  # rounding may leave it just below
    lower = math.floor(freedom)
    part = (1 / lower - 1 / freedom) / (1 / lower - 1 / (lower + 1))
    return student_t(lower) * (1 - part) + student_t(lower + 1) * part


@dataclass(frozen=True)
class Noise:
    """Where the scatter of a cell comes from, as standard deviations of one run's score.

    Attributes:
        seeds: Of training: what is left when the episodes' part is taken off; 0 if nothing is.
        episodes: Of the final evaluation's mean over its episodes.
    """

    seeds: float
    episodes: float

    @classmethod
    def of(cls, scores: Sequence[float], deviations: Sequence[float], episodes: int) -> "Noise":
        """Part the scatter of several runs.

        Args:
            scores: Mean score of each run.
            deviations: Standard deviation of each run's episodes (dividing by their number).
            episodes: Number of each run's episodes, at least two.
        """
        played = _mean([deviation**2 / (episodes - 1) for deviation in deviations])
        return cls(math.sqrt(max(0.0, _variance(scores) - played)), math.sqrt(played))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
