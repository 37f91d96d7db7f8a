"""The process that runs a sweep's trials, some at a time; any number of them may share a sweep's folder.

``python -m offline_rl.sweep.agent FOLDER --members N`` asks the journal for trials until none is left. Each trial is a
run like any other, in a folder whose name is a function of its settings.
"""

import argparse
import signal
import sys
import threading
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from offline_rl.data import Dataset
from offline_rl.errors import Interrupted, OfflineRLError
from offline_rl.launchers import hold_lifeline
from offline_rl.sweep.file import Sweep
from offline_rl.sweep.folder import open_folder, run_folder
from offline_rl.sweep.search import Claim, Search, held
from offline_rl.training.loggers import Row, read_rows
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Plan, load
from offline_rl.training.run import carry_out
from offline_rl.training.trainer import Stop


class Watch:
    """A view of a run's rows that reports the metric to the journal, and stops the run if it does too badly.

    Args:
        sweep: The sweep.
        search: Its journal.
        claim: The trial.
        stop: Stops its run.
    """

    def __init__(self, sweep: Sweep, search: Search, claim: Claim, stop: Stop) -> None:
        self._sweep, self._search, self._claim, self._stop = sweep, search, claim, stop
        self.stopped_early = False

    def begin(self, out: Path, seeds: int) -> None:
        """Read what the run has recorded before. What follows its checkpoint will be logged again, the very same."""
        self._seeds = seeds
        metrics = out / "metrics.jsonl"
        self._rows = read_rows(metrics) if metrics.is_file() else []

    def log(self, row: Row) -> None:
        """Take note of one row."""
        self._rows.append(row)
        history = self._sweep.metric.history(self._rows, self._seeds)
        if len(history) > len(self._claim.history):
            self._search.report(self._claim, history)
        if not self.stopped_early and self._search.stops(self._claim):
            self.stopped_early = True
            self._stop.signal = signal.SIGTERM

    def close(self) -> None:
        """Do nothing."""


class Agent:
    """Runs trials until none is left, or somebody asks to stop.

    Args:
        folder: The sweep's folder.
        members: How many trials at once.
    """

    def __init__(self, folder: Path, members: int) -> None:
        self._folder, self._members = folder, members
        self._sweep = open_folder(folder)
        self._search = Search(self._sweep, folder)
        self._stopping = False
        self._stops: dict[int, Stop] = {}
        self._datasets: dict[tuple[str, str | None], Dataset] = {}
        self._planning = threading.Lock()

    def run(self) -> None:
        """Run trials."""
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._members)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def stop(self) -> None:
        """Ask to stop: every run makes a checkpoint, from which whoever takes its trial up goes on."""
        self._stopping = True
        for stop in list(self._stops.values()):
            stop.signal = signal.SIGTERM

    def _work(self) -> None:
        while not self._stopping and (claim := self._search.claim()) is not None:
            with held(claim):
                self._attempt(claim)

    def _attempt(self, claim: Claim) -> None:
        stop = self._stops[claim.number] = Stop(signal.SIGTERM if self._stopping else 0)
        watch = Watch(self._sweep, self._search, claim, stop)
        print(f"trial {claim.number + 1}: {' '.join(self._sweep.arguments(claim.point))}", flush=True)
        try:
            self._search.finish(claim, self._train(claim, watch, stop))
        except Interrupted:
            if watch.stopped_early:
                self._search.stop(claim)
        except Exception as error:
            traceback.print_exc()
            self._search.fail(claim, str(error) if isinstance(error, OfflineRLError) else repr(error))
        finally:
            del self._stops[claim.number]

    def _train(self, claim: Claim, watch: Watch, stop: Stop) -> float:
        # The parser of command lines is not made for several threads.
        with self._planning:
            options, settings = self._sweep.settings(claim.point)
            out = run_folder(self._folder, self._sweep, claim.point)
        watch.begin(out, len(options.seeds))
        options = replace(options, out=str(out), resume=True, quiet=True)
        out.parent.mkdir(exist_ok=True)
        # Two trials may have drawn the same settings; the second then finds the run of the first.
        with FileLock(self._folder / "locks" / out.name):
            plan = self._plan(options, settings)
            run = carry_out(plan, out, [watch], stop)
        self._search.report(claim, self._sweep.metric.history(run.rows, len(options.seeds)))
        return self._sweep.metric.value(run.rows, len(options.seeds))

    def _plan(self, options: TrainOptions, settings: dict[str, Any]) -> Plan:
        """Plan a run on data that is read once for all trials."""
        with self._planning:
            key = options.dataset, options.data_mode
            if key not in self._datasets:
                self._datasets[key] = load(options.dataset, options)
            plan = Plan.make(self._sweep.algorithm, self._datasets[key], options, settings)
            return replace(plan, source=options.dataset)


def main(arguments: list[str] | None = None) -> int:
    """Run an agent; return its exit status."""
    hold_lifeline()
    parser = argparse.ArgumentParser(description="Run trials of a sweep until none is left.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--members", type=int, default=1)
    given = parser.parse_args(arguments)
    agent = Agent(given.folder, given.members)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: agent.stop())
    agent.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
