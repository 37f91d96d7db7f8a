"""Runs a sweep's trials, some at a time; any number of processes may do so in one sweep's folder.

Each trial is a run like any other, in a folder whose name is a function of its settings.
"""

import functools
import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from offline_rl.data import Dataset
from offline_rl.errors import Interrupted, OfflineRLError
from offline_rl.sweep.file import Sweep
from offline_rl.sweep.folder import run_folder
from offline_rl.sweep.search import Claim, Search, held
from offline_rl.tracking.callbacks import Row, TolerantCallback
from offline_rl.tracking.record import read_rows
from offline_rl.training.nothing import NO_DATASET
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Plan, load
from offline_rl.training.run import carry_out
from offline_rl.training.trainer import Stop
from offline_rl.training.workers import WorkerPool

logger = logging.getLogger(__name__)
GRACE_SECONDS = 2.0
"""How long after a failure one waits whether this process is being stopped, too: then the failure was no trial's."""


class TrialCallback(TolerantCallback):
    """A callback that reports a run's metric to the journal, and stops the run if the search asks for it.

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
        if row["kind"] == "config":
            return
        self._rows.append(row)
        history = self._sweep.metric.history(self._rows, self._seeds)
        if len(history) > len(self._claim.history):
            self._search.report(self._claim, history)
        if not self.stopped_early and self._search.stops(self._claim):
            self.stopped_early = True
            self._stop.signal = signal.SIGTERM


class TrialRunner:
    """Runs trials in threads, whose work is done by child processes.

    Args:
        sweep: The sweep.
        folder: Its folder.
        concurrent_trials: How many trials at the same time.
        say: What to do with a sentence on a trial's beginning.
    """

    def __init__(self, sweep: Sweep, folder: Path, concurrent_trials: int, say: Callable[[str], None]) -> None:
        self._sweep, self._folder, self._say = sweep, folder, say
        self._concurrent_trials = concurrent_trials
        self._search = Search(sweep, folder)
        self._threads: list[threading.Thread] = []
        self._stops: dict[int, Stop] = {}
        self._datasets: dict[tuple[str, str | None], Dataset] = {}
        self._said: set[str] = set()
        self._planning = threading.Lock()
        self._pool = WorkerPool()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to run trials, until none is left or somebody asks to stop."""
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._concurrent_trials)]
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> bool:
        """Whether trials are being run."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def stopping(self) -> bool:
        """Whether somebody has asked to stop."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Ask to stop: every run makes a checkpoint, from which whoever takes its trial up goes on."""
        self._stopped.set()
        for stop in list(self._stops.values()):
            stop.signal = signal.SIGTERM

    def close(self) -> None:
        """End the child processes."""
        self._pool.close()

    def _work(self) -> None:
        while not self.stopping and (claim := self._search.claim()) is not None:
            with held(claim):
                self._attempt(claim)

    def _attempt(self, claim: Claim) -> None:
        stop = self._stops[claim.number] = Stop()
        if self.stopping:
            stop.signal = signal.SIGTERM
        callback = TrialCallback(self._sweep, self._search, claim, stop)
        try:
            self._search.finish(claim, self._train(claim, callback, stop))
        except Interrupted:
            if callback.stopped_early:
                self._search.stop(claim)
        except Exception as error:
            if self._stopped.wait(GRACE_SECONDS):
                return
            known = isinstance(error, OfflineRLError)
            if not known:
                logger.exception("trial %d failed", claim.number + 1)
            self._search.fail(claim, str(error) if known else repr(error))
        finally:
            del self._stops[claim.number]

    def _train(self, claim: Claim, callback: TrialCallback, stop: Stop) -> float:
        # The parser of command lines is not made for several threads.
        with self._planning:
            options, settings = self._sweep.settings(claim.point)
            out = run_folder(self._folder, self._sweep, claim.point)
        out.parent.mkdir(exist_ok=True)
        # Two trials may have drawn the same settings; the second then waits for the run of the first, and finds it.
        with FileLock(self._folder / "locks" / out.name):
            options = replace(options, out=str(out), resume=out.exists(), quiet=True)
            callback.begin(out, len(options.seeds))
            plan = self._plan(options, settings)
            if self._sweep.hyperband and plan.options.mode == "auto" and plan.device == "cpu":
                # A trial that is stopped early may not repay its compiling.
                plan = replace(plan, options=replace(options, mode="eager"))
            say = functools.partial(self._say_of, claim)
            run = carry_out(plan, out, self._pool, callbacks=[callback], stop=stop, say=say)
        self._search.report(claim, self._sweep.metric.history(run.rows, len(options.seeds)))
        return self._sweep.metric.value(run.rows, len(options.seeds))

    def _say_of(self, claim: Claim, text: str) -> None:
        self._say(f"trial {claim.number + 1}: {text}")

    def _plan(self, options: TrainOptions, settings: dict[str, object]) -> Plan:
        """Plan a run on data that is read once for all trials."""
        with self._planning:
            key = options.dataset, options.data_mode
            if key not in self._datasets and options.dataset != NO_DATASET:
                self._datasets[key] = load(options.dataset, options)
            data = self._datasets.get(key, NO_DATASET)
            plan = Plan.make(self._sweep.algorithm, data, options, settings)
            # Once for all trials with it: what a trial searches goes over it, and differs.
            if (sentence := plan.preset.sentence()) not in self._said:
                self._said.add(sentence)
                self._say(sentence)
            return replace(plan, source=options.dataset)
