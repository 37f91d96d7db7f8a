"""What an off-policy estimate comes to, as plain values."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from offline_rl.analysis.statistics import student_t

LEVEL = 0.9
"""Probability with which an interval is meant to cover the true value."""

NOT_KNOWN = frozenset({"diverged", "endless", "updates", "moving", "disagree", "alone", "ends"})
"""Kinds of flags that make a value not known."""

Verdict = Literal["estimate", "too few episodes", "extrapolation", "not known"]
"""Whether a value may be believed; see :class:`ValueEstimate`."""


def widened(spread: float, episodes: int) -> float:
    """Return the standard error of a mean over n episodes, from the spread of its Bayesian bootstrap replicates.

    With weights from Exp(1), replicates of a mean have the variance s² (n - 1) / (n (n + 1)), where s² / n is wanted.
    One episode shows no spread, so that nothing bounds the error.
    """
    return spread * math.sqrt((episodes + 1) / (episodes - 1)) if episodes > 1 else math.inf


@dataclass(frozen=True)
class Interval:
    """A value with a two-sided 90 % interval.

    Attributes:
        mean: The value.
        low: The lower end; None where nothing says how far the value can be trusted.
        high: The upper end.
    """

    mean: float
    low: float | None
    high: float | None

    @classmethod
    def of_members(cls, values: NDArray[np.float64], episodes: int) -> "Interval":
        """Return the interval of Bayesian bootstrap replicates ``(K,)``, without ends if they are of one episode.

        If replicates are normal around the estimate with the estimate's own variance σ², their mean has the error
        variance σ² (1 + 1/K), and their sample variance estimates σ²; hence Student's t with K - 1 degrees of freedom.
        """
        count = len(values)
        mean, spread = float(values.mean()), widened(float(values.std(ddof=1)), episodes)
        half = student_t(count - 1, LEVEL) * spread * math.sqrt(1 + 1 / count)
        return cls.around(mean, half)

    @classmethod
    def of_sample(cls, values: NDArray[np.float64]) -> "Interval":
        """Return Student's t interval for the mean of independent values, at least one."""
        count, mean = len(values), float(values.mean())
        if count == 1:
            return cls(mean, None, None)
        return cls.around(mean, student_t(count - 1, LEVEL) * float(values.std(ddof=1)) / math.sqrt(count))

    @classmethod
    def around(cls, mean: float, half: float) -> "Interval":
        """Return an interval of half width ``half``; without ends if a number is not finite."""
        if not math.isfinite(mean) or not math.isfinite(half):
            return cls(mean, None, None)
        return cls(mean, mean - half, mean + half)

    @property
    def half_width(self) -> float | None:
        """Half the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def overlaps(self, other: "Interval") -> bool:
        """Say whether both intervals have a value in common; True where one has no ends."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return True
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Comparison:
    """The agent's value from the data's start states, beside that of the policy that made the data.

    Attributes:
        discount: γ.
        agent: By fitted Q evaluation.
        data: The mean return of the recorded episodes, discounted alike.
        difference: The agent's value less the data's, each critic with its own bootstrap sample of episodes.
        members: Each critic's value, ``(K,)``.
    """

    discount: float
    agent: Interval
    data: Interval
    difference: Interval
    members: tuple[float, ...]


@dataclass(frozen=True)
class Importance:
    """Estimates by importance weights, for a stochastic policy whose density is known.

    Attributes:
        per_decision: Per-decision weighted importance sampling.
        doubly_robust: Weighted doubly robust, with the critics as control variate.
        effective_episodes: The effective sample size: a mean over steps t, weighed by γ^t.
        episodes: How many there are.
    """

    per_decision: Interval
    doubly_robust: Interval
    effective_episodes: float
    episodes: int


@dataclass(frozen=True)
class Support:
    """How far the agent's actions are from those recorded in like states, against recorded actions themselves.

    A distance is that to the nearest of the actions recorded in the nearest states of other episodes, in units in which
    the range of an action's entry is 2.

    Attributes:
        states: Recorded states that were asked about.
        neighbours: How many nearest states each was compared with.
        threshold: The distance that 95 % of the recorded actions keep.
        share: The share of states in which the agent's action is farther away than that.
        agent_distance: Median distance of the agent's actions.
        data_distance: Median distance of recorded actions.
        rows: Rows of the data in whose states the agent goes farthest beyond the threshold, farthest first.
        distances: The distances there.
        action_columns: By how much the agent's action differs from the nearest recorded one in the states in which it
            leaves the data: a mean absolute difference for each entry, largest first.
        observation_columns: By how many standard deviations the mean of these states differs from that of all, for
            each entry, largest first.
    """

    states: int
    neighbours: int
    threshold: float
    share: float
    agent_distance: float
    data_distance: float
    rows: tuple[int, ...]
    distances: tuple[float, ...]
    action_columns: Mapping[str, float]
    observation_columns: Mapping[str, float]


@dataclass(frozen=True)
class CurvePoint:
    """The estimate after a part of its training.

    Attributes:
        update: Gradient steps so far.
        mean: Mean of the critics' discounted values.
        low: Lower end of the interval.
        high: Upper end.
    """

    update: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Flag:
    """A reason to doubt an estimate.

    Attributes:
        kind: ``diverged``, ``endless``, ``updates``, ``moving``, ``disagree``, ``alone``, ``ends``, ``support``,
            ``undiscounted``, ``limit``, ``cut``, ``episodes`` or ``weights``.
        text: A sentence that says what was found.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class ValueEstimate:
    """What an agent is worth by recorded episodes alone.

    Attributes:
        agent: The agent, in words.
        dataset: The data's name.
        fingerprint: The data's fingerprint.
        episodes: Recorded episodes.
        rows: Recorded rows.
        value: The discounted value.
        undiscounted: The same with γ = 1, where every episode ends in a terminal state; else None.
        importance: Estimates by importance weights; None where ``no_importance`` says why there are none.
        no_importance: Why there are none; empty if there are.
        support: How far the agent leaves the data.
        curve: The value after each part of the training.
        verdict: "estimate" if no check speaks against the value; "too few episodes" if there are so few that intervals
            are too narrow; "extrapolation" if the agent leaves the data; "not known" if critics diverged or still move,
            if estimators disagree by more than their intervals, if γ is 1 where episodes are cut, if time limits seem
            to be marked as ends, or if there is one episode only.
        flags: All that speaks against it, and what to know besides.
        options: The options by name, and the computing kernel.
    """

    agent: str
    dataset: str
    fingerprint: str
    episodes: int
    rows: int
    value: Comparison
    undiscounted: Comparison | None
    importance: Importance | None
    no_importance: str
    support: Support
    curve: tuple[CurvePoint, ...]
    verdict: Verdict
    flags: tuple[Flag, ...]
    options: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values; what is no finite number is None."""
        return _finite(dataclasses.asdict(self))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ValueEstimate":
        """Rebuild from :meth:`to_json`; a number that was not finite is NaN."""
        own = dict(values)
        own["value"] = _comparison(own["value"])
        own["undiscounted"] = _comparison(own["undiscounted"]) if own["undiscounted"] else None
        if own["importance"]:
            found = own["importance"]
            intervals = {name: _interval(found[name]) for name in ("per_decision", "doubly_robust")}
            own["importance"] = Importance(**{**found, **intervals})
        support = own["support"]
        own["support"] = Support(**{**support, **{name: tuple(support[name]) for name in ("rows", "distances")}})
        own["curve"] = tuple(CurvePoint(**{**point, "mean": _number(point["mean"])}) for point in own["curve"])
        own["flags"] = tuple(Flag(**flag) for flag in own["flags"])
        return cls(**own)


def verdict_of(flags: Sequence[Flag]) -> Verdict:
    """Return whether a value may be believed: the gravest of what speaks against it."""
    kinds = {flag.kind for flag in flags}
    if kinds & NOT_KNOWN:
        return "not known"
    if "support" in kinds:
        return "extrapolation"
    return "too few episodes" if "episodes" in kinds else "estimate"


def _interval(values: Mapping[str, Any]) -> Interval:
    return Interval(_number(values["mean"]), values["low"], values["high"])


def _comparison(values: Mapping[str, Any]) -> Comparison:
    intervals = {name: _interval(values[name]) for name in ("agent", "data", "difference")}
    return Comparison(discount=values["discount"], members=tuple(map(_number, values["members"])), **intervals)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
