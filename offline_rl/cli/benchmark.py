"""``offline-rl benchmark``, ``report``, ``results`` and ``compare``."""

import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from offline_rl.arguments import CommandLine, UsageError
from offline_rl.cli.common import show
from offline_rl.cli.estimate import kept_estimates
from offline_rl.files import write_bytes
from offline_rl.processes.cluster import Launcher


def benchmark_command(arguments: list[str]) -> None:
    """Run what is missing of a suite, and print its table."""
    from offline_rl.benchmark import missing, read_suite, run_suite, suite_table, write_table
    from offline_rl.processes.cluster import launch, read_options

    def command(
        *,
        suite: str,
        data_dir: str | None = None,
        results: str | None = None,
        runs: str = "runs",
        launcher: Launcher = "local",
        workers: int = 1,
        launcher_options: str = "",
    ) -> dict[str, Any]:
        """Train what is missing of a suite, write a small result file for each seed, and print the suite's table.

        Args:
            suite: YAML file with datasets, options of every run, and methods; see benchmarks/.
            data_dir: Folder of the datasets that are files.
            results: Folder of result files and table.md; by default results/ and the suite's name.
            runs: Folder of the runs, which go on from their checkpoints when the command is given again.
            launcher: Where the workers are: processes of this machine, Slurm jobs, or tasks of a Ray cluster.
            workers: Runs side by side, each of which starts training processes of its own: how many is the option
                workers of a suite.
            launcher_options: For Slurm in submitit's words, "timeout_min=600 slurm_partition=gpu"; for Ray
                "address=HOST:PORT num_cpus=2 num_gpus=1".
        """
        return locals()

    line = CommandLine(arguments, typing.get_type_hints(command), positional=("suite",))
    given = line.parse(command, "offline-rl benchmark")
    path, data = Path(given["suite"]), Path(given["data_dir"]) if given["data_dir"] else None
    results, runs = Path(given["results"] or Path("results", path.stem)), Path(given["runs"])
    suite, elsewhere = read_suite(path), read_options(given["launcher_options"])
    if missing(suite, results) and (given["workers"] > 1 or given["launcher"] != "local"):
        own = ["suite", "launcher", "workers", "launcher_options"]
        launch(
            ["benchmark", str(path), *(f"--{name}={value}" for name, value in line.given.items() if name not in own)],
            launcher=given["launcher"],
            workers=given["workers"],
            folder=runs / suite.name / "workers",
            options=elsewhere,
            done=_Watch(lambda: missing(suite, results)),
        )
    text = suite_table(suite, run_suite(suite, data=data, results=results, runs=runs))
    write_table(results / "table.md", text)
    show(text, results / "table.md")


class _Watch:
    """Says whether workers elsewhere have done all there was to do, and tells of each run that they have finished.

    Args:
        missing: Returns the datasets and methods that lack a result.
    """

    def __init__(self, missing: Callable[[], Sequence[tuple[str, str]]]) -> None:
        self._missing, self._left = missing, list(missing())
        self._total = len(self._left)
        print(f"{self._total} runs to do", file=sys.stderr, flush=True)

    def __call__(self) -> bool:
        """Look at the results that are there."""
        left = self._missing()
        for dataset, method in [job for job in self._left if job not in left]:
            self._left.remove((dataset, method))
            done = self._total - len(self._left)
            print(f"[{done}/{self._total}] finished: {dataset}, {method}", file=sys.stderr, flush=True)
        return not left


def report_command(arguments: list[str]) -> None:
    """Write tables, figures and one page of results or finished runs."""
    from offline_rl.benchmark import Protocol, report

    def command(
        *,
        places: list[str],
        out: str | None = None,
        suite: str | None = None,
        protocol: Protocol = "scores",
        episodes: int = 100,
    ) -> dict[str, Any]:
        """Write table.md, report.md, .tex, .csv, .html, and curves and profiles as PNG and SVG; print the table.

        Args:
            places: Finished runs, and folders of result files, such as offline-rl benchmark writes.
            out: Where to write; by default a single folder of result files itself.
            suite: YAML file of the suite that made the results: its order of methods, its metrics as columns.
            protocol: The last scores; or bandit: play the agents of runs, and write what the policy comes to that a
                UCB bandit would choose after so many episodes, as bandit.md, .json, .png and .svg.
            episodes: Episodes of each agent to play for the bandit.
        """
        return locals()

    line = CommandLine(arguments, {**typing.get_type_hints(command), "protocol": Protocol}, positional=("places",))
    given = line.parse(command, "offline-rl report")
    places = given.pop("places")
    page = report(*places, **given)
    table = page if given["protocol"] == "bandit" else page.parent / "table.md"
    show(table.read_text(encoding="utf-8").rstrip("\n"), table)
    if estimates := kept_estimates(places):
        write_bytes(page.parent / "estimates.txt", f"{estimates}\n".encode())
        print(f"\nEstimates from recorded episodes, which are no scores:\n\n{estimates}")
    print(f"written to {page.parent}; open {page}", file=sys.stderr)


def results_command(arguments: list[str]) -> None:
    """Make result files of finished runs."""
    from offline_rl.benchmark import collect

    def command(*, runs: list[str], out: str, method: str | None = None, note: str | None = None) -> dict[str, Any]:
        """Write one small result file for each seed of finished runs; none at all if one run cannot be taken.

        Args:
            runs: The runs' folders.
            out: Folder of the result files.
            method: What tables, and the files' names, call these runs; by default their algorithm.
            note: A remark on how the runs were made; the table shows it.
        """
        return locals()

    if arguments[:1] != ["collect"] and not {"-h", "--help"} & set(arguments):
        raise UsageError("usage: offline-rl results collect RUN [RUN ...] --out FOLDER")
    line = CommandLine(arguments[1:], typing.get_type_hints(command), positional=("runs",))
    line.help |= not arguments[1:]
    given = line.parse(command, "offline-rl results collect")
    runs, out = [Path(run) for run in given["runs"]], Path(given["out"])
    written = collect(runs, out=out, method=given["method"], note=given["note"])
    print(f"{len(written)} results of {len(runs)} {'run' if len(runs) == 1 else 'runs'} written to {out}")


def compare_command(arguments: list[str]) -> None:
    """Say what differs between two runs or folders of results."""
    from offline_rl.benchmark import compare

    def command(*, first: str, second: str) -> tuple[str, str]:
        """Print what changed, and whether scores differ by more than noise (Welch's t, 95 % interval).

        Args:
            first: A folder of result files, or a finished run.
            second: Another; differences are first less second.
        """
        return first, second

    line = CommandLine(arguments, typing.get_type_hints(command), positional=("first", "second"))
    first, second = line.parse(command, "offline-rl compare")
    show(compare(first, second))
