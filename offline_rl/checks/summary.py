"""What an agent keeps of the observations that it learned from, so that new ones can be compared with them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_rl.checks.rows import correlation_time
from offline_rl.data import Dataset
from offline_rl.documents import check
from offline_rl.errors import AgentError

FloatArray = npt.NDArray[np.float64]

KEY = "observations"
"""Under which an agent's provenance has its summary; agents of older versions have none."""
PARTS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""Where the distribution of each column is kept."""
SEEN = 100_000
"""Rows, evenly spread, from which the quantiles are taken at most."""
MOST_COLUMNS = 1000
"""Columns of which a summary is kept at most: it is part of a small file."""
SHAPE = {"rows": int, "times": [float], "quantiles": [[float]], "shares": [[float]]}


@dataclass(frozen=True, eq=False)
class Summary:
    """The distribution of each column of observations, and how many independent rows it rests on.

    Attributes:
        rows: N.
        times: `(O,)` correlation times: so many rows count as one independent row.
        quantiles: `(O, K)` numbers between the lowest and the highest.
        shares: `(O, K)` the share of rows that are not above them; with equal numbers more than the quantile's part.
    """

    rows: int
    times: FloatArray
    quantiles: FloatArray
    shares: FloatArray

    @classmethod
    def of(cls, dataset: Dataset) -> "Summary":
        """Summarise the observations of a dataset."""
        rows = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), SEEN)).astype(np.int64))
        times, quantiles, shares = [], [], []
        for column in dataset.observations.T:
            ordered = np.sort(column[rows]).astype(np.float64)
            edges = [float(f"{value:.9g}") for value in ordered[np.rint(np.multiply(PARTS, len(rows) - 1)).astype(int)]]
            times.append(float(f"{correlation_time(column.astype(np.float64)):.4g}"))
            quantiles.append(edges)
            shares.append([round(float(part), 6) for part in shares_below(ordered, edges)])
        return cls(len(dataset), np.array(times), np.array(quantiles), np.array(shares))

    @classmethod
    def from_json(cls, value: Any, size: int) -> "Summary":
        """Rebuild from :meth:`to_json`, of a file that anybody may have written.

        Args:
            value: The JSON value.
            size: O.

        Raises:
            AgentError: It is no summary of so many columns.
        """
        try:
            check(value, SHAPE)
            found = cls(
                value["rows"], *(np.array(value[name], np.float64) for name in ("times", "quantiles", "shares"))
            )
            fits = found.times.shape == (size,) and found.quantiles.shape == found.shares.shape == (size, len(PARTS))
            if not fits or found.rows < 1 or not (found.times >= 1).all():
                raise ValueError(f"it is not of {size} columns")
        except ValueError as error:
            raise AgentError(
                f"the agent's summary of its observations is damaged ({error}); give the dataset"
            ) from None
        return found

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        arrays = {"times": self.times, "quantiles": self.quantiles, "shares": self.shares}
        return {"rows": self.rows, **{name: values.tolist() for name, values in arrays.items()}}


def shares_below(ordered: FloatArray, edges: Any) -> FloatArray:
    """Return the share of sorted numbers that are not above each edge; rounding of single precision does not count."""
    given = np.asarray(edges, np.float64)
    slack = 1e-7 * np.abs(given)
    found: FloatArray = np.searchsorted(ordered, given + slack, side="right") / len(ordered)
    return found
