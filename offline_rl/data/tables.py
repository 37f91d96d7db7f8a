"""Tables as datasets: CSV and Parquet files, pandas frames, and whatever else has columns with names.

One row is one step, in the order of time, one episode after the other. The columns are

* ``observation_0``, ``observation_1``, … or ``observation_level``, ``observation_heat``, …: what was seen before the
  step; numbered ones in the order of their numbers, others in the order of the table;
* ``action_…`` likewise: what was done;
* ``reward``: what it earned;
* ``terminated``, ``truncated`` (1 or 0, true or false): the episode ended here for good; it was cut here, but could
  have gone on. And ``episode``, any value that is the same in all rows of an episode and in no others. At least one of
  the three must be there, because nothing else says where episodes end;
* ``next_observation_…``, optional, with the names of the observations: what was seen after the step. Without them it is
  the next row's observation, and the last row of an episode that did not end for good is left out.

Other columns are ignored, unless their name looks like one of these misspelt.
"""

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_rl.data.dataset import MEASURED_BOUNDS, Dataset
from offline_rl.errors import DatasetError

SUFFIXES = (".csv", ".parquet")
INSTALL = 'pip install "offline-rl-suite[tables]"'
FLAGS = ("terminated", "truncated")
KNOWN = ("reward", *FLAGS, "episode")
VECTORS = ("observation", "action", "next_observation")
AMBIGUOUS = ("done", "dones", "terminal", "terminals", "timeout", "timeouts", "end", "is_done")


def load(path: Path, mode: str | None = None) -> Dataset:
    """Load a dataset from a CSV or Parquet file.

    Args:
        path: The file; its name without the suffix is what the dataset is called.
        mode: None or "exact".

    Returns:
        The dataset.

    Raises:
        DatasetError: pandas is not installed, the file cannot be read, or a column is missing or cannot be used.
    """
    if mode == "d4rl":
        raise DatasetError(f"mode 'd4rl' is for files in D4RL's layout, not for {path}; use 'exact'")
    try:
        import pandas

        table = pandas.read_parquet(path) if path.suffix == ".parquet" else pandas.read_csv(path, low_memory=False)
    except ImportError:
        raise DatasetError(f"{path} needs pandas and pyarrow, which are not installed; {INSTALL}") from None
    except Exception as error:  # each of pandas' engines has errors of its own
        reason = " ".join(str(error).split())[:200]
        raise DatasetError(f"{path} cannot be read as a table ({reason}); export it again") from error
    return from_table(table, name=path.stem, source=str(path), metadata={"path": str(path), "mode": "exact"})


def from_table(
    table: Mapping[str, npt.ArrayLike],
    *,
    name: str = "table",
    source: str | None = None,
    task: str | None = None,
    action_bounds: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    metadata: dict[str, Any] | None = None,
) -> Dataset:
    """Make a dataset of a table; see :meth:`offline_rl.data.Dataset.from_table`."""
    source = source or name
    names = [str(column) for column in table]
    _check_names(source, names)
    columns = {field: _vector(source, table, names, field) for field in VECTORS}
    _check_pairs(source, names)
    flags = {field: _flag(source, table, field) for field in FLAGS if field in names}
    if "episode" in names:
        flags["truncated"] = _cuts(source, _values(table, "episode"), flags)
    elif not flags:
        raise DatasetError(
            f"{source} has no column that says where episodes end; add 'terminated', 'truncated' or 'episode'"
        )
    rows = len(columns["observation"])
    actions = columns["action"]
    described = {**(metadata or {}), **({} if action_bounds else {MEASURED_BOUNDS: True})}
    return Dataset.from_arrays(
        observations=columns["observation"],
        actions=actions,
        rewards=_numbers(source, table, "reward"),
        terminated=flags.get("terminated", np.zeros(rows, bool)),
        truncated=flags.get("truncated"),
        next_observations=columns["next_observation"] if columns["next_observation"].shape[1] else None,
        name=name,
        task=task,
        action_bounds=action_bounds or _bounds(source, names, actions),
        observation_names=_of(names, "observation"),
        action_names=_of(names, "action"),
        metadata=described,
    )


def _check_names(source: str, names: Sequence[str]) -> None:
    """Refuse a table without the columns it needs, and names that only look like known ones."""
    if twice := [name for name in names if names.count(name) > 1]:
        raise DatasetError(f"{source} has two columns '{twice[0]}'; rename one of them")
    if ambiguous := [name for name in names if name in AMBIGUOUS]:
        raise DatasetError(
            f"{source}: column '{ambiguous[0]}' does not say whether the episode ended or was cut; rename it to "
            "'terminated' or 'truncated'"
        )
    for name in names:
        near = difflib.get_close_matches(name.lower(), KNOWN, n=1, cutoff=0.8)
        if near and name not in KNOWN and near[0] not in names:
            raise DatasetError(f"{source}: unknown column '{name}'; did you mean '{near[0]}'?")
    if "reward" not in names:
        raise DatasetError(f"{source} has no column 'reward'; its columns are {', '.join(names)[:200]}")
    for field in ("observation", "action"):
        if not _of(names, field):
            raise DatasetError(f"{source} has no column '{field}_0'; its columns are {', '.join(names)[:200]}")


def _of(names: Sequence[str], field: str) -> list[str]:
    """Return the columns of a vector, in order."""
    found = [name for name in names if re.fullmatch(rf"{field}(_.+)?", name)]
    numbers = [name.removeprefix(f"{field}_") for name in found]
    if all(number.isdecimal() for number in numbers):
        return sorted(found, key=lambda name: int(name.removeprefix(f"{field}_")))
    return found


def _check_pairs(source: str, names: Sequence[str]) -> None:
    """Make sure that no number is missing, and that next observations are those of the observations."""
    for field in VECTORS:
        found = _of(names, field)
        numbers = [name.removeprefix(f"{field}_") for name in found]
        if all(number.isdecimal() for number in numbers):
            for place, name in enumerate(found):
                if name != f"{field}_{place}":
                    raise DatasetError(f"{source} has no column '{field}_{place}', but '{name}'; number them from 0 on")
    following, seen = _of(names, "next_observation"), _of(names, "observation")
    for name in seen if following else ():
        if f"next_{name}" not in following:
            raise DatasetError(f"{source} has no column 'next_{name}'; give the next of all observations, or of none")
    for name in following:
        if name.removeprefix("next_") not in seen:
            raise DatasetError(
                f"{source} has no column '{name.removeprefix('next_')}', but '{name}'; add or remove one"
            )


def _vector(source: str, table: Mapping[str, npt.ArrayLike], names: Sequence[str], field: str) -> npt.NDArray[Any]:
    """Return the columns of a vector beside each other `(N, size)`; next observations in the observations' order."""
    found = _of(names, field)
    if field == "next_observation" and found:
        found = [name for name in (f"next_{seen}" for seen in _of(names, "observation")) if name in found]
    columns = [_numbers(source, table, name) for name in found]
    return np.stack(columns, axis=1) if columns else np.zeros((0, 0))


def _values(table: Mapping[str, npt.ArrayLike], name: str) -> npt.NDArray[Any]:
    return np.asarray(table[name])


def _numbers(source: str, table: Mapping[str, npt.ArrayLike], name: str) -> npt.NDArray[Any]:
    """Return a column of finite numbers `(N,)`."""
    values = _values(table, name)
    where = f"{source}: column '{name}'"
    if values.ndim != 1:
        raise DatasetError(f"{where} has shape {values.shape}; one number in each row is needed")
    if values.dtype.kind not in "biuf":
        for row, value in enumerate(values.tolist()):
            try:
                float(value)
            except (TypeError, ValueError):
                raise DatasetError(f"{where} has {value!r} in row {row}; numbers are needed") from None
        values = values.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argmin(finite))
        what = "no value" if np.isnan(values[row]) else "an infinite number"
        raise DatasetError(f"{where} has {what} in row {row}; remove or repair that episode")
    return values


def _flag(source: str, table: Mapping[str, npt.ArrayLike], name: str) -> npt.NDArray[np.bool_]:
    values = _values(table, name)
    if values.dtype.kind not in "biuf":
        words = {"true": 1, "false": 0}
        values = np.array([words.get(str(value).strip().lower(), value) for value in values.tolist()], object)
    numbers = _numbers(source, {name: values}, name)
    wrong = (numbers != 0) & (numbers != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DatasetError(f"{source}: column '{name}' has {numbers[row]:g} in row {row}; only 0 and 1 are flags")
    return numbers.astype(bool)


def _cuts(source: str, episodes: npt.NDArray[Any], flags: Mapping[str, npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
    """Return where episodes are cut: as flagged, and wherever one gives way to the next without having ended."""
    values = episodes.tolist()
    changes = np.array([one != other for one, other in itertools.pairwise(values)], bool)
    seen = {values[0]} if values else set()
    for row in np.flatnonzero(changes) + 1:
        if values[row] in seen:
            raise DatasetError(
                f"{source}: column 'episode' has {values[row]!r} again in row {row}; sort the rows by episode and time"
            )
        seen.add(values[row])
    last = np.append(changes, bool(values))
    terminated = flags.get("terminated", np.zeros(len(last), bool))
    return np.asarray((flags.get("truncated", np.zeros(len(last), bool)) | last) & ~terminated)


def _bounds(source: str, names: Sequence[str], actions: npt.NDArray[Any]) -> tuple[list[float], list[float]]:
    """Return the lowest and the highest action in the data."""
    if not len(actions):
        raise DatasetError(f"{source} has no rows; a dataset needs at least one transition")
    low, high = actions.min(0), actions.max(0)
    for name, constant in zip(_of(names, "action"), low == high, strict=True):
        if constant:
            raise DatasetError(f"{source}: column '{name}' is constant; leave it out, or give action_bounds")
    return low.astype(np.float64).tolist(), high.astype(np.float64).tolist()
