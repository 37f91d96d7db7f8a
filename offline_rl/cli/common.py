"""What several commands share."""

import itertools
import json
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from typing import Any

if typing.TYPE_CHECKING:
    from rich.table import Table

GAP = 2
"""Spaces between the columns of a table on a terminal."""
Dynamics = typing.Literal["d4rl", "plain"]


def spread(row: dict[str, Any]) -> str:
    """Return the standard deviation of the returns of several episodes; of one there is none."""
    return "–" if row["episodes"] < 2 or row["return_std"] is None else f"{row['return_std']:.1f}"


def print_json(value: Any) -> None:
    """Print indented JSON."""
    print(json.dumps(value, indent=2))


def show(text: str) -> None:
    """Print text that holds Markdown tables: as it is, or on a terminal with drawn tables and lines that wrap at words.

    Indented lines are commands to copy and are never wrapped.
    """
    if not sys.stdout.isatty():
        print(text)
        return
    from rich import console

    screen = console.Console(highlight=False, markup=False, emoji=False)
    for is_table, group in itertools.groupby(text.splitlines(), lambda line: line.startswith("|")):
        lines = list(group)
        if is_table:
            head, _, *rows = map(_cells, lines)
            for number, columns in enumerate(_fitting(head, rows, screen.width)):
                screen.print(*[""] * bool(number), _table(head, rows, columns), sep="\n")
        for line in () if is_table else lines:
            screen.print(line, soft_wrap=line.startswith(" "))


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _fitting(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[list[int]]:
    """Yield the columns of each table that a wide one is cut into; all begin with the first two columns."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) + GAP for column in zip(head, *rows, strict=True)]
    keys, others = [0, 1], list(range(2, len(head)))
    while others:
        taken = [*keys, others.pop(0)]
        while others and sum(widths[column] for column in [*taken, others[0]]) <= width + GAP:
            taken.append(others.pop(0))
        yield taken


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], columns: Sequence[int]) -> "Table":
    from rich import table

    drawn = table.Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column in columns:
        values = [row[column] for row in rows]
        numbers = all(re.match(r"[-–+\d]", value) for value in values)
        drawn.add_column(head[column], justify="right" if numbers and column > 1 else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(row[column] for column in columns))
    return drawn
