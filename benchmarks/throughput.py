"""Updates per second of one agent on one core, next to the arithmetic floor and to a named competitor.

Everything is measured in one run, in turns, and each number is the best of several windows: on a shared machine only
ratios within one run mean something. ``make bench`` runs it, ``make report`` shows the committed result.
"""

import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

TD3_BC_FLOPS = 2 * 809_728 * 256
"""Of one update, averaged over the delayed actor: multiply-adds a row, 256 rows; 17 + 6 entries."""
IQL_FLOPS = 2 * 1_117_952 * 256
"""The same for IQL, V being asked anew for s and for s' after its step."""
A2PR_FLOPS = 2 * 8_190_000 * 256
"""The same for A2PR, without what its authors' code computes and never uses."""


@dataclass(frozen=True)
class Arguments:
    """Measure throughput on one core.

    Attributes:
        out: Result file to write.
        peers: Python of the environment that holds the competitors; without it they are left out.
        windows: Rounds in which everything is measured once.
        updates: Updates in each window.
        rows: Rows of the synthetic dataset for TD3+BC.
        data: Dataset for PRDC, whose speed depends on the data: a name or a file.
        warmup: Updates of PRDC before it is measured; the search is slowest while the policy is random.
        show: Result file to show as a table, instead of measuring.
    """

    out: Path | None = None
    peers: Path | None = None
    windows: int = 8
    updates: int = 150
    rows: int = 200_000
    data: str = "hopper-demo"
    warmup: int = 1000
    show: Path | None = None


@dataclass
class Series:
    """What one call took in each window, in seconds."""

    seconds: list[float] = field(default_factory=list)

    def measure(self, call: Callable[[], None], count: int) -> None:
        """Add the mean time of ``count`` calls."""
        begin = time.perf_counter()
        for _ in range(count):
            call()
        self.seconds.append((time.perf_counter() - begin) / count)

    @property
    def best(self) -> float:
        """The fastest window."""
        return min(self.seconds)

    @property
    def rate(self) -> float:
        """Calls a second in the fastest window."""
        return round(1 / self.best, 1)

    @property
    def milliseconds(self) -> float:
        """Of one call in the fastest window."""
        return round(1e3 * self.best, 4)


def main() -> None:
    """Measure, or show."""
    import tyro

    arguments = tyro.cli(Arguments)
    if arguments.show:
        from offline_rl.files import read_sealed

        print(table(read_sealed(arguments.show)))
        return
    result = measure(arguments)
    print(table(result))
    if arguments.out:
        from offline_rl.files import sealed, write_json

        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, sealed(result))
        print(f"\nwritten to {arguments.out}")


def measure(arguments: Arguments) -> dict[str, Any]:
    """Measure everything; return the result file's content."""
    from offline_rl.networks.kernels import choose_kernel, use_kernel

    # One core for us and for the competitor: searches of both would otherwise take all.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    kernel = choose_kernel()
    use_kernel(kernel, threads=1)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "kernel": kernel,
        "versions": versions(),
        "windows": arguments.windows,
        "td3_bc": measure_td3_bc(arguments),
        "prdc": measure_prdc(arguments),
        "iql": measure_share(arguments, "iql", "IQL, batch 256, 17 + 6 entries, two hidden layers of 256", IQL_FLOPS),
        "a2pr": measure_share(arguments, "a2pr", "A2PR, batch 256, 17 + 6 entries, its own depths and VAE", A2PR_FLOPS),
    }


def measure_td3_bc(arguments: Arguments) -> dict[str, Any]:
    """Measure TD3+BC against the arithmetic floor and d3rlpy, on synthetic data."""
    from algos.bc import BC
    from algos.bc import Config as BCConfig

    dataset = synthetic(arguments.rows)
    ours = Runner("td3_bc", dataset)
    # Behaviour cloning asks for no noise: its batch is rows alone.
    rows_only = Runner("bc", dataset, BC(BCConfig(), dataset.observation_size, dataset.action_size))
    update, sample, rows, peer = Series(), Series(), Series(), Series()
    product, competitor = float("inf"), Competitor.start("td3_bc", dataset, arguments.peers)
    for _ in range(arguments.windows):
        product = min(product, time_product())
        update.measure(ours.update, arguments.updates)
        sample.measure(ours.sample, 640)
        rows.measure(rows_only.sample, 640)
        if competitor:
            competitor.measure(peer, max(20, arguments.updates // 5))
    return {
        "what": "TD3+BC, batch 256, 17 + 6 entries, two hidden layers of 256",
        **against_floor(update, TD3_BC_FLOPS, product),
        "sampling_milliseconds": sample.milliseconds,
        "sampling_rows_milliseconds": rows.milliseconds,
        "competitor": competitor.result(peer, update) if competitor else None,
    }


def measure_share(arguments: Arguments, algorithm: str, what: str, flops: float) -> dict[str, Any]:
    """Measure an algorithm against its arithmetic floor, on synthetic data; updates are fewer the more they compute."""
    ours, update, product = Runner(algorithm, synthetic(arguments.rows)), Series(), float("inf")
    for _ in range(arguments.windows):
        product = min(product, time_product())
        update.measure(ours.update, max(10, int(arguments.updates * TD3_BC_FLOPS / flops)))
    return {"what": what, **against_floor(update, flops, product)}


def against_floor(update: Series, flops: float, product: float) -> dict[str, Any]:
    """Compare updates of so many operations with the fastest 256³ product, which took ``product`` seconds."""
    rate = 2 * 256**3 / product
    return {
        "product_gflops": round(rate / 1e9, 1),
        "floor_updates_per_second": round(rate / flops, 1),
        "updates_per_second": update.rate,
        "share_of_floor": round(flops / rate / update.best, 3),
        "window_milliseconds": [round(1e3 * seconds, 3) for seconds in update.seconds],
    }


def measure_prdc(arguments: Arguments) -> dict[str, Any]:
    """Measure PRDC against TD3+BC and against d3rlpy's PRDC, on recorded data."""
    from offline_rl.data import load_dataset

    dataset = load_dataset(arguments.data)
    baseline, ours = Runner("td3_bc", dataset), Runner("prdc", dataset)
    ours.wait_for_lists()
    competitor = Competitor.start("prdc", dataset, arguments.peers)
    for runner in (baseline, ours):
        for _ in range(arguments.warmup):
            runner.update()
    plain, update, peer = Series(), Series(), Series()
    for _ in range(arguments.windows):
        plain.measure(baseline.update, arguments.updates)
        update.measure(ours.update, arguments.updates)
        if competitor:
            competitor.measure(peer, 10)
    metrics = {name: float(value) for name, value in ours.metrics.items()}
    return {
        "what": f"PRDC on {dataset.name}, {len(dataset):,} rows, after {arguments.warmup:,} updates",
        "fingerprint": dataset.fingerprint,
        "td3_bc_updates_per_second": plain.rate,
        "updates_per_second": update.rate,
        "share_of_td3_bc": round(plain.best / update.best, 3),
        "search_milliseconds": round(metrics["timing/search_ms"], 3),
        "certified": round(metrics["timing/certified"], 3),
        "competitor": competitor.result(peer, update) if competitor else None,
        "window_milliseconds": [round(1e3 * seconds, 3) for seconds in update.seconds],
    }


def synthetic(rows: int) -> Any:
    """Return a dataset of independent noise with the sizes of walker2d and halfcheetah."""
    from offline_rl.data import Dataset

    rng = np.random.default_rng(0)
    return Dataset.from_arrays(
        observations=rng.standard_normal((rows, 17)),
        actions=rng.uniform(-1, 1, (rows, 6)),
        rewards=rng.standard_normal(rows),
        terminated=np.zeros(rows, bool),
        truncated=np.arange(rows) % 1000 == 999,
        next_observations=rng.standard_normal((rows, 17)),
        name="synthetic",
    )


class Runner:
    """One of our agents with its sampler, called update after update."""

    def __init__(self, algorithm: str, dataset: Any, agent: Any = None) -> None:
        from offline_rl.agent import find_algorithm
        from offline_rl.data.packed import PackedRows
        from offline_rl.data.preprocessing import Preprocessing
        from offline_rl.training.sampler import Sampler

        found = find_algorithm(algorithm)
        rows = PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=True))
        self.agent = agent or found(found.config_class(), dataset.observation_size, dataset.action_size)
        self.agent.prepare(rows)
        self._sampler = Sampler(self.agent, rows)
        self._step = 0
        self.metrics: dict[str, Any] = {}

    def update(self) -> None:
        """Make the next update, its sampling included."""
        self._step += 1
        self.metrics |= self.agent.update(self._sampler.batch(self._step), self._step)

    def sample(self) -> None:
        """Make the next batch only."""
        self._step += 1
        self._sampler.batch(self._step)

    def wait_for_lists(self) -> None:
        """Wait until PRDC's candidate lists are there."""
        self.agent.nearest.wait()


class Competitor:
    """d3rlpy in its own Python, asked window by window."""

    def __init__(self, algorithm: str, dataset: Any, python: Path) -> None:
        script = str(Path(__file__).with_name("peer_d3rlpy.py"))
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([str(python), script], stdin=pipe, stdout=pipe, text=True)
        self._algorithm = algorithm
        self._sampling: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data.npz"
            np.savez(
                path,
                observations=dataset.observations,
                actions=dataset.actions,
                rewards=dataset.rewards,
                terminals=dataset.terminated.astype(np.float32),
                timeouts=(dataset.truncated & ~dataset.terminated).astype(np.float32),
            )
            self.version = self._ask({"algorithm": algorithm, "data": str(path)})["version"]

    @classmethod
    def start(cls, algorithm: str, dataset: Any, python: Path | None) -> "Competitor | None":
        """Start it, if there is one."""
        return cls(algorithm, dataset, python) if python else None

    def measure(self, series: Series, updates: int) -> None:
        """Add the mean time of one update with its sampling."""
        answer = self._ask(updates)
        series.seconds.append(answer["seconds"] / updates)
        self._sampling.append(answer["sampling"] / updates)

    def result(self, peer: Series, ours: Series) -> dict[str, Any]:
        """Return the comparison, and end the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        return {
            "name": f"d3rlpy {self.version}",
            "updates_per_second": round(1 / peer.best, 2),
            "sampling_milliseconds": round(1e3 * min(self._sampling), 3),
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


def time_product() -> float:
    """Return the fastest time of one float32 product of 256 x 256 matrices, over the kernels PyTorch offers here."""
    import torch

    from offline_rl.networks.kernels import Kernel, choose_kernel, onednn_is_exact, use_kernel

    left, right, series = torch.ones(256, 256), torch.ones(256, 256), Series()
    choices: list[Kernel] = ["default", "onednn"] if onednn_is_exact() else ["default"]
    for kernel in choices:
        use_kernel(kernel, threads=1)
        for _ in range(10):
            series.measure(lambda: torch.mm(left, right), 20)
    use_kernel(choose_kernel(), threads=1)
    return series.best


def table(result: dict[str, Any]) -> str:
    """Return a result as Markdown."""
    td3_bc, prdc = result["td3_bc"], result["prdc"]
    floor = td3_bc["floor_updates_per_second"]
    lines = [
        f"One agent, one core, sampling included; {result['hardware']}, PyTorch {result['versions']['torch']}, "
        f'{result["date"]}, kernel "{result["kernel"]}", best of {result["windows"]} windows.',
        "",
        f"| {td3_bc['what']} | updates/s | share of the floor | sampling, ms |",
        "|---|---|---|---|",
        f"| arithmetic floor ({td3_bc['product_gflops']} GFLOP/s) | {floor} | 100 % | |",
    ]
    for name, numbers in named(td3_bc):
        share = f"{100 * numbers['updates_per_second'] / floor:.0f} %"
        lines.append(f"| {name} | {numbers['updates_per_second']} | {share} | {numbers['sampling_milliseconds']:.3f} |")
    base = prdc["td3_bc_updates_per_second"]
    lines += ["", f"| {prdc['what']} | updates/s | share of TD3+BC |", "|---|---|---|"]
    lines.append(f"| offline_rl, TD3+BC on the same data | {base} | 100 % |")
    for name, numbers in named(prdc):
        share = f"{100 * numbers['updates_per_second'] / base:.0f} %"
        lines.append(f"| {name} | {numbers['updates_per_second']} | {share} |")
    for part in (result[name] for name in ("iql", "a2pr") if name in result):
        lines += [
            "",
            f"| {part['what']} | updates/s | share of the floor |",
            "|---|---|---|",
            f"| arithmetic floor ({part['product_gflops']} GFLOP/s) | {part['floor_updates_per_second']} | 100 % |",
            f"| offline_rl | {part['updates_per_second']} | {100 * part['share_of_floor']:.0f} % |",
        ]
    lines += [
        "",
        f"Sampling includes the update's noise; 256 rows alone take {td3_bc['sampling_rows_milliseconds']:.3f} ms. "
        f"PRDC's search took {prdc['search_milliseconds']:.2f} ms in the last update, {100 * prdc['certified']:.0f} % "
        "of it proven by candidate lists.",
    ]
    return "\n".join(lines)


def named(part: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return ours and the competitor's numbers with their names."""
    peer = part["competitor"]
    return [("offline_rl", part)] + ([(peer["name"], peer)] if peer else [])


def versions() -> dict[str, str]:
    """Return the versions that matter here."""
    import torch

    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


def hardware() -> str:
    """Return the processor's name, with its family where the name says little."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.exists() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    return f"{facts['model name']} (family {facts.get('cpu family')}, model {facts.get('model')})"


if __name__ == "__main__":
    main()
