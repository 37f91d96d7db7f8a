"""Many inputs in a few children, each of which may hang or die without harm."""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.robustness.cases import OUTCOMES, RIGHT, SECONDS

ROOT = Path(__file__).parents[2]
PATIENCE = 3 * SECONDS + 30
"""Seconds without a word after which a child is killed: twice an input's time, and what its second opinion takes."""
BATCH = 50
EXAMPLES = 3
"""Bad inputs that are kept of each kind."""


@dataclass
class Tally:
    """What became of the inputs of one class.

    Attributes:
        outcomes: How many had each outcome.
        bad: The bad answers, a few for each kind and outcome.
        slowest: The longest seconds of one.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    bad: list[dict[str, Any]] = field(default_factory=list)
    slowest: float = 0.0
    _kept: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, answer: dict[str, Any]) -> None:
        """Count an answer."""
        self.outcomes[answer["outcome"]] += 1
        self.slowest = max(self.slowest, answer["seconds"])
        key = answer["outcome"], answer["kind"]
        if answer["outcome"] not in RIGHT and self._kept[key] < EXAMPLES:
            self._kept[key] += 1
            self.bad.append(answer)

    def counts(self) -> dict[str, int]:
        """Return how many were tried, and what became of them."""
        return {"tried": self.outcomes.total(), **{name: self.outcomes[name] for name in OUTCOMES}}


class _Child:
    """One worker, and the inputs it has not answered yet."""

    def __init__(self) -> None:
        self.left: list[int] = []
        self.name = ""
        self.heard = time.monotonic()
        self._start()

    def _start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": ""}
        command = [sys.executable, "-m", "benchmarks.robustness.worker"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment
        )
        self.heard = time.monotonic() + 60  # it loads PyTorch first

    def give(self, name: str, seed: int, numbers: list[int]) -> None:
        """Give it inputs to try."""
        self.name, self.left = name, list(numbers)
        assert self.process.stdin
        self.process.stdin.write(f"{json.dumps({'class': name, 'seed': seed, 'numbers': numbers})}\n".encode())
        self.process.stdin.flush()

    def restart(self) -> None:
        """End it, whatever it does, and start over."""
        self.end()
        self._start()

    def end(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]


def fuzz(
    counts: dict[str, int], seed: int, *, workers: int, say: Callable[[str], None] = lambda _: None
) -> dict[str, Tally]:
    """Try inputs of each class, numbers 0 to its count.

    Args:
        counts: How many of each class.
        seed: Decides all inputs.
        workers: Children side by side.
        say: Called with lines of progress.

    Returns:
        What became of them, by class.
    """
    tallies = {name: Tally() for name in counts}
    jobs = [
        (name, list(range(first, min(first + BATCH, count))))
        for name, count in counts.items()
        for first in range(0, count, BATCH)
    ]
    jobs.sort(key=lambda job: job[1][0] / counts[job[0]])  # all classes from the beginning
    total, queue, begin, reported = sum(counts.values()), iter(jobs), time.monotonic(), 0.0
    with _children(workers) as (children, selector):
        busy = [child for child in children if _next(child, queue, seed)]
        while busy:
            for key, _ in selector.select(timeout=1):
                _listen(key.data, tallies)
            for child in list(busy):
                if child.left and (child.process.poll() is not None or time.monotonic() - child.heard > PATIENCE):
                    _bury(child, tallies, selector)
                    if child.left:
                        child.give(child.name, seed, child.left)
                if not child.left and not _next(child, queue, seed):
                    busy.remove(child)
            done = sum(tally.outcomes.total() for tally in tallies.values())
            if time.monotonic() - reported > 20:
                reported = time.monotonic()
                say(f"{done:,} of {total:,} in {reported - begin:.0f} s")
    return tallies


@contextlib.contextmanager
def _children(count: int) -> Iterator[tuple[list[_Child], selectors.BaseSelector]]:
    children, selector = [_Child() for _ in range(count)], selectors.DefaultSelector()
    try:
        for child in children:
            _watch(selector, child)
        yield children, selector
    finally:
        for child in children:
            child.end()
        selector.close()


def _watch(selector: selectors.BaseSelector, child: _Child) -> None:
    assert child.process.stdout
    os.set_blocking(child.process.stdout.fileno(), False)
    child.unread = b""  # type: ignore[attr-defined]
    selector.register(child.process.stdout, selectors.EVENT_READ, child)


def _next(child: _Child, queue: Iterator[tuple[str, list[int]]], seed: int) -> bool:
    job = next(queue, None)
    if job:
        child.give(job[0], seed, job[1])
    return job is not None


def _listen(child: Any, tallies: dict[str, Tally]) -> None:
    """Take in what a child says."""
    try:
        part = os.read(child.process.stdout.fileno(), 1 << 16)
    except OSError:
        return
    if part:
        child.heard = time.monotonic()
    *lines, child.unread = (child.unread + part).split(b"\n")
    for line in lines:
        answer = json.loads(line)
        if "outcome" in answer:
            child.left.remove(answer["number"])
            tallies[child.name].add({"class": child.name, **answer})


def _bury(child: Any, tallies: dict[str, Tally], selector: selectors.BaseSelector) -> None:
    """Count the input on which a child died or hung, and start another for the rest."""
    _listen(child, tallies)
    if not child.left:
        return
    code = child.process.poll()
    outcome, said = (
        ("slow", "hangs, and no signal reaches it") if code is None else ("traceback", f"its process ends with {code}")
    )
    answer = {
        "class": child.name,
        "number": child.left.pop(0),
        "kind": "?",
        "must": "?",
        "outcome": outcome,
        "said": said,
    }
    tallies[child.name].add({**answer, "seconds": float(PATIENCE)})
    selector.unregister(child.process.stdout)
    child.restart()
    _watch(selector, child)
