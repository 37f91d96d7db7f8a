"""Updates per second on a GPU: algorithm × mode × precision × members, next to what the GPU's own products allow.

``python -m benchmarks.throughput_gpu --out results/throughput/gpu.json`` measures; ``--show FILE`` prints the table.
The roofline is an update's own matrix products at the speed of the fastest batch of 256³ products, one for each member,
that the GPU reached in the same run; its share says how much of the time is arithmetic.
"""

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.throughput import synthetic, versions
from offline_rl.agent import Agent, find_algorithm
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.files import write_json
from offline_rl.networks.kernels import use_kernel
from offline_rl.training.captured import CapturedUpdates
from offline_rl.training.worker import Member

ALGORITHMS = ("td3_bc", "prdc", "iql", "bc", "cql", "famo2o", "a2pr", "dt", "doc", "parl")
STEPS = 1_000_000


@dataclass(frozen=True)
class Arguments:
    """Measure throughput on a GPU.

    Attributes:
        out: Result file to write, after each measurement.
        algorithms: What to measure.
        members: How many agents are trained together.
        most: Of these algorithms alone, more than 20 members.
        rows: Rows of the synthetic dataset, 17 + 6 entries.
        seconds: Of each window; the best of three counts.
        device: Where; a CPU only to try the program.
        show: Result file to show as a table, instead of measuring.
    """

    out: Path | None = None
    algorithms: Sequence[str] = ALGORITHMS
    members: Sequence[int] = (1, 20, 100)
    most: Sequence[str] = ("td3_bc", "iql")
    rows: int = 1_000_000
    seconds: float = 0.4
    device: str = "cuda"
    show: Path | None = None


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    algorithm: str
    mode: str
    precision: str
    members: int


class Counter(TorchDispatchMode):
    """Counts the floating-point operations of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make an operation, and count it."""
        result = function(*args, **(kwargs or {}))
        if (formula := flop_registry.get(function._overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


@dataclass
class Bench:
    """The dataset, resident once, and what was measured so far."""

    arguments: Arguments
    rows: PackedRows
    preprocessing: Preprocessing
    result: dict[str, Any] = field(default_factory=dict)

    def measure(self, setting: Setting) -> None:
        """Add a measurement; a setting that fails is noted with its error."""
        line = dataclasses.asdict(setting)
        try:
            line |= self._measured(setting)
        except (RuntimeError, ValueError) as error:
            line["error"] = str(error).splitlines()[0][:200]
        self.result["measurements"].append(line)
        print(json.dumps(line), flush=True)
        if self.arguments.out:
            write_json(self.arguments.out, self.result)

    def _measured(self, setting: Setting) -> dict[str, Any]:
        device = self.arguments.device
        use_kernel("tf32" if setting.precision == "tf32" else "default", 1)
        _start_counting(device)
        members = [Member(self._agent(setting.algorithm, seed, device), self.rows) for seed in range(setting.members)]
        captured = CapturedUpdates(members) if setting.mode == "cudagraph" else None
        begin, step = time.perf_counter(), 0

        def make(count: int) -> float:
            nonlocal step
            start = time.perf_counter()
            if captured:
                captured.run(step + 1, step + count)
            else:
                for member in members:
                    member.run(step + 1, step + count)
            step += count
            _wait(device)
            return time.perf_counter() - start

        make(4 * members[0].agent.cycle)
        setup = time.perf_counter() - begin
        count = max(members[0].agent.cycle, int(8 * self.arguments.seconds / make(8)))
        best = min(make(count) for _ in range(3)) / count
        rate = setting.members / best
        flops = self.flops(setting.algorithm)
        floor = self.product(setting.members, setting.precision) / flops
        return {
            "updates_per_second": round(rate, 1),
            "flops_of_an_update": flops,
            "roofline_updates_per_second": round(floor, 1),
            "share_of_roofline": round(rate / floor, 4),
            "setup_seconds": round(setup, 2),
            "memory_gigabytes": round(_memory(device) / 1e9, 3),
        }

    def _agent(self, algorithm: str, seed: int, device: str) -> Agent:
        found = find_algorithm(algorithm)
        # Of PARL the updates between rounds count; the rewards are the dataset's, so that nothing is fitted first.
        config = found.config_class(**({"rewards": "oracle"} if algorithm == "parl" else {}))
        sizes = self.preprocessing.sizes
        return found(config, *sizes, seed=seed, steps=STEPS, preprocessing=self.preprocessing, device=device)

    def flops(self, algorithm: str) -> int:
        """Return the floating-point operations in the matrix products of an update, the mean over a cycle."""
        if algorithm not in self.result["flops"]:
            small = PackedRows.of(synthetic(5000), self.preprocessing)
            member = Member(self._agent(algorithm, 0, "cpu"), small)
            member.run(1, 1)
            with Counter() as counter:
                member.run(2, 1 + member.agent.cycle)
            self.result["flops"][algorithm] = round(counter.flops / member.agent.cycle)
        return int(self.result["flops"][algorithm])

    def product(self, members: int, precision: str) -> float:
        """Return the floating-point operations a second of the fastest batch of 256³ products."""
        key = f"{members} {precision}"
        if key not in self.result["products_gflops"]:
            use_kernel("tf32" if precision == "tf32" else "default", 1)
            left, right = (torch.randn(members, 256, 256, device=self.arguments.device) for _ in range(2))
            best = math.inf
            for _ in range(5):
                torch.bmm(left, right)
                _wait(self.arguments.device)
                begin = time.perf_counter()
                for _ in range(200):
                    torch.bmm(left, right)
                _wait(self.arguments.device)
                best = min(best, (time.perf_counter() - begin) / 200)
            self.result["products_gflops"][key] = round(2 * members * 256**3 / best / 1e9, 1)
        return float(self.result["products_gflops"][key]) * 1e9


def main() -> None:
    """Measure, or show."""
    import tyro

    arguments = tyro.cli(Arguments)
    if arguments.show:
        print(table(json.loads(arguments.show.read_text())))
        return
    dataset = synthetic(arguments.rows)
    preprocessing = Preprocessing.fit(dataset, normalize=True)
    bench = Bench(arguments, PackedRows.of(dataset, preprocessing, arguments.device), preprocessing)
    name = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "CPU"
    today = datetime.now(UTC).date().isoformat()
    bench.result = {"date": today, "device": name, "versions": versions(), "rows": arguments.rows}
    bench.result |= {"flops": {}, "products_gflops": {}, "measurements": []}
    for setting in settings(arguments):
        bench.measure(setting)
    print(table(bench.result))


def settings(arguments: Arguments) -> list[Setting]:
    """Return what to measure: what matters most first, for time may run out."""
    lines = []
    for algorithm in arguments.algorithms:
        lines += [Setting(algorithm, mode, "float32", 1) for mode in ("eager", "cudagraph")]
        for count in arguments.members:
            if count == 1 or (count > 20 and algorithm not in arguments.most):
                continue
            lines.append(Setting(algorithm, "cudagraph", "float32", count))
            if algorithm in arguments.most:
                lines.append(Setting(algorithm, "cudagraph", "tf32", count))
    return lines


def table(result: dict[str, Any]) -> str:
    """Return the measurements as Markdown."""
    lines = [
        f"{result['device']}, PyTorch {result['versions']['torch']}, {result['date']}, {result['rows']:,} rows.",
        "",
        "| algorithm | mode | precision | members | updates/s | share of the roofline | memory, GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in result["measurements"]:
        head = f"| {line['algorithm']} | {line['mode']} | {line['precision']} | {line['members']} |"
        if "error" in line:
            lines.append(f"{head} failed: {line['error']} | | |")
            continue
        rate, share, memory = (line[name] for name in ("updates_per_second", "share_of_roofline", "memory_gigabytes"))
        lines.append(f"{head} {rate:,.0f} | {100 * share:.1f} % | {memory:.2f} |")
    return "\n".join(lines)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _start_counting(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _memory(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0


if __name__ == "__main__":
    main()
