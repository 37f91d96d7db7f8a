"""What :mod:`benchmarks.compile_cost` has measured: as a table, and as the rule by which ``--mode auto`` decides."""

import math
from typing import Any

from benchmarks.throughput_table import own_lines
from offline_rl.analysis.tables import markdown

Line = dict[str, Any]
MARGIN = 1.5
"""By default a run is compiled if it has so many times the updates that repay a cold start."""
ROUNDED = 1000
"""The number of updates is rounded up to a multiple of this."""


def gains(speed: Line) -> dict[str, float]:
    """Return the seconds that a compiled update takes less than an eager one, with the native kernel."""
    found = {}
    for name, ways in own_lines(speed).items():
        lines = [ways.get((mode, "native")) for mode in ("eager", "compile")]
        if all(line is not None and "error" not in line for line in lines):
            eager, compiled = (line["updates_per_second"] for line in lines if line)
            found[name] = 1 / eager - 1 / compiled
    return found


def rule(costs: Line, speed: Line) -> dict[str, Any]:
    """Return what ``repaid.json`` holds.

    Args:
        costs: The committed result of :mod:`benchmarks.compile_cost`.
        speed: The committed result of :mod:`benchmarks.throughput` on a CPU.
    """
    gained, algorithms = gains(speed), {}
    for line in costs["measurements"]:
        name, seconds = line["algorithm"], line["cold"]["cpu_seconds"]
        if gained.get(name, 0.0) > 0:
            updates = math.ceil(MARGIN * seconds / gained[name] / ROUNDED) * ROUNDED
            algorithms[name] = {"updates": updates, "seconds": round(seconds), "cycle": line["cycle"]}
    protocol = f"{MARGIN:g} times what repays a cold start on one core of {costs['hardware']}, {costs['date']}"
    return {"algorithms": algorithms, "protocol": protocol}


def cost_table(costs: Line, speed: Line) -> str:
    """Return the costs as Markdown, a line for each algorithm that was measured both ways."""
    gained, decided = gains(speed), rule(costs, speed)["algorithms"]
    rows = []
    for line in costs["measurements"]:
        if (name := line["algorithm"]) not in gained:
            continue
        cold, warm = (line[state]["cpu_seconds"] for state in ("cold", "warm"))
        after = [
            f"{round(seconds / gained[name], -2):,.0f}" if gained[name] > 0 else "never" for seconds in (cold, warm)
        ]
        default = f"{decided[name]['updates']:,}" if name in decided else "never"
        rows.append([name, f"{cold:.0f}", f"{warm:.1f}", f"{1e3 * gained[name]:.2f}", *after, default])
    heads = ["algorithm", "cold, s", "warm, s", "an update gains, ms", "cold repaid after", "warm repaid after"]
    about = (
        f"CPU seconds of one process until its first compiled updates are made; {costs['hardware']}, PyTorch "
        f"{costs['versions']['torch']}, {costs['date']}. {costs['note']}"
    ).rstrip()
    return f"{about}\n\n{markdown([*heads, 'compiled by default from'], rows)}"
