"""Rows as they were recorded: checked, and the two rules that say which of them are used.

A *mode* turns recorded rows into transitions.

* `exact`: every transition whose successor is known; a truncated row stays, as non-terminal.
* `d4rl`: row for row what D4RL's `qlearning_dataset` yields, so that results compare with published ones. It drops
  the last row and the truncated ones, and takes the following row as successor even where a new episode starts there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_rl.data import rules
from offline_rl.data.rules import LARGEST, BoolArray, FloatArray, IntArray, Words
from offline_rl.errors import DatasetError

REQUIRED = ("observations", "actions", "rewards", "terminated")
OPTIONAL = ("truncated", "next_observations")
MATRICES = ("observations", "actions", "next_observations")
FLAGS = ("terminated", "truncated")


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
        action_bounds: Lowest and highest action, `(A,)` each.
        next_observations: `(N, O)`, or None where the source has none.
        counted_limit: The time limit with which `truncated` was counted, None where the source recorded it.
        ends: In words, what was made of rows of which none is marked as an end; None if one is.
        owned: Whether nobody else has these arrays, so that a dataset of all rows may keep them instead of copies.
    """

    source: str
    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    action_bounds: tuple[FloatArray, FloatArray]
    next_observations: FloatArray | None = None
    counted_limit: int | None = None
    ends: str | None = None
    owned: bool = False

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True, eq=False)
class Selection:
    """The K rows of a recording that a mode uses, as transitions, in arrays of their own or of an owned recording.

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
    labels: Mapping[str, str | Sequence[str]] | None = None,
    action_bounds: tuple[npt.ArrayLike, npt.ArrayLike] | None = (-1.0, 1.0),
    time_limit: int | None = None,
    owned: bool = False,
) -> Recording:
    """Check arrays that somebody hands us by the rules of `offline_rl.data.rules`, and bring them into one form.

    Args:
        source: What error messages call the arrays: a file or a name.
        arrays: `observations` `(N, O)`, `actions` `(N, A)`, `rewards` and `terminated` `(N,)` or `(N, 1)`, and
            optionally `truncated`, `next_observations` (NaN where there is none, after an end), and `episode` `(N,)`,
            any value that all rows of an episode share. Any numeric type.
        labels: The source's own words for these fields, for error messages; for matrices also one for each column.
        action_bounds: Lowest and highest action, one number or `(A,)` each; None for those in the data.
        time_limit: Without `truncated`, an episode that reaches this many steps counts as truncated.
        owned: Whether nobody else has these arrays.

    Returns:
        The rows as float32 and bool arrays.

    Raises:
        DatasetError: A rule is broken: a field is missing, misshapen, not numeric, not finite or out of bounds, a flag
            is neither 0 nor 1, or an episode goes on after its end.
    """
    words = Words(source, labels or {})
    given: dict[str, npt.NDArray[Any]] = {}
    for field in REQUIRED + OPTIONAL:
        value = arrays.get(field)
        if value is not None:
            given[field] = _column(words, value, field)
        elif field in REQUIRED:
            needed = ", ".join(words.field(name) for name in REQUIRED)
            raise DatasetError(f"{source} has no '{words.field(field)}'; a dataset needs {needed}")
    _check_shapes(words, given)
    columns: dict[str, Any] = {field: rules.flags(words, field, given[field]) for field in FLAGS if field in given}
    _fill_after_ends(given, columns["terminated"])
    columns |= {field: rules.numbers(words, field, given[field]) for field in given if field not in FLAGS}
    actions: FloatArray = columns["actions"]
    asked = (actions.min(axis=0), actions.max(axis=0)) if action_bounds is None else action_bounds
    bounds = rules.action_bounds(words, actions, asked, measured=action_bounds is None)
    episodes = arrays.get("episode")
    if episodes is not None:
        numbers = rules.episode_numbers(words, np.asarray(episodes))
        columns["truncated"] = rules.episode_cuts(words, numbers, columns["terminated"], columns.get("truncated"))
    counted_limit = time_limit if "truncated" not in columns else None
    if "truncated" not in columns:
        columns["truncated"] = time_limits(columns["terminated"], time_limit)
    rules.note_codes(words, actions)
    ends = rules.note_ends(words, columns["terminated"], columns["truncated"])
    return Recording(source, **columns, action_bounds=bounds, counted_limit=counted_limit, ends=ends, owned=owned)


def _column(words: Words, value: npt.ArrayLike, field: str) -> npt.NDArray[Any]:
    where = f"{words.source}: '{words.field(field)}'"
    try:
        array = np.asarray(value)
        if isinstance(value, np.ma.MaskedArray):
            array = np.where(np.ma.getmaskarray(value), np.nan, array)
    except ValueError as error:
        raise DatasetError(f"{where} is not an array; give rows of equal length") from error
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"{where} has type {array.dtype}; only numbers and booleans can be used")
    if field in MATRICES:
        if array.ndim != 2 or array.shape[1] == 0:
            hint = f", {(*array.shape, 1)} for a single one" if array.ndim == 1 else ""
            codes = "; codes of discrete actions are not supported" if hint and field == "actions" else ""
            raise DatasetError(
                f"{where} has shape {array.shape}; one row per step and one column per number is needed{hint}{codes}"
            )
        return array
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DatasetError(f"{where} has shape {array.shape}; one number per step is needed")
    return array


def _fill_after_ends(given: dict[str, npt.NDArray[Any]], terminated: BoolArray) -> None:
    """Put the observation where no next one is given because the episode has ended: it means nothing there."""
    following = given.get("next_observations")
    if following is None or following.dtype.kind != "f":
        return
    empty = np.flatnonzero(terminated)
    empty = empty[~(np.abs(following[empty]) <= LARGEST).all(axis=1)]
    if len(empty):
        given["next_observations"] = following.copy()
        given["next_observations"][empty] = given["observations"][empty]


def _check_shapes(words: Words, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    source, rows = words.source, len(columns["observations"])
    for field, column in columns.items():
        if len(column) != rows:
            raise DatasetError(
                f"{source}: '{words.field(field)}' has {len(column)} rows but '{words.field('observations')}' has "
                f"{rows}; every field needs one row per step"
            )
    if rows == 0:
        raise DatasetError(f"{source} has no rows; a dataset needs at least one transition")
    following = columns.get("next_observations", columns["observations"])
    if following.shape != columns["observations"].shape:
        raise DatasetError(
            f"{source}: '{words.field('next_observations')}' has shape {following.shape} but "
            f"'{words.field('observations')}' has {columns['observations'].shape}; both need the same columns"
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
        following = recording.next_observations if recording.owned else recording.next_observations[rows]
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
