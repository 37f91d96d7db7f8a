"""What is measured: agents of ours in this process or in several, and other programs in their own Python."""

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.peer import Peer
from offline_rl.agent import Agent, find_algorithm
from offline_rl.data import Dataset
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.training.loop import make_updates
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Compute, Plan
from offline_rl.training.replica import Replica
from offline_rl.training.updates.compiled import CompiledUpdates
from offline_rl.training.updates.cuda_graph import CapturedUpdates
from offline_rl.training.workers import WorkerPool, Workers

STEPS = 1_000_000
"""Of the run that agents believe to be in."""
SETTINGS: Mapping[str, Mapping[str, Any]] = {"parl": {"rewards": "oracle"}, "spot": {"vae_steps": 0}}
"""Of PARL the updates between rounds count; the rewards are the dataset's, so that nothing is fitted first. Of SPOT
those of the policy count, without the VAE's before."""
PEERS = ("td3_bc", "prdc", "iql", "cql", "bc", "dt")
"""Algorithms that d3rlpy has, too."""
REFERENCES = {"plain PyTorch": "peer_torch.py", "JAX": "peer_jax.py"}
"""Programs of TD3+BC and IQL that were written for this comparison."""
REFERRED = ("td3_bc", "iql")
"""The algorithms that they have."""
SIZES = {
    "peer_d3rlpy.py": ("batch_size", "hidden_dims", "num_actions", "length", "width", "layers", "heads", "dropout"),
    **dict.fromkeys(REFERENCES.values(), ("batch_size", "hidden_dims")),
}
"""The settings that each program is given."""


class Data:
    """A dataset, packed once for all that are measured on it.

    Args:
        dataset: The dataset.
        device: Where its packed rows lie.
    """

    def __init__(self, dataset: Dataset, device: str) -> None:
        self.dataset = dataset
        self.preprocessing = Preprocessing.fit(self.dataset, normalize=True)
        self.rows = PackedRows.of(self.dataset, self.preprocessing, device)


def synthetic(rows: int, observation_size: int = 17, action_size: int = 6) -> Dataset:
    """Return a dataset of independent noise, by default with the sizes of walker2d and halfcheetah."""
    rng = np.random.default_rng(0)
    return Dataset.from_arrays(
        observations=rng.standard_normal((rows, observation_size), np.float32),
        actions=rng.uniform(-1, 1, (rows, action_size)).astype(np.float32),
        rewards=rng.standard_normal(rows, np.float32),
        terminated=np.zeros(rows, bool),
        truncated=np.arange(rows) % 1000 == 999,
        next_observations=rng.standard_normal((rows, observation_size), np.float32),
        name="synthetic",
    )


def agent_of(algorithm: str, seed: int, data: Data, device: str, **settings: Any) -> Agent:
    """Return an untrained agent with its algorithm's default settings, but for those given."""
    found = find_algorithm(algorithm)
    config = found.config_class.of({**SETTINGS.get(algorithm, {}), **settings})
    sizes = data.preprocessing.sizes
    return found(config, *sizes, seed=seed, steps=STEPS, preprocessing=data.preprocessing, device=device)


class Updates(Protocol):
    """Makes updates of all its members."""

    def run(self, first: int, last: int) -> None:
        """Make the updates ``first`` to ``last``."""


class OneByOne:
    """Members in eager mode, as a training process runs them."""

    def __init__(self, members: Sequence[Replica]) -> None:
        self._members = members

    def run(self, first: int, last: int) -> None:
        """Make the updates ``first`` to ``last``."""
        for member in self._members:
            make_updates(member, first, last)


MODES: dict[str, Callable[[Sequence[Replica]], Updates]] = {
    "eager": OneByOne,
    "compile": CompiledUpdates,
    "cudagraph": CapturedUpdates,
}
"""How each mode of training makes updates."""


class InProcess:
    """Members of one algorithm, all in this process.

    Args:
        algorithm: Its name.
        mode: One of :data:`MODES`.
        members: How many.
        data: What they are trained on.
        device: Where they live.
    """

    def __init__(self, algorithm: str, mode: str, members: int, data: Data, device: str) -> None:
        self._members = [Replica(agent_of(algorithm, seed, data, device), data.rows) for seed in range(members)]
        self._updates = MODES[mode](self._members)
        self.cycle = self._members[0].agent.cycle
        if algorithm == "prdc":
            self._members[0].agent.nearest.wait()

    def run(self, first: int, last: int) -> None:
        """Make the updates ``first`` to ``last``."""
        self._updates.run(first, last)

    def timings(self) -> dict[str, float]:
        """Return what the first member has measured of itself, the mean since the last call."""
        metrics = self._members[0].metrics()
        return {name.removeprefix("timing/"): value for name, value in metrics.items() if name.startswith("timing/")}

    def close(self) -> None:
        """Let the members go."""
        self._members.clear()


class Processes:
    """Members of one algorithm, each in a training process of its own, as a run on a CPU has them."""

    def __init__(self, algorithm: str, mode: str, members: int, data: Data, kernel: str) -> None:
        options = TrainOptions(seeds=list(range(members)), steps=STEPS, eval_every=0, final_episodes=0, device="cpu")
        plan = Plan.make(algorithm, data.dataset, options, dict(SETTINGS.get(algorithm, {})))
        self._pool = WorkerPool()
        self._workers = Workers(plan, Compute("cpu", kernel, mode), None, self._pool)
        self.cycle = 1

    def run(self, first: int, last: int) -> None:
        """Make the updates ``first`` to ``last``."""
        self._workers.run(last, report=False)

    def timings(self) -> dict[str, float]:
        """Return nothing: processes are asked for no metrics."""
        return {}

    def close(self) -> None:
        """End the processes."""
        self._pool.give_back(self._workers.clients)
        self._pool.close()


class Competitor:
    """Another program in its own Python, with its nearest algorithms at our sizes, asked window by window.

    Args:
        name: What it is called.
        script: Which file of this folder it is.
        python: Of the environment that has it.
        data: For each algorithm, what it is trained on.
    """

    def __init__(self, name: str, script: str, python: Path, data: Mapping[str, Data]) -> None:
        self._peer = Peer(script, python)
        names = SIZES[script]
        with tempfile.TemporaryDirectory() as folder:
            written = functools.cache(lambda own: _written(own.dataset, Path(folder)))
            self._peer.ask({name: {"data": written(own), **_sizes(name, names)} for name, own in data.items()})
        self.name = f"{name} {self._peer.ask('version')}"

    def window(self, algorithm: str, seconds: float, most: int | None = None) -> dict[str, float]:
        """Make updates for so long, or so many; return how many, the seconds, and those of sampling, if measured."""
        answer: dict[str, float] = self._peer.ask({"algorithm": algorithm, "seconds": seconds, "most": most})
        return answer

    def close(self) -> None:
        """End the process."""
        self._peer.close()


def _sizes(algorithm: str, names: Sequence[str]) -> dict[str, Any]:
    """Return those of our settings that decide how much a like update computes."""
    config = find_algorithm(algorithm).config_class()
    return {name: getattr(config, name) for name in names if hasattr(config, name)}


def _written(dataset: Dataset, folder: Path) -> str:
    path = folder / f"{dataset.fingerprint}.npz"
    np.savez(
        path,
        observations=dataset.observations,
        actions=dataset.actions,
        rewards=dataset.rewards,
        terminals=dataset.terminated.astype(np.float32),
        timeouts=(dataset.truncated & ~dataset.terminated).astype(np.float32),
    )
    return str(path)
