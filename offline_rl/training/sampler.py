"""Which rows and which random numbers each update sees: pure functions of (seed, name, step)."""

import numpy as np
import torch
from torch import Tensor

from offline_rl.agent import Agent, Batch, Draw, Uniform, WindowBatch
from offline_rl.data.packed import Columns, PackedRows
from offline_rl.data.replay import Replay
from offline_rl.data.windows import EpisodeWindows, RecordedSteps, Windows
from offline_rl.draws import Stream

BLOCK = 16
"""Updates whose batches are made at once; any value gives the same numbers."""


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
        self._windows: Windows | None = None
        if isinstance(agent.batch, Windows):
            assert isinstance(rows, PackedRows), "windows are cut out of recorded episodes; nothing is added to these"
            self._windows = agent.batch
            self._episodes = rows.shared("windows", lambda: EpisodeWindows(rows))
            block = max(1, block // agent.batch.length)  # as much memory as rows alone take, or one batch
        self._shape = block, agent.config.batch_size
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

    def _make(self, step: int) -> list[Batch]:
        index = self._indices(step)
        draws = {name: self._drawn(stream, draw, step).unbind() for name, (stream, draw) in self._draws.items()}
        if self._windows is not None:
            return [
                self._window_batch(rows, self._windows, {name: blocks[offset] for name, blocks in draws.items()})
                for offset, rows in enumerate(index.unbind())
            ]
        columns = self._rows.columns(index.reshape(-1))._asdict()
        fields = {
            name: column.to(self._dtype).view(*self._shape, *column.shape[1:]).unbind()
            for name, column in columns.items()
        }
        return [
            Batch(
                **{name: blocks[offset] for name, blocks in fields.items()},
                index=rows,
                draws={name: blocks[offset] for name, blocks in draws.items()},
            )
            for offset, rows in enumerate(index.unbind())
        ]

    def _window_batch(self, index: Tensor, windows: Windows, draws: dict[str, Tensor]) -> WindowBatch:
        steps: RecordedSteps = self._episodes.around(index, windows, self._dtype)
        place = windows.history - 1
        own = {name: vars(steps)[name][:, place] for name in Columns._fields}
        return WindowBatch(**own, index=index, draws=draws, steps=steps, place=place)

    def _indices(self, step: int) -> Tensor:
        uniform = np.empty(self._shape)
        for offset, values in enumerate(uniform):
            self._index_stream.at(step + offset).random(out=values)
        count = len(self._rows if self._subset is None else self._subset)
        # floor(u N) rather than integers(N): the draw stays the same when N grows.
        indices = torch.from_numpy((uniform * count).astype(np.int64)).to(self._device)
        return indices if self._subset is None else self._subset[indices]

    def _drawn(self, stream: Stream, draw: Draw, step: int) -> Tensor:
        size = self._sizes[draw.size] if isinstance(draw.size, str) else draw.size
        block = np.empty((*self._shape, size), np.float32)
        for offset, values in enumerate(block):
            generator = stream.at(step + offset)
            fill = generator.random if isinstance(draw, Uniform) else generator.standard_normal
            fill(dtype=np.float32, out=values)
        return torch.from_numpy(block).to(self._device, self._dtype)
