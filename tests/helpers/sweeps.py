"""Sweep files that tests share."""

import yaml

TINY = {
    "dataset": "hopper-demo",
    "hidden_dims": [8],
    "batch_size": 8,
    "steps": 200,
    "eval_every": 50,
    "eval_episodes": 1,
    "final_episodes": 2,
    "log_every": 50,
    "checkpoint_seconds": 0.2,
    "device": "cpu",
}
"""Options that make a run of any algorithm with plain networks take a moment."""


def write_sweep(path, algorithm="td3_bc", options=None, **changes):
    """Write a sweep file over ``alpha``; return its path."""
    flags = [f"--{name}={value}" for name, value in {**TINY, **(options or {})}.items()]
    values = {
        "method": "random",
        "run_cap": 4,
        "metric": {"name": "score", "goal": "maximize"},
        "command": ["${env}", "offline-rl", "train", algorithm, *flags, "${args}"],
        "parameters": {"alpha": {"min": 1.0, "max": 5.0}},
        **changes,
    }
    path.write_text(yaml.safe_dump(values))
    return path
