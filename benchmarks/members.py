"""What training a sweep's trials together saves: eight trials one by one on one core, then by a sweep on all cores.

``python -m benchmarks.members`` prints both wall times, and whether all weights are equal to the last byte.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import yaml

from offline_rl.interpreter import child_environment, python_module

ALPHAS, SEEDS = [1.0, 2.5, 5.0, 10.0], [[0], [1]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithm", default="td3_bc")
    parser.add_argument("--dataset", default="hopper-demo")
    parser.add_argument("--steps", type=int, default=2000, help="updates of each trial")
    given = parser.parse_args()
    options = {"dataset": given.dataset, "steps": given.steps, "eval_every": given.steps // 2, "device": "cpu"}
    flags = [f"--{name}={value}" for name, value in options.items()]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        alone = _alone(given.algorithm, flags, folder)
        together = _together(given.algorithm, flags, folder)
        equal = _weights(folder / "alone") == _weights(folder / "sweep" / "runs")
    cores = len(os.sched_getaffinity(0))
    print(f"{given.algorithm}, {len(ALPHAS) * len(SEEDS)} trials of {given.steps} updates on {given.dataset}")
    print(f"one by one on one core: {alone:.1f} s; together on {cores} cores: {together:.1f} s, {together / alone:.0%}")
    print(f"weights of all trials equal: {equal}")


def _alone(algorithm: str, flags: list[str], folder: Path) -> float:
    core = min(os.sched_getaffinity(0))
    begin = time.monotonic()
    for alpha in ALPHAS:
        for seeds in SEEDS:
            out = f"--out={folder / 'alone' / f'{alpha}-{seeds[0]}'}"
            trial = [f"--alpha={alpha}", f"--seeds={seeds}", out, "--quiet"]
            _run(["taskset", "-c", str(core), *python_module("offline_rl.cli"), "train", algorithm, *flags, *trial])
    return time.monotonic() - begin


def _together(algorithm: str, flags: list[str], folder: Path) -> float:
    sweep = {
        "method": "grid",
        "command": ["offline-rl", "train", algorithm, *flags, "${args}"],
        "parameters": {"alpha": {"values": ALPHAS}, "seeds": {"values": SEEDS}},
    }
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep))
    begin = time.monotonic()
    _run([*python_module("offline_rl.cli"), "sweep", str(file), f"--out={folder / 'sweep'}"])
    return time.monotonic() - begin


def _run(command: list[str]) -> None:
    subprocess.run(command, env=child_environment(), check=True, stdout=subprocess.DEVNULL)


def _weights(folder: Path) -> dict[str, bytes]:
    """Return the weights of all runs in a folder by their settings."""
    found = {}
    for path in folder.iterdir():
        config = json.loads((path / "config.json").read_text())
        seed = config["options"]["seeds"][0]
        key = f"{config['config']['alpha']} {seed}"
        found[key] = (path / "agents" / f"seed-{seed}" / "weights.safetensors").read_bytes()
    return found


if __name__ == "__main__":
    main()
