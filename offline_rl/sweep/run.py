"""A whole sweep: agents run its trials, a table shows them, and at the end there is a summary."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offline_rl.errors import SweepError
from offline_rl.interpreter import python_module
from offline_rl.launchers import LAUNCHERS, Job, Launcher
from offline_rl.sweep.file import Sweep
from offline_rl.sweep.folder import make_folder
from offline_rl.sweep.report import Table, conclude
from offline_rl.sweep.search import Search

POLL_SECONDS = 0.3


class Stopped(KeyboardInterrupt):
    """Somebody asked to stop."""


def run_sweep(
    file: Path,
    *,
    out: Path | None = None,
    overrides: dict[str, str] | None = None,
    run_cap: int | None = None,
    launcher: str = "local",
    workers: int = 1,
    members: int | None = None,
) -> Path:
    """Run a sweep, or what is missing of it.

    Args:
        file: A sweep file in W&B's format.
        out: The sweep's folder; by default ``sweeps/`` and the file's name.
        overrides: Options of a run that take the place of what the file says, as texts of a command line.
        run_cap: How many trials; takes the place of the file's.
        launcher: Where agents run.
        workers: How many agents.
        members: How many trials each agent runs at once; by default as many as its share of the cores allows.

    Returns:
        The sweep's folder.

    Raises:
        OfflineRLError: The sweep cannot be run.
        KeyboardInterrupt: SIGINT or SIGTERM arrived; the same call goes on.
    """
    if workers < 1 or (members is not None and members < 1):
        raise SweepError("workers and members must be at least 1")
    folder = out or Path("sweeps") / file.stem
    sweep = make_folder(folder, file, overrides or {}, run_cap)
    search = Search(sweep, folder)
    jobs = _agents(folder, workers, members or _share(sweep, workers))
    table = Table(sweep, folder)
    place = LAUNCHERS[launcher]()
    try:
        with _signals():
            _wait(search, sweep, place, jobs, table)
    except KeyboardInterrupt:
        print("stopping; the same command goes on from here", file=sys.stderr)
        raise
    finally:
        place.stop()
        table.close(search.trials())
    conclude(search, sweep, folder)
    return folder


def _wait(search: Search, sweep: Sweep, place: Launcher, jobs: list[Job], table: Table) -> None:
    """Have agents work until no trial is left, not even one that was lost with a process on another machine."""
    while True:
        trials = search.trials()
        table.show(trials)
        if not place.poll():
            if len(trials) < sweep.cap or search.lost():
                place.start(jobs)
            elif not any(trial.state == "running" for trial in trials):
                return
        time.sleep(POLL_SECONDS)


def _agents(folder: Path, workers: int, members: int) -> list[Job]:
    (folder / "logs").mkdir(exist_ok=True)
    command = (*python_module("offline_rl.sweep.agent"), str(folder), "--members", str(members))
    return [Job(command, folder / "logs" / f"agent-{number}.log") for number in range(workers)]


def _share(sweep: Sweep, workers: int) -> int:
    """Return how many trials an agent can run at once without two processes on one core; on a GPU one."""
    options, _ = sweep.settings({name: parameter.at(0.5) for name, parameter in sweep.parameters.items()})
    if options.device != "cpu":
        import torch

        if torch.cuda.is_available():
            return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // (workers * len(options.seeds) * options.threads))


@contextmanager
def _signals() -> Iterator[None]:
    """Turn SIGTERM into what Ctrl-C is."""

    def note(*_: object) -> None:
        raise Stopped

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
