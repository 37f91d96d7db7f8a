"""A small run, made once, of which damaged copies are made."""

import atexit
import functools
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from offline_rl.files import sealed, write_json
from offline_rl.training.checkpoint import Checkpoint

VARIABLE = "OFFLINE_RL_ROBUSTNESS_BASE"
"""Names the folder for worker processes."""
SETTINGS: dict[str, Any] = {
    **{"seeds": [0, 1], "steps": 20, "online_steps": 8, "log_every": 5, "eval_every": 10, "eval_episodes": 1},
    **{"final_episodes": 1, "hidden_dims": [8], "batch_size": 8, "quiet": True},
}
"""With an online phase: its checkpoint has rows in files beside it."""


@functools.cache
def base() -> Path:
    """Return the folder of the run, which is made where there is none yet."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    import offline_rl as orl

    folder = Path(tempfile.mkdtemp(prefix="robustness-base-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[VARIABLE] = str(folder / "run")
    orl.train("td3_bc", "hopper-demo", out=str(folder / "run"), **SETTINGS)
    timeless(folder / "run")
    return folder / "run"


def timeless(run: Path) -> None:
    """Take out of a run what differs each time it is made, so that its bytes are the same wherever it is made."""
    config = json.loads((run / "config.json").read_text())
    config |= {
        "commit": "0" * 40,
        "hardware": {**config["hardware"], "processor": "abacus", "machine": "m", "cores": 2},
    }
    write_record(run / "config.json", config)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    text = "".join(f"{json.dumps(_without_times(row))}\n" for row in rows)
    (run / "metrics.jsonl").write_text(text)
    checkpoint = Checkpoint.load(run)
    assert checkpoint is not None
    checkpoint.seconds = checkpoint.waited = 1.0
    checkpoint.metrics_bytes = len(text)
    if "metrics.jsonl" in (known := getattr(checkpoint, "files", {})):
        import hashlib

        known["metrics.jsonl"] = hashlib.sha256(text.encode()).hexdigest()
    checkpoint.save(run)
    (run / "curve.png").unlink(missing_ok=True)
    for log in run.rglob(".lock"):
        log.unlink()


def _without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {n: 1.0 if n == "seconds" or n.startswith("timing/") else value for n, value in row.items()}


def write_record(path: Path, value: Any) -> None:
    """Write a changed record as whoever changes it on purpose would: with a checksum that fits, if it had one."""
    write_json(path, sealed(value) if isinstance(value, dict) and "checksum" in value else value)


@functools.cache
def agent_names() -> tuple[str, ...]:
    """Return the algorithms whose agents are saved."""
    from offline_rl.agent import algorithms

    return tuple(name for name in algorithms() if name in {"bc", "td3_bc", "iql", "cql", "dt", "doc", "famo2o", "sac"})


@functools.cache
def agent_folder(name: str) -> Path:
    """Return the folder of a small agent of an algorithm."""
    from offline_rl.agent import find_algorithm
    from offline_rl.data.preprocessing import Preprocessing

    folder = Path(tempfile.mkdtemp(prefix="robustness-agent-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    algorithm = find_algorithm(name)
    known = set(algorithm.config_class.types())
    small = {
        "hidden_dims": [4],
        "width": 8,
        "heads": 2,
        "layers": 1,
        "length": 3,
        "past": 3,
        "future": 2,
        "negatives": 2,
        "candidates": 3,
    }
    config = algorithm.config_class.of({key: value for key, value in small.items() if key in known})
    given = Preprocessing.from_json(
        {
            "observation_mean": [0.5, -1.0, 2.0],
            "observation_std": [1.0, 2.0, 0.5],
            "action_low": [-1.0, -2.0],
            "action_high": [1.0, 2.0],
        }
    )
    agent = algorithm(config, 3, 2, seed=0, steps=10, preprocessing=given)
    agent.provenance = {"task": None, "dynamics": "d4rl", "dataset": "mine", "versions": {"torch": "0"}}
    agent.save(folder / "agent")
    return folder / "agent"


def observation() -> np.ndarray:
    """Return what the agents are shown."""
    return np.array([0.5, 0.0, 1.0], np.float32)
