"""Updates that a GPU repeats by itself: one CUDA graph for each place in an algorithm's cycle.

An update is some eighty small kernels, and to launch one takes longer than to run it. A graph is one launch.
Replicas are stacked, see :mod:`offline_rl.training.updates.stacked`; those of an algorithm that cannot be are branches
of one graph, which a GPU works off side by side, and each of which does exactly what it would do alone.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch

from offline_rl.agent import Agent
from offline_rl.data.packed import PackedRows
from offline_rl.training.contract import check, cycle_of, unable
from offline_rl.training.means import Means, Vector, add_vectors, vectors, vectors_of_replicas
from offline_rl.training.updates.sampler import Prefetcher, Sampler
from offline_rl.training.updates.stacked import Stack, differing

BRANCHES = 32
"""Streams that replicas are spread over."""
FIRST = 2
"""Cycles made one kernel after the other before any is captured: libraries set themselves up in them."""

Replay = Callable[[], list[list[Vector]]]


class Trained(Protocol):
    """What is known of a replica here."""

    agent: Agent
    rows: PackedRows
    sampler: Sampler
    means: Means


class CapturedUpdates:
    """Makes the updates of all replicas of a process, each after the first few by replaying graphs.

    Before the first replay it is seen whether replays do what updates do, see :mod:`offline_rl.training.contract`. On a
    CPU, which has no graphs, an update is recorded as what to call; then it serves the tests.

    Args:
        replicas: All on one device, at the same step, of one algorithm.
        stacked: Whether to stack them; by default where there are several that can be.

    Raises:
        RunError: The algorithm does not declare its ``cycle``; from :meth:`run`: or does not keep to it.
    """

    def __init__(self, replicas: Sequence[Trained], *, stacked: bool | None = None) -> None:
        self._replicas = replicas
        first = replicas[0].agent
        self._device = first.device
        agents = [replica.agent for replica in replicas]
        alike = first.stackable and set(differing(agents)) <= set(first.stackable_settings)
        stacked = len(replicas) > 1 and alike if stacked is None else stacked
        self._stack = Stack(agents, replicas[0].rows) if stacked else None
        samplers = [replica.sampler for replica in replicas]
        together = [samplers] if stacked else [[sampler] for sampler in samplers]
        self._prefetchers = [Prefetcher(part, self._device, first.dtype) for part in together]
        self._cycle = math.lcm(*(cycle_of(agent) for agent in agents))
        self._replays: dict[int, Replay] = {}
        self._before = FIRST * self._cycle
        self._checked = False
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            branches = [] if stacked else replicas[:BRANCHES]
            self._branches = [torch.cuda.Stream(self._device) for _ in branches]  # type: ignore[no-untyped-call]

    def run(self, first: int, last: int) -> None:
        """Make the updates ``first`` to ``last``; returns before the device has made them."""
        means = [replica.means for replica in self._replicas]
        with self._own_stream():
            for step in range(first, last + 1):
                if not all(replica.agent.repeats(step) for replica in self._replicas):
                    made = self._made_now(step)
                elif self._before:
                    self._before -= 1
                    made = self._made_now(step)
                else:
                    if not self._checked:
                        agents = [replica.agent for replica in self._replicas]
                        check(agents, self._replicas[0].rows, step, self._cycle, self)
                        self._checked = True
                    made = self.make(step)
                # Outside of the graphs: a sum that began in one would start over with each replay.
                add_vectors(means, made)

    def make(self, step: int) -> list[list[Vector]]:
        """Make update ``step``, which repeats, by replaying what was recorded; the first of its place is recorded."""
        self._ready(step)
        place = step % self._cycle
        if place not in self._replays:
            self._replays[place] = self._recorded(step)
        return self._replays[place]()

    def settle(self) -> None:
        """Let the agents have what updates have changed."""
        if self._stack is not None:
            self._stack.push()

    def take(self) -> None:
        """Take over what the agents are now."""
        if self._stack is not None:
            self._stack.pull()

    def _ready(self, step: int) -> None:
        for prefetcher in self._prefetchers:
            prefetcher.ready(step)

    def _made_now(self, step: int) -> list[list[Vector]]:
        """Make an update without a recording."""
        self._ready(step)
        try:
            return self._updates(step)
        except Exception as error:
            if self._stack is None or self._checked:
                raise
            raise unable(self._replicas[0].agent, error) from error

    def _updates(self, step: int) -> list[list[Vector]]:
        """Make an update of every replica; return the metrics of each."""
        if self._stack is not None:
            return vectors_of_replicas(self._stack.update(self._prefetchers[0].batch(), step), len(self._replicas))
        metrics = []
        for number, replica in enumerate(self._replicas):
            with self._branch(number):
                metrics.append(vectors(replica.agent.update(self._prefetchers[number].batch(), step)))
        return metrics

    def _recorded(self, step: int) -> Replay:
        if self._device.type != "cuda":
            return lambda: self._updates(step)
        graph = torch.cuda.CUDAGraph()
        # Memory of its own: what one graph lets go, another one's metrics must not lie in.
        with torch.cuda.graph(graph, stream=self._stream):
            metrics = self._updates(step)
            for branch in self._branches:
                self._stream.wait_stream(branch)

        def replay() -> list[list[Vector]]:
            graph.replay()
            return metrics

        return replay

    @contextlib.contextmanager
    def _branch(self, number: int) -> Iterator[None]:
        """Work beside the other replicas while a graph is captured."""
        if self._device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
            yield
            return
        branch = self._branches[number % len(self._branches)]
        branch.wait_stream(self._stream)
        with torch.cuda.stream(branch):
            yield

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Work on a stream of our own, after what was done before and before what is done after."""
        if self._device.type != "cuda":
            yield
            return
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)
