"""How long a run takes from its command to its first update, and how many copies of its data are in memory.

``python -m benchmarks.start`` trains TD3+BC for one update, several times: first on ``hopper-demo``, by the clock and
in CPU seconds of all processes; then on a made-up file of many rows, for the largest resident memory of each process.
What a process needs without data is measured on a file of few rows and taken off; the rest is divided by the size of
the packed rows. Pages of a file that several processes map count in each of them. Times depend on what else the machine
does: to compare two versions, give the code of each by PYTHONPATH, and take turns.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import tyro

SIZES = 11, 3
"""Entries of an observation and of an action of the made-up file."""
FEW = 2000
"""Rows of the file on which it is measured what a process needs without data."""
EPISODE = 500
LOOK_SECONDS = 0.005
WORKER = "offline_rl.training.worker"
TICKS = os.sysconf("SC_CLK_TCK")
STAGES = """
import importlib, json, sys, time
names = [("torch", ""), ("offline_rl.cli.main", ""), ("offline_rl.training.run", ""),
    ("offline_rl.training.plan", "load"), ("offline_rl.training.memory", "Memory.of"),
    ("offline_rl.training.introduction", "check"), ("offline_rl.training.faults", "check"),
    ("offline_rl.training.workers", "WorkerPool.rows"),
    ("offline_rl.training.workers", "Workers.__init__"), ("offline_rl.training.workers", "Workers.run")]
spent = {}
def timed(label, call, *given, **named):
    before = time.perf_counter(), time.process_time()
    try:
        return call(*given, **named)
    finally:
        if label not in spent:
            spent[label] = time.perf_counter() - before[0], time.process_time() - before[1]
for module, path in names:
    if not path:
        timed("import " + module, importlib.import_module, module)
        continue
    owner = importlib.import_module(module)
    *classes, last = path.split(".")
    for name in classes:
        owner = getattr(owner, name)
    if not hasattr(owner, last):
        continue
    call = getattr(owner, last)
    setattr(owner, last, lambda *given, _call=call, _label=path, **named: timed(_label, _call, *given, **named))
from offline_rl.cli.main import main
main(sys.argv[1:])
print("STAGES" + json.dumps(spent))
"""
"""What is run to see where the seconds of the parent process go: functions are timed at their first call."""


@dataclass(frozen=True)
class Arguments:
    """Measure the start of a run."""

    rows: int = 2_000_000
    """Rows of the made-up file; 0 measures no memory."""
    repeat: int = 5
    """Runs whose time is taken."""
    stages: bool = True
    """Also print where the parent's time goes."""


@dataclass
class Watched:
    """What was seen of a run.

    Attributes:
        seconds: From the command to the first update.
        cpu: CPU seconds of all of its processes until then.
        peak: The largest resident memory in bytes, by the kind of process: "parent" or "worker".
    """

    seconds: float = 0.0
    cpu: float = 0.0
    peak: dict[str, int] = field(default_factory=dict)


def make_file(path: Path, rows: int) -> None:
    """Write a dataset in D4RL's layout, of noise, with next observations."""
    import h5py

    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for name in ("observations", "next_observations"):
            file[name] = generator.standard_normal((rows, SIZES[0]), np.float32)
        file["actions"] = generator.uniform(-0.9, 0.9, (rows, SIZES[1])).astype(np.float32)
        file["rewards"] = generator.standard_normal(rows, np.float32)
        file["terminals"] = np.zeros(rows, bool)
        file["timeouts"] = np.arange(rows) % EPISODE == EPISODE - 1


def command(dataset: str, out: Path) -> list[str]:
    """Return the arguments of the run that is measured."""
    once = ["--steps", "1", "--log_every", "1", "--eval_every", "0", "--final_episodes", "0"]
    return ["train", "td3_bc", "--dataset", dataset, "--device", "cpu", *once, "--out", str(out)]


def watched(dataset: str) -> Watched:
    """Make a run, and look at its processes until its first update is recorded and then to its end."""
    seen, pasts = Watched(), dict[int, float]()
    with tempfile.TemporaryDirectory() as folder:
        out, begin = Path(folder) / "run", time.perf_counter()
        run = subprocess.Popen(
            [sys.executable, "-m", "offline_rl", *command(dataset, out)], stdout=subprocess.DEVNULL, stderr=-1
        )
        while run.poll() is None:
            for number, kind in _processes(run.pid):
                _look(seen, number, kind)
                if not seen.seconds:
                    pasts[number] = max(pasts.get(number, 0.0), _cpu(number))
            with contextlib.suppress(OSError):
                if not seen.seconds and '"train"' in (out / "metrics.jsonl").read_text():
                    seen.seconds, seen.cpu = time.perf_counter() - begin, sum(pasts.values())
            time.sleep(LOOK_SECONDS)
        if run.returncode:
            raise SystemExit(run.stderr.read().decode() if run.stderr else "the run failed")
    return seen


def _processes(parent: int) -> Iterator[tuple[int, str]]:
    """Yield the numbers of a run's processes, and what they are."""
    yield parent, "parent"
    with contextlib.suppress(OSError):
        for number in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{number}/cmdline").read_bytes().decode()
                yield number, "worker" if WORKER in line else "reader"


def _look(seen: Watched, number: int, kind: str) -> None:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{number}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                seen.peak[kind] = max(seen.peak.get(kind, 0), 1024 * int(line.split()[1]))


def _cpu(number: int) -> float:
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
    return 0.0


def stages() -> list[str]:
    """Return the table of where the parent's time goes."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-c", STAGES, *command("hopper-demo", Path(folder) / "run")]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    spent = json.loads(done.stdout.rpartition("STAGES")[2])
    lines = ["| stage of the parent | seconds | CPU seconds |", "|---|---|---|"]
    return [*lines, *(f"| {name} | {wall:.2f} | {cpu:.2f} |" for name, (wall, cpu) in spent.items())]


def memory(rows: int) -> list[str]:
    """Return the table of the memory that a run takes for its data."""
    size = 4 * rows * (2 * SIZES[0] + SIZES[1] + 2)
    with tempfile.TemporaryDirectory() as folder:
        for name, count in (("few", FEW), ("many", rows)):
            make_file(Path(folder) / f"{name}.hdf5", count)
        few, many = (watched(str(Path(folder) / f"{name}.hdf5")).peak for name in ("few", "many"))
    lines = [
        f"{rows:,} rows, packed {size / 1e6:,.0f} MB",
        "",
        "| process | MB for data | copies |",
        "|---|---|---|",
    ]
    for kind in ("parent", "worker"):
        more = many[kind] - few[kind]
        lines.append(f"| {kind} | {more / 1e6:,.0f} | {more / size:.2f} |")
    return lines


def main(given: Arguments) -> None:
    """Measure and print."""
    seen = [watched("hopper-demo") for _ in range(given.repeat)]
    for what, values in (("seconds", [own.seconds for own in seen]), ("CPU seconds", [own.cpu for own in seen])):
        listed = ", ".join(f"{value:.2f}" for value in values)
        print(f"{what} from the command to the first update: median {median(values):.2f} of {listed}")
    if given.stages:
        print("", *stages(), sep="\n")
    if given.rows:
        print("", *memory(given.rows), sep="\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
