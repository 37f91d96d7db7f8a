"""Tables as datasets: CSV and Parquet files, pandas frames, and whatever else has columns with names.

One row is one step, in the order of time, one episode after the other. The columns are

* ``observation_0``, ``observation_1``, … or ``observation_level``, ``observation_heat``, …: what was seen before the
  step; numbered ones in the order of their numbers, others in the order of the table;
* ``action_…`` likewise: what was done;
* ``reward``: what it earned;
* ``terminated``, ``truncated`` (1 or 0): the episode ended here for good; it was cut here, but could have gone on; the
  first if both. And ``episode``, any value that is the same in all rows of an episode and in no others. At least one of
  the three must be there, because nothing else says where episodes end;
* ``next_observation_…``, optional, with the names of the observations: what was seen after the step; cells may be
  empty where ``terminated`` is 1, for they mean nothing there. Without them it is the next row's observation, and the
  last row of an episode that did not end for good is left out.

Cells are plain numbers, or the words true and false for 1 and 0. Other columns are ignored, unless their name looks
like one of these misspelt.
"""

import contextlib
import csv
import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_rl.data import kinds
from offline_rl.data.dataset import MEASURED_BOUNDS, Dataset
from offline_rl.data.names import FIELDS, key_of
from offline_rl.data.rows import checked, exact_rows
from offline_rl.data.rules import BLANK, is_missing
from offline_rl.errors import DatasetError, brief, quoted

INSTALL = 'pip install "offline-rl-suite[tables]"'
FLAGS = ("terminated", "truncated")
KNOWN = ("reward", *FLAGS, "episode")
VECTORS = ("observation", "action", "next_observation")
AMBIGUOUS = ("done", "dones", "terminal", "terminals", "timeout", "timeouts", "end", "is_done")
LOOKALIKE = re.compile(r"(next[\W_]*)?(obs|observations?|acts?|actions?)([\W_].*|\d+)?", re.DOTALL)
"""What a column looks like that is meant for a vector, in lower case; how one is truly called is `_is_of`'s to say."""

BLOCK = 1 << 25
"""Bytes of text that are read together; a line must fit."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WORDS = {
    "true": 1,
    "false": 0,
    "inf": np.inf,
    "infinity": np.inf,
    "nan": np.nan,
    "na": np.nan,
    "n/a": np.nan,
    "null": np.nan,
    "none": np.nan,
}
REASONS = {
    r"[+-]?0[xXbBoO]\w+": "a hexadecimal, octal or binary number",
    r"[+-]?[\d.]+_[\d_.]+([eE][+-]?\d+)?": "a number with an underscore",
    r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?": "a number with commas between thousands",
    r"[+-]?[\d.]*,\d*([eE][+-]?\d+)?": "a number with a decimal comma",
    r"[+-]?\d{1,3}([ '’\u00a0\u202f]\d{3})+([.,]\d+)?": "a number with gaps between thousands",
    r"[+-]?[\d.,]+\s*%": "a percentage",
    r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?": "a date",
    r"\d{1,3}:\d{2}(:\d{2})?(\.\d+)?( ?[aApP][mM])?": "a time of day or a duration",
    r"(?i:yes|no|y|n|on|off|t|f)": "a truth value that is not true or false",
}
"""What a text may be that is no plain number, by what it looks like."""
Check = Callable[[str, Sequence[str]], None]
"""What refuses names of columns: of a source, these names."""
PLAIN = "export it as plain numbers (1234.5), or read it with pandas and use Dataset.from_table"


def load(path: Path, mode: str | None = None) -> Dataset:
    """Load a dataset from a CSV or Parquet file; CSV may be packed (gzip, bzip2, xz, zip, zstd).

    Args:
        path: The file; its name without the suffix is what the dataset is called.
        mode: None or "exact".

    Returns:
        The dataset.

    Raises:
        DatasetError: pyarrow is not installed, the file cannot be read, or a column is missing or cannot be used.
    """
    if mode == "d4rl":
        raise DatasetError(f"mode 'd4rl' is for files in D4RL's layout, not for {path}; use 'exact'")
    read = _parquet if kinds.kind_of(path) == "parquet" else _csv
    try:
        with _said(path), read(path) as (names, columns):
            table = {name: _array(path, name, columns(name)) for name in _used(names)}
    except ImportError:
        raise DatasetError(f"{path} needs pandas and pyarrow, which are not installed; {INSTALL}") from None
    facts = {"path": str(path), "mode": "exact"}
    return from_table(table, name=kinds.stem(path.name), source=str(path), metadata=facts)


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    """Put what pyarrow raises, which has errors of its own, into a sentence."""
    try:
        yield
    except (DatasetError, ImportError):
        raise
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text in UTF-8 ({brief(error)}); export it again as UTF-8") from error
    except Exception as error:
        raise DatasetError(f"{path} cannot be read as a table ({brief(error)}); export it again") from error


def load_observations(path: Path) -> dict[str, npt.NDArray[Any]] | None:
    """Return the observations of a table that holds nothing else of a step: what a process shows, without an agent.

    That is a CSV or Parquet file without `reward` and without any `action_…`. Of it all rows count, in order; all
    columns but `observation_…` are ignored.

    Args:
        path: The file.

    Returns:
        Columns `(N,)` by their names; None for a table of whole steps, which :func:`load` takes.

    Raises:
        DatasetError: As :func:`load`.
    """
    is_parquet = kinds.kind_of(path) == "parquet"
    try:
        with _said(path):
            names = _parquet_names(path) if is_parquet else _csv_names(path)
            if "reward" in names or _of(names, "action"):
                return None
            with (_parquet if is_parquet else _csv)(path, _check_observations) as (names, columns):
                return {
                    name: _numbers(str(path), name, _array(path, name, columns(name)))
                    for name in _of(names, "observation")
                }
    except ImportError:
        raise DatasetError(f"{path} needs pandas and pyarrow, which are not installed; {INSTALL}") from None


def _csv_names(path: Path) -> list[str]:
    with kinds.plain_text(path) as plain:
        return _header(path, plain)


def _parquet_names(path: Path) -> list[str]:
    from pyarrow import parquet

    return list(parquet.read_schema(path).names)


def _check_observations(source: str, names: Sequence[str]) -> None:
    """Refuse a table without observations, and names that only look like theirs."""
    for name in names:
        _check_spelling(source, name, set(names))
    if not _of(names, "observation"):
        listed = quoted(", ".join(names[:100]))[1:-1]
        raise DatasetError(f"{source} has no column 'observation_0'; its columns are {listed}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DatasetError(f"{source} has two columns {quoted(twice[0])}; rename one of them")


@contextlib.contextmanager
def _csv(path: Path, check: Check | None = None) -> Iterator[tuple[list[str], Any]]:
    """Give the names of the columns, and what returns the column of a name."""
    with kinds.plain_text(path) as plain:
        names = _header(path, plain)
        (check or _check_names)(str(path), names)
        table = _parsed(path, plain, names, {})
        if _holds_hexadecimal(plain):  # which Arrow reads as whole numbers
            whole = {field.name: "string" for field in table.schema if str(field.type) == "int64"}
            table = _parsed(path, plain, names, whole)
    yield names, table.column


def _parsed(path: Path, plain: Path, names: Sequence[str], types: Mapping[str, str]) -> Any:
    """Return the columns that are used, of a file in which each row has a field for each column."""
    from pyarrow import ArrowInvalid
    from pyarrow import csv as arrow

    bad: list[Any] = []

    def note(row: Any) -> str:
        bad.append(row)
        return "error"

    try:
        return arrow.read_csv(
            plain,
            read_options=arrow.ReadOptions(use_threads=False, block_size=BLOCK),  # with threads, rows have no number
            parse_options=arrow.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
            convert_options=arrow.ConvertOptions(
                strings_can_be_null=True, include_columns=_used(names), column_types=types
            ),
        )
    except ArrowInvalid:
        if not bad:
            raise
        count = bad[0].actual_columns
        raise DatasetError(
            f"{path} has {count} field{'s' * (count != 1)} in row {bad[0].number - 2} but {bad[0].expected_columns} in "
            "its header; give each row one for each column, and put texts with commas into quotes"
        ) from None


def _holds_hexadecimal(plain: Path) -> bool:
    with plain.open("rb") as file:
        return any(b"0x" in block or b"0X" in block for block in iter(lambda: file.read(BLOCK), b""))


@contextlib.contextmanager
def _parquet(path: Path, check: Check | None = None) -> Iterator[tuple[list[str], Any]]:
    """Give the names of the columns, and what returns the column of a name."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        (check or _check_names)(str(path), names)
        used = _used(names)
        declared, size = file.metadata.num_rows * 8 * max(1, len(used)), path.stat().st_size
        if declared > kinds.EXPANSION_ALLOWANCE + kinds.EXPANSION_LIMIT * size:
            raise DatasetError(
                f"{path} declares {declared / 1e6:,.0f} MB of numbers in {size / 1e6:,.2f} MB, more than a table "
                "does; get it from a trusted place, or read it with pandas and use Dataset.from_table"
            )
        for name in used:
            _check_type(path, name, file.schema_arrow.field(name).type)
        # A text that is stored once for many rows is not to be copied for each.
        texts = [name for name in used if name == "episode"]
        table = parquet.read_table(path, columns=used, read_dictionary=texts)
    yield names, table.column


def _header(path: Path, plain: Path) -> list[str]:
    """Return the names in the header itself, before anything is made of them."""
    with plain.open(encoding="utf-8-sig", newline="") as file:
        lines = (line for line in file if line.strip())
        names = next(csv.reader(lines), [])
    for separator, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars (|)"), (" ", "spaces")):
        found = [part.strip("\"' \r\n") for name in names for part in name.split(separator)]
        if "reward" in found and "reward" not in [name.strip() for name in names]:
            raise DatasetError(
                f"{path} is separated by {word}; export it with commas, or read it with pandas and use "
                "Dataset.from_table"
            )
    return names


def _check_type(path: Path, name: str, kind: Any) -> None:
    """Refuse a column of numbers that holds something else, before it is read."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    plain = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
    text = types.is_string(kind) or types.is_large_string(kind)
    dated = types.is_temporal(kind)
    if any(fits(kind) for fits in plain) or text or (name == "episode" and (dated or types.is_binary(kind))):
        return
    what = f"{'durations' if types.is_duration(kind) else 'dates or times'} ({kind})" if dated else f"the type {kind}"
    hint = "seconds since the start of the episode" if dated else "one number in each row"
    raise DatasetError(f"{path}: column '{name}' has {quoted(what)[1:-1]}; numbers are needed, such as {hint}")


def _array(path: Path, name: str, column: Any) -> npt.NDArray[Any]:
    """Return an Arrow column as an array; texts that are equal are one object."""
    _check_type(path, name, column.type)
    from pyarrow import types

    if types.is_decimal(column.type):
        column = column.cast("float64")
    if name != "episode" or types.is_integer(column.type) or types.is_floating(column.type):
        return np.asarray(column.to_numpy())
    coded = column.dictionary_encode().unify_dictionaries()
    known = coded.chunk(0).dictionary.to_pylist() if coded.num_chunks else []
    words = np.empty(len(known) + 1, object)  # the last for rows without any
    words[: len(known)] = known
    places = [chunk.indices.fill_null(len(known)).to_numpy(zero_copy_only=False) for chunk in coded.chunks]
    found: npt.NDArray[Any] = words[np.concatenate([np.zeros(0, np.int64), *places])]
    return found


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
    _check_pairs(source, names)
    if not {*FLAGS, "episode"} & set(names):
        raise DatasetError(
            f"{source} has no column that says where episodes end; add 'terminated', 'truncated' or 'episode'"
        )
    columns = {used: _values(source, table, used) for used in _used(names)}
    _check_lengths(source, columns)
    labels = {f"{field}s": found for field, found in _vectors(names).items() if found}
    rewards = _numbers(source, "reward", columns["reward"])
    arrays: dict[str, npt.ArrayLike | None] = {
        field: np.stack([_numbers(source, column, columns[column]) for column in found], axis=1)
        for field, found in labels.items()
    }
    arrays |= {"rewards": rewards, "terminated": np.zeros(len(rewards), bool), "episode": columns.get("episode")}
    arrays |= {field: _numbers(source, field, columns[field]) for field in FLAGS if field in columns}
    labels |= {"rewards": ["reward"], **{field: [field] for field in (*FLAGS, "episode")}}
    recording = checked(source, arrays, labels=labels, action_bounds=action_bounds)
    bounds = recording.action_bounds if action_bounds is None else action_bounds
    described = {**(metadata or {}), "action_bounds": [np.asarray(bound).tolist() for bound in bounds]}
    described |= {MEASURED_BOUNDS: True} if action_bounds is None else {}
    described |= {key_of(field): found for field in FIELDS if (found := labels.get(f"{field}s"))}
    described |= {"task": task} if task else {}
    return Dataset.assemble(recording, exact_rows(recording), name=name, metadata=described)


def _check_names(source: str, names: Sequence[str]) -> None:
    """Refuse a table without the columns it needs, and names that only look like known ones."""
    if not names:
        raise DatasetError(f"{source} is empty; give the names of the columns, and a row for each step")
    if all(_is_number(name) for name in names):
        raise DatasetError(f"{source} has numbers in its first line; put the names of the columns there")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DatasetError(f"{source} has two columns {quoted(twice[0])}; rename one of them")
    known = set(names)
    if ambiguous := [name for name in names if name.strip().lower() in AMBIGUOUS]:
        raise DatasetError(
            f"{source}: column {quoted(ambiguous[0])} does not say whether the episode ended or was cut; rename it to "
            "'terminated' or 'truncated'"
        )
    for name in names:
        _check_spelling(source, name, known)
    listed = quoted(", ".join(names[:100]))[1:-1]
    if "reward" not in known:
        raise DatasetError(f"{source} has no column 'reward'; its columns are {listed}")
    for field in ("observation", "action"):
        if not _of(names, field):
            raise DatasetError(f"{source} has no column '{field}_0'; its columns are {listed}")


def _check_spelling(source: str, name: str, known: set[str]) -> None:
    """Refuse a name that is nearly one of those that mean something: its column would be left out without a word."""
    if name in KNOWN or any(_is_of(name, field) for field in VECTORS):
        return
    plain = name.strip().lower()
    near = difflib.get_close_matches(plain, KNOWN, n=1, cutoff=0.8) if 4 < len(plain) < 14 else []
    if near and (near[0] not in known or plain == near[0]):
        raise DatasetError(f"{source}: unknown column {quoted(name)}; did you mean '{near[0]}'?")
    parts = plain.split("_")
    heads = ["_".join(parts[:count]) for count in (1, 2) if len(parts) > count]
    if LOOKALIKE.fullmatch(plain) or any(_one_slip_apart(head, field) for head in heads for field in VECTORS):
        raise DatasetError(
            f"{source}: column {quoted(name)} looks like an observation or an action; name it 'observation_...', "
            "'action_...' or 'next_observation_...', without blanks around it, or leave it out"
        )


def _is_number(text: str) -> bool:
    return NUMBER.fullmatch(text.strip()) is not None


def _is_of(name: str, field: str) -> bool:
    """Say whether a name is one of a vector: its own, or with an ending that can be read."""
    return re.fullmatch(rf"{field}(_\S(.*\S)?)?", name) is not None and name.isprintable()


def _used(names: Sequence[str]) -> list[str]:
    """Return the columns that mean something."""
    return [name for name in names if name in KNOWN or any(_is_of(name, field) for field in VECTORS)]


def _vectors(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns of each vector, in order; next observations in that of the observations."""
    vectors = {field: _of(names, field) for field in VECTORS}
    if vectors["next_observation"]:
        vectors["next_observation"] = [f"next_{name}" for name in vectors["observation"]]
    return vectors


def _of(names: Sequence[str], field: str) -> list[str]:
    """Return the columns of a vector, in order."""
    found = [name for name in names if _is_of(name, field)]
    numbers = [name.removeprefix(f"{field}_") for name in found]
    if all(number.isdecimal() for number in numbers):
        return sorted(found, key=lambda name: int(name.removeprefix(f"{field}_")))
    return found


def _one_slip_apart(one: str, other: str) -> bool:
    """Say whether two words differ by one letter changed, put in or left out, or by two exchanged."""
    start = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if start is None:
        return abs(len(one) - len(other)) == 1
    one, other = one[start:], other[start:]
    swapped = one[:2] == other[1::-1] and one[2:] == other[2:]
    return one[1:] in (other[1:], other) or one == other[1:] or swapped


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
    known = set(names)
    for name in seen if following else ():
        if f"next_{name}" not in known:
            raise DatasetError(f"{source} has no column 'next_{name}'; give the next of all observations, or of none")
    for name in following:
        if name.removeprefix("next_") not in known:
            raise DatasetError(
                f"{source} has no column '{name.removeprefix('next_')}', but '{name}'; add or remove one"
            )


def _values(source: str, table: Mapping[str, npt.ArrayLike], name: str) -> npt.NDArray[Any]:
    """Return a column as an array `(N,)`, in which what is masked is None."""
    column = table[name]
    try:
        values = np.asarray(column)
        if values.dtype.kind in "SU" and not hasattr(column, "dtype"):  # texts and bytes in a list would be mixed
            values = np.asarray(column, object)
    except ValueError:
        values = np.empty((), object)
    if values.ndim != 1:
        raise DatasetError(f"{source}: column '{name}' has shape {values.shape}; one number in each row is needed")
    if isinstance(column, np.ma.MaskedArray):
        values = np.where(np.ma.getmaskarray(column), None, values)  # type: ignore[call-overload]
    return values


def _check_lengths(source: str, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    for name, values in columns.items():
        if len(values) != len(columns["reward"]):
            raise DatasetError(
                f"{source}: column '{name}' has {len(values)} rows but 'reward' has {len(columns['reward'])}; every "
                "column needs one row per step"
            )


def _numbers(source: str, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a column as numbers `(N,)`, NaN where a cell is empty."""
    where = f"{source}: column '{name}'"
    kind = values.dtype.kind
    if kind in "biuf":
        return values
    if kind in "mM":
        what = "durations" if kind == "m" else "dates or times"
        raise DatasetError(f"{where} has {what}; numbers are needed, such as seconds since the start of the episode")
    numbers = np.empty(len(values))
    for row, value in enumerate(values.tolist()):
        try:
            numbers[row] = _number(value)
        except ValueError as error:
            reason, remedy = f", {error}" if str(error) else "", f"; {PLAIN}" if str(error) else ""
            raise DatasetError(
                f"{where} has {quoted(value)} in row {row}{reason}; numbers are needed{remedy}"
            ) from None
    return numbers


def _number(value: object) -> float:
    """Return a cell as a number, NaN if it is empty; a ValueError says what it is instead."""
    if is_missing(value):
        return np.nan
    if isinstance(value, Real | Decimal):
        try:
            return float(value)
        except OverflowError:
            return np.inf
    if not isinstance(value, str):
        named = {"date": "a date", "datetime": "a date", "Timestamp": "a date", "time": "a time of day"}
        named |= {"timedelta": "a duration", "Timedelta": "a duration"}
        raise ValueError(named.get(type(value).__name__, ""))
    text = value.strip(BLANK)
    if NUMBER.fullmatch(text):
        return float(text)
    if text.lower().lstrip("+-") in WORDS:
        return WORDS[text.lower().lstrip("+-")]
    raise ValueError(next((what for form, what in REASONS.items() if re.fullmatch(form, text)), ""))
