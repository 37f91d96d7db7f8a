"""The rules that every dataset keeps, whoever brings it: arrays, HDF5, tables, Minari.

Each rule raises a sentence that names the source, the field or column, the row and the remedy. `rows.checked` applies
them all; no loader has rules of its own.
"""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_rl.errors import DatasetError, quoted

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

LARGEST = 1e12
"""Size beyond which, or below whose inverse, squares and sums of a number are at the end of single precision."""
BLANK = " \t\r\n\N{NO-BREAK SPACE}"
"""Characters around a number that a table may show as nothing; any other, such as a control character, is damage."""
FINEST_RANGE = 1e-6
"""Range of an action, as a part of its size, below which single precision holds hardly ten steps of it."""
ACTION_TOLERANCE = 1e-4
"""How far an action may lie outside its bounds, as a part of half their distance: rounding."""
NOISE = 1e-11
"""Spread, as a part of a number's size, that is taken for the rounding of double precision and may be lost."""
FAINT_REWARD = 1e-6
"""Size of all rewards below which a warning is due: Adam adds 1e-8 to the size of a gradient."""


@dataclass(frozen=True)
class Words:
    """How messages call a source and its fields.

    Attributes:
        source: A file or a name.
        labels: The source's word for a field; for observations and actions also one for each entry: columns.
    """

    source: str
    labels: Mapping[str, str | Sequence[str]]

    def field(self, field: str) -> str:
        """Return the word for a field as a whole."""
        label = self.labels.get(field, field)
        if isinstance(label, str):
            return label
        return label[0] if len(label) == 1 else field

    def entry(self, field: str, entry: int = 0) -> str:
        """Return the source and the word for one entry of a field."""
        label = self.labels.get(field, field)
        return f"{self.source}: '{label}'" if isinstance(label, str) else f"{self.source}: column '{label[entry]}'"

    def row(self, field: str, row: int, entry: int | None = None) -> str:
        """Return where in a field a number stands."""
        unnamed = isinstance(self.labels.get(field, field), str)
        return f"in row {row}, entry {entry}" if unnamed and entry is not None else f"in row {row}"

    @property
    def nothing(self) -> str:
        """The word for a missing number: arrays hold NaN, the cells of a table are empty."""
        return "NaN" if all(isinstance(label, str) for label in self.labels.values()) else "no value"


def flags(words: Words, field: str, array: npt.NDArray[Any]) -> BoolArray:
    """Return ends of episodes `(N,)`, which are 0 or 1 and nothing else.

    Raises:
        DatasetError: One is another number, or missing.
    """
    wrong = (array != 0) & (array != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        if array.dtype.kind == "f" and np.isnan(array[row]):
            raise DatasetError(
                f"{words.entry(field)} has {words.nothing} {words.row(field, row)}; remove or repair that episode"
            )
        raise DatasetError(f"{words.entry(field)} has {array[row]:g} {words.row(field, row)}; only 0 and 1 are flags")
    return array.astype(bool)


def numbers(words: Words, field: str, array: npt.NDArray[Any], ignored: BoolArray | None = None) -> FloatArray:
    """Return numbers `(N,)` or `(N, size)` in single precision, in which they can be learned from.

    Args:
        words: How to call them.
        field: Which field they are.
        array: As they were given.
        ignored: `(N,)`, the rows in which they may be missing.

    Raises:
        DatasetError: One is missing, infinite or too large, or single precision loses what differs between them.
    """
    with np.errstate(over="ignore"):
        single: FloatArray = array.astype(np.float32, copy=False)
    if single.size == 0:
        return single
    if not max(-float(single.min()), float(single.max())) <= LARGEST:  # also where one of them is NaN
        _check_each(words, field, array, ignored)
    if array.dtype.itemsize > 2 and array.dtype != np.float32:
        _check_resolution(words, field, array, single)
    if field == "rewards":
        _check_faintness(words, single)
    return single


def _check_each(words: Words, field: str, array: npt.NDArray[Any], ignored: BoolArray | None) -> None:
    """Name the first number that is missing, infinite or too large."""
    table = array.reshape(len(array), -1)
    missing = np.isnan(table) & (True if ignored is None else ~ignored[:, None])
    wrong = missing | (np.abs(table) > LARGEST)
    if not wrong.any():
        return
    row, entry = (int(place) for place in np.argwhere(wrong)[0])
    value = table[row, entry]
    where = words.row(field, row, entry if array.ndim > 1 else None)
    if missing[row, entry]:
        raise DatasetError(f"{words.entry(field, entry)} has {words.nothing} {where}; remove or repair that episode")
    if np.isinf(value):
        raise DatasetError(f"{words.entry(field, entry)} has an infinite number {where}; remove or repair that episode")
    raise DatasetError(
        f"{words.entry(field, entry)} has {value:g} {where}, beyond the {LARGEST:g} with which single precision can "
        "compute; give it in a larger unit, or repair that row"
    )


def _check_resolution(words: Words, field: str, array: npt.NDArray[Any], single: FloatArray) -> None:
    """Refuse what changes from row to row only in digits that single precision has not, as a time since 1970 does."""
    for entry in range(1 if array.ndim == 1 else array.shape[1]):
        wide, narrow = (each if each.ndim == 1 else each[:, entry] for each in (array, single))
        lost = (np.diff(narrow) == 0) & (wide[1:] != wide[:-1])
        if not lost.any():
            continue
        wide = wide.astype(np.float64)
        steps = np.abs(np.diff(wide))
        if np.nansum(steps[lost]) <= 0.5 * np.nansum(steps) or np.nanstd(wide) <= NOISE * np.nanmax(np.abs(wide)):
            continue
        row = int(np.argmax(lost))
        where = words.row(field, row, entry if array.ndim > 1 else None)
        raise DatasetError(
            f"{words.entry(field, entry)} has {wide[row]:.17g} {where} and {wide[row + 1]:.17g} in the next, one "
            "number in single precision; subtract what all rows share"
        )


def _check_faintness(words: Words, rewards: FloatArray) -> None:
    """Refuse rewards that are so small that their squares vanish."""
    sizes = np.abs(rewards)
    largest = float(sizes.max())
    said = f"{words.entry('rewards')} is {largest:g} at most in size ({words.row('rewards', int(sizes.argmax()))})"
    if 0 < largest < 1 / LARGEST:
        raise DatasetError(f"{said}, and its square is 0 in single precision; give it in a smaller unit")
    if 0 < largest < FAINT_REWARD:
        warnings.warn(f"{said}, so little may be learned from it; give it in a smaller unit", stacklevel=4)


def action_bounds(
    words: Words, actions: FloatArray, bounds: tuple[npt.ArrayLike, npt.ArrayLike], *, measured: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Return the lowest and the highest action `(A,)`, between which each entry has a range that can be learned.

    Args:
        words: How to call them.
        actions: `(N, A)`.
        bounds: One number or `(A,)` each.
        measured: They are the data's own lowest and highest actions; nobody has stated them.

    Raises:
        DatasetError: They do not fit the actions, a range is empty, or an action lies outside of it.
    """
    low, high = _bounds_that_fit(words, actions, bounds)
    for entry, (lowest, highest) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        _check_range(words, entry, lowest, highest, measured)
    slack = np.float32(ACTION_TOLERANCE) * (high - low) * np.float32(0.5)
    outside = (actions < low - slack) | (actions > high + slack)
    if outside.any():
        row, entry = (int(place) for place in np.argwhere(outside)[0])
        where = words.row("actions", row, entry)
        raise DatasetError(
            f"{words.entry('actions', entry)} has {actions[row, entry]:.6g} {where}, outside "
            f"[{low[entry]:g}, {high[entry]:g}]; rescale the actions to these bounds, or give action_bounds (low, high)"
        )
    return low, high


def _bounds_that_fit(
    words: Words, actions: FloatArray, bounds: tuple[npt.ArrayLike, npt.ArrayLike]
) -> tuple[FloatArray, FloatArray]:
    try:
        with np.errstate(over="ignore"):
            low, high = (np.broadcast_to(np.asarray(bound, np.float32), actions.shape[1:]) for bound in bounds)
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"{words.source}: action_bounds do not fit {actions.shape[1]} actions; give one number or one per action "
            "for each"
        ) from error
    for entry, pair in enumerate(zip(low, high, strict=True)):
        if not all(abs(bound) <= LARGEST for bound in pair):
            raise DatasetError(
                f"{words.source}: action_bounds are {pair[0]:g} and {pair[1]:g} for action entry {entry}; give finite "
                f"numbers up to {LARGEST:g}"
            )
    return low, high


def _check_range(words: Words, entry: int, low: float, high: float, measured: bool) -> None:
    """Refuse a range that is empty in single precision: it would be divided by."""
    if high - low >= max(FINEST_RANGE * max(abs(low), abs(high)), 1e-30):
        return
    who = words.entry("actions", entry)
    where = who if "column" in who else f"{words.source}: action entry {entry}"
    if measured:
        narrow = "is constant"
        if low != high:
            narrow = f"goes from {low:.9g} to {high:.9g} only, too little for single precision"
        raise DatasetError(f"{where} {narrow}; leave it out, or give action_bounds")
    if low > high:
        raise DatasetError(
            f"{where} has the lowest action {low:g}, above the highest, {high:g}; give action_bounds as (low, high)"
        )
    raise DatasetError(
        f"{where} has the bounds {low:.9g} and {high:.9g}, between which there is nothing to choose; leave that entry "
        "out, or give action_bounds that are apart"
    )


def note_codes(words: Words, actions: FloatArray) -> None:
    """Warn of actions that look like codes of discrete ones."""
    low, high = actions.min(axis=0), actions.max(axis=0)
    for entry in np.flatnonzero(high - low >= 1).tolist():
        column = actions[:, entry]
        if (column == np.rint(column)).all():
            who = words.entry("actions", entry)
            where = who if "column" in who else f"{who}, entry {entry},"
            warnings.warn(
                f"{where} holds whole numbers only, {low[entry]:g} to {high[entry]:g}; actions are continuous here: an "
                "agent answers any number between them, and codes of discrete actions are not supported",
                stacklevel=4,
            )
            return


def episode_numbers(words: Words, values: npt.NDArray[Any]) -> IntArray:
    """Return the number of each row's episode `(N,)`, from the source's own names of episodes.

    Raises:
        DatasetError: A row has none, or an episode comes again after another.
    """
    if values.ndim != 1:
        raise DatasetError(f"{words.entry('episode')} has shape {values.shape}; one value in each row is needed")
    missing = _missing(values)
    if missing.any():
        row = int(np.argmax(missing))
        raise DatasetError(f"{words.entry('episode')} has no value in row {row}; say which episode that row is of")
    starts = np.flatnonzero(np.append(True, _changes(words, values)))[: len(values)]
    seen = set()
    for start, name in zip(starts.tolist(), values[starts].tolist(), strict=True):
        try:
            again = name in seen
        except TypeError:  # it is a list, or the like
            raise _no_name(words, start, name) from None
        if again:
            raise DatasetError(
                f"{words.entry('episode')} has {quoted(name)} again in row {start}; sort the rows by episode and time"
            )
        seen.add(name)
    return np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))


def _missing(values: npt.NDArray[Any]) -> BoolArray:
    if values.dtype.kind in "mM":
        return np.asarray(np.isnat(values))
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    if values.dtype.kind in "biu":
        return np.zeros(len(values), bool)
    return np.array([is_missing(value) for value in values.tolist()], bool)


def _changes(words: Words, values: npt.NDArray[Any]) -> BoolArray:
    """Return where a row `(N - 1,)` has another name than the row before."""
    if values.dtype != object:
        return np.asarray(values[1:] != values[:-1])
    names = values.tolist()
    try:
        return np.array([bool(one != other) for one, other in itertools.pairwise(names)], bool)
    except (TypeError, ValueError):
        row = next(row for row, name in enumerate(names) if np.ndim(name))
        raise _no_name(words, row, names[row]) from None


def _no_name(words: Words, row: int, name: object) -> DatasetError:
    return DatasetError(
        f"{words.entry('episode')} has {quoted(name)} in row {row}; one number or word in each row is needed"
    )


def is_missing(value: object) -> bool:
    """Say whether a cell holds nothing: None, NaN, pandas' NA and NaT, or a text without letters."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, str):
        return not value.strip(BLANK)
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def episode_cuts(words: Words, episodes: IntArray, terminated: BoolArray, truncated: BoolArray | None) -> BoolArray:
    """Return where episodes are cut `(N,)`: as flagged, and wherever one gives way to the next without having ended.

    Raises:
        DatasetError: An episode goes on after a row in which it has ended.
    """
    last = np.append(episodes[1:] != episodes[:-1], len(episodes) > 0)
    for field, ends in (("terminated", terminated), ("truncated", truncated)):
        if ends is not None and (ends & ~last).any():
            row = int(np.argmax(ends & ~last))
            raise DatasetError(
                f"{words.entry(field)} is 1 in row {row}, but the same episode goes on in row {row + 1} "
                f"({words.field('episode')}); correct the flag, or number a new episode from there on"
            )
    cut = last if truncated is None else truncated | last
    return np.asarray(cut & ~terminated)


def note_ends(words: Words, terminated: BoolArray, truncated: BoolArray) -> str | None:
    """Return, and warn, what is made of rows of which none is marked as an end; None if one is."""
    if len(terminated) < 2 or terminated.any() or truncated.any():
        return None
    warnings.warn(
        f"{words.source} marks no row as the end of an episode, so its {len(terminated):,} rows count as one; if they "
        f"are several, say where each ends ({words.field('terminated')}, {words.field('truncated')})",
        stacklevel=4,
    )
    return NO_ENDS


NO_ENDS = "none marked, all rows are one episode"
