"""What trains replicas and plays episodes: the server of a child process, or with ``--workers 0`` a part of the parent.

Each public method is a request, see :mod:`offline_rl.training.requests`. A worker writes no file; the parent decides
what it is asked, see :mod:`offline_rl.training.trainer`.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offline_rl.agent import agent_from_description, new_agent
from offline_rl.data.packed import PackedRows
from offline_rl.envs.dynamics import Dynamics
from offline_rl.envs.tasks import Task
from offline_rl.errors import DivergedError
from offline_rl.kernels.choice import Kernel, use_kernel
from offline_rl.processes.child import serve
from offline_rl.training.checkpoint import select
from offline_rl.training.evaluation import play
from offline_rl.training.loop import TrainingLoop
from offline_rl.training.options import Mode
from offline_rl.training.replica import Replica
from offline_rl.training.requests import answering

if TYPE_CHECKING:
    from offline_rl.training.profile import Profiler


class Worker:
    """Trains some replicas, or plays episodes, whichever it is asked for."""

    def __init__(self) -> None:
        self._loop: TrainingLoop | None = None
        self._arithmetic: tuple[Kernel, int] = "default", 1
        self._profiler: Profiler | None = None
        self._profiled_from = 0

    def setup(self, *, kernel: Kernel, threads: int) -> None:
        """Choose how this process computes when it trains."""
        self._arithmetic = kernel, threads
        use_kernel(*self._arithmetic)

    def build(
        self,
        *,
        descriptions: Mapping[str, Any],
        file: int,
        device: str,
        mode: Mode,
        step: int,
        task: dict[str, Any] | None,
        dynamics: Dynamics,
        state: Mapping[str, Tensor],
    ) -> None:
        """Build replicas, in place of others, on the data in ``file``; with a ``step``, continue from ``state``."""
        from safetensors.torch import load_file

        if self._profiler is not None:
            self.stop_profile()  # a run was stopped meanwhile
        # Mapped, not read: all workers share one copy of the dataset.
        arrays = load_file(f"/dev/fd/{file}")
        os.close(file)
        agents = {name: new_agent(description, device) for name, description in descriptions.items()}
        first = next(iter(agents.values()))
        rows = PackedRows(arrays, first.observation_size, first.action_size, device)
        played = Task.from_json(task) if task else None
        self._loop = None  # its memory first
        replicas: dict[str, Replica] = {}
        for name, agent in agents.items():
            replicas[name] = replica = Replica(agent, rows, played, dynamics)
            if step:
                replica.load_state(select(state, f"{name}/"))
        self._loop = TrainingLoop(replicas, step, mode)

    def run(self, *, until: int, report: bool) -> dict[str, dict[str, float]]:
        """Train every replica up to and including update ``until``; return their metrics by name if ``report``."""
        self._training.run(until)
        return {name: replica.metrics() for name, replica in self._training.replicas.items()} if report else {}

    def metrics_so_far(self) -> dict[str, dict[str, float]]:
        """Return every replica's metrics since the last report, by name; the next report has them, too."""
        return {name: replica.metrics(begin_anew=False) for name, replica in self._training.replicas.items()}

    def estimates(self, *, updates: int) -> dict[str, dict[str, float]]:
        """Estimate every replica's value from its rows alone, by name; NaN for one that has diverged."""
        from offline_rl.estimation.along import estimate_now

        self._training.settle()
        return {name: estimate_now(own.agent, own.rows, updates) for name, own in self._training.replicas.items()}

    def start_profile(self) -> None:
        """Begin to measure what updates spend their time on."""
        from offline_rl.training.profile import Profiler

        self._profiled_from, self._profiler = self._training.step, Profiler()

    def stop_profile(self) -> tuple[str, Tensor]:
        """Stop measuring; return a text, and the trace as the bytes of a gzipped file."""
        assert self._profiler is not None, "start_profile comes first"
        text, trace = self._profiler.stop(self._training.step - self._profiled_from)
        self._profiler = None
        return text, torch.frombuffer(bytearray(trace), dtype=torch.uint8)

    def state(self, *, stored: int) -> tuple[dict[str, Tensor], list[str]]:
        """Return every replica's full state, and which lengths of the run their algorithms know.

        Of rows collected online it holds those after the first ``stored``.
        """
        state = self._gather(lambda replica: replica.state(stored))
        return state, [name for replica in self._training.replicas.values() for name in replica.agent.lengths_used]

    def weights(self) -> dict[str, Tensor]:
        """Return what acting needs of every replica."""
        return self._gather(lambda replica: replica.agent.acting_weights())

    def play(
        self,
        *,
        description: dict[str, Any],
        weights: Mapping[str, Tensor],
        task: dict[str, Any],
        dynamics: Dynamics,
        seeds: list[int],
    ) -> tuple[Sequence[Sequence[float]], Sequence[Sequence[float]], Mapping[str, Sequence[Sequence[float]]]]:
        """Play one block of episodes with the agent that ``description`` and ``weights`` make.

        An agent whose training has diverged cannot act; its returns are NaN, and its neighbours go on.

        Returns:
            As :func:`offline_rl.training.evaluation.play`.
        """
        diverged = [[math.nan]] * len(seeds), [[math.nan]] * len(seeds), dict[str, list[list[float]]]()
        if not all(bool(weight.isfinite().all()) for weight in weights.values()):
            return diverged
        # Episodes are played the same way in every process: which one plays a block hangs on the moment.
        use_kernel("default", 1)
        try:
            agent = agent_from_description(description, weights)
            return play(agent, Task.from_json(task), dynamics, seeds)
        except DivergedError:  # its weights are finite, but too large
            return diverged
        finally:
            use_kernel(*self._arithmetic)

    @property
    def _training(self) -> TrainingLoop:
        assert self._loop is not None, "nothing was built"
        return self._loop

    def _gather(self, of: Callable[[Replica], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        self._training.settle()
        replicas = self._training.replicas.items()
        return {f"{name}/{key}": tensor.cpu() for name, replica in replicas for key, tensor in of(replica).items()}


def main() -> None:
    """Serve the parent."""
    serve(answering(Worker()))


if __name__ == "__main__":
    main()
