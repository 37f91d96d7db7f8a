"""The state of a sweep, in a journal that processes and machines on one disk share; and how points are chosen.

The journal is Optuna's. A trial belongs to the process that holds its lock; a trial that is said to run though nobody
holds its lock was lost with its process, and whoever asks next takes it up.
"""

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from offline_rl.draws import Stream, derived_seed
from offline_rl.errors import SweepError, brief
from offline_rl.sweep.file import Sweep
from offline_rl.sweep.space import Choice, spelled

STUDY = "sweep"
Point = dict[str, Any]


@dataclass
class Claim:
    """A trial that is this process's to run.

    Attributes:
        number: The trial's, from 0.
        point: The values of the searched parameters.
        history: The metric's values that the journal knows already.
    """

    number: int
    point: Point
    history: list[float]
    trial: int = field(repr=False)
    lock: FileLock = field(repr=False)


@dataclass(frozen=True)
class Trial:
    """What the journal knows of a trial.

    Attributes:
        number: Its number, from 0.
        state: ``"running"``, ``"finished"``, ``"stopped early"``, ``"diverged"`` or ``"failed"``.
        point: The values of the searched parameters.
        history: The metric's values along the way.
        value: What it came to, or came to before it was stopped; None if nothing.
        error: Why it failed.
    """

    number: int
    state: str
    point: Point
    history: list[float]
    value: float | None
    error: str | None


class Search:
    """Hands out trials, and takes note of what becomes of them.

    Args:
        sweep: The sweep.
        folder: Its folder.
    """

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep, self._folder = sweep, folder.resolve()
        (self._folder / "locks").mkdir(parents=True, exist_ok=True)
        self._claims = FileLock(self._folder / "locks" / "claims")
        journal = self._folder / "journal.log"
        try:
            self._storage = JournalStorage(JournalFileBackend(str(journal), _JournalLock(journal)))
            self.study = optuna.create_study(
                storage=self._storage,
                study_name=STUDY,
                direction=StudyDirection.MAXIMIZE if sweep.metric.maximize else StudyDirection.MINIMIZE,
                load_if_exists=True,
            )
            self.trials()
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, AssertionError) as error:
            said = brief(f"{type(error).__name__}: {error}")
            raise SweepError(f"{journal} is damaged ({said}); choose another --out to start the search over") from None

    def claim(self) -> Claim | None:
        """Return a trial to run, one that was lost before a new one; None if none is left."""
        with self._claims:
            trials = self.study.get_trials(deepcopy=False)
            for trial in trials:
                if trial.state == TrialState.RUNNING and (lock := self._lock(trial.number)):
                    return self._claimed(trial, lock)
            if len(trials) >= self._sweep.cap:
                return None
            self.study.sampler = self._sampler(len(trials))
            asked = self.study.ask()
            lock = self._lock(asked.number)
            assert lock is not None, "only who holds the lock on claims makes trials"
            return self._claimed(self.study.get_trials(deepcopy=False)[asked.number], lock)

    def lost(self) -> bool:
        """Say whether a trial waits for somebody to take it up."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if lock := self._lock(trial.number):
                lock.release()
                return True
        return False

    def report(self, claim: Claim, history: list[float]) -> None:
        """Take note of the metric's values so far."""
        for place in range(len(claim.history), len(history)):
            self._storage.set_trial_intermediate_value(claim.trial, place + 1, history[place])
        claim.history = history

    def stops(self, claim: Claim) -> bool:
        """Say whether the trial is to end early."""
        if self._sweep.hyperband is None:
            return False
        others = [_history(trial) for trial in self.study.get_trials(deepcopy=False) if trial.number != claim.number]
        return self._sweep.hyperband.stops(claim.history, others)

    def finish(self, claim: Claim, value: float) -> None:
        """Take note of what a trial came to; NaN if it diverged."""
        if math.isfinite(value):
            self._tell(claim, TrialState.COMPLETE, value)
        else:
            self._storage.set_trial_user_attr(claim.trial, "diverged", True)
            self._tell(claim, TrialState.FAIL)

    def stop(self, claim: Claim) -> None:
        """Take note that a trial was stopped early."""
        self._tell(claim, TrialState.PRUNED)

    def fail(self, claim: Claim, error: str) -> None:
        """Take note that a trial cannot be run."""
        self._storage.set_trial_user_attr(claim.trial, "error", error)
        self._tell(claim, TrialState.FAIL)

    def trials(self) -> list[Trial]:
        """Return all trials there are."""
        return [self._described(trial) for trial in self.study.get_trials(deepcopy=False)]

    def _tell(self, claim: Claim, state: TrialState, value: float | None = None) -> None:
        # A value belongs to a trial that was stopped early, too; the study would not take one that is no number.
        if state == TrialState.PRUNED:
            value = next((value for value in reversed(claim.history) if math.isfinite(value)), None)
        self._storage.set_trial_state_values(claim.trial, state, None if value is None else [value])

    def _lock(self, number: int) -> FileLock | None:
        lock = FileLock(self._folder / "locks" / f"trial-{number}")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock

    def _claimed(self, frozen: FrozenTrial, lock: FileLock) -> Claim:
        """Complete the trial's point, which a process may have been killed in the middle of."""
        self.study.sampler = self._sampler(frozen.number)
        trial = optuna.trial.Trial(self.study, frozen._trial_id)
        for name, distribution in self._distributions().items():
            if isinstance(distribution, CategoricalDistribution):
                trial.suggest_categorical(name, distribution.choices)
            else:
                trial.suggest_float(name, 0.0, 1.0)
        return Claim(frozen.number, self._point(trial.params), _history(frozen), frozen._trial_id, lock)

    def _distributions(self) -> dict[str, BaseDistribution]:
        return {
            name: CategoricalDistribution([spelled(value) for value in parameter.values])
            if isinstance(parameter, Choice)
            else FloatDistribution(0.0, 1.0)
            for name, parameter in self._sweep.parameters.items()
        }

    def _sampler(self, number: int) -> BaseSampler:
        """Return the sampler of trial ``number``: a new one for each, so that it does not matter where it runs."""
        if self._sweep.method == "bayes":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return TPESampler(seed=derived_seed(0, "sweep", number))
        return _Function(self._grid if self._sweep.method == "grid" else self._random)

    def _random(self, number: int, name: str) -> Any:
        drawn = float(Stream(0, f"sweep/{name}").at(number).random())
        parameter = self._sweep.parameters[name]
        return spelled(parameter.at(drawn)) if isinstance(parameter, Choice) else drawn

    def _grid(self, number: int, name: str) -> Any:
        """Return the value of one parameter at a point of the grid; the last parameter varies fastest."""
        for other, parameter in reversed(self._sweep.parameters.items()):
            assert isinstance(parameter, Choice)
            number, place = divmod(number, len(parameter.values))
            if other == name:
                return spelled(parameter.values[place])
        raise KeyError(name)

    def _point(self, params: dict[str, Any]) -> Point:
        point = {}
        for name, parameter in self._sweep.parameters.items():
            if name in params:
                coordinate = params[name]
                values = {spelled(value): value for value in parameter.values} if isinstance(parameter, Choice) else {}
                point[name] = values[coordinate] if values else parameter.at(coordinate)
        return point

    def _described(self, trial: FrozenTrial) -> Trial:
        states = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed"}
        state = "diverged" if "diverged" in trial.user_attrs else states.get(trial.state, "running")
        value = trial.value if trial.values else None
        error = trial.user_attrs.get("error")
        return Trial(trial.number, state, self._point(trial.params), _history(trial), value, error)


class _Function(BaseSampler):
    """Chooses by a pure function of the trial's number and the parameter's name."""

    def __init__(self, function: Callable[[int, str], Any]) -> None:
        self._function = function

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: each parameter is chosen by itself."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing, likewise."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the value of one parameter."""
        return self._function(trial.number, param_name)


class _JournalLock(JournalFileOpenLock):
    """A lock that ends with its process. Optuna's own would be waited for half a minute after a kill."""

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._file = FileLock(journal.parent / "locks" / "journal")

    def acquire(self) -> bool:
        """Wait for the lock; then cut off a line that a machine has failed in the middle of."""
        self._file.acquire()
        _cut_off_last_line(self._journal)
        return True

    def release(self) -> None:
        """Give the lock back."""
        self._file.release()


def _cut_off_last_line(path: Path) -> None:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
    os.truncate(path, whole)


def _history(trial: FrozenTrial) -> list[float]:
    return [trial.intermediate_values[place] for place in sorted(trial.intermediate_values)]


@contextlib.contextmanager
def held(claim: Claim) -> Iterator[Claim]:
    """Give a trial free at the end, whatever became of it."""
    try:
        yield claim
    finally:
        claim.lock.release()
