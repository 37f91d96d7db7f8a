"""What a person sees while a run goes on: a bar on a terminal, otherwise a plain line now and then."""

import logging
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)
LINE_SECONDS = 60.0
"""Least time between two plain lines."""
LINES = 50
"""Lines of progress in a run at most, and lines of evaluations likewise."""
SPEED_SECONDS = 60.0
"""Time over which speed is taken."""
STEADY_SECONDS, STEADY_LOOKS = 3.0, 10
"""A speed is known after so much time, and so many looks, of which none was much faster than those before it."""
SLOWER = 4
"""How many times as long an update may take in a slow beginning, such as compiling, before that is forgotten."""
LONGEST_BAR, SHORTEST_BAR = 24, 8
"""Columns of the bar."""


class Progress:
    """Shows step, speed, losses, last score and time left: by a bar on standard error, or by lines in the log.

    Args:
        steps: Updates of the whole run.
        start: Updates made before.
        quiet: Show nothing.
        unit: What is counted.
        score_name: What to call a score.
        alike: Whether the agents differ in their seeds alone, so that their mean score has a meaning.
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
        alike: bool = True,
        bar: bool = True,
    ) -> None:
        self._steps, self._quiet = steps, quiet
        self._step = start
        self._unit, self._score_name, self._alike = unit, score_name, alike
        self._speed = _Speed(time.monotonic(), start)
        self._line = (time.monotonic(), start)
        self._evaluated = -steps
        self._newest = self._score = self._score_step = self._mean_score = ""
        self._bar = _Bar(steps, start) if bar and not quiet and sys.stderr.isatty() else None

    def losses(self, step: int, metrics: Sequence[Mapping[str, float]]) -> None:
        """Take note of the replicas' metrics, which are means over the updates up to ``step`` since the last ones."""
        names = [name for name in metrics[0] if name.endswith("_loss")]
        means = {name: statistics.fmean(own[name] for own in metrics if name in own) for name in names}
        said = "  ".join(f"{name} {value:.3g}" for name, value in means.items())
        self.newest(f"{said} (mean to {step:,})" if said else "")

    def newest(self, text: str) -> None:
        """Take note of what to show beside the speed."""
        self._newest = text

    def score(self, step: int, scores: Sequence[float | None]) -> None:
        """Show the replicas' newest evaluation; None is the score of one that has diverged."""
        said = spread_of(scores, self._alike)
        self._score, self._score_step = f"{self._score_name} {said}", f" at {step:,}"
        self._mean_score = f"{self._score_name} {said.split(' (')[0]}"
        if self._quiet or self._bar is not None:
            return
        if step - self._evaluated >= self._steps / LINES or step == self._steps:
            self._evaluated, self._line = step, (self._line[0], self._step)
            logger.info("evaluated: %s%s", self._score, self._score_step)

    def note(self, text: str) -> None:
        """Say what is going on where no updates are made."""
        if self._bar is not None:
            self._bar.show(self._step, [text])
        elif not self._quiet:
            logger.info("%s", text)

    def at(self, step: int) -> None:
        """Show that ``step`` updates are made."""
        now, self._step = time.monotonic(), step
        self._speed.look(now, step)
        if self._bar is not None:
            self._bar.show(step, self._statuses())
        elif not self._quiet and (self._is_due(now) or step == self._steps):
            self._line = now, step
            logger.info("%s", f"step {step:,}/{self._steps:,}  {self._statuses()[0]}".rstrip())

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _is_due(self, now: float) -> bool:
        seconds, step = self._line
        return now - seconds >= LINE_SECONDS and self._step - step >= self._steps / LINES

    def _statuses(self) -> list[str]:
        """Return what there is to say, in fewer and fewer words."""
        speed = self._speed.value()
        rate = "" if not speed else f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"
        long, short = (f"{rate} {self._unit}/s", f"{rate}/s") if rate else ("", "")
        left = f"{_clock((self._steps - self._step) / speed)} left" if speed and self._step < self._steps else ""
        score_at = self._score + self._score_step
        words = (
            (long, self._newest, score_at, left),
            (long, score_at, left),
            (long, self._score, left),
            (short, self._score, left),
            (short, self._mean_score, left),
            (short, left),
        )
        return ["  ".join(part for part in parts if part) for parts in words]


def spread_of(scores: Sequence[float | None], alike: bool) -> str:
    """Return several agents' scores in a few words: their mean, and the least and the largest of them."""
    found = [score for score in scores if score is not None and math.isfinite(score)]
    if not found:
        return "diverged"
    low, high = min(found), max(found)
    extent = f"{low:.1f} to {high:.1f}" if len(found) > 1 else ""
    lost = f"{len(scores) - len(found)} of {len(scores)} diverged" if len(found) < len(scores) else ""
    note = ", ".join(filter(None, [extent, lost]))
    if extent and not alike:
        return note
    return f"{statistics.fmean(found):.1f}" + (f" ({note})" if note else "")


class _Speed:
    """Updates per second over the last minute; not known while a slow beginning, such as compiling, lasts."""

    def __init__(self, now: float, step: int) -> None:
        self._looks = deque([(now, step)])
        self._steady = False

    def look(self, now: float, step: int) -> None:
        """Take note of how far the run is."""
        looks = self._looks
        if not self._steady:
            (begin, first), (before, made) = looks[0], looks[-1]
            if (before - begin) * (step - made) > SLOWER * (now - before) * (made - first):
                looks.clear()
                looks.append((before, made))
        looks.append((now, step))
        self._steady = self._steady or (now - looks[0][0] >= STEADY_SECONDS and len(looks) > STEADY_LOOKS)
        while now - looks[1][0] >= SPEED_SECONDS:
            looks.popleft()

    def value(self) -> float | None:
        """Return the speed, or None if it is not known yet."""
        (begin, first), (now, step) = self._looks[0], self._looks[-1]
        return (step - first) / (now - begin) if self._steady and step > first else None


class _Bar:
    def __init__(self, steps: int, start: int) -> None:
        from rich import console, progress

        self._console, self._steps = console.Console(stderr=True), steps
        self._column = progress.BarColumn(LONGEST_BAR)
        count = progress.TextColumn("{task.completed:,.0f}/{task.total:,.0f}")
        status = progress.TextColumn("{task.fields[status]}", markup=False)
        self._progress = progress.Progress(self._column, count, status, console=self._console, transient=True)
        self._task = self._progress.add_task("", total=steps, completed=start, status="")
        self._progress.start()

    def show(self, step: int, statuses: Sequence[str]) -> None:
        """Show a step, with the first status that leaves room for a bar, or the last one cut short."""
        self._column.bar_width, status = fitted(self._console.width, f"{step:,}/{self._steps:,}", statuses)
        self._progress.update(self._task, completed=step, status=status)

    def close(self) -> None:
        self._progress.stop()


def fitted(width: int, count: str, statuses: Sequence[str]) -> tuple[int, str]:
    """Return how wide the bar is in a line of so many columns, and what stands behind the count of steps."""
    room = width - len(count) - 2  # a space on each side of the count
    status = next((status for status in statuses if len(status) + SHORTEST_BAR <= room), statuses[-1])
    status = status[: max(room - SHORTEST_BAR, 0)]
    return min(LONGEST_BAR, max(room - len(status), SHORTEST_BAR)), status


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
