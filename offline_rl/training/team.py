"""The processes of a run: some train its members, others play episodes."""

import json
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from torch import Tensor

from offline_rl.data.packed import PackedRows
from offline_rl.files import writing
from offline_rl.processes.child import Child, Message, wait_for
from offline_rl.processes.cores import available_cores
from offline_rl.training.checkpoint import Checkpoint, select
from offline_rl.training.evaluation import blocks
from offline_rl.training.plan import Plan

T = TypeVar("T")
Answer = tuple[Message, dict[str, Tensor]]
WORKER = "offline_rl.training.worker"
PATIENCE_SECONDS = 0.1
"""How long one waits for a child before one looks whether to give up."""


class Crew:
    """What runs have in common that one process carries out, one after another or side by side.

    That is child processes, whose start takes seconds, and packed datasets, of which all children map one copy.
    """

    def __init__(self) -> None:
        self._idle: list[Child] = []
        self._files: dict[str, IO[bytes]] = {}
        self._lock = threading.Lock()

    def take(self, name: str, threads: int = 1) -> Child:
        """Return a child that has nothing to do; ``name`` is what error messages call it."""
        with self._lock:
            for child in self._idle:
                if child.threads == threads:
                    self._idle.remove(child)
                    child.name = name
                    return child
        return Child(WORKER, name, threads)

    def give_back(self, children: Sequence[Child]) -> None:
        """Take children back; one that still owes an answer, or has failed, is ended."""
        for child in children:
            if child.owed or not child.alive:
                child.close()
            else:
                with self._lock:
                    self._idle.append(child)

    def rows(self, plan: Plan) -> int:
        """Return the descriptor of an unlinked file that holds the packed dataset; it is gone with its last reader."""
        from safetensors.numpy import save

        key = json.dumps([plan.dataset.fingerprint, plan.preprocessing.to_json()])
        with self._lock:
            if key not in self._files:
                packed = save(PackedRows.pack(plan.dataset, plan.preprocessing))
                with writing(Path(tempfile.gettempdir()), f"{len(packed):,} bytes are needed, set TMPDIR to a place"):
                    file = tempfile.TemporaryFile()  # noqa: SIM115 (it stays open)
                    file.write(packed)
                    file.flush()
                self._files[key] = file
            return self._files[key].fileno()

    def close(self) -> None:
        """End all children that were taken back."""
        for child in self._idle:
            child.close()
        for file in self._files.values():
            file.close()


class Team:
    """The processes that train: each holds some members, all are kept at the same step.

    Args:
        plan: The run.
        compute: ``device``, ``kernel`` and ``mode``, as the run's ``config.json`` names them.
        checkpoint: Where to continue from, if anywhere.
        crew: Where the processes come from.
        waiting: Is called time and again while a process is waited for; may raise, to give up.
    """

    def __init__(
        self,
        plan: Plan,
        compute: Mapping[str, str],
        checkpoint: Checkpoint | None,
        crew: Crew,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self.waiting = waiting
        self.names = [f"seed-{seed}" for seed in plan.options.seeds]
        groups = _groups(self.names, plan)
        step = checkpoint.step if checkpoint else 0
        state = select(checkpoint.tensors, "members/") if checkpoint else {}
        descriptions = {f"seed-{seed}": plan.description(seed) for seed in plan.options.seeds}
        self.children: list[Child] = []
        try:
            for group in groups:
                self.children.append(crew.take(f"the process training {', '.join(group)}", plan.options.threads))
            # All started before the first is sent its state, which waits until the child listens.
            for child, group in zip(self.children, groups, strict=True):
                child.send({"do": "setup", "kernel": compute["kernel"], "threads": plan.options.threads})
                mine = {name: tensor for name, tensor in state.items() if name.split("/")[0] in group}
                members = {name: descriptions[name] for name in group}
                build = {"do": "build", "descriptions": members, "device": plan.device, "step": step}
                build |= {"mode": compute.get("mode", "eager")}
                build |= {"task": plan.task.to_json() if plan.task else None, "dynamics": plan.dynamics}
                child.send(build, mine, crew.rows(plan))
            for child in self.children:
                self._answer(child)
                self._answer(child)
        except BaseException:
            crew.give_back(self.children)
            raise

    def run(self, until: int, report: bool) -> dict[str, dict[str, float]]:
        """Train all members up to ``until``; return their metrics by name if ``report``."""
        answers = self._ask({"do": "run", "until": until, "report": report})
        return {name: metrics for message, _ in answers for name, metrics in message["metrics"].items()}

    def watch(self) -> None:
        """Let the first process watch what its updates are spent on."""
        self.children[0].send({"do": "watch"})
        self.children[0].receive()

    def watched(self) -> tuple[str, bytes]:
        """Stop that; return a text, and a gzipped trace."""
        self.children[0].send({"do": "watched"})
        message, tensors = self.children[0].receive()
        return message["text"], tensors["trace"].numpy().tobytes()

    def state(self, stored: int) -> tuple[dict[str, Tensor], set[str]]:
        """Return all members' full states as ``seed-N/...``, and which lengths of the run their algorithm knows.

        The first ``stored`` rows collected online are left out.
        """
        answers = self._ask({"do": "state", "stored": stored})
        return _merged(answers), {name for message, _ in answers for name in message["lengths"]}

    def weights(self) -> dict[str, Tensor]:
        """Return what acting needs of all members as ``seed-N/...``."""
        return _merged(self._ask({"do": "weights"}))

    def _ask(self, message: Message) -> list[Answer]:
        for child in self.children:
            child.send(message)
        return [self._answer(child) for child in self.children]

    def _answer(self, child: Child) -> Answer:
        while not wait_for([child], PATIENCE_SECONDS):
            self.waiting()
        return child.receive()


def _merged(answers: Sequence[Answer]) -> dict[str, Tensor]:
    return {name: tensor for _, tensors in answers for name, tensor in tensors.items()}


def take_players(plan: Plan, crew: Crew) -> list[Child]:
    """Take the processes that play: as many as cores are spare, at least one, at most one for each seed."""
    if not plan.options.evaluates:
        return []
    spare = available_cores() - len(_groups(plan.options.seeds, plan))
    count = max(1, min(len(plan.options.seeds), spare))
    players: list[Child] = []
    try:
        for _ in range(count):
            players.append(crew.take("a process playing evaluation episodes"))
    except BaseException:
        crew.give_back(players)
        raise
    return players


def _groups(names: Sequence[T], plan: Plan) -> list[list[T]]:
    """Part the members over processes; a GPU is one process's."""
    limit = 1 if plan.device != "cpu" else plan.options.workers or 2 * available_cores()
    count = min(len(names), limit)
    return [list(names[start::count]) for start in range(count)]


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
    returns: dict[tuple[int, int], list[list[float]]] = field(default_factory=dict)
    lengths: dict[tuple[int, int], list[list[int]]] = field(default_factory=dict)

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

    def collect(self, patience: float = 0.0) -> list[PendingEvaluation]:
        """Return the evaluations that have ended, in order, after waiting so many seconds at most for some progress."""
        for child in wait_for(list(self._busy), patience):
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
                "task": self._plan.task.to_json(),
                "dynamics": self._plan.dynamics,
                "seeds": evaluation.blocks[seed][number],
            }
            child.send(request, select(evaluation.weights, f"seed-{seed}/"))
            self._busy[child] = evaluation, (seed, number)
