"""Updates per second of one agent on one thread, next to the arithmetic floor and to a named competitor.

Everything is measured in one run, in turns, and each number is the best of several windows: on a shared machine only
ratios within one run mean something. ``make bench`` runs it, ``make report`` shows the committed result.
"""

import dataclasses
import json
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

OBSERVATION_SIZE, ACTION_SIZE = 17, 6
UPDATE_FLOPS = {"td3_bc": 415e6}
"""Multiply-adds times two that one update needs, averaged over the delayed actor: 809,728 MAC a row, 256 rows."""


@dataclass(frozen=True)
class Arguments:
    """Measure throughput on one thread.

    Attributes:
        out: Result file to write.
        peers: Python of the environment that holds the competitors; without it they are left out.
        windows: Rounds in which everything is measured once.
        updates: Updates in each window.
        rows: Rows of the synthetic dataset.
        show: Result file to show as a table, instead of measuring.
    """

    out: Path | None = None
    peers: Path | None = None
    windows: int = 8
    updates: int = 150
    rows: int = 200_000
    show: Path | None = None


@dataclass
class Series:
    """What one thing took in each window, in seconds for one call."""

    name: str
    seconds: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        """The fastest window."""
        return min(self.seconds)


def main() -> None:
    """Measure, or show."""
    import tyro

    arguments = tyro.cli(Arguments)
    if arguments.show:
        print(table(json.loads(arguments.show.read_text())))
        return
    result = measure(arguments)
    print(table(result))
    if arguments.out:
        from offline_rl.files import write_json

        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, result)
        print(f"\nwritten to {arguments.out}")


def measure(arguments: Arguments) -> dict[str, Any]:
    """Measure everything in turns; return the result file's content."""
    from offline_rl.networks.kernels import choose_kernel, use_kernel

    kernel = choose_kernel()
    use_kernel(kernel, threads=1)
    product, update, sample = Series("product"), Series("td3_bc"), Series("sample")
    rows_only, peer = Series("rows"), Series("d3rlpy")
    run_update, run_sample, run_rows = build_ours(arguments.rows)
    competitor = Competitor(arguments.peers, arguments.rows) if arguments.peers else None
    for _ in range(arguments.windows):
        product.seconds.append(time_products())
        update.seconds.append(timed(run_update, arguments.updates))
        sample.seconds.append(timed(run_sample, 640))
        rows_only.seconds.append(timed(run_rows, 640))
        if competitor:
            seconds, sampling = competitor.run(max(20, arguments.updates // 5))
            peer.seconds.append(seconds)
            competitor.sampling.append(sampling)
    gflops = 2 * 256**3 / product.best / 1e9
    floor = UPDATE_FLOPS["td3_bc"] / (gflops * 1e9)
    return {
        "what": "TD3+BC, one agent, one thread, batch 256, 17 + 6 entries, two hidden layers of 256",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "kernel": kernel,
        "versions": versions(),
        "settings": {k: v for k, v in dataclasses.asdict(arguments).items() if isinstance(v, int)},
        "product_gflops": round(gflops, 1),
        "floor_updates_per_second": round(1 / floor, 1),
        "updates_per_second": round(1 / update.best, 1),
        "share_of_floor": round(floor / update.best, 3),
        "sampling_milliseconds": round(1e3 * sample.best, 4),
        "sampling_rows_milliseconds": round(1e3 * rows_only.best, 4),
        "competitor": competitor.result(peer, update) if competitor else None,
        "windows": {s.name: [round(1e3 * t, 4) for t in s.seconds] for s in (update, sample, rows_only, peer)},
    }


def build_ours(rows: int) -> tuple[Callable[[int], None], Callable[[int], None], Callable[[int], None]]:
    """Return what makes update ``step``, what draws its whole batch, and what draws and gathers its rows only."""
    from algos.bc import BC
    from algos.bc import Config as BCConfig
    from algos.td3_bc import TD3BC, Config
    from offline_rl.data import Dataset
    from offline_rl.data.packed import PackedRows
    from offline_rl.data.preprocessing import Preprocessing
    from offline_rl.training.sampler import Sampler

    rng = np.random.default_rng(0)
    dataset = Dataset.from_arrays(
        observations=rng.standard_normal((rows, OBSERVATION_SIZE)),
        actions=rng.uniform(-1, 1, (rows, ACTION_SIZE)),
        rewards=rng.standard_normal(rows),
        terminated=np.zeros(rows, bool),
        next_observations=rng.standard_normal((rows, OBSERVATION_SIZE)),
    )
    packed = PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=True))
    agent = TD3BC(Config(), OBSERVATION_SIZE, ACTION_SIZE)
    sampler = Sampler(agent, packed)
    # Behaviour cloning asks for no noise: its batch is rows alone.
    plain = Sampler(BC(BCConfig(), OBSERVATION_SIZE, ACTION_SIZE), packed)

    def update(step: int) -> None:
        agent.update(sampler.batch(step), step)

    def sample(step: int) -> None:
        sampler.batch(step)

    def sample_rows(step: int) -> None:
        plain.batch(step)

    return update, sample, sample_rows


def timed(call: Callable[[int], None], count: int) -> float:
    """Return the mean time of ``count`` calls, after a few that are not timed."""
    for step in range(1, 11):
        call(step)
    begin = time.perf_counter()
    for step in range(11, 11 + count):
        call(step)
    return (time.perf_counter() - begin) / count


def time_products() -> float:
    """Return the fastest time of one float32 product of 256 x 256 matrices, over both kernels PyTorch offers here."""
    import torch

    left, right = torch.ones(256, 256), torch.ones(256, 256)
    settings = torch.backends.mkldnn.matmul
    before, best = settings.fp32_precision, float("inf")
    for precision in ("none", "bf16"):
        settings.fp32_precision = precision
        for _ in range(10):
            begin = time.perf_counter()
            for _ in range(20):
                torch.mm(left, right)
            best = min(best, (time.perf_counter() - begin) / 20)
    settings.fp32_precision = before
    return best


class Competitor:
    """d3rlpy in its own Python, asked window by window."""

    def __init__(self, python: Path, rows: int) -> None:
        script = str(Path(__file__).with_name("peer_d3rlpy.py"))
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([str(python), script], stdin=pipe, stdout=pipe, text=True)
        self.sampling: list[float] = []
        request = {"rows": rows, "observation_size": OBSERVATION_SIZE, "action_size": ACTION_SIZE}
        self.version = self._ask(request)["version"]
        self.run(10)

    def run(self, updates: int) -> tuple[float, float]:
        """Return the seconds of one update with its sampling, and of the sampling alone."""
        answer = self._ask(updates)
        return answer["seconds"] / updates, answer["sampling"] / updates

    def result(self, peer: Series, ours: Series) -> dict[str, Any]:
        """Return the comparison."""
        return {
            "name": f"d3rlpy {self.version} TD3+BC",
            "updates_per_second": round(1 / peer.best, 1),
            "sampling_milliseconds": round(1e3 * min(self.sampling), 3),
            "ours_times_as_fast": round(peer.best / ours.best, 2),
        }

    def _ask(self, request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the competitor's process ended; run `make bench` to set up its environment")
        return json.loads(line)


def table(result: dict[str, Any]) -> str:
    """Return a result as a Markdown table."""
    lines = [
        f"{result['what']}; {result['hardware']}, PyTorch {result['versions']['torch']}, {result['date']}.",
        "",
        "| | updates/s | share of the floor | sampling, ms |",
        "|---|---|---|---|",
        f"| arithmetic floor ({result['product_gflops']} GFLOP/s) | {result['floor_updates_per_second']} | 100 % | |",
        row("offline_rl, with sampling", result, f"{100 * result['share_of_floor']:.0f} %"),
    ]
    if peer := result["competitor"]:
        share = peer["updates_per_second"] / result["floor_updates_per_second"]
        lines.append(row(f"{peer['name']}, with sampling", peer, f"{100 * share:.0f} %"))
        lines += ["", f"offline_rl is {peer['ours_times_as_fast']} times as fast."]
    lines += [
        "",
        f"Sampling includes the update's noise; 256 rows alone take {result['sampling_rows_milliseconds']:.3f} ms.",
    ]
    return "\n".join(lines)


def row(name: str, numbers: dict[str, Any], share: str) -> str:
    """Return one line of the table."""
    return f"| {name} | {numbers['updates_per_second']} | {share} | {numbers['sampling_milliseconds']:.3f} |"


def versions() -> dict[str, str]:
    """Return the versions that matter here."""
    import torch

    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


def hardware() -> str:
    """Return the processor's name."""
    names: Sequence[str] = []
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        wanted = ("model name", "cpu family", "model\t")
        names = [line.partition(":")[2].strip() for line in lines if line.startswith(wanted)][:3]
    return " / ".join(dict.fromkeys(names)) or platform.processor()


if __name__ == "__main__":
    main()
