"""Tables: CSV files, Parquet files, and frames in memory."""

import bz2
import contextlib
import csv
import datetime
import decimal
import gzip
import io
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import offline_rl as orl
from benchmarks.robustness.cases import Case
from benchmarks.robustness.damage import damaged
from benchmarks.robustness.forked import second_opinion
from benchmarks.robustness.meaning import Cell, Meaning, dataset_case, is_ours, table_meaning, text_cell, value_cell

Value = Any


@dataclass
class Table:
    """A table on its way to a file: columns by place, so that a name may stand twice; text, or values."""

    names: list[str]
    columns: list[list[Value]]

    def place(self, rng: random.Random, pattern: str) -> int:
        """Return one of the columns whose names match."""
        return rng.choice([i for i, name in enumerate(self.names) if re.fullmatch(pattern, name)] or [0])

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.columns[0])


def valid_table(rng: random.Random) -> Table:
    """Make a table with whole episodes and nothing wrong in it."""
    rows, size, actions = rng.randint(12, 40), rng.randint(1, 4), rng.randint(1, 3)
    endings = (
        rng.sample(["level", "heat", "temp", "flow"], size) if rng.random() < 0.3 else [str(i) for i in range(size)]
    )
    scale = rng.choice([1.0, 1.0, 1.0, 1e-3, 1e4])
    table = Table([], [])

    def add(name: str, values: list[Value]) -> None:
        table.names.append(name)
        table.columns.append(values)

    for ending in endings:
        add(f"observation_{ending}", [round(rng.gauss(0, scale), 6) for _ in range(rows)])
    for place in range(actions):
        add(f"action_{place}", [round(rng.uniform(-1, 1), 4) for _ in range(rows)])
    add("reward", [round(rng.gauss(0, 1), 3) for _ in range(rows)])
    lengths = [1] * rows
    ends = sorted({rows - 1, *rng.sample(range(2, rows - 1), rng.randint(0, 3))})
    terminated = [int(row in ends and rng.random() < 0.7) for row in range(rows)]
    episodes, number = [], rng.randint(0, 5)
    for row in range(rows):
        episodes.append(number)
        number += row in ends
    kinds = rng.choice([("terminated",), ("terminated", "truncated"), ("episode",), ("terminated", "episode")])
    if kinds == ("terminated",):
        terminated[-1] = 1
    for kind in kinds:
        truncated = [int(row in ends and not terminated[row]) for row in range(rows)]
        add(kind, {"terminated": terminated, "truncated": truncated, "episode": episodes}[kind])
    if rng.random() < 0.4:
        for ending in endings:
            add(f"next_observation_{ending}", [round(rng.gauss(0, scale), 6) for _ in lengths])
    if rng.random() < 0.3:
        add(rng.choice(["comment", "temperature", "step"]), [f"x{row}" for row in range(rows)])
    return table


OURS = r"(next_)?(observation|action)_.*|reward|terminated|truncated"
VECTORS = r"(next_)?(observation|action)_.*"
FLAGS = r"terminated|truncated"
Mutator = Callable[[random.Random, Table], str]


def _cell(pattern: str, what: str, *texts: Value) -> Mutator:
    """Put one of some values into one cell."""

    def mutate(rng: random.Random, table: Table) -> str:
        column, row = table.place(rng, pattern), rng.randrange(table.rows)
        table.columns[column][row] = rng.choice(texts)
        return what

    return mutate


def _column(pattern: str, what: str, change: Callable[[random.Random, list[Value]], list[Value]]) -> Mutator:
    """Change a whole column."""

    def mutate(rng: random.Random, table: Table) -> str:
        column = table.place(rng, pattern)
        with contextlib.suppress(ValueError):  # an earlier change may have left no number to change
            table.columns[column] = change(rng, table.columns[column])
        return what

    return mutate


def _renamed(what: str, change: Callable[[random.Random, str], str], pattern: str = OURS + "|episode") -> Mutator:
    def mutate(rng: random.Random, table: Table) -> str:
        column = table.place(rng, pattern)
        table.names[column] = change(rng, table.names[column])
        return what

    return mutate


def _swap_letters(rng: random.Random, name: str) -> str:
    place = rng.randrange(max(1, name.find("_") if "_" in name else len(name) - 1))
    return name[:place] + name[place : place + 2][::-1] + name[place + 2 :]


def _twice(rng: random.Random, table: Table) -> str:
    column = table.place(rng, OURS + "|episode")
    table.names.append(table.names[column])
    table.columns.append(list(rng.choice(table.columns)))
    return "a column twice"


def _reordered(rng: random.Random, table: Table) -> str:
    order = list(range(len(table.names)))
    rng.shuffle(order)
    table.names[:], table.columns[:] = [table.names[i] for i in order], [table.columns[i] for i in order]
    return "columns in another order"


def _without(rng: random.Random, table: Table) -> str:
    column = table.place(rng, OURS + "|episode")
    del table.names[column], table.columns[column]
    return "a column left out"


def _only(rng: random.Random, table: Table) -> str:
    keep = rng.randint(0, 2)
    for column in table.columns:
        del column[keep:]
    return "few rows"


def _mid_episode(rng: random.Random, table: Table) -> str:
    """End an episode whose id goes on."""
    kind = rng.choice(["terminated", "truncated"])
    if "episode" not in table.names:
        if "terminated" not in table.names:
            return "nothing"
        ends = [int(bool(table.columns[table.names.index("terminated")][row])) for row in range(table.rows)]
        table.names.append("episode")
        table.columns.append([sum(ends[:row]) for row in range(table.rows)])
    if kind not in table.names:
        table.names.append(kind)
        table.columns.append([0] * table.rows)
    table.columns[table.names.index(kind)][rng.randrange(table.rows)] = 1
    return "an end inside an episode"


def _empty_after_end(rng: random.Random, table: Table) -> str:
    """Leave the next observation empty after each end, where it means nothing."""
    if "terminated" not in table.names:
        return "nothing"
    ends = table.columns[table.names.index("terminated")]
    seen = [name for name in table.names if name.startswith("observation_")]
    for name in seen:
        if f"next_{name}" not in table.names:
            table.names.append(f"next_{name}")
            table.columns.append(list(table.columns[table.names.index(name)]))
    for name, column in zip(table.names, table.columns, strict=True):
        if name.startswith("next_"):
            column[:] = ["" if ended in {1, "1"} else value for value, ended in zip(column, ends, strict=True)]
    return "no next observation after an end"


def _ids_again(rng: random.Random, table: Table) -> str:
    if "episode" in table.names:
        column = table.columns[table.names.index("episode")]
        column[rng.randrange(len(column))] = rng.choice(column)
    return "an episode's id in another place"


def _extra(rng: random.Random, table: Table) -> str:
    table.names.append(
        rng.choice(["note", "wind", "rewarding", "id", "observations", "action", "is_terminated", "done"])
    )
    table.columns.append([rng.choice(["", "a b", "1", "nan"]) for _ in range(table.rows)])
    return "another column"


MUTATORS: list[Mutator] = [
    lambda rng, table: "nothing",
    _cell(FLAGS, "a flag of another value", -1, 2, 0.5, "yes", "no", "T", "done", 1e-9, 255, -0.0, "1.0", "0.0"),
    _cell(FLAGS, "a flag as a word", "true", "False", "TRUE"),
    _column(FLAGS, "flags of -1 and 1", lambda rng, values: [1 if value else -1 for value in values]),
    _column(FLAGS, "flags of 0 and 2", lambda rng, values: [2 * value for value in values]),
    _column(FLAGS, "flags as words", lambda rng, values: ["True" if value else "False" for value in values]),
    _column(FLAGS, "flags as yes and no", lambda rng, values: ["yes" if value else "no" for value in values]),
    _cell(OURS, "a value missing", "", "NaN", "NA", "null"),
    _cell("episode", "an id missing", "", "NaN"),
    _column(
        "episode",
        "half the ids missing",
        lambda rng, values: [*values[: len(values) // 2], *[""] * (len(values) - len(values) // 2)],
    ),
    _column("episode", "ids that are words", lambda rng, values: [f"run {value}" for value in values]),
    _ids_again,
    _cell(OURS, "an infinite number", "inf", "-inf", "Infinity"),
    _cell(VECTORS + "|reward", "underscores", "1_000", "0_5.2"),
    _cell(VECTORS + "|reward", "a decimal comma", "0,5", "-1,25"),
    _cell(VECTORS + "|reward", "a thousands comma", "1,000", "1,234.5"),
    _cell(OURS, "a word", "yes", "abc", "-", "?", "1.2.3", "0x10", "1e", "--1", "1 2", "#DIV/0!", "$5", "50%"),
    _cell(VECTORS + "|reward", "a date", "2024-01-31", "2024-01-31 10:00:00", "31.12.2024", "10:30", "P1D", "1 days"),
    _column(VECTORS + "|reward", "dates", lambda rng, values: [f"2024-01-{i % 28 + 1:02}" for i in range(len(values))]),
    _column(VECTORS + "|reward", "durations", lambda rng, values: [f"{i} days 00:00:01" for i in range(len(values))]),
    _cell(VECTORS + "|reward", "an absurd magnitude", "1e20", "-3e38", "1e12"),
    _cell(VECTORS + "|reward", "beyond single precision", "1e39", "-1e300", "1e400", "9" * 60),
    _cell(VECTORS + "|reward", "a tiny number", "1e-45", "1e-300", "5e-324", "1e-20"),
    _cell(
        VECTORS + "|reward", "a number written otherwise", "+0.5", "1e-1", ".5", "1.", "5E-1", "00.5", " 0.5", "0.5 "
    ),
    _column("action_.*", "a constant action", lambda rng, values: [values[0]] * len(values)),
    _column(
        "action_.*",
        "a range lost in single precision",
        lambda rng, values: [1 + 1e-9 * (i % 2) for i in range(len(values))],
    ),
    _column(
        "action_.*",
        "a range of denormals",
        lambda rng, values: [1e-45 * (i % 2) * rng.choice([1, 0.1]) for i in range(len(values))],
    ),
    _column("observation_.*", "time stamps", lambda rng, values: [1.7e9 + i for i in range(len(values))]),
    _column("observation_.*", "a tiny unit", lambda rng, values: [f"{float(value) * 1e-6:.9e}" for value in values]),
    _column("reward", "rewards of 1e25", lambda rng, values: [f"{float(value)}e25" for value in values]),
    _column("reward", "rewards as truth values", lambda rng, values: [str(bool(i % 2)) for i in range(len(values))]),
    _renamed("a letter of a name changed", lambda rng, name: name.replace(rng.choice(name), rng.choice("aexz"), 1)),
    _renamed("two letters of a name exchanged", _swap_letters),
    _renamed("capitals in a name", lambda rng, name: rng.choice([name.upper(), name.capitalize()])),
    _renamed("spaces around a name", lambda rng, name: rng.choice([f" {name}", f"{name} ", f"{name}\n"])),
    _renamed("an ambiguous name", lambda rng, name: rng.choice(["done", "timeout", "terminals", "end"]), FLAGS),
    _renamed(
        "a gap in numbers", lambda rng, name: re.sub(r"\d+$", lambda m: str(int(m[0]) + rng.choice([1, 7])), name)
    ),
    _renamed("a number with a zero before", lambda rng, name: re.sub(r"(\d+)$", r"0\1", name)),
    _renamed("no number", lambda rng, name: name.rpartition("_")[0] or name, VECTORS),
    _renamed("an empty name", lambda rng, name: ""),
    _twice,
    _twice,
    _reordered,
    _without,
    _only,
    _mid_episode,
    _mid_episode,
    _empty_after_end,
    _extra,
]


def _mutated(rng: random.Random, table: Table) -> str:
    """Do one thing to a table, or two."""
    kinds = {rng.choice(MUTATORS)(rng, table)}
    if table.rows and rng.random() < 0.15:
        kinds.add(rng.choice(MUTATORS)(rng, table))
    return " and ".join(sorted(kinds))


# CSV.


def _long_row(rng: random.Random, lines: list[list[str]], header: list[str]) -> str:
    rows = range(len(lines)) if rng.random() < 0.3 else [rng.randrange(len(lines))] if lines else []
    for row in rows:
        lines[row].append(rng.choice(["", "0", "1.5"]))
    return "too many fields"


def _short_row(rng: random.Random, lines: list[list[str]], header: list[str]) -> str:
    if lines:
        row = rng.choice(lines)
        del row[rng.randrange(len(row)) :]
    return "too few fields"


def _decimal_commas(rng: random.Random, lines: list[list[str]], header: list[str]) -> str:
    for line in lines:
        line[:] = [cell.replace(".", ",") for cell in line]
    return "decimal commas"


LINES = [_long_row, _long_row, _short_row, _decimal_commas]


def csv_case(rng: random.Random, folder: Path) -> Case:
    """Make a CSV file."""
    table, kind = valid_table(rng), "nothing"
    way = rng.random()
    if way < 0.65:
        kind = _mutated(rng, table)
    lines = [[_text(column[row]) for column in table.columns] for row in range(table.rows)]
    if 0.65 <= way < 0.72:
        kind = rng.choice(LINES)(rng, lines, table.names)
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL]) if kind != "too many fields" else 0
    separator = ","
    if 0.72 <= way < 0.75:
        separator = rng.choice([";", "\t", "|", " "])
        kind = "another separator"
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=rng.choice(["\n", "\n", "\r\n"]), quoting=quoting)
    writer.writerows([table.names, *lines])
    content, suffix = text.getvalue().encode(), ".csv"
    if 0.75 <= way < 0.80:
        content, suffix, kind = _written_otherwise(rng, content)
    elif way >= 0.80 and content:
        content, kind = damaged(content, rng)
    path = folder / f"table{suffix}"
    path.write_bytes(content)
    meaning = csv_meaning(content, suffix)
    return dataset_case(path.name, kind, len(content), meaning, lambda: orl.load_dataset(path))


def _text(value: Value) -> str:
    return value if isinstance(value, str) else repr(value)


def _written_otherwise(rng: random.Random, content: bytes) -> tuple[bytes, str, str]:
    """Write a valid file in another form: the meaning stays, or no loader can be asked to find it."""
    forms: list[tuple[bytes, str, str]] = [
        (content.rstrip(b"\r\n"), ".csv", "no line end at the end"),
        (content + b"\n\n", ".csv", "empty lines at the end"),
        (gzip.compress(content, mtime=0), ".csv.gz", "compressed"),
        (bz2.compress(content), ".csv.bz2", "compressed by bzip2"),
        (content, ".CSV", "a suffix in capitals"),
        (b"\xef\xbb\xbf" + content, ".csv", "a byte order mark"),
        (content.decode().encode("utf-16"), ".csv", "UTF-16"),
        (gzip.compress(content, mtime=0), ".csv", "compressed without saying so"),
        (content, ".csv.gz", "compressed in name only"),
        (b"# made by hand\n" + content, ".csv", "a remark before the header"),
        (content.replace(b"\n", b"\n\n", 3), ".csv", "empty lines"),
        (content.partition(b"\n")[2], ".csv", "no header"),
        (b"", ".csv", "an empty file"),
    ]
    return rng.choice(forms)


def csv_meaning(content: bytes, suffix: str) -> Meaning:
    """Say what the bytes of a CSV file mean, by Python's own csv module."""
    meaning = Meaning()
    lenient = suffix not in {".csv", ".csv.gz", ".CSV"}
    try:
        # What a file is packed with is what its first bytes say, whatever its name.
        unpack = gzip.decompress if content[:2] == b"\x1f\x8b" else bz2.decompress if content[:3] == b"BZh" else bytes
        lenient |= unpack is not {".gz": gzip.decompress, ".bz2": bz2.decompress}.get(suffix[4:], bytes)
        plain = unpack(content)
        text = plain.decode("utf-8")
        lenient |= text.startswith("\ufeff") or '"' in text or "\0" in text or bool(re.search(r"\r(?!\n)", text))
        lines = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline="")))
    except (OSError, EOFError, ValueError, csv.Error) as error:
        meaning.fault(f"it cannot be decoded ({type(error).__name__})")
        return meaning
    blank = [not "".join(line).strip() and len(line) < 2 for line in lines]
    lenient |= any(line and empty for line, empty in zip(lines, blank, strict=True)) or (bool(blank) and blank[0])
    lines = [line for line, empty in zip(lines, blank, strict=True) if not empty]
    if not lines:
        meaning.fault("it is empty")
        return meaning
    names, *rows = lines
    for number, row in enumerate(rows):
        if len(row) > len(names):
            meaning = table_meaning(names, {name: [] for name in names}, {"episode": []})
            meaning.faults = [fault for fault in meaning.faults if fault.what != "it has no rows"]
            meaning.fault("a row has too many fields", None, number)
            meaning.lenient |= lenient
            return meaning
        lenient |= len(row) < len(names)
    filled = [row + [""] * (len(names) - len(row)) for row in rows]
    cells = {name: [text_cell(row[place]) for row in filled] for place, name in enumerate(names)}
    place = names.index("episode") if "episode" in names else -1
    ids = {"episode": [_id(row[place]) for row in filled]} if place >= 0 else {}
    meaning = table_meaning(names, cells, ids)
    if "episode" in names:
        cells = cells["episode"]
        meaning.lenient |= any(cell.number is not None for cell in cells) and any(cell.number is None for cell in cells)
    meaning.lenient |= lenient or any(name != name.strip() or not name for name in names)
    # Where quotes are not in pairs, readers do not agree on where cells end.
    meaning.named = '"' not in text
    return meaning


def _id(text: str) -> Any:
    number = text_cell(text).number
    return text if number is None else number


# Values in memory and in Parquet files.

VALUES: list[Mutator] = [
    _cell(OURS, "None", None),
    _cell("episode", "an id that is None", None),
    _cell(OURS, "an object", decimal.Decimal("0.5"), (1, 2), [0.5], {}, b"1"),
    _cell(OURS, "a time", datetime.datetime(2024, 1, 31), datetime.date(2024, 1, 31), datetime.timedelta(days=1)),
    _column(
        VECTORS + "|reward",
        "times",
        lambda rng, values: [np.datetime64("2024-01-01") + np.timedelta64(i, "D") for i in range(len(values))],
    ),
    _column(VECTORS + "|reward", "durations", lambda rng, values: [np.timedelta64(i, "s") for i in range(len(values))]),
    _column(VECTORS + "|reward", "large whole numbers", lambda rng, values: [2**62 + i for i in range(len(values))]),
    _column(OURS, "words of numbers", lambda rng, values: [str(value) for value in values]),
    _column(OURS, "complex numbers", lambda rng, values: [complex(rng.random(), 1) for _ in values]),
    _column(OURS, "truth values", lambda rng, values: [bool(i % 2) for i in range(len(values))]),
    _column(OURS, "lists", lambda rng, values: [[value] for value in values]),
    _column("reward", "decimals", lambda rng, values: [decimal.Decimal(str(value)) for value in values]),
    _column(
        "episode",
        "ids that are dates",
        lambda rng, values: [datetime.date(2024, 1, 1 + int(value) % 28) for value in values],
    ),
]


def _number_or_text(value: Value) -> Value:
    """Return the number that a text mutator has written, so that columns of values hold values."""
    if isinstance(value, str):
        cell = text_cell(value)
        if cell.missing:
            return float("nan")
        if cell.number is not None and not cell.lenient:
            return cell.number
    return value


def _values_table(rng: random.Random) -> tuple[Table, str]:
    table = valid_table(rng)
    kind = rng.choice(VALUES)(rng, table) if rng.random() < 0.35 else _mutated(rng, table)
    table.columns = [[_number_or_text(value) for value in column] for column in table.columns]
    return table, kind


def values_meaning(names: list[str], columns: list[list[Value]]) -> Meaning:
    """Say what columns of values mean."""
    cells = {name: [value_cell(value) for value in column] for name, column in zip(names, columns, strict=True)}
    ids = {}
    if "episode" in names:
        ids = {"episode": columns[names.index("episode")]}
        # An id may be anything but missing.
        cells["episode"] = [Cell(0.0, cell.missing) for cell in cells["episode"]]
    meaning = table_meaning(names, cells, ids)
    meaning.lenient |= any(name != name.strip() or not name for name in names)
    if "episode" in names:
        meaning.lenient |= len({type(value) for value in columns[names.index("episode")]}) > 1
    return meaning


def frame_case(rng: random.Random, folder: Path) -> Case:
    """Make a frame, or a dictionary of columns."""
    import pandas

    table, kind = _values_table(rng)
    rows = table.rows
    frame: Any = pandas.DataFrame({i: pandas.Series(column) for i, column in enumerate(table.columns)})
    frame.columns = table.names
    form = rng.choice(["frame", "frame", "dictionary", "nullable", "float32"])
    if form == "dictionary" and len(set(table.names)) == len(table.names):
        frame = {
            name: np.asarray(column, _object_if_ragged(column))
            for name, column in zip(table.names, table.columns, strict=True)
        }
    elif form == "nullable":
        with contextlib.suppress(TypeError):  # not all types have one that can be missing
            frame = frame.convert_dtypes()
    bounds, bounds_kind = None, ""
    if rng.random() < 0.15 and kind == "nothing":
        bounds, bounds_kind = _bounds(rng, sum(name.startswith("action_") for name in table.names))
        kind = f"action_bounds {bounds_kind}"
    meaning = values_meaning(table.names, table.columns)
    if bounds_kind and bounds_kind != "valid":
        meaning.fault(f"action_bounds are {bounds_kind}")
    meaning.lenient |= bounds_kind == "valid"
    given = {"action_bounds": bounds} if bounds else {}
    return dataset_case("mine", kind, 100 * rows, meaning, lambda: orl.Dataset.from_table(frame, name="mine", **given))


def _object_if_ragged(column: list[Value]) -> Any:
    return object if any(isinstance(value, (bytes, list, tuple, dict, decimal.Decimal)) for value in column) else None


def _bounds(rng: random.Random, size: int) -> tuple[Any, str]:
    """Return bounds of actions, and what they are."""
    return rng.choice(
        [
            ((-1.0, 1.0), "valid"),
            (([-2.0] * size, [2.0] * size), "valid"),
            ((1.0, -1.0), "reversed"),
            ((0.0, 0.0), "constant"),
            ((1.0, 1.0 + 1e-9), "constant in single precision"),
            ((float("nan"), 1.0), "not finite"),
            ((-float("inf"), float("inf")), "not finite"),
            (([-1.0] * (size + 1), [1.0] * (size + 1)), "too many"),
            (("low", "high"), "words"),
            (([-1.0] * size, [1.0] * (size - 1) + [-1.0]), "constant in one entry"),
            ((None, None), "missing"),
            ((-1e300, 1e300), "beyond single precision"),
            ((-1.0,), "one number"),
        ]
    )


def parquet_case(rng: random.Random, folder: Path) -> Case:
    """Make a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    for _ in range(20):
        table, kind = _values_table(rng)
        try:
            arrays = [
                pyarrow.array([None if _is_nan(value) else value for value in column]) for column in table.columns
            ]
            arrow = pyarrow.Table.from_arrays(arrays, names=table.names)
            break
        except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):
            continue  # a column of Parquet has one type
    stream = io.BytesIO()
    pyarrow.parquet.write_table(arrow, stream, compression=rng.choice(["none", "snappy", "gzip", "zstd"]))
    content, suffix = stream.getvalue(), rng.choice([".parquet"] * 9 + [".PARQUET"])
    whole = rng.random() >= 0.25
    if not whole:
        content, kind = damaged(content, rng)
    path = folder / f"table{suffix}"
    path.write_bytes(content)
    read = second_opinion(lambda: _read_parquet(path), whole=whole)
    meaning = Meaning()
    if isinstance(read, str) and not whole:  # it may be in a column that nobody asks for
        read = second_opinion(lambda: _read_parquet(path, is_ours), whole=whole)
        meaning.lenient = not isinstance(read, str)
    if isinstance(read, str):
        meaning.fault(read)
    elif meaning.lenient:
        meaning = values_meaning(*read)
        meaning.lenient = True
    else:
        meaning = values_meaning(*read)
    return dataset_case(path.name, kind, len(content), meaning, lambda: orl.load_dataset(path))


def _is_nan(value: Value) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _read_parquet(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> tuple[list[str], list[list[Value]]]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    names = [name for name in file.schema_arrow.names if wanted(name)]
    table = file.read(names, use_threads=False) if wanted is is_ours else file.read(use_threads=False)
    return table.column_names, [column.to_pylist() for column in table.columns]
