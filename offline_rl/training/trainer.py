"""The one training loop. It knows nothing of losses: members train in child processes, episodes are played in others.

The parent alone writes. All members are at the same step whenever it looks, a chunk of about a quarter of a second
apart, so a run has one step, stops soon after a signal, and continues from any checkpoint to the very same numbers.
"""

import math
import os
import signal
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from offline_rl.agent import agent_from_description
from offline_rl.data.packed import PackedRows
from offline_rl.errors import Interrupted
from offline_rl.launch import Child, Message, wait_for
from offline_rl.training.checkpoint import Checkpoint, prefixed, select
from offline_rl.training.evaluation import blocks
from offline_rl.training.loggers import Record, Row
from offline_rl.training.plan import Plan
from offline_rl.training.progress import Progress

T = TypeVar("T")
WORKER = "offline_rl.training.worker"
CHUNK_SECONDS = 0.25
"""How long the parent looks away: a signal is answered after about so long."""


PENDING_LIMIT = 4
"""Evaluations that may be under way before training waits for them."""


class Team:
    """The processes that train: each holds some members, all are kept at the same step.

    Args:
        plan: The run.
        kernel: Which matrix product to use, see :mod:`offline_rl.networks.kernels`.
        checkpoint: Where to continue from, if anywhere.
    """

    def __init__(self, plan: Plan, kernel: str, checkpoint: Checkpoint | None) -> None:
        self.names = [f"seed-{seed}" for seed in plan.options.seeds]
        groups = _groups(self.names, plan)
        step = checkpoint.step if checkpoint else 0
        state = select(checkpoint.tensors, "members/") if checkpoint else {}
        descriptions = {f"seed-{seed}": plan.description(seed) for seed in plan.options.seeds}
        self.children: list[Child] = []
        try:
            with _shared_data(plan) as data:
                for group in groups:
                    name = f"the process training {', '.join(group)}"
                    self.children.append(Child(WORKER, name, [data], plan.options.threads))
                # All started before the first is sent its state, which waits until the child listens.
                for child, group in zip(self.children, groups, strict=True):
                    child.send({"do": "setup", "kernel": kernel, "threads": plan.options.threads})
                    mine = {name: tensor for name, tensor in state.items() if name.split("/")[0] in group}
                    members = {name: descriptions[name] for name in group}
                    build = {"do": "build", "descriptions": members, "data": data, "device": plan.device, "step": step}
                    child.send(build, mine)
                for child in self.children:
                    child.receive()
                    child.receive()
        except BaseException:
            _close_all(self.children)
            raise

    def run(self, until: int, report: bool) -> dict[str, dict[str, float]]:
        """Train all members up to ``until``; return their metrics by name if ``report``."""
        answers = self._ask({"do": "run", "until": until, "report": report})
        return {name: metrics for message, _ in answers for name, metrics in message["metrics"].items()}

    def state(self) -> dict[str, Tensor]:
        """Return all members' full states as ``seed-N/...``."""
        return self._merged({"do": "state"})

    def weights(self) -> dict[str, Tensor]:
        """Return what acting needs of all members as ``seed-N/...``."""
        return self._merged({"do": "weights"})

    def _merged(self, message: Message) -> dict[str, Tensor]:
        return {name: tensor for _, tensors in self._ask(message) for name, tensor in tensors.items()}

    def _ask(self, message: Message) -> list[tuple[Message, dict[str, Tensor]]]:
        for child in self.children:
            child.send(message)
        return [child.receive() for child in self.children]


def _groups(names: Sequence[T], plan: Plan) -> list[list[T]]:
    """Part the members over processes; a GPU is one process's."""
    limit = 1 if plan.device != "cpu" else plan.options.workers or 2 * (os.cpu_count() or 1)
    count = min(len(names), limit)
    return [list(names[start::count]) for start in range(count)]


@contextmanager
def _shared_data(plan: Plan) -> Iterator[int]:
    """Give the descriptor of an unlinked file that holds the packed dataset; it is gone with its last reader."""
    from safetensors.numpy import save

    with tempfile.TemporaryFile() as file:
        file.write(save(PackedRows.pack(plan.dataset, plan.preprocessing)))
        file.flush()
        yield file.fileno()


@dataclass
class PendingEvaluation:
    """An evaluation under way.

    Attributes:
        key: ``{"step", "kind", "episodes"}``, its place in the record.
        weights: What acting needs of all members, as ``seed-N/...``.
        blocks: For each seed, its episodes' reset seeds in blocks.
        returns: For each seed and block, what was played.
        lengths: Likewise.
    """

    key: dict[str, Any]
    weights: dict[str, Tensor]
    blocks: dict[int, list[list[int]]]
    returns: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    lengths: dict[tuple[int, int], list[int]] = field(default_factory=dict)

    def jobs(self) -> list[tuple[int, int]]:
        """Return (seed, number of the block) for every block."""
        return [(seed, number) for seed, parts in self.blocks.items() for number in range(len(parts))]

    def done(self) -> bool:
        """Say whether every block was played."""
        return len(self.returns) == len(self.jobs())


class Evaluator:
    """Plays episodes in other processes while training goes on."""

    def __init__(self, plan: Plan, children: Sequence[Child]) -> None:
        self._plan = plan
        self._idle = list(children)
        self._busy: dict[Child, tuple[PendingEvaluation, tuple[int, int]]] = {}
        self._jobs: deque[tuple[PendingEvaluation, tuple[int, int]]] = deque()
        self.pending: list[PendingEvaluation] = []

    def help(self, children: Sequence[Child]) -> None:
        """Let more processes play."""
        self._idle.extend(children)

    def submit(self, key: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Begin an evaluation."""
        parts = {seed: blocks(seed, key["step"], key["episodes"]) for seed in self._plan.options.seeds}
        evaluation = PendingEvaluation(key, weights, parts)
        self.pending.append(evaluation)
        self._jobs.extend((evaluation, job) for job in evaluation.jobs())
        self._dispatch()

    def collect(self, wait: bool = False) -> list[PendingEvaluation]:
        """Return the evaluations that have ended, in order; with ``wait``, give those under way a moment."""
        for child in wait_for(list(self._busy), CHUNK_SECONDS if wait else 0):
            message, _ = child.receive()
            evaluation, job = self._busy.pop(child)
            evaluation.returns[job], evaluation.lengths[job] = message["returns"], message["lengths"]
            self._idle.append(child)
        self._dispatch()
        done = [evaluation for evaluation in self.pending if evaluation.done()]
        self.pending = [evaluation for evaluation in self.pending if not evaluation.done()]
        return done

    def _dispatch(self) -> None:
        while self._jobs and self._idle:
            child, (evaluation, (seed, number)) = self._idle.pop(), self._jobs.popleft()
            assert self._plan.task is not None
            request = {
                "do": "play",
                "description": self._plan.description(seed),
                "task": self._plan.task.name,
                "dynamics": self._plan.options.dynamics,
                "seeds": evaluation.blocks[seed][number],
            }
            child.send(request, select(evaluation.weights, f"seed-{seed}/"))
            self._busy[child] = evaluation, (seed, number)


class Trainer:
    """Runs a plan in a folder, from the start or from a checkpoint.

    Args:
        plan: What to do.
        out: The run's folder, which holds ``config.json`` already.
        kernel: Which matrix product to use.
        record: Where rows go.
        checkpoint: Where to continue from.
    """

    def __init__(self, plan: Plan, out: Path, kernel: str, record: Record, checkpoint: Checkpoint | None) -> None:
        self._plan, self._options, self._out, self._record = plan, plan.options, out, record
        self._checkpoint = checkpoint
        self._kernel = kernel
        self._step = checkpoint.step if checkpoint else 0
        self._seconds_before = checkpoint.seconds if checkpoint else 0.0
        self._begin = time.monotonic()
        self._stop_signal = 0
        self._diverged: set[str] = set()

    def run(self) -> None:
        """Train to the end and leave the agents in ``agents/``.

        Raises:
            Interrupted: A signal asked to stop; the run can be resumed.
            RunError: A child process failed.
        """
        with ExitStack() as stack:
            stack.enter_context(self._signals())
            # Players first: then all processes start side by side.
            players = self._start_players()
            stack.callback(_close_all, players)
            self._team = Team(self._plan, self._kernel, self._checkpoint)
            stack.callback(_close_all, self._team.children)
            self._evaluator = Evaluator(self._plan, players)
            self._progress = Progress(self._options.steps, self._step, self._options.quiet)
            stack.callback(self._progress.close)
            self._restore()
            self._train()
            self._finish()

    def _start_players(self) -> list[Child]:
        if not self._options.evaluates:
            return []
        spare = (os.cpu_count() or 1) - len(_groups(self._options.seeds, self._plan))
        count = max(1, min(len(self._options.seeds), spare))
        return [Child(WORKER, "a process playing evaluation episodes") for _ in range(count)]

    def _restore(self) -> None:
        """Take up what was pending, or evaluate the untrained agents."""
        if self._checkpoint is None:
            if self._options.eval_every:
                self._evaluate("evaluation", self._options.eval_episodes)
            return
        self._record.restore(self._checkpoint.pending)
        for slot in self._checkpoint.pending:
            if (key := slot["evaluation"]) is not None and slot["rows"] is None:
                self._evaluator.submit(key, select(self._checkpoint.tensors, f"evaluation/{key['step']}/"))
        self._checkpoint = None

    def _train(self) -> None:
        chunk, last_save = 1, -np.inf
        while self._step < self._options.steps:
            target = min(self._step + chunk, self._next_boundary())
            begin = time.monotonic()
            report = target % self._options.log_every == 0
            metrics = self._team.run(target, report)
            chunk = _next_chunk(target - self._step, time.monotonic() - begin)
            self._step = target
            if report:
                self._log(metrics)
            if self._evaluates_at(target):
                self._evaluate("evaluation", self._options.eval_episodes)
            self._collect()
            while len(self._evaluator.pending) > PENDING_LIMIT and not self._stop_signal:
                self._collect(wait=True)
            self._progress.at(target)
            if self._stop_signal:
                self._save()
                raise Interrupted(self._step, self._stop_signal, self._out)
            if time.monotonic() - last_save >= self._options.checkpoint_seconds or target == self._options.steps:
                self._save()
                last_save = time.monotonic()

    def _finish(self) -> None:
        """Play the final evaluation with all processes, then save the agents; the run is finished only after that."""
        weights = self._team.weights()
        self._evaluator.help(self._team.children)
        if self._options.final_episodes:
            self._evaluate("final", self._options.final_episodes, weights)
        while self._evaluator.pending:
            self._collect(wait=True)
            if self._stop_signal:
                raise Interrupted(self._step, self._stop_signal, self._out)
        for seed in self._options.seeds:
            agent = agent_from_description(self._plan.description(seed), select(weights, f"seed-{seed}/"))
            agent.save(self._out / "agents" / f"seed-{seed}")
        self._save(finished=True)

    def _evaluates_at(self, step: int) -> bool:
        every = self._options.eval_every
        # The final evaluation stands for one that would fall on the last update.
        final = step == self._options.steps and self._options.final_episodes > 0
        return every > 0 and step % every == 0 and not final

    def _next_boundary(self) -> int:
        every = [self._options.log_every, *([self._options.eval_every] if self._options.eval_every else [])]
        return min(self._options.steps, *((self._step // n + 1) * n for n in every))

    def _evaluate(self, kind: str, episodes: int, weights: dict[str, Tensor] | None = None) -> None:
        key = {"step": self._step, "kind": kind, "episodes": episodes}
        self._record.reserve(key)
        self._evaluator.submit(key, weights or self._team.weights())

    def _collect(self, wait: bool = False) -> None:
        for evaluation in self._evaluator.collect(wait):
            rows = [self._evaluation_row(evaluation, seed) for seed in self._options.seeds]
            self._record.fill(evaluation.key, rows)
            self._progress.score(evaluation.key["step"], [row["score"] for row in rows])

    def _evaluation_row(self, evaluation: PendingEvaluation, seed: int) -> Row:
        parts = range(len(evaluation.blocks[seed]))
        returns = np.concatenate([evaluation.returns[seed, part] for part in parts])
        lengths = np.concatenate([evaluation.lengths[seed, part] for part in parts])
        mean = float(returns.mean())
        return {
            "kind": evaluation.key["kind"],
            "step": evaluation.key["step"],
            "seed": seed,
            "episodes": len(returns),
            "return": mean,
            "return_std": float(returns.std()),
            "score": self._plan.score(mean),
            "length": float(lengths.mean()),
            "seconds": self._seconds(),
        }

    def _log(self, metrics: dict[str, dict[str, float]]) -> None:
        rows = [
            {"kind": "train", "step": self._step, "seed": seed, **metrics[f"seed-{seed}"], "seconds": self._seconds()}
            for seed in self._options.seeds
        ]
        self._record.add(rows)
        self._progress.losses(metrics[self._team.names[0]])
        self._warn_of_divergence(metrics)

    def _warn_of_divergence(self, metrics: dict[str, dict[str, float]]) -> None:
        for name in sorted(set(metrics) - self._diverged):
            if bad := [metric for metric, value in metrics[name].items() if not math.isfinite(value)]:
                self._diverged.add(name)
                warnings.warn(f"{name} has diverged: {bad[0]} is not finite at step {self._step}", stacklevel=2)

    def _save(self, finished: bool = False) -> None:
        evaluations = {
            f"{evaluation.key['step']}/{name}": tensor
            for evaluation in self._evaluator.pending
            for name, tensor in evaluation.weights.items()
        }
        tensors = {**prefixed(self._team.state(), "members/"), **prefixed(evaluations, "evaluation/")}
        pending, length = self._record.pending(), self._record.sync()
        Checkpoint(self._step, length, pending, self._seconds(), finished, tensors=tensors).save(self._out)

    def _seconds(self) -> float:
        return round(self._seconds_before + time.monotonic() - self._begin, 3)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM ask for a stop after the chunk at hand, a second one at once."""

        def note(number: int, _: object) -> None:
            if self._stop_signal:
                raise KeyboardInterrupt
            self._stop_signal = number

        # Only the main thread may set handlers.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _next_chunk(updates: int, seconds: float) -> int:
    """Return how many updates take about CHUNK_SECONDS; growth is bounded, because the first updates are slow."""
    return max(1, min(int(updates * CHUNK_SECONDS / max(seconds, 1e-9)), 4 * updates))


def _close_all(children: Sequence[Child]) -> None:
    for child in children:
        child.close()
