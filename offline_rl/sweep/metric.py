"""What trials are compared by: a number of ``metrics.jsonl``, by the name that W&B shows it under."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offline_rl.errors import SweepError, quoted

Row = dict[str, Any]


MEANS = {"score": 1, "score_mean_10": 10}
"""Metrics that are means of the last so many scores of evaluations, of which the final one is the last."""


@dataclass(frozen=True)
class Metric:
    """A metric and the direction in which it gets better.

    ``score`` is the score of each evaluation, of which the final one is the last; ``score_mean_10`` the mean of the
    last ten. Other names are those of ``metrics.jsonl``, kind and field: ``evaluation/score``, ``train/critic_loss``,
    ``final/return``, for which evaluations stand as long as a trial trains. Several seeds count by their mean.
    ``estimate`` is the value estimated from the data alone, ``estimate/value``: no score, and of no table of scores.

    Attributes:
        name: The name.
        maximize: Whether more is better.
    """

    name: str
    maximize: bool

    def __post_init__(self) -> None:
        kind, field = self._parts
        if self.name not in MEANS and (kind not in ("train", "evaluation", "final", "estimate") or not field):
            raise SweepError(
                f"metric.name is {quoted(self.name)}; it must be score, score_mean_10, or a name such as"
                " evaluation/score, final/return, train/critic_loss or estimate"
            )

    @property
    def _parts(self) -> tuple[str, str]:
        """The kind of row, and its field."""
        kind, _, field = self.name.partition("/")
        return kind, "value" if self.name == "estimate" else field

    @property
    def estimated(self) -> bool:
        """Whether it is an estimate from the data, which runs record every ``estimate_every`` updates."""
        return self._parts[0] == "estimate"

    def history(self, rows: Sequence[Row], seeds: int) -> list[float]:
        """Return the values so far, one for each step at which all seeds have one; NaN where one diverged."""
        if last := MEANS.get(self.name):
            scores = _means(rows, ("evaluation", "final"), "score", seeds)
            return [statistics.fmean(scores[max(0, end - last) : end]) for end in range(1, len(scores) + 1)]
        kind, field = self._parts
        return _means(rows, ("evaluation", "final") if kind == "final" else (kind,), field, seeds)

    def value(self, rows: Sequence[Row], seeds: int) -> float:
        """Return what a finished run came to; NaN if it diverged.

        Raises:
            SweepError: The run records no such metric.
        """
        kind, field = self._parts
        values = _means(rows, ("final",), field, seeds) if kind == "final" else self.history(rows, seeds)
        if not values:
            raise SweepError(f"the run recorded no {self.name}; choose another metric, or options that record it")
        return values[-1]


def _means(rows: Sequence[Row], kinds: Sequence[str], field: str, seeds: int) -> list[float]:
    """Return means over seeds in the order of steps."""
    steps: dict[int, dict[int, float]] = {}
    for row in rows:
        if row["kind"] in kinds and field in row:
            value = row[field]
            steps.setdefault(row["step"], {})[row["seed"]] = math.nan if value is None else float(value)
    return [statistics.fmean(steps[step].values()) for step in sorted(steps) if len(steps[step]) == seeds]
