"""``offline-rl datasets NAME --check`` and ``offline-rl drift``."""

import math
import shutil
import sys
import textwrap
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_rl.arguments import CommandLine, UsageError
from offline_rl.cli.common import print_json

if TYPE_CHECKING:
    from offline_rl.checks.drift import Drift
    from offline_rl.checks.finding import Finding

SHOWN = 10
"""Columns that a table of drift shows at most."""


def check_dataset(name: str, mode: str | None, page: str | None) -> None:
    """Print the findings of all checks of a dataset; also write them on a page, if a file is named."""
    from offline_rl.checks.check import CHECKS, check
    from offline_rl.checks.page import write_page
    from offline_rl.data import load_dataset

    if page is not None and not page.endswith(".html"):
        raise UsageError(f"--page is {page}; its name must end with .html")
    dataset = load_dataset(name, mode)
    findings = check(dataset)
    warnings = sum(finding.severity == "warning" for finding in findings)
    counted = f"{_count(warnings, 'warning')}, {_count(len(findings) - warnings, 'note')}"
    print(f"{dataset.name}: {len(CHECKS)} checks, {counted}")
    for finding in findings:
        _print_finding(finding)
    if page is not None:
        write_page(dataset, findings, Path(page))
        print(f"written to {page}", file=sys.stderr)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _print_finding(finding: "Finding") -> None:
    width = shutil.get_terminal_size().columns
    print(f"\n{finding.severity}: {finding.check}")
    for label, text in (("seen", finding.evidence), ("effect", finding.consequence), ("remedy", finding.remedy)):
        print(
            textwrap.fill(
                text, width, initial_indent=f"  {label:8}", subsequent_indent=" " * 10, break_on_hyphens=False
            )
        )


def drift_command(arguments: list[str]) -> int:
    """Compare today's observations with those that an agent learned from; return 1 if they have drifted."""

    def command(path: str, file: str, dataset: str | None = None, json: bool = False) -> dict[str, Any]:
        """Say whether new observations are like those that an agent learned from. The exit status is 1 if not.

        Args:
            path: An agent folder, a run folder, or hf://user/name for an agent on the Hugging Face Hub.
            file: The new rows, in order of time: whatever --dataset of train takes, or a table of observations alone.
            dataset: What to compare with: the data that the agent learned from, or good days under the agent; with it
                also joint states are compared, by their nearest neighbours.
            json: Print JSON.
        """
        return {"path": path, "file": file, "dataset": dataset, "json": json}

    line = CommandLine(arguments, typing.get_type_hints(command), positional=("path", "file"))
    return _drift(**line.parse(command, "offline-rl drift"))


def _drift(*, path: str, file: str, dataset: str | None, json: bool) -> int:
    import dataclasses

    from offline_rl.checks.drift import drift

    found = drift(path, file, dataset=dataset)
    if json:
        values = dataclasses.asdict(found)
        for column in values["columns"]:
            for name in ("ratio", "threshold"):
                column[name] = column[name] if math.isfinite(column[name]) else None
        print_json(values)
    else:
        _print_drift(found)
    return int(found.answer == "drifted")


def _print_drift(found: "Drift") -> None:
    width = shutil.get_terminal_size().columns
    print(textwrap.fill(found.sentence, width))
    longest = max(len(column.name) for column in found.columns[:SHOWN])
    print(f"\n  {'column':{longest}}  difference  threshold  mean moved (sd)  sd ratio")
    for column in found.columns[:SHOWN]:
        numbers = f"{column.difference:10.2f}  {column.threshold:9.2f}  {column.shift:15.2f}  {column.ratio:8.2f}"
        print(f"  {column.name:{longest}}  {numbers}{'  drifted' * column.drifted}")
    if len(found.columns) > SHOWN:
        print(f"  and {len(found.columns) - SHOWN} more, less different")
    if found.novelty is not None:
        print(f"  far from all data: {found.novelty:.1%} of the rows, threshold {found.novelty_threshold:.1%}")
