"""Whether a run on a CPU is compiled if nobody says: where compiling was measured to repay itself.

Like the kernel, the mode is decided by facts and not by a stopwatch, because it can change the last bits of results.
The facts are the algorithm, the number of updates, and whether there is a compiler. ``repaid.json`` holds, for each
algorithm that was measured, after how many updates a cold start is repaid, with a margin; ``python -m
benchmarks.algorithms`` writes it. What was not measured is not compiled: algorithms of other packages, transformers,
and processes without the native kernel.

Not verified: the numbers are those of one processor. On another one both what compiling costs and what an update gains
will differ.
"""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from offline_rl.agent import Agent
from offline_rl.kernels.choice import Kernel
from offline_rl.training.options import Mode
from offline_rl.training.updates.compiled import obstacle

REPAID = Path(__file__).with_name("repaid.json")


@dataclass(frozen=True)
class Choice:
    """How updates are made, and in words why, if nobody has asked for it."""

    mode: Mode
    reason: str = ""


def choose_mode(algorithm: type[Agent], updates: int, kernel: Kernel, cycle: Callable[[], int | None]) -> Choice:
    """Return the mode of a run on a CPU that names none.

    Args:
        algorithm: What is trained.
        updates: Of each agent on the dataset; those of an online phase are always made one by one.
        kernel: What computes.
        cycle: Returns the ``cycle`` of an agent as it will be trained, which costs the time to build one.
    """
    if not updates:
        return Choice("eager", "those of an online phase are made one by one")
    if (measured := repaid().get(algorithm.name)) is None:
        return Choice("eager", f"no measurement says that compiling {algorithm.name} repays")
    too_few = Choice("eager", f"{updates:,} updates are too few to repay compiling: --mode compile")
    if updates < measured.updates:
        return too_few
    if hindrance := _hindrance(algorithm, kernel):
        return Choice("eager", hindrance)
    # One program is compiled for each place in a cycle, and settings may make it longer than the one measured.
    if updates < measured.updates * max(1.0, (cycle() or 1) / measured.cycle):
        return too_few
    return Choice("compile", f"{updates:,} updates repay {measured.seconds} s of compiling")


def _hindrance(algorithm: type[Agent], kernel: Kernel) -> str | None:
    """Say why a long run is not compiled here; None if nothing is known to be in the way."""
    if not kernel.startswith("native"):
        return "compiling was measured with the native kernel only"
    return obstacle(algorithm, "cpu")


class Repaid(NamedTuple):
    """What was measured of an algorithm.

    Attributes:
        updates: So many repay a cold start, with a margin.
        seconds: What that takes.
        cycle: The places in a cycle that were compiled for it.
    """

    updates: int
    seconds: int
    cycle: int


@functools.cache
def repaid() -> dict[str, Repaid]:
    """Return what was measured to be repaid, by algorithm."""
    algorithms = json.loads(REPAID.read_text(encoding="utf-8"))["algorithms"]
    return {name: Repaid(**measured) for name, measured in algorithms.items()}
