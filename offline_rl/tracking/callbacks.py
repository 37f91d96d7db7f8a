"""Callbacks, which are called with the rows of a run while it goes on: W&B, TensorBoard, or a function of yours.

A callback is any callable that takes one row, a dict. If it has a method ``close``, that is called when the run has
ended, for whatever reason. Rows come in the order of their steps, one for each seed:

==============  =====================================================================================================
``kind``        a row holds, besides ``kind`` and ``step``
==============  =====================================================================================================
``config``      the first row, once: ``path``, the run's folder, and ``config``, what its ``config.json`` holds;
                ``step`` is that from which the run begins or goes on
``train``       ``seed``, the means of metrics since the last such row (``log_every`` updates), ``seconds``
``evaluation``  ``seed``, ``episodes``, ``return``, ``return_std``, ``score``, ``length`` and ``seconds``
``final``       the same, of the evaluation after the last update of a phase
``estimate``    ``seed``, ``value`` and ``difference`` by the data alone, the ends of their 90 % intervals as
                ``value_low``, ``value_high``, ``difference_low`` and ``difference_high``, and ``seconds``
==============  =====================================================================================================

All but the first are the rows of ``metrics.jsonl``, where numbers that are not finite are ``null``. A run that goes on
from a checkpoint makes the rows after it again.

A callback that raises ends the run with its traceback; a checkpoint is left, as after any other error. A
:class:`TolerantCallback` never ends a run.
"""

import importlib.util
import logging
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from offline_rl.errors import RunError, brief

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)
Row = dict[str, Any]
FAILURES = 3
"""Failures after which a :class:`TolerantCallback` is called no more."""


class Callback(Protocol):
    """What is called with each row; it may have a method ``close()``, too."""

    def __call__(self, row: Row, /) -> object:
        """Take one row; what is returned does not matter."""


class TolerantCallback:
    """A callback whose failures never end a run: for services that one can do without.

    A row at which it fails is left out. At the third failure of a run it is dropped with a warning. Subclasses write
    :meth:`log` and, if there is something to end, :meth:`finish`.
    """

    fatal: tuple[type[Exception], ...] = ()
    """Errors after which trying again is no use."""
    failures = 0
    """Of the present run."""

    def log(self, row: Row) -> None:
        """Take one row; the first has kind ``config``."""
        raise NotImplementedError

    def finish(self) -> None:
        """End what was begun."""

    def __call__(self, row: Row) -> None:
        """Take one row."""
        if row["kind"] == "config":
            self.failures = 0
        if self.failures >= FAILURES:
            return
        try:
            self.log(row)
        except Exception as error:
            self.note_failure(error)

    def close(self) -> None:
        """Finish."""
        if self.failures >= FAILURES:
            return
        try:
            self.finish()
        except Exception as error:
            self.failures = FAILURES
            self._warn(error)

    def note_failure(self, error: Exception) -> None:
        """Count a failure."""
        self.failures = FAILURES if isinstance(error, self.fatal) else self.failures + 1
        if self.failures >= FAILURES:
            self._warn(error)
        else:
            logger.info("%s failed (%s) and is tried again", type(self).__name__, error)

    def _warn(self, error: Exception) -> None:
        warnings.warn(f"{type(self).__name__} failed ({error}); training goes on without it", stacklevel=2)


class TensorBoardCallback(TolerantCallback):
    """Writes TensorBoard files into ``tensorboard/seed-N`` of the run's folder.

    Raises:
        RunError: TensorBoard is not installed.
    """

    def __init__(self) -> None:
        require_package("tensorboard")
        self._writers: dict[int, SummaryWriter] = {}

    def log(self, row: Row) -> None:
        """Write the numbers of one row."""
        if row["kind"] == "config":
            self._writers = _writers(Path(row["path"]) / "tensorboard", row["config"]["options"]["seeds"])
            return
        writer = self._writers[row["seed"]]
        for name, value in row.items():
            if name not in ("kind", "step", "seed") and isinstance(value, (int, float)):
                writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])

    def finish(self) -> None:
        """Close all files."""
        for writer in self._writers.values():
            writer.close()


def _writers(folder: Path, seeds: list[int]) -> "dict[int, SummaryWriter]":
    from torch.utils.tensorboard import SummaryWriter

    return {seed: SummaryWriter(str(folder / f"seed-{seed}")) for seed in seeds}


def require_package(name: str) -> None:
    """Look whether an optional package is installed, without importing it.

    Raises:
        RunError: It is not.
    """
    if importlib.util.find_spec(name) is None:
        raise RunError(f"{name} is not installed; pip install 'offline-rl-suite[{name}]'")


def check_callbacks(callbacks: Iterable[object]) -> None:
    """Refuse what cannot be called.

    Raises:
        RunError: One of them is no callback.
    """
    for place, callback in enumerate(callbacks):
        if not callable(callback) or isinstance(callback, type):
            raise RunError(
                f"callbacks[{place}] is {brief(repr(callback), 100)}, which cannot be called with a row; give a"
                " function, or an object with __call__"
            )


def close_callbacks(callbacks: Iterable[Callback]) -> None:
    """Call ``close`` of all that have it, of each even if another raises."""
    with ExitStack() as stack:
        for callback in callbacks:
            if callable(close := getattr(callback, "close", None)):
                stack.callback(close)
