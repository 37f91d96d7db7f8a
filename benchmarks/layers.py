"""The native MLP kernel beside PyTorch's products, network by network, with AVX2 alone and with AVX-512.

``python -m benchmarks.layers --out results/throughput/layers.json`` measures on one core, and ``--show`` prints a
file's tables. Either set of instructions has a process of its own, in which our kernel, PyTorch, MKL and oneDNN are
kept to it; the rate of its 256³ products shows that they are. In each round every process computes everything with
both kernels, a window each, and the fastest window counts, in seconds of the processor, so that a busy machine disturbs
little. Still only ratios within one run mean something.
"""

import dataclasses
import functools
import itertools
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.arithmetic import product_rate
from benchmarks.machine import about, pin
from benchmarks.workloads import Data, InProcess, synthetic
from offline_rl.files import read_sealed, sealed, write_json
from offline_rl.kernels import native
from offline_rl.kernels.choice import Kernel, use_kernel
from offline_rl.networks import MLP

VARIABLES: dict[str, dict[str, str]] = {
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "AVX-512": {},
}
"""What keeps a process to a set of instructions."""
KERNELS: tuple[Kernel, ...] = ("default", "native")
BATCHES = (256, 1024)
PASSES = ("forward", "layers", "input")
"""The forward pass alone, with the gradients of the layers, and with that of the input."""
OBSERVATION, ACTION = 17, 6
"""Sizes of walker2d's and halfcheetah's observations and actions."""


@dataclass(frozen=True)
class Network:
    """MLPs that read the same batch: the sizes of their layers, and how many they are."""

    name: str
    sizes: tuple[int, ...]
    count: int = 1


NETWORKS = (
    Network("one layer", (256, 256)),
    Network("TD3+BC's actor", (OBSERVATION, 256, 256, ACTION)),
    Network("IQL's value", (OBSERVATION, 256, 256, 1)),
    Network("two critics", (OBSERVATION + ACTION, 256, 256, 1), 2),
    Network("EDAC's ten critics", (OBSERVATION + ACTION, 256, 256, 256, 1), 10),
    Network("two critics, 512 wide", (OBSERVATION + ACTION, 512, 512, 1), 2),
    Network("A2PR's decoder", (OBSERVATION + 2 * ACTION, 750, 750, ACTION)),
)


@dataclass(frozen=True)
class Passing:
    """A pass of networks for a batch of ``rows``."""

    network: Network
    rows: int
    what: str

    def about(self) -> dict[str, Any]:
        """Return what a result file says of it."""
        return {"network": dataclasses.asdict(self.network), "rows": self.rows, "pass": self.what}

    def work(self) -> Callable[[], int]:
        """Return what makes it once, and returns 1."""
        rng, sizes = np.random.default_rng(0), self.network.sizes
        mlp = MLP(sizes[0], sizes[-1], sizes[1:-1], self.network.count)
        mlp.initialize(rng)
        x = torch.from_numpy(rng.standard_normal((self.rows, sizes[0]), np.float32)).requires_grad_()
        weight = torch.from_numpy(rng.standard_normal((self.network.count, self.rows, sizes[-1]), np.float32))
        layers = list(mlp.layers)
        passes: dict[str, Callable[[], Any]] = {
            "forward": lambda: mlp(x.detach()).detach(),
            "layers": lambda: torch.autograd.grad(mlp(x.detach()), layers, weight),
            "input": lambda: torch.autograd.grad(mlp.frozen(x), x, weight),
        }
        made = passes[self.what]
        return lambda: (made(), 1)[1]


@dataclass(frozen=True)
class Training:
    """Updates of one agent on noise, with sampling."""

    algorithm: str
    mode: str

    def about(self) -> dict[str, Any]:
        """Return what a result file says of it."""
        return dataclasses.asdict(self)

    def work(self) -> Callable[[], int]:
        """Return what makes a cycle of updates, and returns their number."""
        subject = InProcess(self.algorithm, self.mode, 1, _noise(), "cpu")
        first = itertools.count(1, subject.cycle)

        def cycle() -> int:
            step = next(first)
            subject.run(step, step + subject.cycle - 1)
            return subject.cycle

        return cycle


Task = Passing | Training


@dataclass(frozen=True)
class Arguments:
    """Compare the native kernel with PyTorch's products."""

    out: Path | None = None
    """Result file to write, after each round."""
    rounds: int = 20
    """Rounds of windows; the fastest window counts."""
    seconds: float = 0.04
    """Length of a window; one of updates is five times as long."""
    batches: Sequence[int] = BATCHES
    """Rows of a batch."""
    algorithms: Sequence[str] = ("td3_bc", "iql")
    """Whose updates are measured, besides the networks."""
    modes: Sequence[str] = ("eager", "compile")
    """How these are made."""
    note: str = ""
    """A remark on how it was measured; the tables show it."""
    show: Path | None = None
    """Result file to show as tables, instead of measuring."""


@functools.cache
def _noise() -> Data:
    return Data(synthetic(100_000, OBSERVATION, ACTION), "cpu")


@functools.cache
def _begun(task: Task, kernel: Kernel) -> Callable[[], int]:
    """Return a task's work, done a few times: kernels are built, and programs compiled."""
    work = task.work()
    for _ in range(3):
        work()
    return work


def window(task: Task, kernel: Kernel, seconds: float) -> float:
    """Return the processor's seconds that a task took, the mean over a window of this length."""
    use_kernel(kernel, 1)
    work, done = _begun(task, kernel), 0
    begin = now = time.process_time()
    while now < begin + seconds:
        done += work()
        now = time.process_time()
    return (now - begin) / done


def introduced() -> dict[str, Any]:
    """Prepare a process for measuring; return what it computes with."""
    pin({min(os.sched_getaffinity(0))})
    # The C library gives memory back to Linux, and takes it again, until a block this large has been freed. A training
    # process seldom does: it holds more.
    torch.empty(7_000_000)
    return {"pytorch": torch.backends.cpu.get_cpu_capability(), "native": native.instructions()}


def products() -> float:
    """Return the floating-point operations a second of the fastest 256³ products just now."""
    return product_rate("cpu", 1, "float32")


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that start in this block."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def tasks(given: Arguments) -> Iterator[Task]:
    """Yield what is measured."""
    for network, rows, what in itertools.product(NETWORKS, given.batches, PASSES):
        yield Passing(network, rows, what)
    for algorithm, mode in itertools.product(given.algorithms, given.modes):
        yield Training(algorithm, mode)


def measure(given: Arguments) -> dict[str, Any]:
    """Measure everything, round by round, and write after each."""
    result: dict[str, Any] = {
        **about(),
        "rounds": given.rounds,
        "seconds": given.seconds,
        "note": given.note,
        "processes": {},
        "measurements": [],
    }
    best: dict[tuple[str, Task, Kernel], float] = {}
    with ExitStack() as stack:
        processes = {}
        for name in VARIABLES if native.instructions() == "AVX-512" else ("AVX2",):
            fresh = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
            with _environment(VARIABLES[name]):  # which libraries read when they are loaded
                processes[name] = stack.enter_context(fresh)
                found = fresh.submit(introduced).result()
            result["processes"][name] = {**found, "products_gflops": 0.0}
        for number in range(given.rounds):
            for name, process in processes.items():
                own = result["processes"][name]
                own["products_gflops"] = max(own["products_gflops"], round(process.submit(products).result() / 1e9, 1))
            for task, kernel, name in itertools.product(tasks(given), KERNELS, processes):
                length = given.seconds * (5 if isinstance(task, Training) else 1)
                taken = processes[name].submit(window, task, kernel, length).result()
                best[name, task, kernel] = min(taken, best.get((name, task, kernel), math.inf))
            result["measurements"] = list(_lines(best))
            print(f"round {number + 1} of {given.rounds}", flush=True)
            if given.out:
                write_json(given.out, sealed(result))
    return result


def _lines(best: dict[tuple[str, Task, Kernel], float]) -> Iterator[dict[str, Any]]:
    for name, task in dict.fromkeys((name, task) for name, task, _ in best):
        milliseconds = {kernel: round(1e3 * best[name, task, kernel], 4) for kernel in KERNELS}
        yield {"instructions": name, **task.about(), "milliseconds": milliseconds}


def table(result: dict[str, Any]) -> str:
    """Return a result as Markdown: passes of networks, then updates of agents."""
    processes, found = result["processes"], result["measurements"]
    rates = " and ".join(f"{own['products_gflops']:.0f} GFLOP/s with {name}" for name, own in processes.items())
    heads = ["networks", "batch", *(f"{name}: {what}" for name in processes for what in PASSES)]
    lines = [
        f"One core of {result['hardware']}, PyTorch {result['versions']['torch']}, {result['date']}, the fastest of "
        f"{result['rounds']} windows. PyTorch's products of 256 × 256 × 256 ran at {rates}. {result['note']}".rstrip(),
        "",
        "Milliseconds of PyTorch / milliseconds of our kernel = how many times as fast ours is:",
        "",
        _row(heads),
        "|---" * len(heads) + "|",
    ]
    cells: dict[tuple[str, int], list[str]] = {}
    for line in (line for name in processes for line in found if line["instructions"] == name):
        if "network" in line:
            cells.setdefault((_named(line["network"]), line["rows"]), []).append(_compared(line))
    lines += [_row([network, f"{rows:,}", *own]) for (network, rows), own in cells.items()]
    return "\n".join([*lines, *_update_lines(result)])


def _update_lines(result: dict[str, Any]) -> list[str]:
    names = list(result["processes"])
    rates: dict[tuple[str, str], list[str]] = {}
    for name, line in ((name, line) for name in names for line in result["measurements"]):
        if line["instructions"] == name and "algorithm" in line:
            default, own = (1e3 / line["milliseconds"][kernel] for kernel in KERNELS)
            cells = [f"{default:.0f}", f"{own:.0f}", f"{own / default:.2f}"]
            rates.setdefault((line["algorithm"], line["mode"]), []).extend(cells)
    if not rates:
        return []
    heads = [
        "algorithm",
        "mode",
        *(f"{name}: {what}" for name in names for what in ("PyTorch", "native", "times as fast")),
    ]
    lines = ["", "Updates/s of one agent, with sampling:", "", _row(heads), "|---" * len(heads) + "|"]
    return [*lines, *(_row([*which, *own]) for which, own in rates.items())]


def _named(network: dict[str, Any]) -> str:
    return f"{network['name']}, {'-'.join(map(str, network['sizes']))}"


def _compared(line: dict[str, Any]) -> str:
    default, own = (line["milliseconds"][kernel] for kernel in KERNELS)
    return f"{default:.2f} / {own:.2f} = {default / own:.2f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, or show."""
    given = tyro.cli(Arguments)
    print(table(read_sealed(given.show) if given.show else measure(given)))


if __name__ == "__main__":
    main()
