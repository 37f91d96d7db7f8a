"""What an update of SAC-N and EDAC costs with the number of critics: CPU seconds, and memory told and taken.

``python -m benchmarks.ensemble_cost --out results/throughput/ensembles.json`` measures on one thread, and ``--show``
prints a file's table. The fastest of a few updates counts, in seconds of the processor, so that a busy machine disturbs
little; still only ratios within one run mean something. Each measurement has a process of its own: memory is the most
that it had during these updates, above what it had before the agent was made, next to what a run says beforehand.
"""

import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.machine import about
from benchmarks.workloads import Data, agent_of, synthetic
from offline_rl.agent import find_algorithm
from offline_rl.analysis.figures import COLOURS, save
from offline_rl.files import read_sealed, sealed, write_json
from offline_rl.kernels.choice import choose_kernel, use_kernel
from offline_rl.training.loop import make_updates
from offline_rl.training.memory import held_by_update, kept_by
from offline_rl.training.replica import Replica

SIZES = 11, 3
"""Of hopper, whose published settings have the most critics."""
ROWS = 10_000
ALGORITHMS = ("sac_n", "edac")


@dataclass(frozen=True)
class Arguments:
    """Measure the cost of ensembles."""

    out: Path | None = None
    """Result file to write, after each number of critics."""
    critics: Sequence[int] = (2, 5, 10, 20, 50, 100, 200, 500)
    """Numbers of critics, from the least to the most."""
    updates: int = 5
    """Of each measurement, after one that does not count; the fastest counts."""
    note: str = ""
    """A remark on how it was measured; the table shows it."""
    show: Path | None = None
    """Result file to show as a table, instead of measuring."""
    chart: Path | None = None
    """Picture to draw of the result."""


def measured(algorithm: str, critics: int, updates: int) -> dict[str, Any]:
    """Make a few updates; return what one took at least, and what memory all took at most."""
    use_kernel(choose_kernel(), 1)
    data = Data(synthetic(ROWS, *SIZES), "cpu")
    before = _restarted_peak()
    agent = agent_of(algorithm, 0, data, "cpu", num_critics=critics)
    replica = Replica(agent, data.rows)
    make_updates(replica, 1, 1)
    seconds = []
    for step in range(2, 2 + updates):
        begin = time.process_time()
        make_updates(replica, step, step)
        seconds.append(time.process_time() - begin)
    return {
        "algorithm": algorithm,
        "critics": critics,
        "cpu_milliseconds": round(1e3 * min(seconds), 2),
        "told_megabytes": round((kept_by(agent) + held_by_update(agent)) / 1e6, 1),
        "taken_megabytes": round((_status("VmHWM") - before) / 1e6, 1),
    }


def _restarted_peak() -> int:
    """Let Linux count this process's most memory anew; return the bytes that it has now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def measure(given: Arguments) -> dict[str, Any]:
    """Measure all, and write after each number of critics."""
    result: dict[str, Any] = {
        **about(),
        "kernel": choose_kernel(),
        "sizes": SIZES,
        "batch_size": find_algorithm("sac_n").config_class().batch_size,
        "updates": given.updates,
        "note": given.note,
        "measurements": [],
    }
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as processes:
        for critics in given.critics:
            for algorithm in ALGORITHMS:
                line = processes.submit(measured, algorithm, critics, given.updates).result()
                print(json.dumps(line), flush=True)
                result["measurements"].append(line)
            if given.out:
                write_json(given.out, sealed(result))
    return result


def table(result: dict[str, Any]) -> str:
    """Return a result as Markdown, a line for each number of critics."""
    found = _lines(result)
    least = min(found)
    lines = [
        f"CPU milliseconds for an update of {result['batch_size']} rows of {' + '.join(map(str, result['sizes']))} "
        f"entries, and megabytes of memory: {result['hardware']}, one thread, kernel {result['kernel']}, PyTorch "
        f"{result['versions']['torch']}, {result['date']}, the fastest of {result['updates']} updates. "
        f"{result['note']}".rstrip(),
        "",
        f"| N | SAC-N, ms | times N = {least} | EDAC, ms | times SAC-N | told, MB | taken by SAC-N | by EDAC |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for critics, own in found.items():
        plain, diverse = (own[name] for name in ALGORITHMS)
        times = plain["cpu_milliseconds"] / found[least]["sac_n"]["cpu_milliseconds"]
        more = diverse["cpu_milliseconds"] / plain["cpu_milliseconds"]
        milliseconds = [f"{line['cpu_milliseconds']:,.0f}" for line in (plain, diverse)]
        taken = [f"{line['taken_megabytes']:,.0f}" for line in (plain, diverse)]
        cells = [critics, milliseconds[0], f"{times:,.1f}", milliseconds[1], f"{more:.1f}"]
        lines.append("| " + " | ".join(map(str, [*cells, f"{plain['told_megabytes']:,.0f}", *taken])) + " |")
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw milliseconds over critics, both in powers, as PNG or SVG."""
    # The object interface: it needs no display and leaves the caller's own figures alone.
    from matplotlib.figure import Figure

    found = _lines(result)
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, label, color in zip(ALGORITHMS, ("SAC-N", "EDAC"), COLOURS, strict=False):
        milliseconds = [own[name]["cpu_milliseconds"] for own in found.values()]
        axes.plot(list(found), milliseconds, "o-", label=label, color=color)
    axes.set(xscale="log", yscale="log", xlabel="critics N", ylabel="CPU milliseconds for an update")
    axes.set_xticks(list(found), [str(critics) for critics in found])
    axes.minorticks_off()
    axes.legend(frameon=False)
    save(figure, path)


def _lines(result: dict[str, Any]) -> dict[int, dict[str, dict[str, Any]]]:
    """Return the measurements by number of critics and algorithm."""
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for line in result["measurements"]:
        found.setdefault(line["critics"], {})[line["algorithm"]] = line
    return found


def main() -> None:
    """Measure, or show."""
    given = tyro.cli(Arguments)
    result = read_sealed(given.show) if given.show else measure(given)
    print(table(result))
    if given.chart:
        draw(result, given.chart)


if __name__ == "__main__":
    main()
