"""When a run trains, logs, evaluates and saves. It knows nothing of losses; updates are made in ``loop.py``.

Who calls whom, from the command to the loss::

    orl.train, offline-rl train
      carry_out                  run.py       the folder, the record, the callbacks
        train_plan               here         takes the workers, goes on from a checkpoint
          Trainer.run            here         decides what comes next, and asks for it
            Workers.run          workers.py   asks each training worker for some updates
              Worker.run         worker.py    in a child process; with --workers 0 in the calling one
                TrainingLoop.run loop.py      THE LOOP: a batch, an update, its metrics
                  Agent.update   algos/       the losses
            Evaluator.submit     workers.py   lets workers play episodes while training goes on
              Worker.play        worker.py
            Record.add           tracking/    metrics.jsonl, and the callbacks
            Checkpoint.save      checkpoint.py

The parent alone writes. All replicas are at the same step whenever it looks, a chunk of about a quarter of a second
apart, so a run has one step, stops soon after a signal, and continues from any checkpoint to the very same numbers.
"""

import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from offline_rl.agent import agent_from_description
from offline_rl.errors import Interrupted
from offline_rl.files import MAKE_ROOM, write_bytes, writing
from offline_rl.tracking.callbacks import Row
from offline_rl.tracking.progress import Progress
from offline_rl.tracking.record import Record
from offline_rl.training.checkpoint import Checkpoint, ReplayFile, prefixed, select
from offline_rl.training.evaluation import by_target_return
from offline_rl.training.faults import PATIENCE_SECONDS, Faults
from offline_rl.training.introduction import introduction
from offline_rl.training.memory import Memory
from offline_rl.training.plan import Compute, Plan
from offline_rl.training.workers import (
    CallingProcess,
    Evaluator,
    PendingEvaluation,
    WorkerPool,
    Workers,
    take_evaluators,
)

logger = logging.getLogger(__name__)

CHUNK_SECONDS = 0.25
"""How long the parent looks away: a signal is answered after about so long."""
PENDING_LIMIT = 4
"""Evaluations that may be under way before training waits for them."""
REPLAY = "online/replay"
"""The part of a replica's state that has a file of its own, because it grows."""


@dataclass
class Stop:
    """A request to end a run at its next checkpoint; a signal makes one, or whoever has started the run.

    Attributes:
        signal: The signal's number; 0 as long as nobody asks.
    """

    signal: int = 0


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """Let SIGINT and SIGTERM ask for a stop, a second one at once."""

    def note(number: int, _: object) -> None:
        if stop.signal:
            raise KeyboardInterrupt
        stop.signal = number

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


def train_plan(
    plan: Plan,
    out: Path,
    compute: Compute,
    record: Record,
    checkpoint: Checkpoint | None,
    *,
    pool: WorkerPool,
    stop: Stop,
) -> None:
    """Run a plan in a folder, from the start or from a checkpoint, and leave the agents in ``agents/``.

    Args:
        plan: What to do.
        out: The run's folder, which holds ``config.json`` already.
        compute: How to compute.
        record: Where rows go.
        checkpoint: Where to continue from.
        pool: Where workers come from.
        stop: Asks to stop. Until the first updates are made, that ends the run at once.

    Raises:
        Interrupted: A signal asked to stop; the run can be resumed.
        RunError: A child process failed, or there is too little memory.
    """
    begin, options, step = time.monotonic(), plan.options, checkpoint.step if checkpoint else 0

    def give_up() -> None:
        """End the run if that is asked for while it begins: nothing has been done that would be lost."""
        if stop.signal:
            raise Interrupted(step, stop.signal, out)

    memory = Memory.of(plan)
    memory.check()
    with ExitStack() as stack:
        if options.workers == 0:
            pool = stack.enter_context(CallingProcess())
        if not options.quiet:
            for line in introduction(plan, compute, out, memory, resumed=checkpoint is not None):
                logger.info("%s", line)
        # Evaluators first: then all processes start side by side.
        evaluators = take_evaluators(plan, pool)
        stack.callback(pool.give_back, evaluators)
        replay = _open_replay(plan, out, checkpoint)
        workers = Workers(plan, compute, checkpoint, pool, give_up)
        stack.callback(pool.give_back, workers.clients)
        progress = Progress(
            options.total_steps,
            step,
            options.quiet,
            score_name=plan.score_name,
            alike=not options.each,
            bar=options.workers != 0,  # it would draw over a debugger
        )
        stack.callback(progress.close)
        if compute.mode == "compile":
            progress.note("compiling updates, which takes up to some minutes unless it was done before")
        evaluator = Evaluator(plan, evaluators)
        faults = None
        if not options.quiet and checkpoint is None and len(plan.dataset):
            faults = Faults(plan, aside=options.workers != 0)
        trainer = Trainer(
            plan, out, record, checkpoint, workers, evaluator, progress, replay, stop, begin=begin, faults=faults
        )
        trainer.run()
    if not options.quiet:
        trainer.report()


def _open_replay(plan: Plan, out: Path, checkpoint: Checkpoint | None) -> dict[str, ReplayFile]:
    """Open what replicas collect online; give a checkpoint back what it left there."""
    if not plan.options.online_steps:
        return {}
    files = {}
    count = max(0, (checkpoint.step if checkpoint else 0) - plan.options.steps)
    width = 2 * plan.dataset.observation_size + plan.dataset.action_size + 2
    for name in (f"seed-{seed}" for seed in plan.options.seeds):
        files[name] = ReplayFile(out, name, width, count, checkpoint)
        if checkpoint and count:
            checkpoint.tensors[f"members/{name}/{REPLAY}"] = files[name].read()
    return files


class Trainer:
    """Decides what a run does next, and has it done.

    Args:
        plan: What to do.
        out: The run's folder.
        record: Where rows go.
        checkpoint: Where the run continues from, if anywhere; the workers have taken up their part of it already.
        workers: Train the replicas.
        evaluator: Plays episodes.
        progress: Shows how far the run is.
        replay: The files of what replicas collect online, by the replicas' names.
        stop: Asks to stop.
        begin: When the run began, by :func:`time.monotonic`; by default now.
        faults: What is said of the data's faults, as soon as they are counted.
    """

    def __init__(  # noqa: PLR0917
        self,
        plan: Plan,
        out: Path,
        record: Record,
        checkpoint: Checkpoint | None,
        workers: Workers,
        evaluator: Evaluator,
        progress: Progress,
        replay: dict[str, ReplayFile],
        stop: Stop,
        *,
        begin: float | None = None,
        faults: Faults | None = None,
    ) -> None:
        self._plan, self._options, self._out, self._record = plan, plan.options, out, record
        self._workers, self._evaluator, self._progress = workers, evaluator, progress
        self._replay, self._stop, self._faults = replay, stop, faults
        self._checkpoint = checkpoint
        self._step = checkpoint.step if checkpoint else 0
        self._seconds_before = checkpoint.seconds if checkpoint else 0.0
        self._waited = checkpoint.waited if checkpoint else 0.0
        self._lengths = set(checkpoint.lengths or []) if checkpoint else set()
        self._lengths_known = checkpoint is None or checkpoint.lengths is not None
        self._begin = time.monotonic() if begin is None else begin
        self._diverged: set[str] = set()
        # In the calling process nothing is played meanwhile: whoever steps through the loop sees one thing at a time.
        self._pending_limit = PENDING_LIMIT if self._options.workers != 0 else 0
        self._profiled: tuple[int, ...] = ()
        if self._options.profile:
            from offline_rl.training.profile import profiled_steps

            self._profiled = profiled_steps(self._step, self._options.total_steps)

    def run(self) -> None:
        """Train to the end and leave the agents in ``agents/``.

        Raises:
            Interrupted: A signal asked to stop; the run can be resumed.
            RunError: A child process failed.
        """
        self._restore()
        self._train()
        self._finish()

    def report(self) -> None:
        """Say what the run's time was spent on, if that was measured."""
        if not self._options.profile:
            return
        if self._options.evaluates:
            share = f"{self._waited:.0f} of {self._seconds():.0f} seconds"
            logger.info("evaluation: nothing was trained for %s, while episodes were played", share)
        if (self._out / "profile.txt").exists():
            logger.info("\n%s", (self._out / "profile.txt").read_text(encoding="utf-8"))

    def _restore(self) -> None:
        """Take up what was pending, or evaluate the untrained agents."""
        if self._checkpoint is None:
            if self._options.eval_every:
                self._evaluate("evaluation", self._options.eval_episodes)
            self._catch_up()
            return
        self._record.restore(self._checkpoint.pending)
        for slot in self._checkpoint.pending:
            if (key := slot["evaluation"]) is not None and slot["rows"] is None:
                self._evaluator.submit(key, select(self._checkpoint.tensors, f"evaluation/{key['step']}/"))
        if self._checkpoint.due and self._evaluates_at(self._step):
            self._evaluate("evaluation", self._options.eval_episodes)
        self._checkpoint = None
        self._catch_up()

    def _train(self) -> None:
        chunk, last_save = 1, -np.inf
        while self._step < self._options.total_steps:
            if self._step == next(iter(self._profiled), None):
                self._workers.start_profile()
            target = min(self._step + chunk, self._next_boundary())
            begin = time.monotonic()
            report = target % self._options.log_every == 0
            metrics = self._workers.run(target, report)
            chunk = _next_chunk(target - self._step, time.monotonic() - begin)
            self._step = target
            self._workers.waiting = _go_on
            if target == max(self._profiled, default=None):
                self._write_profile()
            if report:
                self._log(metrics)
            if self._evaluates_at(target):
                self._evaluate("evaluation", self._options.eval_episodes)
            if self._options.estimate_every and target % self._options.estimate_every == 0:
                self._estimate()
            if target == self._options.steps < self._options.total_steps:
                self._log_rest()
            if self._phase_ends(target) and target < self._options.total_steps:
                self._evaluate("final", self._options.final_episodes)
            self._collect()
            self._catch_up()
            self._progress.at(target)
            if self._faults:
                self._faults.tell()
            if self._stop.signal:
                self._save()
                raise Interrupted(self._step, self._stop.signal, self._out)
            if time.monotonic() - last_save >= self._options.checkpoint_seconds or target in self._options.ends:
                self._save()
                last_save = time.monotonic()

    def _finish(self) -> None:
        """Play the final evaluation with all processes, then save the agents; the run is finished only after that."""
        self._log_rest()
        weights = self._workers.weights()
        self._evaluator.help(self._workers.clients)
        if self._options.final_episodes:
            episodes = self._options.final_episodes
            self._progress.note(f"playing {episodes} final episode{'s' * (episodes > 1)} for each seed")
            self._evaluate("final", self._options.final_episodes, weights)
        while self._evaluator.pending:
            self._collect(wait=True)
            if self._stop.signal:
                raise Interrupted(self._step, self._stop.signal, self._out)
        while self._faults and not self._faults.tell(PATIENCE_SECONDS) and not self._stop.signal:
            pass  # a run that is shorter than the check of its data
        for seed in self._options.seeds:
            agent = agent_from_description(self._plan.description(seed), select(weights, f"seed-{seed}/"))
            with writing(self._out / "agents", MAKE_ROOM):
                agent.save(self._out / "agents" / f"seed-{seed}")
        self._save(finished=True)

    def _evaluates_at(self, step: int) -> bool:
        every = self._options.eval_every
        # A phase's final evaluation stands for one that would fall on its last update.
        return every > 0 and step % every == 0 and not self._phase_ends(step)

    def _phase_ends(self, step: int) -> bool:
        """Say whether a final evaluation belongs to ``step``."""
        return step in self._options.ends and self._options.final_episodes > 0

    def _next_boundary(self) -> int:
        every = filter(None, (self._options.log_every, self._options.eval_every, self._options.estimate_every))
        ends = [end for end in (*self._options.ends, *self._profiled) if end > self._step]
        return min(*ends, *((self._step // n + 1) * n for n in every))

    def _evaluate(self, kind: str, episodes: int, weights: dict[str, Tensor] | None = None) -> None:
        key = {"step": self._step, "kind": kind, "episodes": episodes}
        self._record.reserve(key)
        self._evaluator.submit(key, weights or self._workers.weights())

    def _collect(self, wait: bool = False) -> None:
        begin = time.monotonic()
        done = self._evaluator.collect(CHUNK_SECONDS if wait else 0)
        self._waited += time.monotonic() - begin
        for evaluation in done:
            rows = [self._evaluation_row(evaluation, seed) for seed in self._options.seeds]
            self._record.fill(evaluation.key, rows)
            self._progress.score(evaluation.key["step"], [row["score"] for row in rows])

    def _catch_up(self) -> None:
        """Wait while more evaluations are under way than may be."""
        while len(self._evaluator.pending) > self._pending_limit and not self._stop.signal:
            self._collect(wait=True)

    def _evaluation_row(self, evaluation: PendingEvaluation, seed: int) -> Row:
        parts = range(len(evaluation.blocks[seed]))
        returns_by, lengths_by = (
            by_target_return(
                self._plan.algorithm, self._plan.config, [row for part in parts for row in played[seed, part]]
            )
            for played in (evaluation.returns, evaluation.lengths)
        )
        returns, lengths = next(iter(returns_by.values())), next(iter(lengths_by.values()))
        others = returns_by if len(returns_by) > 1 else {}
        said = [evaluation.outcomes[seed, part] for part in parts]
        outcomes = {
            name: float(np.mean([values[0] for part in said for values in part[name]]))
            for name in said[0]
            if all(name in part for part in said)
        }
        return {
            "kind": evaluation.key["kind"],
            "step": evaluation.key["step"],
            "seed": seed,
            "episodes": len(returns),
            "return": float(returns.mean()),
            "return_std": float(returns.std()),
            "score": self._plan.score(returns),
            "length": float(lengths.mean()),
            **outcomes,
            **{f"return/{name}": float(values.mean()) for name, values in others.items()},
            **{f"score/{name}": self._plan.score(values) for name, values in others.items()},
            "seconds": self._seconds(),
        }

    def _log(self, metrics: dict[str, dict[str, float]]) -> None:
        rows = [
            {"kind": "train", "step": self._step, "seed": seed, **metrics[f"seed-{seed}"], "seconds": self._seconds()}
            for seed in self._options.seeds
        ]
        self._record.add(rows)
        self._progress.losses(self._step, list(metrics.values()))
        self._warn_of_divergence(metrics)

    def _estimate(self) -> None:
        """Estimate what the agents are worth now; a function of their weights, so nothing of it needs to be saved."""
        self._progress.note(f"estimating values from the data at update {self._step:,}")
        found = self._workers.estimates(self._options.estimate_updates)
        self._record.add(
            [
                {
                    "kind": "estimate",
                    "step": self._step,
                    "seed": seed,
                    **found[f"seed-{seed}"],
                    "seconds": self._seconds(),
                }
                for seed in self._options.seeds
            ]
        )

    def _log_rest(self) -> None:
        """Log the last updates of a phase, if they fill no interval."""
        if self._step % self._options.log_every:
            self._log(self._workers.metrics_so_far())

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
        stored = next((file.count for file in self._replay.values()), 0)
        replicas, lengths = self._workers.state(stored)
        self._lengths |= lengths
        for name, file in self._replay.items():
            if (rows := replicas.pop(f"{name}/{REPLAY}", None)) is not None:
                file.append(rows)
        tensors = {**prefixed(replicas, "members/"), **prefixed(evaluations, "evaluation/")}
        pending, length = self._record.pending(), self._record.sync()
        files = self._record.checksum()
        for file in self._replay.values():
            files |= file.checksum()
        seconds = self._seconds(), round(self._waited, 3)
        lengths_known = sorted(self._lengths) if self._lengths_known else None
        total = self._options.total_steps
        Checkpoint(
            self._step, length, pending, *seconds, finished, total, lengths_known, files=files, tensors=tensors
        ).save(self._out)

    def _write_profile(self) -> None:
        if not self._options.quiet:
            logger.info("profile: writing profile.txt and a trace of these updates, which can take minutes")
        text, trace = self._workers.stop_profile()
        with writing(self._out / "profile.txt", MAKE_ROOM):
            write_bytes(self._out / "profile.txt", text.encode())
            write_bytes(self._out / "profile.json.gz", trace)

    def _seconds(self) -> float:
        return round(self._seconds_before + time.monotonic() - self._begin, 3)


def _go_on() -> None:
    """Wait on: what is under way ends in a checkpoint."""


def _next_chunk(updates: int, seconds: float) -> int:
    """Return how many updates take about CHUNK_SECONDS; growth is bounded, because the first updates are slow."""
    return max(1, min(int(updates * CHUNK_SECONDS / max(seconds, 1e-9)), 4 * updates))
