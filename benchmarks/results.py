"""From finished runs to small result files, one for each seed, and from those to the table of scores.

``make scores`` prints the table of the committed results.
"""

import hashlib
import itertools
import json
import sys
from pathlib import Path

from offline_rl.analysis.figures import draw_comparison
from offline_rl.analysis.groups import varying
from offline_rl.analysis.results import FORMAT, read_results
from offline_rl.analysis.tables import table
from offline_rl.benchmark import collect, write_table
from offline_rl.errors import OfflineRLError, RunError
from offline_rl.files import read_sealed, sealed, write_bytes, write_json

README = Path(__file__).parent.parent / "README.md"
RECORDS = "checksums.json"
"""Beside the records of a run, which are no results and carry no checksum of their own."""


def collect_command(runs: tuple[Path, ...], /, *, out: Path, note: str | None = None) -> None:
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
    print(f"{len(collect(runs, out=out, note=note))} results of {len(runs)} runs written to {out}")


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
        write_table(out, text)
    if figure:
        draw_comparison(results, figure)


def seal(folders: tuple[Path, ...], /) -> None:
    """Give results that were made before there were checksums one, and change nothing else; others are left alone.

    Args:
        folders: Folders of result files, single files, or runs, whose checksums go to a file beside their records.
    """
    runs = [folder for folder in folders if (folder / "config.json").is_file()]
    for run in runs:
        if not (run / RECORDS).exists():
            write_json(run / RECORDS, sealed({"files": _checksums(run)}))
    others = [folder for folder in folders if folder not in runs]
    paths = [sorted(folder.glob("*.json")) if folder.is_dir() else [folder] for folder in others]
    for path in itertools.chain.from_iterable(paths):
        value = json.loads(path.read_text())
        if "checksum" not in value:
            write_json(path, sealed({**value, "format": FORMAT} if "format" in value else value))


def check(folder: Path, /) -> None:
    """See that nobody has changed a file in a folder of results or below it.

    Args:
        folder: Folder of sealed JSON files, and of the records of runs.

    Raises:
        RunError: A file has no checksum, or was changed after it was made; the first one is named.
    """
    for path in sorted(folder.rglob("*.json")):
        if path.name != "config.json":
            read_sealed(path)
        elif changed := varying([read_sealed(path.with_name(RECORDS))["files"], _checksums(path.parent)]):
            raise RunError(f"{path.with_name(min(changed))} was changed after it was made; restore it")


def _checksums(run: Path) -> dict[str, str]:
    names = ("config.json", "metrics.jsonl")
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names}


def readme(path: Path = README) -> None:
    """Put the committed table of scores between the README's markers.

    Args:
        path: The README.
    """
    begin, end = "<!-- scores: begin -->\n", "<!-- scores: end -->"
    before, _, rest = path.read_text().partition(begin)
    _, _, after = rest.partition(end)
    text = (path.parent / "results" / "comparison" / "table.md").read_text()
    write_bytes(path, f"{before}{begin}\n{text}\n{end}{after}".encode())


def main() -> int:
    """Collect, or show the table; return the exit status."""
    import tyro

    try:
        tyro.extras.subcommand_cli_from_dict(
            {"collect": collect_command, "table": show, "seal": seal, "check": check, "readme": readme}
        )
    except OfflineRLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
