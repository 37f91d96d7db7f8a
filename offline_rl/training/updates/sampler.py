"""Which rows and which random numbers each update sees: pure functions of (seed, name, step)."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import torch
from torch import Tensor

from offline_rl.agent import Agent, Batch, Draw, NextActionBatch, SequenceAgent, Uniform, WindowBatch
from offline_rl.data.packed import Columns, PackedRows
from offline_rl.data.replay import Replay
from offline_rl.data.windows import EpisodeWindows, RecordedSteps, Windows
from offline_rl.draws import Stream
from offline_rl.processes.cores import available_cores

BLOCK = 16
"""Updates whose batches are made at once; any value gives the same numbers."""
PREFETCH = 64
"""Updates whose numbers a :class:`Prefetcher` puts on the device at once; any value gives the same numbers."""


Numbers = tuple[Tensor, dict[str, Tensor]]
"""What is drawn for some updates, see :meth:`Sampler.numbers`."""


class Sampler:
    """Makes the batches of one agent.

    Args:
        agent: Says how many rows, which of them, and which draws.
        rows: The dataset, or one that grows from batch to batch.
        block: How many batches are made, and moved to the device, at once.
    """

    def __init__(self, agent: Agent, rows: PackedRows | Replay, block: int = BLOCK) -> None:
        self._rows = rows
        self._device, self._dtype = agent.device, agent.dtype
        self._subset = agent.rows
        self._kind = NextActionBatch if agent.needs_next_action else Batch
        self._windows: Windows | None = None
        if isinstance(agent, SequenceAgent):
            assert isinstance(rows, PackedRows), "windows are cut out of recorded episodes; nothing is added to these"
            self._windows = agent.windows
            self._episodes = rows.shared("windows", lambda: EpisodeWindows(rows))
            block = max(1, block // agent.windows.length)  # as much memory as rows alone take, or one batch
        self._block, self._size = block, agent.config.batch_size
        self._first = 0
        self._batches: list[Batch] = []
        self._index_stream = Stream(agent.seed, "index")
        self._sizes = {"action": agent.action_size, "observation": agent.observation_size}
        self._draws = {name: (Stream(agent.seed, name), draw) for name, draw in agent.draws().items()}

    def batch(self, step: int) -> Batch:
        """Return the batch of update ``step``, counted from 1."""
        offset = step - self._first
        if not 0 <= offset < len(self._batches):
            self._first, self._batches, offset = step, self._make(step), 0
        return self._batches[offset]

    def numbers(self, step: int, count: int) -> Numbers:
        """Return, on the host, what is drawn for ``count`` updates from ``step`` on.

        Returns:
            Rows, or places in the agent's choice of rows, ``(count, B)``, and its draws, each ``(count, B, size)``.
        """
        draws = {name: self._drawn(stream, draw, step, count) for name, (stream, draw) in self._draws.items()}
        return self._places(step, count), draws

    def batch_of(self, places: Tensor, draws: Mapping[str, Tensor]) -> Batch:
        """Return the batch of one update's numbers, which lie on the device; no work for the host."""
        index = places if self._subset is None else self._subset.index_select(0, places)
        if self._windows is not None:
            return self._window_batch(index, self._windows, draws)
        return self._kind(**self._fields(index), index=index, draws=draws)

    def _fields(self, index: Tensor) -> dict[str, Tensor]:
        """Return what batches hold of the rows at ``index``."""
        fields = self._rows.columns(index)._asdict()
        if self._kind is NextActionBatch:
            fields["next_action"], fields["next_known"] = self._rows.next_actions(index)
        return {name: field.to(self._dtype) for name, field in fields.items()}

    def _make(self, step: int) -> list[Batch]:
        places, numbers = self.numbers(step, self._block)
        draws = {name: values.to(self._device, self._dtype).unbind() for name, values in numbers.items()}
        index = places.to(self._device)
        if self._windows is not None:
            return [
                self.batch_of(rows, {name: blocks[offset] for name, blocks in draws.items()})
                for offset, rows in enumerate(index.unbind())
            ]
        index = index if self._subset is None else self._subset[index]
        fields = {
            name: field.view(*index.shape, *field.shape[1:]).unbind()
            for name, field in self._fields(index.reshape(-1)).items()
        }
        return [
            self._kind(
                **{name: blocks[offset] for name, blocks in fields.items()},
                index=rows,
                draws={name: blocks[offset] for name, blocks in draws.items()},
            )
            for offset, rows in enumerate(index.unbind())
        ]

    def _window_batch(self, index: Tensor, windows: Windows, draws: Mapping[str, Tensor]) -> WindowBatch:
        steps: RecordedSteps = self._episodes.around(index, windows, self._dtype)
        place = windows.history - 1
        own = {name: vars(steps)[name][:, place] for name in Columns._fields}
        return WindowBatch(**own, index=index, draws=draws, steps=steps, place=place)

    def _places(self, step: int, count: int) -> Tensor:
        uniform = np.empty((count, self._size))
        for offset, values in enumerate(uniform):
            self._index_stream.at(step + offset).random(out=values)
        # floor(u N) rather than integers(N): the draw stays the same when N grows.
        return torch.from_numpy((uniform * len(self._rows if self._subset is None else self._subset)).astype(np.int64))

    def _drawn(self, stream: Stream, draw: Draw, step: int, count: int) -> Tensor:
        size = self._sizes[draw.size] if isinstance(draw.size, str) else draw.size
        block = np.empty((count, self._size, size), np.float32)
        for offset, values in enumerate(block):
            generator = stream.at(step + offset)
            fill = generator.random if isinstance(draw, Uniform) else generator.standard_normal
            fill(dtype=np.float32, out=values)
        return torch.from_numpy(block)


class Prefetcher:
    """Batches for updates that a device repeats by itself: a block's numbers lie at fixed places on the device.

    A counter that lives there, too, says whose turn it is, so that making a batch is work for the device alone.

    Args:
        samplers: Of the agents whose batches are made together, M; they share the dataset.
        device: Where the agents live.
        dtype: What they compute in.
    """

    def __init__(self, samplers: Sequence[Sampler], device: torch.device, dtype: torch.dtype) -> None:
        self._samplers, self._device, self._dtype = samplers, device, dtype
        self._places = torch.empty(0)
        self._draws: dict[str, Tensor] = {}
        self._turn = torch.zeros(1, dtype=torch.int64, device=device)
        self._first = self._next = 1
        self._threads = ThreadPoolExecutor(available_cores(), thread_name_prefix="draws")
        self._ahead: tuple[int, list[Future[Numbers]]] = 0, []

    def ready(self, step: int) -> None:
        """Let the next :meth:`batch` be that of update ``step``; the device is not waited for."""
        if not self._first <= step < self._first + len(self._places):
            self._load(step)
        elif step != self._next:
            self._turn.fill_(step - self._first)
        self._next = step + 1

    def batch(self) -> Batch:
        """Return the batches whose turn it is, one after the other ``(M B, ...)``, and count on.

        It is always the same work, at the same places.
        """
        places = self._places.index_select(0, self._turn)[0]
        draws = {name: block.index_select(0, self._turn)[0] for name, block in self._draws.items()}
        self._turn += 1
        return self._samplers[0].batch_of(places, draws)

    def _load(self, step: int) -> None:
        places, draws = zip(*self._numbers(step), strict=True)
        self._places = self._laid(torch.cat(places, 1), self._places)
        self._draws = {
            name: self._laid(torch.cat([own[name] for own in draws], 1).to(self._dtype), self._draws.get(name))
            for name in draws[0]
        }
        self._first = step
        self._turn.zero_()

    def _numbers(self, step: int) -> list[Numbers]:
        """Return all samplers' numbers; those of the next block are drawn meanwhile."""
        if self._ahead[0] != step:
            wait(self._ahead[1])  # a sampler draws for one block at a time
            self._ahead = step, self._begun(step)
        numbers = [begun.result() for begun in self._ahead[1]]
        self._ahead = step + PREFETCH, self._begun(step + PREFETCH)
        return numbers

    def _begun(self, step: int) -> list[Future[Numbers]]:
        return [self._threads.submit(sampler.numbers, step, PREFETCH) for sampler in self._samplers]

    def _laid(self, values: Tensor, block: Tensor | None) -> Tensor:
        """Bring values to where the last ones lay, if there were any."""
        if block is None or not len(block):
            return values.to(self._device)
        return block.copy_(values.pin_memory() if block.is_cuda else values, non_blocking=True)
