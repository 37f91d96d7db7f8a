"""What trials are compared by: a number of ``metrics.jsonl``, by the name that W&B shows it under."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offline_rl.errors import SweepError

Row = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A metric and the direction in which it gets better.

    ``score`` is the score of the final evaluation, or of the last evaluation of a run without a final one; while a
    trial trains it is the score of its evaluations. Other names are those of ``metrics.jsonl``, kind and field:
    ``evaluation/score``, ``final/return``, ``train/critic_loss``. Several seeds count by their mean.

    Attributes:
        name: The name.
        maximize: Whether more is better.
    """

    name: str
    maximize: bool

    def __post_init__(self) -> None:
        kind, _, field = self.name.partition("/")
        if self.name != "score" and (kind not in ("train", "evaluation", "final") or not field):
            raise SweepError(
                f"metric.name is {self.name!r}; it must be score, or a name such as evaluation/score, final/return or"
                " train/critic_loss"
            )

    @property
    def _fields(self) -> tuple[str, str]:
        kind, _, field = self.name.rpartition("/") if self.name == "score" else self.name.partition("/")
        return kind or "final", field

    def history(self, rows: Sequence[Row], seeds: int) -> list[float]:
        """Return the values along the way, one for each step at which all seeds have one; NaN where one diverged."""
        kind, field = self._fields
        return _means(rows, "evaluation" if kind == "final" else kind, field, seeds)

    def value(self, rows: Sequence[Row], seeds: int) -> float:
        """Return what a finished run came to; NaN if it diverged.

        Raises:
            SweepError: The run records no such metric.
        """
        kind, field = self._fields
        values = _means(rows, kind, field, seeds)
        if self.name == "score":
            values = values or self.history(rows, seeds)
        if not values:
            raise SweepError(f"the run recorded no {self.name}; choose another metric, or options that record it")
        return values[-1]


def _means(rows: Sequence[Row], kind: str, field: str, seeds: int) -> list[float]:
    steps: dict[int, dict[int, float]] = {}
    for row in rows:
        if row["kind"] == kind and field in row:
            value = row[field]
            steps.setdefault(row["step"], {})[row["seed"]] = math.nan if value is None else float(value)
    return [statistics.fmean(steps[step].values()) for step in sorted(steps) if len(steps[step]) == seeds]
