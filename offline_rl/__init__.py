"""Offline reinforcement learning on D4RL locomotion: train, sweep, reuse.

Importing this package is cheap; each public name loads what it needs when it is first used.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offline_rl.agent import Agent, load_agent
    from offline_rl.benchmark import compare, report
    from offline_rl.checks.check import check
    from offline_rl.checks.drift import drift
    from offline_rl.collection.collect import collect
    from offline_rl.data import Dataset, load_dataset
    from offline_rl.data.export import export_dataset
    from offline_rl.envs import make_env, normalized_score
    from offline_rl.errors import AgentError, DatasetError, OfflineRLError, RunError, TaskError
    from offline_rl.estimation import ValueEstimate, estimate
    from offline_rl.training.evaluation import evaluate
    from offline_rl.training.finetune import finetune
    from offline_rl.training.resume import resume
    from offline_rl.training.run import Run, train

__all__ = [
    "Agent",
    "AgentError",
    "Dataset",
    "DatasetError",
    "OfflineRLError",
    "Run",
    "RunError",
    "TaskError",
    "ValueEstimate",
    "check",
    "collect",
    "compare",
    "drift",
    "estimate",
    "evaluate",
    "export_dataset",
    "finetune",
    "load_agent",
    "load_dataset",
    "make_env",
    "normalized_score",
    "report",
    "resume",
    "train",
]

# What is logged is the host program's affair; see docs/api.md.
logging.getLogger(__name__).addHandler(logging.NullHandler())

_HOMES = {
    "Agent": "agent",
    "load_agent": "agent",
    "compare": "benchmark",
    "report": "benchmark",
    "check": "checks.check",
    "drift": "checks.drift",
    "Dataset": "data",
    "load_dataset": "data",
    "export_dataset": "data.export",
    "make_env": "envs",
    "normalized_score": "envs",
    "collect": "collection.collect",
    "estimate": "estimation",
    "ValueEstimate": "estimation",
    "evaluate": "training.evaluation",
    "finetune": "training.finetune",
    "resume": "training.resume",
    "Run": "training.run",
    "train": "training.run",
    **dict.fromkeys(("AgentError", "DatasetError", "OfflineRLError", "RunError", "TaskError"), "errors"),
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module at first use."""
    if name == "__version__":
        from importlib.metadata import version

        return version("offline-rl-suite")
    if name not in _HOMES:
        raise AttributeError(f"module 'offline_rl' has no attribute {name!r}")
    return getattr(importlib.import_module(f"offline_rl.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
