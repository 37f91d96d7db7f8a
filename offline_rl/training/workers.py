"""The workers of a run: some train its replicas, others play evaluation episodes.

They are child processes from a pool; with ``--workers 0`` all of them are the calling process.
"""

import itertools
import json
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Concatenate, ParamSpec, Self, TypeVar, cast

import torch
from torch import Tensor

from offline_rl.data.packed import PackedRows
from offline_rl.errors import RunError
from offline_rl.files import writing
from offline_rl.kernels.choice import use_defaults
from offline_rl.processes.cores import available_cores
from offline_rl.training.checkpoint import Checkpoint, select
from offline_rl.training.evaluation import blocks
from offline_rl.training.plan import Compute, Plan
from offline_rl.training.requests import WORKER, Ahead, Client, LocalWorker, RemoteWorker, ready
from offline_rl.training.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
PATIENCE_SECONDS = 0.1
"""How long one waits for a worker before one looks whether to give up."""


class WorkerPool:
    """Idle child processes and packed datasets, shared by all runs that this process carries out.

    Starting a process takes seconds, and all processes map one copy of a dataset.

    Args:
        ahead: A worker that was started before, for the first training; it is closed with the pool.
    """

    def __init__(self, ahead: Ahead | None = None) -> None:
        self._ahead = ahead
        self._idle: list[RemoteWorker] = []
        self._files: dict[str, IO[bytes]] = {}
        self._lock = threading.Lock()

    def take_trainer(self, name: str, threads: int) -> Client:
        """Return a worker to train with, first of all one that was started ahead."""
        with self._lock:
            worker = self._ahead.take(name, threads) if self._ahead else None
            if self._ahead and worker is None:
                self._ahead.close()  # it has other threads than are asked for
        return worker or self.take(name, threads)

    def take(self, name: str, threads: int = 1) -> Client:
        """Return a worker that has nothing to do; ``name`` is what error messages call it."""
        with self._lock:
            for worker in self._idle:
                if worker.threads == threads:
                    self._idle.remove(worker)
                    worker.name = name
                    return worker
        return RemoteWorker(WORKER, name, threads)

    def give_back(self, workers: Sequence[Client]) -> None:
        """Take workers back; one that still owes an answer, or has failed, is ended."""
        for worker in workers:
            if not isinstance(worker, RemoteWorker):
                continue
            if worker.owed or not worker.alive:
                worker.close()
            else:
                with self._lock:
                    self._idle.append(worker)

    def rows(self, plan: Plan) -> int:
        """Return the descriptor of an unlinked file that holds the packed dataset; it is gone with its last reader."""
        key = json.dumps([plan.dataset.fingerprint, plan.preprocessing.to_json()])
        with self._lock:
            if key not in self._files:
                size = PackedRows.size_of(plan.dataset)
                with writing(Path(tempfile.gettempdir()), f"{size:,} bytes are needed, set TMPDIR to a place"):
                    file = tempfile.TemporaryFile()  # noqa: SIM115 (it stays open)
                    PackedRows.write(plan.dataset, plan.preprocessing, file)
                    file.flush()
                self._files[key] = file
            return self._files[key].fileno()

    def close(self) -> None:
        """End all processes that were taken back, and one that nobody has taken."""
        if self._ahead:
            self._ahead.close()
        for worker in self._idle:
            worker.close()
        for file in self._files.values():
            file.close()


class CallingProcess(WorkerPool):
    """What stands in the place of a pool with ``--workers 0``: all of its workers are this process.

    Training sets how a process computes, so there is one at a time; afterwards PyTorch computes by its defaults again.

    Raises:
        RunError: On entering it, if a run is being trained here already, by another thread.
    """

    _in_use = threading.Lock()

    def __init__(self) -> None:
        super().__init__()
        self._worker = Worker()

    def take(self, name: str, threads: int = 1) -> Client:
        """Return this process."""
        return LocalWorker(self._worker, name)

    def take_trainer(self, name: str, threads: int) -> Client:
        """Return this process."""
        return self.take(name)

    def __enter__(self) -> Self:
        if not self._in_use.acquire(blocking=False):
            raise RunError("a run with workers 0 trains in this process already; give this one workers 1 or more")
        self._threads = torch.get_num_threads()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
            use_defaults(self._threads)
        finally:
            self._in_use.release()


class Workers:
    """The workers that train: each has some replicas, and all replicas are kept at the same step.

    Args:
        plan: The run.
        compute: How to compute.
        checkpoint: Where to continue from, if anywhere.
        pool: Where the workers come from.
        waiting: Is called time and again while a worker is waited for; may raise, to give up.
    """

    def __init__(
        self,
        plan: Plan,
        compute: Compute,
        checkpoint: Checkpoint | None,
        pool: WorkerPool,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self.waiting = waiting
        self.names = [f"seed-{seed}" for seed in plan.options.seeds]
        groups = _groups(self.names, plan)
        state = select(checkpoint.tensors, "members/") if checkpoint else {}
        descriptions = {f"seed-{seed}": plan.description(seed) for seed in plan.options.seeds}
        self.clients: list[Client] = []
        try:
            for group in groups:
                self.clients.append(pool.take_trainer(f"the process training {', '.join(group)}", plan.options.threads))
            # All started before the first is sent its state, which waits until the process listens.
            for client, group in zip(self.clients, groups, strict=True):
                client.ask(Worker.setup, kernel=compute.kernel, threads=plan.options.threads)
                client.ask(
                    Worker.build,
                    descriptions={name: descriptions[name] for name in group},
                    file=pool.rows(plan),
                    device=plan.device,
                    mode=compute.mode,
                    step=checkpoint.step if checkpoint else 0,
                    task=plan.task.to_json() if plan.task else None,
                    dynamics=plan.dynamics,
                    state={name: tensor for name, tensor in state.items() if name.split("/")[0] in group},
                )
            for client in self.clients:
                self._answer(client)
                self._answer(client)
        except BaseException:
            pool.give_back(self.clients)
            raise

    def run(self, until: int, report: bool) -> dict[str, dict[str, float]]:
        """Train all replicas up to ``until``; return their metrics by name if ``report``."""
        return _merged(self._ask_all(Worker.run, until=until, report=report))

    def metrics_so_far(self) -> dict[str, dict[str, float]]:
        """Return the replicas' metrics since the last report, by name; the next report has them, too."""
        return _merged(self._ask_all(Worker.metrics_so_far))

    def estimates(self, updates: int) -> dict[str, dict[str, float]]:
        """Return estimates of all replicas' values from the data alone, by name."""
        return _merged(self._ask_all(Worker.estimates, updates=updates))

    def start_profile(self) -> None:
        """Let the first worker measure what its updates spend their time on."""
        self.clients[0].ask(Worker.start_profile)
        self._answer(self.clients[0])

    def stop_profile(self) -> tuple[str, bytes]:
        """Stop that; return a text, and a gzipped trace."""
        self.clients[0].ask(Worker.stop_profile)
        text, trace = self._answer(self.clients[0])
        return text, trace.numpy().tobytes()

    def state(self, stored: int) -> tuple[dict[str, Tensor], set[str]]:
        """Return all replicas' full states as ``seed-N/...``, and which lengths of the run their algorithm knows.

        The first ``stored`` rows collected online are left out.
        """
        states, lengths = zip(*self._ask_all(Worker.state, stored=stored), strict=True)
        return _merged(states), {name for known in lengths for name in known}

    def weights(self) -> dict[str, Tensor]:
        """Return what acting needs of all replicas as ``seed-N/...``."""
        return _merged(self._ask_all(Worker.weights))

    def _ask_all(self, method: Callable[Concatenate[Worker, P], R], *args: P.args, **kwargs: P.kwargs) -> list[R]:
        for client in self.clients:
            client.ask(method, *args, **kwargs)
        return [cast(R, self._answer(client)) for client in self.clients]

    def _answer(self, client: Client) -> Any:
        while not ready([client], PATIENCE_SECONDS):
            self.waiting()
        return client.answer()


def _merged(parts: Sequence[Mapping[str, T]]) -> dict[str, T]:
    return {name: value for part in parts for name, value in part.items()}


def take_evaluators(plan: Plan, pool: WorkerPool) -> list[Client]:
    """Take the workers that play: as many as cores are spare, at least one, at most one for each seed."""
    if not plan.options.evaluates:
        return []
    spare = available_cores() - len(_groups(plan.options.seeds, plan))
    count = 1 if plan.options.workers == 0 else max(1, min(len(plan.options.seeds), spare))
    evaluators: list[Client] = []
    try:
        for _ in range(count):
            evaluators.append(pool.take("a process playing evaluation episodes"))
    except BaseException:
        pool.give_back(evaluators)
        raise
    return evaluators


def _groups(names: Sequence[T], plan: Plan) -> list[list[T]]:
    """Part the replicas over workers; a GPU is one process's."""
    limit = 2 * available_cores() if plan.options.workers is None else max(1, plan.options.workers)
    count = min(len(names), limit if plan.device == "cpu" else 1)
    return [list(names[start::count]) for start in range(count)]


@dataclass
class PendingEvaluation:
    """An evaluation under way.

    Attributes:
        key: ``{"step", "kind", "episodes"}``, its place in the record.
        weights: What acting needs of all replicas, as ``seed-N/...``.
        blocks: For each seed, its episodes' reset seeds in blocks.
        returns: For each seed and block, what was played.
        lengths: Likewise.
        outcomes: Likewise, by their names; see :func:`offline_rl.training.evaluation.play`.
    """

    key: dict[str, Any]
    weights: dict[str, Tensor]
    blocks: dict[int, list[list[int]]]
    returns: dict[tuple[int, int], list[list[float]]] = field(default_factory=dict)
    lengths: dict[tuple[int, int], list[list[int]]] = field(default_factory=dict)
    outcomes: dict[tuple[int, int], dict[str, list[list[float]]]] = field(default_factory=dict)

    def jobs(self) -> list[tuple[int, int]]:
        """Return (seed, number of the block) for every block."""
        return [(seed, number) for seed, parts in self.blocks.items() for number in range(len(parts))]

    def done(self) -> bool:
        """Say whether every block was played."""
        return len(self.returns) == len(self.jobs())


class Evaluator:
    """Plays episodes, in other processes while training goes on.

    Args:
        plan: The run.
        clients: The workers that play.

    Attributes:
        pending: Evaluations under way, the oldest first.
    """

    def __init__(self, plan: Plan, clients: Sequence[Client]) -> None:
        self._plan = plan
        self._idle = list(clients)
        self._busy: dict[Client, tuple[PendingEvaluation, tuple[int, int]]] = {}
        self._jobs: deque[tuple[PendingEvaluation, tuple[int, int]]] = deque()
        self.pending: list[PendingEvaluation] = []

    def help(self, clients: Sequence[Client]) -> None:
        """Let more workers play."""
        self._idle.extend(clients)

    def submit(self, key: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Begin an evaluation."""
        parts = {seed: blocks(seed, key["step"], key["episodes"]) for seed in self._plan.options.seeds}
        evaluation = PendingEvaluation(key, weights, parts)
        self.pending.append(evaluation)
        self._jobs.extend((evaluation, job) for job in evaluation.jobs())
        self._dispatch()

    def collect(self, patience: float = 0.0) -> list[PendingEvaluation]:
        """Return the evaluations that have ended, after waiting so many seconds at most for some progress.

        They come in the order in which they began: one that has ended waits for those before it.
        """
        for client in ready(list(self._busy), patience):
            evaluation, job = self._busy.pop(client)
            evaluation.returns[job], evaluation.lengths[job], evaluation.outcomes[job] = client.answer()
            self._idle.append(client)
        self._dispatch()
        done = list(itertools.takewhile(PendingEvaluation.done, self.pending))
        del self.pending[: len(done)]
        return done

    def _dispatch(self) -> None:
        while self._jobs and self._idle:
            client, (evaluation, (seed, number)) = self._idle.pop(), self._jobs.popleft()
            assert self._plan.task is not None
            client.ask(
                Worker.play,
                description=self._plan.description(seed),
                weights=select(evaluation.weights, f"seed-{seed}/"),
                task=self._plan.task.to_json(),
                dynamics=self._plan.dynamics,
                seeds=evaluation.blocks[seed][number],
            )
            self._busy[client] = evaluation, (seed, number)
