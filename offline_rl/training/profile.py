"""Where the time of updates goes: some hundred of them, measured by PyTorch's profiler in the first training process.

Measuring changes no number, but it slows Python down: what consists of many small operations looks larger than it is.
"""

import contextlib
import functools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from offline_rl.agent import Agent, ParameterGroup
from offline_rl.neighbors.search import NearestRows
from offline_rl.training.loop import TrainingLoop
from offline_rl.training.updates.compiled import Program
from offline_rl.training.updates.sampler import Prefetcher, Sampler
from offline_rl.training.updates.stacked import StackedGroup

WARM_UP, UPDATES, TOP = 100, 300, 12
"""Updates before those that are measured, of these at most, and how many lines a table has."""
OTHER, WAITING = "other operations", "waiting"
METHODS: Mapping[tuple[type, str], str] = {
    **dict.fromkeys(((Sampler, "batch"), (Prefetcher, "ready"), (Prefetcher, "batch")), "sampling"),
    **dict.fromkeys(((ParameterGroup, "step"), (StackedGroup, "step")), "optimiser"),
    (Agent, "track_targets"): "targets",
    (NearestRows, "find"): "search",
    (Program, "__call__"): "compiled program",
}
"""Methods whose time has a name; a search beside other work counts as long as it is waited for."""
OPERATIONS = {
    **dict.fromkeys(("_Perceptron", "Perceptron", "_Together", "offline_rl::perceptron"), "MLPs forward"),
    **dict.fromkeys(("_PerceptronBackward", "PerceptronBackward", "_TogetherBackward"), "MLPs backward"),
    "offline_rl::perceptron_gradients": "MLPs backward",
    **dict.fromkeys(("offline_rl::begin_search", "offline_rl::end_search"), "search"),
    **dict.fromkeys(("cudaDeviceSynchronize", "cudaStreamSynchronize"), WAITING),
}
"""Operations likewise, by PyTorch's names of them, also within a compiled program."""
PARTS = (*dict.fromkeys([*METHODS.values(), *OPERATIONS.values(), OTHER]),)
"""What time is spent on; waiting is for the parent process, or for a GPU."""


def profiled_steps(step: int, total: int) -> tuple[int, int]:
    """Return the steps after which measuring begins and ends in a run that goes on from ``step``."""
    begin = step + min(WARM_UP, (total - step) // 2)
    return begin, min(begin + UPDATES, total)


class Profiler:
    """Measures from now on what :meth:`TrainingLoop.run`, which makes updates, spends its time on."""

    def __init__(self) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it talks between the lines of progress
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self._profile, self._labels = profile(activities=activities), contextlib.ExitStack()
        self._labels.enter_context(_labels({**METHODS, (TrainingLoop, "run"): OTHER}))
        self._profile.start()
        self._begin = time.perf_counter()

    def stop(self, updates: int) -> tuple[str, bytes]:
        """End; return as a text what so many updates spent their time on, and a gzipped trace for Perfetto."""
        seconds = time.perf_counter() - self._begin
        self._profile.stop()
        self._labels.close()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json.gz"
            self._profile.export_chrome_trace(str(path))
            events = self._profile.events()  # type: ignore[no-untyped-call]
            return report(events, seconds, updates), path.read_bytes()


def report(events: Any, seconds: float, updates: int) -> str:
    """Return the shares of :data:`PARTS`, and the operations and a GPU's kernels that took longest, as a text."""
    tables = {"   share   ms/update": shares(events, seconds)}
    for title, kind, own in (
        ("the host's operations, by their own time:", "CPU", "self_cpu_time_total"),
        ("the GPU's kernels, by their own time:", "CUDA", "self_device_time_total"),
    ):
        tables[title] = own_time = dict.fromkeys((event.name for event in events), 0.0)
        for event in events:
            if event.device_type.name == kind and event.name not in PARTS:
                own_time[event.name] += getattr(event, own) / 1e6 / seconds
    lines = [f"where the time of {updates} updates went while they were measured, {seconds:.2f} seconds:"]
    for title, taken in tables.items():
        rows = [(name, share) for name, share in Counter(taken).most_common(TOP) if share]
        lines += ["", title] if rows else []
        lines += [f"{share:8.1%}  {1e3 * share * seconds / updates:10.3f}  {name[:90]}" for name, share in rows]
    return "\n".join([*lines, ""])


def shares(events: Any, seconds: float) -> dict[str, float]:
    """Return the share of ``seconds`` that each of :data:`PARTS` took; they sum to 1."""
    taken = dict.fromkeys(PARTS, 0.0)
    host = [event for event in events if event.device_type.name == "CPU"]
    main = {event.thread for event in host if event.name == OTHER}
    for event in host:
        here, own = event.thread in main, event.self_cpu_time_total / 1e6 / seconds
        taken[_part(event, WAITING if here else OTHER)] += own
        # A GPU's backward pass has a thread of its own, for which the main one waits.
        taken[OTHER] -= 0 if here else own
    taken[WAITING] += 1 - sum(taken.values())
    return taken


def _part(event: Any, otherwise: str) -> str:
    """Return the part of an operation's own time: that of the first, from itself outwards, that has a name."""
    while event is not None:
        if event.name in PARTS:
            return str(event.name)
        if part := OPERATIONS.get(event.name.removeprefix("autograd::engine::evaluate_function: ")):
            return part
        event = event.cpu_parent
    return otherwise


@contextlib.contextmanager
def _labels(methods: Mapping[tuple[type, str], str]) -> Iterator[None]:
    """Name what these methods do; only meanwhile, because it takes microseconds that nobody else should pay."""
    before = {(owner, name): vars(owner)[name] for owner, name in methods}
    try:
        for (owner, name), part in methods.items():
            setattr(owner, name, _labelled(before[owner, name], part))
        yield
    finally:
        for (owner, name), method in before.items():
            setattr(owner, name, method)


def _labelled(method: Callable[..., Any], part: str) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(part):
            return method(*args, **kwargs)

    return call
