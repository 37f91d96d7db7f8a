"""Updates that a GPU repeats by itself: one CUDA graph for each place in an algorithm's cycle.

An update is some fifty small kernels, and telling a GPU to run one takes longer than running it. A graph is told once.
The members of a run are branches of one graph, which a GPU works off side by side; each does exactly what it would
do alone, so a member does not care who trains beside it.
"""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch

from offline_rl.agent import Agent, Metrics
from offline_rl.training.sampler import Feed

BRANCHES = 32
"""Streams that members are spread over."""
FIRST = 2
"""Cycles made one kernel after the other before any is captured: libraries set themselves up in them."""

Replay = Callable[[], list[Metrics]]


class Trained(Protocol):
    """What is known of a member here."""

    agent: Agent
    feed: Feed

    def note(self, metrics: Metrics) -> None:
        """Keep metrics until they are asked for."""


class CapturedUpdates:
    """Makes the updates of all members of a process, each after the first few by replaying graphs.

    On a CPU, which has no graphs, an update is recorded as what to call; then it serves the tests.

    Args:
        members: All on one device, at the same step.
    """

    def __init__(self, members: Sequence[Trained]) -> None:
        self._members = members
        self._device = members[0].agent.device
        self._cycle = math.lcm(*(member.agent.cycle for member in members))
        self._replays: dict[int, Replay] = {}
        self._before = FIRST * self._cycle
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._branches = [torch.cuda.Stream(self._device) for _ in members[:BRANCHES]]  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()

    def run(self, first: int, last: int) -> None:
        """Make the updates ``first`` to ``last``; returns before the device has made them."""
        recent: deque[list[Metrics]] = deque(maxlen=self._cycle)
        with self._own_stream():
            for step in range(first, last + 1):
                for member in self._members:
                    member.feed.ready(step)
                if not all(member.agent.repeats(step) for member in self._members):
                    recent.append(self._updates(step))
                    self._note(recent[-1])  # what only such an update tells would be forgotten otherwise
                elif self._before:
                    self._before -= 1
                    recent.append(self._updates(step))
                else:
                    place = step % self._cycle
                    if place not in self._replays:
                        self._replays[place] = self._recorded(step)
                    recent.append(self._replays[place]())
        for metrics in recent:
            self._note(metrics)

    def _note(self, metrics: list[Metrics]) -> None:
        for member, own in zip(self._members, metrics, strict=True):
            member.note(own)

    def _updates(self, step: int) -> list[Metrics]:
        """Make an update of every member, on the stream that is current."""
        return [member.agent.update(member.feed.batch(), step) for member in self._members]

    def _recorded(self, step: int) -> Replay:
        if self._device.type != "cuda":
            return lambda: self._updates(step)
        graph = torch.cuda.CUDAGraph()
        metrics: list[Metrics] = []
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            for number, member in enumerate(self._members):
                branch = self._branches[number % len(self._branches)]
                branch.wait_stream(self._stream)
                with torch.cuda.stream(branch):
                    metrics.append(member.agent.update(member.feed.batch(), step))
            for branch in self._branches:
                self._stream.wait_stream(branch)

        def replay() -> list[Metrics]:
            graph.replay()
            return metrics

        return replay

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
