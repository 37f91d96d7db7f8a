"""Writes the scores of result files as rows of a CSV, which others can compare with.

    python -m benchmarks.reference results/minari --out results/minari/reference.csv

A row is a method on a dataset: the mean over seeds of the last agents' scores. It says of which version of the dataset
(also by the fingerprint of its transitions), what the score is, and by which protocol it was made.
"""

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import Any

from offline_rl.analysis.groups import Group, conditions, grouped
from offline_rl.analysis.results import read_results
from offline_rl.analysis.statistics import Estimate
from offline_rl.data.minari import is_id
from offline_rl.errors import OfflineRLError
from offline_rl.files import write_bytes

COLUMNS = (
    *("method", "dataset", "version", "fingerprint", "score", "half_width_95", "seeds", "score_0_and_100_are"),
    *("return", "success_rate", "protocol", "suite_version"),
)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the results in a folder, in the order of datasets and methods.

    Raises:
        RunError: There are none, or they cannot be read.
    """
    return [_row(group) for group in grouped(read_results(folder))]


def _row(group: Group) -> dict[str, Any]:
    first = group.results[0]
    scores = [result["score_last"] for result in group.results]
    lost = scores.count(None)
    estimate = None if lost else Estimate.of(scores)
    success = [result["final"].get("success") for result in group.results]
    reference = first["dataset"].get("reference") or {}
    width = estimate.half_width if estimate else None
    return {
        "method": group.label,
        "dataset": group.dataset,
        "version": group.dataset.rpartition("-v")[2] if is_id(group.dataset) else "",
        "fingerprint": first["dataset"]["fingerprint"],
        "score": f"{estimate.mean:.2f}" if estimate else f"{lost} of {len(scores)} diverged",
        "half_width_95": "" if width is None else f"{width:.2f}",
        "seeds": len(scores),
        "score_0_and_100_are": reference.get("returns", "D4RL's reference returns"),
        "return": "" if lost else f"{Estimate.of([result['final']['return'] for result in group.results]).mean:.4f}",
        "success_rate": "" if None in success or lost else f"{Estimate.of(success).mean:.4f}",
        "protocol": _protocol(group),
        "suite_version": first["versions"].get("offline-rl-suite", ""),
    }


def _protocol(group: Group) -> str:
    """Say how a score was made."""
    told = conditions(group.results[0])
    online = f" and {told['online_steps']:,} online" if told["online_steps"] else ""
    return (
        f"last agent after {told['steps']:,} updates{online}; {told['final_episodes']} episodes of each seed;"
        f" mean over seeds and half the 95 % Student-t interval; {told['dynamics']} dynamics"
    )


def write(folder: Path, out: Path) -> int:
    """Write the CSV whole or not at all; return how many rows it has."""
    found = rows(folder)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    write_bytes(out, text.getvalue().encode())
    return len(found)


def main() -> int:
    """Write; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of result files")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    options = parser.parse_args()
    try:
        print(f"{write(options.folder, options.out)} rows in {options.out}")
    except (OfflineRLError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
