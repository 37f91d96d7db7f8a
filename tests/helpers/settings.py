"""Settings that tests share."""

import signal

TINY = {"hidden_dims": [16, 16], "batch_size": 16, "eval_episodes": 2, "quiet": True, "workers": 0}
"""Make a run of a few hundred updates take a moment, in this process: each child would import PyTorch again.

A run in child processes leaves the same bytes (tests/training/test_loop.py). Tests about processes say WITH_WORKERS.
"""

WITH_WORKERS = {**TINY, "workers": None}
"""The same in child processes, as runs are by default."""


def without_timings(rows):
    """Leave out what may differ between two runs of the same settings: durations, and what depends on them."""
    return [
        {name: value for name, value in row.items() if name != "seconds" and not name.startswith("timing/")}
        for row in rows
    ]


class Stopping:
    """A callback that asks a run to stop at its first row of metrics."""

    def __init__(self, stop):
        self._stop = stop

    def __call__(self, row):
        if row["kind"] != "config":
            self._stop.signal = signal.SIGTERM
