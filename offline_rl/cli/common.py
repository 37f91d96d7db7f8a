"""What several commands share."""

import itertools
import json
import re
import sys
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

if typing.TYPE_CHECKING:
    from rich.table import Table

GAP = 2
"""Spaces between the columns of a table on a terminal."""
KEYS, KEY_SHARE, TEXT_SHARE = 2, 0.3, 0.2
"""How many columns say which row it is, and the share of the width that is enough for one, or for another text."""
DEVIATION = "± of an agent is the standard deviation over its episodes"
INTERVAL = "± of the mean of seeds is its 95 % t interval (see offline-rl compare)"
"""What ± means in tables of agents' scores."""
Dynamics = typing.Literal["d4rl", "plain"]


def score_line(what: str, returned: str, score: str, steps: str = "") -> str:
    """Return a line of a table of returns and scores."""
    return f"  {what:24}{returned:>18}  {score:>17}  {steps:>6}".rstrip()


def goal_lines(means: Mapping[str, Any]) -> list[str]:
    """Return a line that says how often the goal was reached, and how far off episodes ended; none without goals."""
    success, distance = means.get("success"), means.get("goal_distance")
    said = [f"goal reached in {100 * success:.0f} % of the episodes"] if success is not None else []
    said += [f"distance from the goal at the end {distance:.2f}"] if distance is not None else []
    return [f"    {'; '.join(said)}"] if said else []


def print_json(value: Any) -> None:
    """Print indented JSON."""
    print(json.dumps(value, indent=2))


def show(text: str, notes: Path | None = None) -> None:
    """Print text that holds Markdown tables: as it is, or on a terminal with drawn tables and lines that wrap at words.

    Indented lines are commands to copy and are never wrapped.

    Args:
        text: The text.
        notes: A file that has the text, too; then a terminal is only told how many list items are there.
    """
    if not sys.stdout.isatty():
        print(text)
        return
    from rich import console

    screen = console.Console(highlight=False, markup=False, emoji=False)
    items = [line for line in text.splitlines() if line.startswith("* ")]
    if notes and items:
        text = "\n".join(line for line in text.splitlines() if not line.startswith("* ")).rstrip()
        text += f"\n\n{len(items)} notes on rows, columns, data and versions are in {notes}"
    for is_table, group in itertools.groupby(text.splitlines(), lambda line: line.startswith("|")):
        lines = list(group)
        if is_table:
            head, _, *rows = map(_cells, lines)
            for number, columns in enumerate(_fitting(head, rows, screen.width)):
                screen.print(*[""] * bool(number), _table(head, rows, columns, screen.width), sep="\n")
        for line in () if is_table else lines:
            screen.print(_wrapped(line, screen.width), soft_wrap=True)


def _wrapped(line: str, width: int) -> str:
    """Return a line wrapped at words, what follows the first line of a list item below its text."""
    if not line or line.startswith(" "):
        return line
    indent = "  " if line.startswith("* ") else ""
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _fitting(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[list[int]]:
    """Yield the columns of each table that a wide one is cut into; all begin with the first ones."""
    widths = [needed + GAP for needed in _widths(head, rows, width)]
    keys, others = list(range(KEYS)), list(range(KEYS, len(head)))
    while others:
        taken = [*keys, others.pop(0)]
        while others and sum(widths[column] for column in [*taken, others[0]]) <= width + GAP:
            taken.append(others.pop(0))
        yield taken


def _widths(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return how wide each column has to be: headings take up to two lines, and text wraps at words."""
    from rich.cells import cell_len

    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in head]
    found = []
    for place, (title, column) in enumerate(zip(head, columns, strict=True)):
        own = max(map(cell_len, [_halves(title), *column]))
        word = max(map(cell_len, " ".join([title, *column]).split()))
        share = KEY_SHARE if place < KEYS else TEXT_SHARE
        found.append(own if _is_numbers(column) else max(word, min(own, int(width * share))))
    return found


def _is_numbers(column: Sequence[str]) -> bool:
    return all(re.match(r"[-–+\d]", value) for value in column)


def _halves(title: str) -> str:
    """Return the longer of the two lines that a heading takes, broken where they are about as long."""
    words = title.split()
    ways = [(" ".join(words[:place]), " ".join(words[place:])) for place in range(len(words))]
    return min((max(way, key=len) for way in ways), key=len, default="")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], columns: Sequence[int], width: int) -> "Table":
    from rich import table

    drawn = table.Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    widths = _widths(head, rows, width)
    for column in columns:
        if column >= KEYS and _is_numbers([row[column] for row in rows]):
            drawn.add_column(head[column], justify="right", min_width=widths[column])
        else:
            drawn.add_column(head[column], overflow="fold", max_width=widths[column] if column < KEYS else None)
    for row in rows:
        drawn.add_row(*(row[column] for column in columns))
    return drawn
