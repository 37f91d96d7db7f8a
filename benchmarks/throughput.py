"""Updates per second of algorithm × mode × kernel × members, on a CPU or a GPU, next to what their arithmetic allows.

``python -m benchmarks.throughput --out results/throughput/cpu.json`` measures (``--device cuda``: a GPU), and
``--show FILE`` prints a file's table; ``make bench`` and ``make report`` do so with what is committed.

On a CPU everything is measured in turns, a window each in every round, and the fastest window counts: on a shared
machine only ratios within one run mean something. One thread on one core trains one agent, batches included, with the
kernel that training chooses and with PyTorch's own; four agents have a process each on two cores. d3rlpy takes part
with ``--peers``. With ``--references`` so do a plain PyTorch program and a JAX one of TD3+BC and IQL, which were
written for this comparison (``peer_torch.py``, ``peer_jax.py``). Single agents and all other programs run on the same
core. PRDC's speed depends on its data, so it is measured on recorded ones. SAC is left out: it learns from what it
plays alone.

The roofline, on a CPU also called floor, is an update's own matrix products at the speed of the fastest 256³ products
in the same run; see :mod:`benchmarks.arithmetic`.
"""

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.algorithms import ours
from benchmarks.arithmetic import flops_of_update, product_rate, wait
from benchmarks.machine import pin, today, versions
from benchmarks.throughput_table import draw, table
from benchmarks.workloads import (
    PEERS,
    REFERENCES,
    REFERRED,
    Competitor,
    Data,
    InProcess,
    Processes,
    synthetic,
)
from offline_rl.agent import find_algorithm
from offline_rl.data import load_dataset
from offline_rl.errors import OfflineRLError
from offline_rl.files import read_sealed, sealed, write_json
from offline_rl.kernels.choice import Kernel, choose_kernel, use_kernel
from offline_rl.origin import processor
from offline_rl.training.options import Mode
from offline_rl.training.updates.compiled import obstacle

ALGORITHMS = tuple(ours())
MEMBERS = {"cpu": (4,), "cuda": (20, 100)}
LONG_TO_COMPILE = ("dt", "doc", "fql")
"""Algorithms whose updates take minutes to compile, or cannot be (FQL), and are measured eagerly unless asked for."""
PATIENCE = 30.0
"""Seconds that d3rlpy's PRDC may warm up for: its search takes many times as long as ours."""


@dataclass(frozen=True)
class Arguments:
    """Measure throughput."""

    out: Path | None = None
    """Result file to write, after each group of measurements."""
    device: str = "cpu"
    """Where to measure, "cpu" or "cuda"."""
    algorithms: Sequence[str] = ALGORITHMS
    """What to measure."""
    modes: Sequence[Mode] = ()
    """How updates are made; by default all ways that the device has."""
    members: Sequence[int] | None = None
    """How many agents are trained together, besides one; by default 4 on a CPU, 20 and 100 on a GPU."""
    most: Sequence[str] = ("td3_bc", "iql")
    """Of these algorithms alone, several members on a CPU, more than 20 and tf32 on a GPU."""
    rows: int = 1_000_000
    """Rows of the synthetic dataset, 17 + 6 entries."""
    data: str = "hopper-demo"
    """Dataset for PRDC on a CPU: a name or a file."""
    warmup: int = 1000
    """Updates before PRDC is measured there; the search is slowest while the policy is random."""
    peers: Path | None = None
    """Python of the environment that holds the competitors; without it they are left out."""
    references: bool = False
    """Measure plain PyTorch and JAX, too, in the competitors' environment; the table then compares with these."""
    windows: int = 8
    """Of each measurement; the fastest counts."""
    seconds: float = 1.0
    """Length of a window."""
    note: str = ""
    """A remark on how it was measured; a CPU's table shows it."""
    show: Path | None = None
    """Result file to show as a table, instead of measuring."""
    chart: Path | None = None
    """Picture to draw of a CPU's result."""

    @property
    def on_cpu(self) -> bool:
        """Whether a CPU is measured."""
        return self.device == "cpu"


@dataclass(frozen=True)
class Setting:
    """What is measured; on a CPU the ``cores`` that it may use, and the ``data`` it is trained on."""

    algorithm: str
    mode: str
    kernel: Kernel
    members: int = 1
    cores: int | None = None
    data: str = "synthetic"

    @property
    def precision(self) -> str:
        """Of matrix products."""
        return self.kernel if self.kernel in ("tf32", "bf16") else "float32"

    def about(self) -> dict[str, Any]:
        """Return what a result file says of it; no place on this machine."""
        return dataclasses.asdict(self) | {"data": Path(self.data).stem, "precision": self.precision}


@dataclass
class Measurement:
    """A setting at work, and what its windows so far took, in seconds for one update of all members."""

    setting: Setting
    subject: InProcess | Processes
    device: str
    setup: float = 0.0
    step: int = 0
    count: int = 1
    windows: list[float] = field(default_factory=list)
    timings: list[dict[str, float]] = field(default_factory=list)

    def make(self, count: int) -> float:
        """Make so many updates; return the seconds they took."""
        begin = time.perf_counter()
        self.subject.run(self.step + 1, self.step + count)
        wait(self.device)
        self.step += count
        return time.perf_counter() - begin

    def warm_up(self, updates: int, seconds: float) -> None:
        """Make the first updates, and find out how many fill a window."""
        cycle = self.subject.cycle
        # A CUDA graph is captured in the third cycle.
        self.setup += self.make(max((4 if self.setting.mode == "cudagraph" else 1) * cycle, updates))
        self.count = cycle * max(1, round(seconds / self.make(cycle)))
        self.subject.timings()

    def window(self) -> None:
        """Measure once more."""
        self.windows.append(self.make(self.count) / self.count)
        self.timings.append(self.subject.timings())

    def line(self, flops: int, product: float) -> dict[str, Any]:
        """Return the result, next to what ``product`` operations a second allow."""
        best = self.windows.index(min(self.windows))
        rate = self.setting.members / self.windows[best]
        floor = product * min(self.setting.cores or 1, self.setting.members) / flops
        return {
            **self.setting.about(),
            "updates_per_second": round(rate, 2),
            "flops_of_an_update": flops,
            "roofline_updates_per_second": round(floor, 2),
            "share_of_roofline": round(rate / floor, 4),
            "setup_seconds": round(self.setup, 2),
            **({"memory_gigabytes": round(torch.cuda.max_memory_allocated() / 1e9, 3)} if self.device != "cpu" else {}),
            **{name: round(value, 4) for name, value in self.timings[best].items()},
            "window_milliseconds": [round(1e3 * seconds, 3) for seconds in self.windows],
        }


@dataclass
class Rival:
    """An algorithm of another program, and the windows measured so far: updates, seconds, seconds of sampling."""

    algorithm: str
    competitor: Competitor
    windows: list[dict[str, float]] = field(default_factory=list)

    def window(self, seconds: float) -> None:
        """Measure once more."""
        self.windows.append(self.competitor.window(self.algorithm, seconds))

    def line(self) -> dict[str, Any]:
        """Return the result."""
        seconds = [window["seconds"] / window["updates"] for window in self.windows]
        sampling = [window["sampling"] / window["updates"] for window in self.windows if "sampling" in window]
        return {
            "algorithm": self.algorithm,
            "updates_per_second": round(1 / min(seconds), 2),
            **({"sampling_milliseconds": round(1e3 * min(sampling), 3)} if sampling else {}),
            "window_milliseconds": [round(1e3 * one, 3) for one in seconds],
        }


class Bench:
    """Measures settings, group by group, and keeps what was measured."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._cores = sorted(os.sched_getaffinity(0))
        self._data: dict[str, Data] = {}
        machine = {"hardware": processor(), "kernel": choose_kernel()}
        self.result: dict[str, Any] = {
            "date": today(),
            **(machine if arguments.on_cpu else {"device": torch.cuda.get_device_name()}),
            "versions": versions(),
            **{name: getattr(arguments, name) for name in ("rows", "windows", "seconds", "note")},
            "products_gflops": {},
            "measurements": [],
        }

    def measure(self, settings: Sequence[Setting]) -> None:
        """Measure a group in turns; a setting that fails is noted with its error."""
        begun = [self._begun(setting) for setting in settings]
        able = [one for one in begun if isinstance(one, Measurement)]
        rivals = self._rivals(able)
        for number in range(self._arguments.windows):
            self._time_products(able)
            for one in able:
                self._choose(one.setting)
                one.window()
            for rival in rivals:
                rival.window(self._arguments.seconds)
            if len(able) > 1:
                print(f"round {number + 1} of {self._arguments.windows}", flush=True)
        for one in begun:
            self._note(self._line(one) if isinstance(one, Measurement) else one)
        for competitor in dict.fromkeys(rival.competitor for rival in rivals):
            competitor.close()
            own = [rival.line() for rival in rivals if rival.competitor is competitor]
            self._note_rival({"name": competitor.name, "measurements": own})
        for one in able:
            one.subject.close()
        self.write()

    def write(self) -> None:
        """Write what was measured so far."""
        if out := self._arguments.out:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, sealed(self.result))

    def _begun(self, setting: Setting) -> Measurement | dict[str, Any]:
        """Return the setting at work, or its line with an error."""
        given, begin = self._arguments, time.perf_counter()
        try:
            self._choose(setting)
            if not given.on_cpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            data, what = self._data_of(setting.data), (setting.algorithm, setting.mode, setting.members)
            subject: InProcess | Processes
            if given.on_cpu and setting.members > 1:
                subject = Processes(*what, data, setting.kernel)
            else:
                subject = InProcess(*what, data, given.device)
            one = Measurement(setting, subject, given.device, time.perf_counter() - begin)
            one.warm_up(0 if setting.data == "synthetic" else given.warmup, given.seconds)
            return one
        except (RuntimeError, ValueError, OfflineRLError) as error:
            return setting.about() | {"error": str(error).splitlines()[0][:200]}

    def _rivals(self, able: Sequence[Measurement]) -> list[Rival]:
        """Start the other programs with those of these algorithms that they have."""
        given, data = self._arguments, {one.setting.algorithm: one.setting.data for one in able}
        if given.peers is None or not given.on_cpu:
            return []
        data = {name: "synthetic" if name != "prdc" else own for name, own in data.items()}
        programs = [("d3rlpy", "peer_d3rlpy.py", PEERS)]
        if given.references:
            programs += [(name, script, REFERRED) for name, script in REFERENCES.items()]
        pin(set(self._cores[:1]))
        rivals = []
        for name, script, known in programs:
            if own := {algorithm: self._data_of(data[algorithm]) for algorithm in data if algorithm in known}:
                competitor = Competitor(name, script, given.peers, own)
                rivals += [Rival(algorithm, competitor) for algorithm in own]
        for rival in rivals:
            if rival.algorithm == "prdc":
                rival.competitor.window("prdc", PATIENCE, given.warmup)
        return rivals

    def _choose(self, setting: Setting) -> None:
        """Let this process compute as a setting asks, whatever it did before."""
        if setting.cores:
            pin(set(self._cores[: setting.cores]))
        use_kernel(setting.kernel, 1)

    def _data_of(self, name: str) -> Data:
        if name not in self._data:
            dataset = synthetic(self._arguments.rows) if name == "synthetic" else load_dataset(name)
            self._data[name] = data = Data(dataset, self._arguments.device)
            if name != "synthetic":
                about = {"name": dataset.name, "rows": len(dataset), "fingerprint": dataset.fingerprint}
                self.result["data"] = about | {"sizes": data.preprocessing.sizes, "warmup": self._arguments.warmup}
        return self._data[name]

    def _time_products(self, able: Sequence[Measurement]) -> None:
        """Time the products that these are compared with, once more."""
        rates, given = self.result["products_gflops"], self._arguments
        for members, precision in dict.fromkeys((self._batch(one.setting), one.setting.precision) for one in able):
            if given.on_cpu:
                pin(set(self._cores[:1]))
            key, rate = f"{members} {precision}", product_rate(given.device, members, precision) / 1e9
            rates[key] = round(max(rate, rates.get(key, 0.0)), 1)

    def _batch(self, setting: Setting) -> int:
        """Return how many products are one batch: members of a CPU multiply for themselves."""
        return 1 if self._arguments.on_cpu else setting.members

    def _line(self, one: Measurement) -> dict[str, Any]:
        product = self.result["products_gflops"][f"{self._batch(one.setting)} {one.setting.precision}"]
        flops = flops_of_update(one.setting.algorithm, *self._data_of(one.setting.data).preprocessing.sizes)
        return one.line(flops, 1e9 * product)

    def _note_rival(self, program: dict[str, Any]) -> None:
        """Keep what another program came to; those written for this comparison are a list."""
        if program["name"].startswith("d3rlpy"):
            self.result["competitor"] = program
        else:
            self.result.setdefault("references", []).append(program)
        print(json.dumps(program), flush=True)

    def _note(self, line: dict[str, Any]) -> None:
        self.result["measurements"].append(line)
        print(json.dumps(line), flush=True)


def groups(arguments: Arguments, kernel: Kernel, cores: int) -> Iterator[list[Setting]]:
    """Yield what is measured in turns: on a CPU all, on a GPU one by one, as they would share its memory."""
    if arguments.on_cpu:
        yield [setting for name in arguments.algorithms for setting in _on_cpu(arguments, name, kernel, cores)]
        return
    for name in arguments.algorithms:
        for setting in _on_gpu(arguments, name):
            yield [setting]


def _on_cpu(arguments: Arguments, algorithm: str, kernel: Kernel, cores: int) -> Iterator[Setting]:
    modes = [*(arguments.modes or (("eager",) if algorithm in LONG_TO_COMPILE else ("eager", "compile")))]
    if "compile" in modes and obstacle(find_algorithm(algorithm), "cpu"):
        modes.remove("compile")
    data = arguments.data if algorithm == "prdc" else "synthetic"
    kernels: list[Kernel] = ["default", kernel] if kernel.startswith("native") else [kernel]
    for mode in modes:
        for own in kernels if mode == "eager" else kernels[-1:]:
            yield Setting(algorithm, mode, own, cores=1, data=data)
    if algorithm == "prdc":  # its search has a thread of its own
        yield Setting("td3_bc", modes[-1], kernel, cores=1, data=data)
        if cores > 1:
            yield from (Setting("prdc", mode, kernel, cores=2, data=data) for mode in modes)
    for members in arguments.members if arguments.members is not None else MEMBERS["cpu"]:
        if algorithm in arguments.most and cores > 1:
            yield Setting(algorithm, modes[-1], kernel, members, cores=2)


def _on_gpu(arguments: Arguments, algorithm: str) -> Iterator[Setting]:
    """Yield what matters most first, for time may run out."""
    modes = arguments.modes or ("eager", "cudagraph")
    yield from (Setting(algorithm, mode, "default") for mode in modes)
    for members in arguments.members if arguments.members is not None else MEMBERS["cuda"]:
        if members <= 20 or algorithm in arguments.most:
            yield Setting(algorithm, modes[-1], "default", members)
        if algorithm in arguments.most:
            yield Setting(algorithm, modes[-1], "tf32", members)


def main() -> None:
    """Measure, or show."""
    import tyro

    arguments = tyro.cli(Arguments)
    if arguments.show:
        result = read_sealed(arguments.show)
    else:
        bench = Bench(arguments)
        kernel, cores = bench.result.get("kernel", "default"), len(os.sched_getaffinity(0))
        for group in groups(arguments, kernel, cores):
            bench.measure(group)
        result = bench.result
    print(table(result))
    if arguments.chart:
        draw(result, arguments.chart)


if __name__ == "__main__":
    main()
