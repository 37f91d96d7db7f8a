"""Rows as they were recorded: checked, and the two rules that say which of them are used.

A *mode* turns recorded rows into transitions.

* `exact`: every transition whose successor is known; a truncated row stays, as non-terminal.
* `d4rl`: row for row what D4RL's `qlearning_dataset` yields, so that results compare with published ones. It drops
  the last row and the truncated ones, and takes the following row as successor even where a new episode starts there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_rl.errors import DatasetError

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

REQUIRED = ("observations", "actions", "rewards", "terminated")
OPTIONAL = ("truncated", "next_observations")
MATRICES = ("observations", "actions", "next_observations")
FLAGS = ("terminated", "truncated")

ACTION_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Recording:
    """Checked rows in the order in which they were recorded, N in all.

    Attributes:
        source: What error messages call these rows: a file or a name.
        observations: `(N, O)`.
        actions: `(N, A)`.
        rewards: `(N,)`.
        terminated: `(N,)`, the episode ended in a terminal state.
        truncated: `(N,)`, the episode was cut, by a time limit for instance.
        next_observations: `(N, O)`, or None where the source has none.
        counted_limit: The time limit with which `truncated` was counted, None where the source recorded it.
    """

    source: str
    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    next_observations: FloatArray | None = None
    counted_limit: int | None = None

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True, eq=False)
class Selection:
    """The K rows of a recording that a mode uses, as transitions, in arrays of their own.

    Attributes:
        rows: `(K,)` row numbers, increasing.
        next_observations: `(K, O)`.
        terminated: `(K,)`.
        truncated: `(K,)`, never set together with `terminated`.
    """

    rows: IntArray
    next_observations: FloatArray
    terminated: BoolArray
    truncated: BoolArray


def checked(
    source: str,
    arrays: Mapping[str, npt.ArrayLike | None],
    *,
    labels: Mapping[str, str] | None = None,
    action_bounds: tuple[npt.ArrayLike, npt.ArrayLike] = (-1.0, 1.0),
    time_limit: int | None = None,
) -> Recording:
    """Check arrays that somebody hands us and bring them into one form.

    Args:
        source: What error messages call the arrays: a file or a name.
        arrays: `observations` `(N, O)`, `actions` `(N, A)`, `rewards` and `terminated` `(N,)` or `(N, 1)`, and
            optionally `truncated` and `next_observations`. Any numeric type.
        labels: The source's own words for these fields, for error messages.
        action_bounds: Lowest and highest action, one number or `(A,)` each.
        time_limit: Without `truncated`, an episode that reaches this many steps counts as truncated.

    Returns:
        The rows as float32 and bool arrays.

    Raises:
        DatasetError: A field is missing, misshapen, not numeric or not finite, or an action is out of bounds.
    """
    label = {field: (labels or {}).get(field, field) for field in REQUIRED + OPTIONAL}
    columns: dict[str, npt.NDArray[Any]] = {}
    for field in REQUIRED + OPTIONAL:
        value = arrays.get(field)
        if value is not None:
            columns[field] = _column(f"{source}: '{label[field]}'", value, field)
        elif field in REQUIRED:
            needed = ", ".join(label[name] for name in REQUIRED)
            raise DatasetError(f"{source} has no '{label[field]}'; a dataset needs {needed}")
    _check_shapes(source, columns, label)
    _check_actions(source, columns["actions"], action_bounds)
    counted_limit = time_limit if "truncated" not in columns else None
    if "truncated" not in columns:
        columns["truncated"] = time_limits(columns["terminated"], time_limit)
    return Recording(source, **columns, counted_limit=counted_limit)


def _column(where: str, value: npt.ArrayLike, field: str) -> npt.NDArray[Any]:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DatasetError(f"{where} is not an array; give rows of equal length") from error
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"{where} has type {array.dtype}; only numbers and booleans can be used")
    if field in MATRICES:
        if array.ndim != 2 or array.shape[1] == 0:
            raise DatasetError(f"{where} has shape {array.shape}; one row per step and one column per number is needed")
    else:
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1:
            raise DatasetError(f"{where} has shape {array.shape}; one number per step is needed")
    return _finite(where, array).astype(bool) if field in FLAGS else _finite(where, array)


def _finite(where: str, array: npt.NDArray[Any]) -> FloatArray:
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float32, copy=False)
    finite = np.isfinite(numbers)
    if not finite.all():
        row = int(np.argmin(finite.reshape(len(finite), -1).all(axis=1)))
        found = "NaN" if np.isnan(numbers[row]).any() else "an infinite number"
        raise DatasetError(f"{where} has {found} in row {row}; remove or repair that episode")
    return numbers


def _check_shapes(source: str, columns: Mapping[str, npt.NDArray[Any]], label: Mapping[str, str]) -> None:
    rows = len(columns["observations"])
    for field, column in columns.items():
        if len(column) != rows:
            raise DatasetError(
                f"{source}: '{label[field]}' has {len(column)} rows but '{label['observations']}' has {rows}; "
                "every field needs one row per step"
            )
    if rows == 0:
        raise DatasetError(f"{source} has no rows; a dataset needs at least one transition")
    following = columns.get("next_observations", columns["observations"])
    if following.shape != columns["observations"].shape:
        raise DatasetError(
            f"{source}: '{label['next_observations']}' has shape {following.shape} but '{label['observations']}' has "
            f"{columns['observations'].shape}; both need the same columns"
        )


def _check_actions(source: str, actions: FloatArray, bounds: tuple[npt.ArrayLike, npt.ArrayLike]) -> None:
    try:
        low, high = (np.broadcast_to(np.asarray(bound, np.float32), actions.shape[1:]) for bound in bounds)
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"{source}: action_bounds do not fit {actions.shape[1]} actions; give one number or one per action for each"
        ) from error
    outside = (actions < low - ACTION_TOLERANCE) | (actions > high + ACTION_TOLERANCE)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise DatasetError(
            f"{source}: 'actions' has {actions[row, column]:.6g} in row {row}, outside "
            f"[{low[column]:g}, {high[column]:g}]; rescale the actions to these bounds"
        )


def time_limits(terminated: BoolArray, limit: int | None) -> BoolArray:
    """Find the rows at which an episode reaches the time limit.

    Args:
        terminated: `(N,)`.
        limit: Steps after which an episode is cut, or None for never.

    Returns:
        `(N,)`.
    """
    if limit is None:
        return np.zeros(len(terminated), bool)
    age, _ = _ages(terminated)
    return np.asarray(age % limit == limit - 1)


def d4rl_time_limits(terminated: BoolArray, limit: int) -> BoolArray:
    """Find the rows that D4RL takes for time limits in a file without `timeouts`.

    D4RL's step counter starts at 1, not 0, after a terminal row (unless it skipped that row as a time limit), so the
    first limit after it is found one row early. Published results rest on these rows.

    Args:
        terminated: `(N,)`.
        limit: Steps after which an episode is cut.

    Returns:
        `(N,)`.
    """
    age, stretch = _ages(terminated)
    starts = [0]
    for length in np.diff(np.flatnonzero(terminated), prepend=-1).tolist():
        starts.append(0 if (starts[-1] + length) % limit == 0 else 1)
    return np.asarray((age + np.array(starts)[stretch]) % limit == limit - 1)


def _ages(terminated: BoolArray) -> tuple[IntArray, IntArray]:
    """Step since the last terminal row `(N,)`, and the number of terminal rows before each row `(N,)`."""
    first_rows = np.concatenate([[0], np.flatnonzero(terminated) + 1])
    stretch: IntArray = np.cumsum(terminated) - terminated
    return np.arange(len(terminated)) - first_rows[stretch], stretch


def exact_rows(recording: Recording) -> Selection:
    """Select every transition whose successor is known.

    Without `next_observations` the following row is the successor. A row whose episode goes on unseen is then left
    out; a terminated row stays, with its own observation in place of a successor that nothing may depend on.

    Args:
        recording: The rows.

    Returns:
        The transitions.
    """
    terminated = recording.terminated
    truncated = recording.truncated & ~terminated
    rows = np.arange(len(recording))
    if recording.next_observations is not None:
        following = recording.next_observations[rows]
    else:
        unseen = truncated.copy()
        unseen[-1] = not terminated[-1]
        rows = rows[~unseen]
        following = recording.observations[np.where(terminated[rows], rows, rows + 1)]
    return Selection(rows, following, terminated[rows], truncated[rows])


def d4rl_rows(recording: Recording) -> Selection:
    """Select the rows of D4RL's `qlearning_dataset` (with its default `terminate_on_end=False`), in its order.

    Source: `d4rl/__init__.py` of Farama-Foundation/D4RL. `next_observations` of the recording are ignored, as there.

    Args:
        recording: The rows.

    Returns:
        The transitions.
    """
    terminated, truncated = recording.terminated, recording.truncated
    limit = recording.counted_limit
    skipped = truncated if limit is None else d4rl_time_limits(terminated, limit)
    rows = np.flatnonzero(~skipped[:-1])
    return Selection(rows, recording.observations[rows + 1], terminated[rows], (truncated & ~terminated)[rows])


MODES = {"d4rl": d4rl_rows, "exact": exact_rows}
"""What turns a recording into transitions, by the mode's name."""


def check_mode(mode: str | None) -> None:
    """Raise a DatasetError unless the mode is None or known."""
    if mode is not None and mode not in MODES:
        raise DatasetError(f"unknown mode '{mode}'; use 'd4rl' (D4RL's own rows) or 'exact' (every known transition)")
