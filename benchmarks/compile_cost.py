"""What compiling costs at the beginning of a run, and how many updates repay it.

``python -m benchmarks.compile_cost --out results/throughput/compiling.json`` measures, and ``--show`` prints a file's
table. Each algorithm is compiled twice, by a new process each: *cold*, with an empty cache folder, and *warm*, with
what the first process has left there. Measured are the seconds from an untrained agent to the end of its first cycle of
updates. That includes the check that programs do what updates do, but neither the start of a process nor the loading of
data. Seconds of the processor, those of the C++ compiler included, are what counts, so that a busy machine disturbs
little; the seconds of the clock are kept beside them.

What an update gains is taken from ``results/throughput/cpu.json``, which one run has measured in turns. ``--mode auto``
decides by what ``python -m benchmarks.algorithms`` makes of both files.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.algorithms import ROOT, ours
from benchmarks.compile_table import cost_table
from benchmarks.machine import about
from benchmarks.throughput import LONG_TO_COMPILE
from benchmarks.workloads import Data, InProcess, synthetic
from offline_rl.agent import find_algorithm
from offline_rl.files import read_sealed, sealed, write_json
from offline_rl.kernels.choice import choose_kernel, use_kernel
from offline_rl.training.updates.compiled import obstacle

ROWS = 5000
"""Rows of the synthetic dataset; compiling does not depend on them."""
SPEED = ROOT / "results" / "throughput" / "cpu.json"
CACHE = "TORCHINDUCTOR_CACHE_DIR"


@dataclass(frozen=True)
class Arguments:
    """Measure what compiling costs."""

    out: Path | None = None
    """Result file to write, after each algorithm."""
    algorithms: Sequence[str] = tuple(name for name in ours() if name not in LONG_TO_COMPILE)
    """What to compile."""
    note: str = ""
    """A remark on how it was measured; the table shows it."""
    alone: bool = False
    """Compile the first algorithm in this process, with the cache folder that it finds, and print one line."""
    show: Path | None = None
    """Result file to show as a table, instead of measuring."""


def begun(algorithm: str) -> dict[str, float]:
    """Compile and make the first cycle of updates in this process; return the seconds that this takes."""
    use_kernel(choose_kernel(), 1)
    subject = InProcess(algorithm, "compile", 1, Data(synthetic(ROWS), "cpu"), "cpu")
    begin, cpu = time.perf_counter(), _cpu_seconds()
    subject.run(1, subject.cycle)
    spent = {"cpu_seconds": round(_cpu_seconds() - cpu, 2), "seconds": round(time.perf_counter() - begin, 2)}
    return {**spent, "cycle": subject.cycle}


def _cpu_seconds() -> float:
    """Return the processor's seconds of this process and of its children that have ended."""
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(given: Arguments) -> dict[str, Any]:
    """Measure all, and write after each algorithm."""
    result: dict[str, Any] = {
        **about(),
        "kernel": choose_kernel(),
        "note": given.note,
        "measurements": [],
    }
    for name in given.algorithms:
        if obstacle(find_algorithm(name), "cpu"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = {state: _in_a_process(name, folder) for state in ("cold", "warm")}
        cycle = {state: one.pop("cycle") for state, one in found.items()}["cold"]
        line = {"algorithm": name, "cycle": cycle, **found}
        print(json.dumps(line), flush=True)
        result["measurements"].append(line)
        if given.out:
            write_json(given.out, sealed(result))
    return result


def _in_a_process(algorithm: str, cache: str) -> Any:
    """Return what :func:`begun` returns in a new process with this cache folder."""
    command = [sys.executable, "-m", "benchmarks.compile_cost", "--alone", "--algorithms", algorithm]
    done = subprocess.run(command, env={**os.environ, CACHE: cache}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, or show."""
    import tyro

    given = tyro.cli(Arguments)
    if given.alone:
        print(json.dumps(begun(given.algorithms[0])))
        return
    print(cost_table(read_sealed(given.show) if given.show else measure(given), read_sealed(SPEED)))


if __name__ == "__main__":
    main()
