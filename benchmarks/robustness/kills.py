"""Commands killed without warning at random moments: the same command again ends as if nothing had been."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.robustness.pool import ROOT
from offline_rl.files import TEMPORARY

SMALL = ["--hidden_dims=8", "--batch_size=8", "--final_episodes=2", "--eval_episodes=1", "--quiet"]
TIMED = (
    "seconds",
    "updates_per_second",
    "waited",
    "runtime",
    "checksum",
    "date",
    "hours",
    "started",
    "command",
    "commit",
)
"""Names of what may differ: a command that is given again says ``--resume``, and an edit marks the commit."""
PATIENCE = 300
ORPHANED = 60


@dataclass(frozen=True)
class Command:
    """A command that is killed.

    Attributes:
        words: What stands after ``offline-rl``; the folder that it works in is its own.
        again: What is added to go on.
        results: Patterns of the files that must come out the same.
    """

    words: list[str]
    again: list[str]
    results: list[str]


COMMANDS = {
    "finetune": Command(
        [
            "finetune",
            "old",
            "--steps=400",
            "--checkpoint_seconds=0.2",
            "--eval_every=200",
            "--eval_episodes=1",
            "--final_episodes=2",
            "--out=new",
            "--quiet",
        ],
        ["--resume"],
        ["new/metrics.jsonl", "new/agents/*/*", "new/config.json"],
    ),
    "sweep": Command(
        ["sweep", "sweep.yaml", "--out=sweep"],
        [],
        ["sweep/summary.json", "sweep/runs/*/agents/*/*", "sweep/runs/*/metrics.jsonl"],
    ),
    "benchmark": Command(
        ["benchmark", "suite.yaml", "--results=results", "--runs=runs"],
        [],
        ["results/*.json", "runs/suite/*/agents/*/*"],
    ),
    "collect": Command(
        [
            "collect",
            "random",
            "--task=hopper",
            "--steps=20000",
            "--checkpoint_seconds=0.2",
            "--out=mine.hdf5",
            "--quiet",
        ],
        ["--resume"],
        ["mine.hdf5"],
    ),
    # Killed after its last byte, it has left a whole file, which nothing may replace unasked.
    "export": Command(["export", "old", "--out=policy.onnx"], ["--overwrite"], ["policy.onnx"]),
    "report": Command(["report", "scores", "--out=page"], [], ["page/*"]),
}


@dataclass
class Kills:
    """What became of kills.

    Attributes:
        kills: Processes killed while they ran.
        ended: Commands that had ended before.
        failures: What went wrong, with the kill's number.
    """

    kills: int = 0
    ended: int = 0
    failures: list[str] = field(default_factory=list)


def prepare(folder: Path) -> None:
    """Make what the commands work on: a finished run, a sweep file, a suite, and a folder of results."""
    folder.mkdir(parents=True)
    words = ["train", "td3_bc", "--dataset=hopper-demo", "--steps=100", "--eval_every=0", "--out=old", "--workers=0"]
    run([*words, *SMALL], folder)
    options = "--dataset=hopper-demo --steps=300 --eval_every=100 --checkpoint_seconds=0.2 " + " ".join(SMALL)
    words = ", ".join(f"'{word}'" for word in ["offline-rl", "train", "bc", *options.split(), "${args}"])
    (folder / "sweep.yaml").write_text(
        f"method: grid\nparameters: {{learning_rate: {{values: [0.001, 0.01]}}}}\ncommand: [{words}]\n"
    )
    settings = (
        "{steps: 300, eval_every: 100, eval_episodes: 1, final_episodes: 2, checkpoint_seconds: 0.2, quiet: true}"
    )
    methods = "{slow: {algorithm: bc, hidden_dims: [8]}, fast: {algorithm: bc, hidden_dims: [8], learning_rate: 0.01}}"
    (folder / "suite.yaml").write_text(f"datasets: [hopper-demo]\noptions: {settings}\nmethods: {methods}\n")
    (folder / "scores").mkdir()
    for file in (ROOT / "results" / "precision").glob("*.json"):
        shutil.copy(file, folder / "scores")


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start a command in a folder, as the leader of its own group."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "offline_rl", *words]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, cwd=folder, env=environment, **pipes)


def run(words: list[str], folder: Path) -> tuple[int, str]:
    """Run a command to its end; return its status and what it said of errors."""
    process = start(words, folder)
    try:
        _, said = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        killed(process)
        return -1, f"it did not end in {PATIENCE} s"
    return process.returncode, said


def killed(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Kill a command without warning; return how many children it had, and how many of them outlive it.

    One that is still importing PyTorch when its parent dies sees so only after that.
    """
    import psutil

    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=ORPHANED)
    return len(family), len(alive)


def kill(
    name: str, count: int, seed: int, *, prepared: Path | None = None, say: Callable[[str], None] = lambda _: None
) -> Kills:
    """Kill a command so many times, each at a moment of its own, and give it again.

    Args:
        name: A key of :data:`COMMANDS`.
        count: How many times.
        seed: Decides the moments.
        prepared: What :func:`prepare` has made; by default it is made.
        say: Called with lines of progress.
    """
    command, found = COMMANDS[name], Kills()
    with tempfile.TemporaryDirectory(prefix="robustness-kills-") as scratch:
        whole = Path(scratch) / "whole"
        if prepared is None:
            prepared = Path(scratch) / "prepared"
            prepare(prepared)
        shutil.copytree(prepared, whole)
        begin = time.monotonic()
        status, said = run(command.words, whole)
        life = time.monotonic() - begin
        if status:
            raise RuntimeError(f"{name} does not run at all: {said}")
        wanted = contents(whole, command)
        for number in range(count):
            delay = life * random.Random(f"kill/{name}/{seed}/{number}").uniform(0.05, 1.0)
            place = Path(scratch) / str(number)
            shutil.copytree(prepared, place)
            faults = _killed_once(command, place, delay, wanted, found)
            found.failures += [
                f"kill {number} of seed {seed} ({name}, after {delay:.2f} of {life:.1f} s): {fault}" for fault in faults
            ]
            shutil.rmtree(place)
            say(f"{name}: {number + 1} of {count}, {len(found.failures)} failures")
    return found


def _killed_once(command: Command, place: Path, delay: float, wanted: dict[str, str], found: Kills) -> list[str]:
    process = start(command.words, place)
    try:
        process.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        found.kills += 1
        _, alive = killed(process)
        faults = [f"{alive} of its processes live on"] * bool(alive)
    else:
        found.ended += 1
        faults = []
    faults += [f"half a file after the kill: {file}" for file in half_files(place)]
    status, said = run([*command.words, *command.again], place)
    if status:
        return [*faults, f"the same command again ends with {status}: {said[-300:]}"]
    return (
        faults
        + [f"half a file at the end: {file}" for file in half_files(place)]
        + different(wanted, contents(place, command))
    )


def half_files(folder: Path) -> list[str]:
    """Name the files in a folder that are not whole; what is hidden and marked as temporary is nobody's result."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(_is_temporary(part) for part in path.relative_to(folder).parts)
        and not _is_whole(path)
    ]


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY)


def _is_whole(path: Path) -> bool:
    from safetensors import safe_open

    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            # A last line may be half; what is in it is written again.
            [json.loads(line) for line in path.read_text().split("\n")[:-1]]
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    file.get_slice(name)
        elif path.suffix == ".onnx":
            import onnx

            onnx.checker.check_model(onnx.load(path))
        elif path.suffix == ".hdf5":
            import h5py

            with h5py.File(path, "r") as file:
                return len(file["rewards"]) > 0
        elif path.suffix in {".png", ".svg", ".html", ".md", ".tex", ".csv"}:
            return path.stat().st_size > 0
    except Exception:
        return False
    return True


def contents(folder: Path, command: Command) -> dict[str, str]:
    """Return what came out, by name: without times, as digests of files that hold none."""
    found = sorted({path for pattern in command.results for path in folder.glob(pattern) if path.is_file()})
    return {str(path.relative_to(folder)): _essence(path, folder) for path in found if not _is_temporary(path.name)}


def _essence(path: Path, folder: Path) -> str:
    if path.suffix == ".jsonl":
        return "\n".join(json.dumps(_timeless(json.loads(line))) for line in path.read_text().splitlines())
    if path.suffix == ".json":
        return json.dumps(_timeless(json.loads(path.read_text()))).replace(str(folder), ".")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            n: _timeless(v)
            for n, v in value.items()
            if not any(word in n for word in TIMED) and not n.startswith("timing/")
        }
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


def different(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    """Name what is missing, what nobody asked for, and what is another than it should be."""
    return (
        [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
        + [f"{name} is too much" for name in sorted(found.keys() - wanted.keys())]
        + [f"{name} is another" for name in sorted(wanted.keys() & found.keys()) if wanted[name] != found[name]]
    )
