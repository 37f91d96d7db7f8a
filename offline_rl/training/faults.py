"""The check of a run's data, which takes seconds and is made beside the first updates."""

import logging
import shlex
import threading

from offline_rl.checks.check import check
from offline_rl.training.introduction import wrapped
from offline_rl.training.plan import Plan

logger = logging.getLogger(__name__)
PATIENCE_SECONDS = 0.1

_known: dict[str, int] = {}
"""Likely faults by the fingerprints of datasets: many runs of one process on the same data check it once."""


class Faults:
    """Counts the likely faults of a run's data in a thread, and says once how many there are.

    Args:
        plan: The run.
        aside: Whether to count in a thread; else it is done here and now.
    """

    def __init__(self, plan: Plan, *, aside: bool) -> None:
        self._plan = plan
        self._error: Exception | None = None
        self._told = False
        # It ends with the process, so that nobody who stops a run waits for it.
        self._thread = threading.Thread(target=self._count, name="check of the data", daemon=True)
        if aside and plan.dataset.fingerprint not in _known:
            self._thread.start()
        else:
            self._count()

    def _count(self) -> None:
        data = self._plan.dataset
        try:
            if data.fingerprint not in _known:
                _known[data.fingerprint] = sum(finding.severity == "warning" for finding in check(data))
        except Exception as error:  # raised where the run is, not in a thread that nobody looks at
            self._error = error

    def tell(self, seconds: float = 0.0) -> bool:
        """Log how many there are, if that is known; wait so many seconds at most. Return whether all is said."""
        if self._thread.is_alive():
            self._thread.join(seconds)
        if self._told or self._thread.is_alive():
            return self._told
        self._told = True
        if self._error is not None:
            raise self._error
        for line in wrapped("check", text) if (text := self._text()) else ():
            logger.info("%s", line)
        return True

    def _text(self) -> str:
        """Count them, and say where to read of them; nothing if there are none."""
        count, source = _known[self._plan.dataset.fingerprint], self._plan.source
        if not count:
            return ""
        faults = f"{count} likely fault{'s' * (count > 1)} of the data"
        if source is None:
            return f"{faults}; to read of them: offline_rl.check(dataset)"
        return f"{faults}; to read of them: offline-rl datasets {shlex.quote(source)} --check"
