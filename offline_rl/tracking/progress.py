"""What a person sees while a run goes on: a bar on a terminal, otherwise a plain line now and then."""

import logging
import sys
import time
from collections import deque
from typing import Any

logger = logging.getLogger(__name__)
LINE_SECONDS = 10.0
"""Least time between two plain lines."""
SPEED_SECONDS = 60.0
"""Time over which speed is taken, so that a slow beginning, such as compiling, is soon forgotten."""


class Progress:
    """Shows step, speed, losses, last score and time left: by a bar on standard error, or by lines in the log.

    Args:
        steps: Updates of the whole run.
        start: Updates made before.
        quiet: Show nothing.
        unit: What is counted.
        score_name: What to call a score.
        bar: Whether there may be a bar.
    """

    def __init__(
        self,
        steps: int,
        start: int,
        quiet: bool = False,
        *,
        unit: str = "updates",
        score_name: str = "score",
        bar: bool = True,
    ) -> None:
        self._steps, self._quiet = steps, quiet
        self._step = start
        self._unit, self._score_name = unit, score_name
        self._last_line = time.monotonic()
        self._recent = deque([(self._last_line, start)])
        self._newest = self._score = ""
        self._bar = _Bar(steps, start) if bar and not quiet and sys.stderr.isatty() else None

    def losses(self, metrics: dict[str, float]) -> None:
        """Take note of one replica's newest metrics."""
        self.newest("  ".join(f"{name} {value:.3g}" for name, value in metrics.items() if name.endswith("_loss")))

    def newest(self, text: str) -> None:
        """Take note of what to show beside the speed."""
        self._newest = text

    def score(self, step: int, scores: list[float]) -> None:
        """Show the replicas' newest evaluation."""
        self._score = f"{self._score_name} {', '.join(f'{score:.1f}' for score in scores)} at {step:,}"
        if not self._quiet and self._bar is None:
            logger.info("evaluated: %s", self._score)

    def note(self, text: str) -> None:
        """Say what is going on where no updates are made."""
        if self._bar is not None:
            self._bar.show(self._step, text)
        elif not self._quiet:
            logger.info("%s", text)

    def at(self, step: int) -> None:
        """Show that ``step`` updates are made."""
        now, self._step = time.monotonic(), step
        if self._bar is not None:
            self._bar.show(step, self._status(step, now))
        elif not self._quiet and (now - self._last_line >= LINE_SECONDS or step == self._steps):
            self._last_line = now
            logger.info("step %s/%s  %s", f"{step:,}", f"{self._steps:,}", self._status(step, now))

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _status(self, step: int, now: float) -> str:
        self._recent.append((now, step))
        while now - self._recent[1][0] >= SPEED_SECONDS:
            self._recent.popleft()
        before, made = self._recent[0]
        speed = (step - made) / max(now - before, 1e-9)
        left = _clock((self._steps - step) / max(speed, 1e-9))
        parts = f"{speed:.0f} {self._unit}/s", self._newest, self._score, f"{left} left"
        return "  ".join(part for part in parts if part)


class _Bar:
    def __init__(self, steps: int, start: int) -> None:
        from rich import console, progress

        columns = progress.BarColumn(24), progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[status]}")
        self._progress = progress.Progress(*columns, console=console.Console(stderr=True), transient=True)
        self._task: Any = self._progress.add_task("", total=steps, completed=start, status="")
        self._progress.start()

    def show(self, step: int, status: str) -> None:
        self._progress.update(self._task, completed=step, status=status)

    def close(self) -> None:
        self._progress.stop()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
