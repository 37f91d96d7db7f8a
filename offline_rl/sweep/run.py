"""A whole sweep: trials are run here or by workers elsewhere, a table shows them, at the end there is a summary."""

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offline_rl.errors import Interrupted, SweepError
from offline_rl.processes.cluster import Launcher, launch
from offline_rl.processes.cores import available_cores
from offline_rl.sweep.file import Sweep
from offline_rl.sweep.folder import make_folder
from offline_rl.sweep.report import Table, conclude
from offline_rl.sweep.search import Search, Trial
from offline_rl.sweep.trials import TrialRunner

POLL_SECONDS = 0.3


class SweepInterrupted(Interrupted):
    """The sweep was asked to stop, and did so with a checkpoint of each run."""

    def __init__(self, number: int) -> None:
        Exception.__init__(self, "stopped; the same command goes on from there")
        self.signal = number


@dataclass(frozen=True)
class Place:
    """Where a sweep's trials are run.

    Attributes:
        launcher: What starts the workers.
        workers: How many workers; a single local one is this process.
        concurrent_trials: How many trials each worker runs at the same time; by default as many as its share of the
            cores allows.
        options: The launcher's own, see :func:`offline_rl.processes.cluster.launch`.
    """

    launcher: Launcher = "local"
    workers: int = 1
    concurrent_trials: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("concurrent_trials", self.concurrent_trials)):
            if value is not None and value < 1:
                raise SweepError(f"{name} is {value}; it must be at least 1")

    @property
    def here(self) -> bool:
        """Whether this process runs the trials."""
        return self.workers == 1 and self.launcher == "local"


def run_sweep(
    file: Path,
    *,
    out: Path | None = None,
    overrides: Mapping[str, str] | None = None,
    run_cap: int | None = None,
    place: Place = Place(),
) -> str:
    """Run a sweep, or what is missing of it.

    Args:
        file: A sweep file in W&B's format.
        out: The sweep's folder; by default ``sweeps/`` and the file's name.
        overrides: Options of a run that take the place of what the file says, as texts of a command line.
        run_cap: How many trials; takes the place of the file's.
        place: Where trials are run.

    Returns:
        In words and a Markdown table, what the sweep came to.

    Raises:
        OfflineRLError: The sweep cannot be run.
        Interrupted: SIGINT or SIGTERM arrived; the same call goes on.
    """
    folder, typed = out or Path("sweeps") / file.stem, dict(overrides or {})
    sweep = make_folder(folder, file, typed, run_cap)
    search = Search(sweep, folder)
    table = Table(sweep, folder)
    try:
        if place.here:
            _work(sweep, folder, search, table, place.concurrent_trials or share(sweep, 1))
        else:
            _launch(sweep, folder, search, table, place=place, arguments=[str(file), *_spelled(folder, typed, run_cap)])
    finally:
        table.close(search.trials())
    return conclude(search, sweep, folder)


def _work(sweep: Sweep, folder: Path, search: Search, table: Table, concurrent_trials: int) -> None:
    """Run trials in this process until none is left, not even one that was lost with a process elsewhere."""
    runner = TrialRunner(sweep, folder, concurrent_trials, table.say)
    with closing(runner), _signals(runner) as received:
        runner.start()
        while runner.busy or not _complete(sweep, search.trials()):
            table.show(search.trials())
            if not runner.busy and runner.stopping:
                raise SweepInterrupted(received[0])
            if not runner.busy and search.lost():
                runner.start()
            time.sleep(POLL_SECONDS)


def _launch(
    sweep: Sweep, folder: Path, search: Search, table: Table, *, place: Place, arguments: Sequence[str]
) -> None:
    """Have workers run the same command, each in one process."""
    # On Slurm each worker looks itself what its share of a machine's cores is.
    shares = {"local": share(sweep, place.workers), "ray": int(place.options.get("num_cpus", 1))}
    concurrent = place.concurrent_trials or shares.get(place.launcher)

    def done() -> bool:
        trials = search.trials()
        table.show(trials)
        return _complete(sweep, trials)

    launch(
        ["sweep", *arguments, *([f"--concurrent_trials={concurrent}"] if concurrent else [])],
        launcher=place.launcher,
        workers=place.workers,
        folder=folder / "workers",
        options=place.options,
        done=done,
    )


def _spelled(folder: Path, overrides: Mapping[str, str], run_cap: int | None) -> list[str]:
    cap = [] if run_cap is None else [f"--run_cap={run_cap}"]
    return [f"--out={folder}", *cap, *(f"--{name}={value}" for name, value in overrides.items())]


def _complete(sweep: Sweep, trials: Sequence[Trial]) -> bool:
    return len(trials) >= sweep.cap and not any(trial.state == "running" for trial in trials)


def share(sweep: Sweep, workers: int) -> int:
    """Return how many trials each of some workers on this machine can run at once: a core for each training process.

    On a GPU it is one.
    """
    options, _ = sweep.settings({name: parameter.at(0.5) for name, parameter in sweep.parameters.items()})
    if options.device != "cpu":
        import torch

        if torch.cuda.is_available():
            return 1
    return max(1, available_cores() // (workers * len(options.seeds) * options.threads))


@contextmanager
def _signals(runner: TrialRunner) -> Iterator[list[int]]:
    """Let SIGINT and SIGTERM ask the runner to stop, a second one at once; give the signals that came."""
    received: list[int] = []

    def note(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        runner.stop()

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
