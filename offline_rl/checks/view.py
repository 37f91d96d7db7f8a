"""A dataset as the checks look at it: ages, spreads, names, samples, and what can be predicted from what.

What is compared or fitted is a sample of at most :data:`SAMPLE` rows, the same ones each time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_rl.data import Dataset
from offline_rl.data.names import numbered, quoted
from offline_rl.data.preprocessing import ROUNDING
from offline_rl.draws import Stream

SAMPLE = 10_000
"""Rows on which relations between columns are measured."""
FEATURES = 192
"""Random cosines of a nonlinear fit."""
RIDGE = 3e-3
"""Penalty of a fit, as a part of the number of rows."""
FAINT = 1e-5
"""Standard deviation of a change, in those of its column, that is rounding."""
MATTERS = 0.05
"""Part of the whole variance that more inputs must explain to matter."""
MOST = 0.9
"""Share of the groups of episodes in which more inputs must predict better for a gain to be sure."""
CLEAR = 2.0
"""Standard errors that a gain must be above 0, besides."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Gain:
    """How much better some columns are predicted with more inputs, on episodes that were not fitted.

    Attributes:
        share: `(T,)` part of what the fewer inputs leave unexplained that the others explain; at most 1, negative where
            they only disturb.
        error: `(T,)` standard error of it, over groups of whole episodes.
        base: `(T,)` part of the variance that the fewer inputs explain.
        wins: `(T,)` share of the groups in which more inputs predict better.
    """

    share: FloatArray
    error: FloatArray
    base: FloatArray
    wins: FloatArray

    @property
    def sure(self) -> BoolArray:
        """Whether there is one, `(T,)`: on nearly all groups of episodes, and beyond chance."""
        return (self.wins >= MOST) & (self.share > CLEAR * self.error)

    def beyond(self, share: float) -> BoolArray:
        """Return whether it is sure, larger than a share, and matters, `(T,)`."""
        return self.sure & (self.share > share) & (self.share * (1 - self.base) > MATTERS)


class View:
    """A dataset, and what several checks need of it, each computed at its first use."""

    def __init__(self, dataset: Dataset) -> None:
        self.data = dataset
        self.rows = len(dataset)
        self.starts: IntArray = dataset.episode_bounds[:-1]
        self.lasts: IntArray = dataset.episode_bounds[1:] - 1
        self.lengths: IntArray = dataset.episode_lengths

    @cached_property
    def episode(self) -> IntArray:
        """The number of each row's episode, `(N,)`."""
        return np.repeat(np.arange(len(self.starts)), np.diff(self.data.episode_bounds))

    @cached_property
    def age(self) -> IntArray:
        """Steps since the start of the episode, `(N,)`."""
        return np.arange(self.rows) - self.starts[self.episode]

    @cached_property
    def inner(self) -> BoolArray:
        """Whether the next row is of the same episode, `(N,)`."""
        found = np.ones(self.rows, bool)
        found[self.lasts] = False
        return found

    @cached_property
    def mean(self) -> FloatArray:
        """Mean of each entry of the observations, `(O,)`."""
        found: FloatArray = self.data.observations.mean(0, dtype=np.float64)
        return found

    @cached_property
    def spread(self) -> FloatArray:
        """Standard deviation of each entry of the observations, `(O,)`; 0 where it is nothing but rounding."""
        columns = self.data.observations.T
        found = np.array([column.astype(np.float64).std() for column in columns])
        size = np.array([max(abs(float(column.max())), abs(float(column.min()))) for column in columns])
        return np.where(found <= ROUNDING * size, 0.0, found)

    @cached_property
    def varying(self) -> IntArray:
        """Entries of observations that vary."""
        return np.flatnonzero(self.spread > 0)

    def scaled(self, observations: npt.NDArray[np.float32]) -> FloatArray:
        """Return observations `(K, O)` in standard deviations, without those that do not vary `(K, V)`."""
        kept = self.varying
        found: FloatArray = (observations[:, kept].astype(np.float64) - self.mean[kept]) / self.spread[kept]
        return found

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the entries of observations, `(O,)`."""
        return self.data.observation_names or numbered("observation", self.data.observation_size)

    @cached_property
    def action_names(self) -> tuple[str, ...]:
        """Names of the entries of actions, `(A,)`."""
        return self.data.action_names or numbered("action", self.data.action_size)

    def named(self, entries: Sequence[int] | IntArray, field: str = "observation") -> str:
        """Return the names of some entries, the first few of many, for a sentence."""
        names = self.names if field == "observation" else self.action_names
        return quoted([names[entry] for entry in entries])

    @cached_property
    def sample(self) -> IntArray:
        """At most :data:`SAMPLE` rows in order, each as likely as any other, `(K,)`."""
        if self.rows <= SAMPLE:
            return np.arange(self.rows)
        return np.sort(draw(self.rows, SAMPLE, "sample"))

    @cached_property
    def fold(self) -> IntArray:
        """Which of two halves each row of the sample is in, `(K,)`: whole episodes, or blocks of rows of a few."""
        return self._groups % 2

    @cached_property
    def _groups(self) -> IntArray:
        """Number of a group of whole episodes, one of 20, or of a block of rows where there are few episodes."""
        if len(self.starts) >= 20:
            order = Stream(0, "checks/groups").at(0).permutation(len(self.starts))
            return np.asarray(order[self.episode[self.sample]] % 20)
        return np.asarray(self.sample * 20 // self.rows)

    @cached_property
    def effects(self) -> FloatArray:
        """What the rows of the sample lead to, `(K, 1 + V)`: the reward, and the change of each observation.

        Where an episode has ended nothing is known of the change, and the mean of the others stands there.
        """
        rows = self.sample
        change = self.scaled(self.data.next_observations[rows]) - self.scaled(self.data.observations[rows])
        ended = self.data.terminated[rows]
        change[ended] = change[~ended].mean(0) if not ended.all() else 0
        change[:, change.std(0) < FAINT] = 0
        return trimmed(np.column_stack([self.data.rewards[rows].astype(np.float64), change]))

    @property
    def effect_names(self) -> list[str]:
        """What the columns of :attr:`effects` are, for a sentence."""
        return ["the reward", *(f"the change of '{self.names[entry]}'" for entry in self.varying)]

    @cached_property
    def states(self) -> FloatArray:
        """Observations of the sample in standard deviations, `(K, V)`."""
        return standardised(trimmed(self.data.observations[self.sample][:, self.varying].astype(np.float64)))

    @cached_property
    def actions(self) -> FloatArray:
        """Actions of the sample in standard deviations, `(K, A)`."""
        return standardised(trimmed(self.data.actions[self.sample].astype(np.float64)))

    def gain(self, given: FloatArray, added: FloatArray, targets: FloatArray) -> Gain:
        """Return how much better targets `(K, T)` of the sample are predicted with inputs that are added.

        Both fits have the same number of inputs: in the one without, those that are added stand in the wrong rows.

        Args:
            given: `(K, F)`, none to all.
            added: `(K, M)`.
            targets: `(K, T)`.
        """
        mixed = added[Stream(0, "checks/mixed").at(0).permutation(len(added))]
        simple, rich = (self._errors(features(np.column_stack([given, each])), targets) for each in (mixed, added))
        total = self._errors(np.ones((len(targets), 1)), targets)
        return _gained(simple, rich, total, self._groups)

    def _errors(self, inputs: FloatArray, targets: FloatArray) -> FloatArray:
        """Return squared errors `(K, T)` of a ridge regression, each half predicted by a fit to the other."""
        wanted = standardised(targets)
        errors = np.empty_like(wanted)
        for half in (0, 1):
            fitted, tested = self.fold != half, self.fold == half
            if not fitted.any() or not tested.any():
                errors[tested] = wanted[tested] ** 2
                continue
            own = inputs[fitted]
            moments = own.T @ own + RIDGE * len(own) * np.eye(own.shape[1])
            weights = np.linalg.solve(moments, own.T @ wanted[fitted])
            errors[tested] = (wanted[tested] - inputs[tested] @ weights) ** 2
        return errors


def _gained(simple: FloatArray, rich: FloatArray, total: FloatArray, groups: IntArray) -> Gain:
    """Compare squared errors `(K, T)`; a group of episodes counts as one observation of the difference."""
    whole = np.maximum(simple.mean(0), 1e-12)
    saved = simple - rich
    sums = np.stack([np.bincount(groups, column) for column in saved.T], axis=1)
    count = np.bincount(groups)
    present = count > 0
    centred = sums[present] - count[present, None] * saved.mean(0)
    spread = np.sqrt((centred**2).sum(0) * present.sum() / max(1, present.sum() - 1)) / len(saved)
    base = 1 - simple.mean(0) / np.maximum(total.mean(0), 1e-12)
    return Gain(saved.mean(0) / whole, spread / whole, base, (sums[present] > 0).mean(0))


def trimmed(values: FloatArray) -> FloatArray:
    """Return columns `(K, T)` in which a few numbers far beyond all others are brought nearer; faults must not hide."""
    low, high = np.quantile(values, (0.005, 0.995), axis=0)
    reach = np.where(high > low, 3 * (high - low), np.inf)
    found: FloatArray = np.clip(values, low - reach, high + reach)
    return found


def standardised(values: FloatArray) -> FloatArray:
    """Return columns `(K, T)` with mean 0 and deviation 1; constant ones become 0."""
    spread = values.std(0)
    size = np.abs(values).max(0, initial=0.0)
    scale = np.where(spread > ROUNDING * size, spread, 1.0)
    found: FloatArray = np.where(spread > ROUNDING * size, (values - values.mean(0)) / scale, 0.0)
    return found


def features(inputs: FloatArray) -> FloatArray:
    """Return 1, the inputs `(K, F)`, their squares and products, and random cosines, which bend as they need.

    Of many inputs there are no products: their number grows with the square.
    """
    count, size = inputs.shape
    parts = [np.ones((count, 1)), inputs.clip(-10, 10)]
    if size <= 12:
        first, second = np.triu_indices(size)
        parts.append(parts[1][:, first] * parts[1][:, second])
    stream = Stream(0, "checks/features").at(size)
    weights = stream.standard_normal((size, FEATURES)) * stream.uniform(0.2, 1.5, FEATURES) / np.sqrt(size)
    parts.append(np.cos(inputs @ weights + stream.uniform(0, 2 * np.pi, FEATURES)))
    return np.concatenate(parts, axis=1)


def draw(size: int, count: int, name: str) -> IntArray:
    """Return `count` of the numbers below `size`, the same ones each time; all of them if there are no more."""
    if size <= count:
        return np.arange(size)
    return Stream(0, f"checks/{name}").at(0).choice(size, count, replace=False)


def examples(rows: Any, count: int = 3) -> str:
    """Return the first few of some rows, for a sentence."""
    listed = [f"{int(row):,}" for row in rows[:count]]
    return ("row " if len(rows) == 1 else "rows ") + ", ".join(listed) + (", …" if len(rows) > count else "")


def distance_ratio(points: FloatArray, own: FloatArray, other: FloatArray, owners: Sequence[IntArray]) -> FloatArray:
    """Return the log of how much nearer `own` points are than `other` ones, `(P,)`; of the same episode none counts.

    Args:
        points: `(P, V)`.
        own: `(Q, V)`.
        other: `(R, V)`.
        owners: The episodes of all three, `(P,)`, `(Q,)`, `(R,)`.
    """
    found = []
    for side, episodes in ((own, owners[1]), (other, owners[2])):
        distance = np.maximum((points**2).sum(1)[:, None] + (side**2).sum(1) - 2 * points @ side.T, 0)
        distance[owners[0][:, None] == episodes] = np.inf
        nearest = min(3, distance.shape[1]) - 1
        found.append(np.sqrt(np.partition(distance, nearest, axis=1)[:, nearest]) + 1e-9)
    usable = np.isfinite(found[0]) & np.isfinite(found[1])
    result: FloatArray = np.where(usable, np.log(found[1]) - np.log(found[0]), 0.0)
    return result


def area(high: FloatArray, low: FloatArray) -> float:
    """Return the probability that one of `high` is above one of `low`, ties half (the area under the ROC curve)."""
    both = np.concatenate([high, low])
    values, place, count = np.unique(both, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    ahead = float(rank[: len(high)].sum()) - len(high) * (len(high) + 1) / 2
    return ahead / (len(high) * len(low)) if len(values) else 0.5
