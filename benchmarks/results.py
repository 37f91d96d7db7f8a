"""From finished runs to small result files, one for each seed, and from those to the table of scores.

``make scores`` prints the table of the committed results.
"""

import re
import sys
from pathlib import Path

from offline_rl.analysis.figures import draw_comparison
from offline_rl.analysis.groups import conditions, identity, varying
from offline_rl.analysis.results import Result, read_result, read_results, results_of
from offline_rl.analysis.tables import table
from offline_rl.errors import OfflineRLError, RunError
from offline_rl.files import write_bytes, write_json
from offline_rl.training.run import Run


def collect(runs: tuple[Path, ...], /, *, out: Path, note: str | None = None) -> None:
    """Write one result file for each seed of finished runs; nothing at all if one of them cannot be taken.

    Args:
        runs: The runs' folders.
        out: Folder of the result files.
        note: A remark on how the runs were made; the table shows it.

    Raises:
        RunError: A run has not finished, or a result would take the place of one made with other settings.
    """
    if not runs:
        raise RunError("no run is named; give the folder of at least one")
    found: dict[Path, Result] = {}
    for run in runs:
        for result in _results(run):
            path = out / file_name(result)
            _check_same(path, found.get(path) or (read_result(path) if path.exists() else None), result)
            found[path] = {**result, "note": note}
    out.mkdir(parents=True, exist_ok=True)
    for path, result in found.items():
        write_json(path, result)
    print(f"{len(found)} results of {len(runs)} runs written to {out}")


def file_name(result: Result) -> str:
    """Return ``<algorithm>-<dataset>-seed-<n>.json``."""
    dataset = re.sub(r"[^\w.+-]+", "-", result["dataset"]["name"])
    return f"{result['algorithm']}-{dataset}-seed-{result['seed']}.json"


def show(folder: Path, /, *, out: Path | None = None, figure: Path | None = None) -> None:
    """Print the table of the results in a folder.

    Args:
        folder: Folder of result files.
        out: Markdown file to write the table to, too.
        figure: PNG file to draw the learning curves to.
    """
    results = read_results(folder)
    text = table(results)
    print(text)
    if out:
        write_bytes(out, f"{text}\n".encode())
    if figure:
        draw_comparison(results, figure)


def _results(path: Path) -> list[Result]:
    run = Run(path)
    config = run.config
    return results_of(str(path), config, run.rows if (path / "metrics.jsonl").is_file() else [])


def _check_same(path: Path, old: Result | None, new: Result) -> None:
    if old and (different := varying([conditions(old) | identity(old), conditions(new) | identity(new)])):
        raise RunError(
            f"{path} is a result made with another {', '.join(sorted(different))}; remove it, or choose another --out"
        )


def main() -> int:
    """Collect, or show the table; return the exit status."""
    import tyro

    try:
        tyro.extras.subcommand_cli_from_dict({"collect": collect, "table": show})
    except OfflineRLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
