"""The dataset's rows and, after them, what one agent collects online; nothing is ever overwritten."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline_rl.data.packed import Columns, PackedRows


class Replay:
    """Rows to train on: those of the dataset, shared by all agents, then one agent's own, which grow.

    Args:
        offline: The dataset.
        capacity: Online rows there will be at most.
    """

    def __init__(self, offline: PackedRows, capacity: int) -> None:
        self.offline = offline
        # Memory that is not written to yet costs nothing.
        self._matrix = torch.empty(capacity, offline.width, device=offline.device)
        self._count = 0

    def __len__(self) -> int:
        return len(self.offline) + self._count

    def append(self, rows: npt.NDArray[np.float32]) -> None:
        """Add packed rows ``(N, 2 O + A + 2)``; see :func:`offline_rl.data.packed.packed`."""
        self._matrix[self._count : self._count + len(rows)] = torch.from_numpy(rows)
        self._count += len(rows)

    def online(self, first: int = 0) -> Tensor:
        """Return the packed online rows from number ``first`` on."""
        return self._matrix[first : self._count]

    def columns(self, index: Tensor) -> Columns:
        """Return the columns of the rows at ``index`` ``(B,)``; online rows are counted on from the dataset's."""
        size = len(self.offline)
        if size == 0:
            return self.offline.split(self._matrix.index_select(0, index))
        rows = self.offline.gather(index.clamp(max=size - 1))
        if self._count:
            own = self._matrix.index_select(0, (index - size).clamp(min=0))
            rows = torch.where((index >= size)[:, None], own, rows)
        return self.offline.split(rows)

    def next_actions(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the actions ``(B, A)`` that followed the rows at ``index`` ``(B,)``, and which are known ``(B,)``.

        Of the row that was collected last, what follows is not known yet. For the dataset's rows see
        :meth:`PackedRows.next_actions`.
        """
        size = len(self.offline)
        here = self.columns(index)
        following = (index + 1).clamp(max=len(self) - 1)
        there = self.columns(following)
        known = (here.next_observation == there.observation).all(1) & (here.terminated == 0) & (following > index)
        action = torch.where(known[:, None], there.action, here.action)
        if size == 0:
            return action, known
        online = index >= size
        recorded, recorded_known = self.offline.next_actions(index.clamp(max=size - 1))
        return torch.where(online[:, None], action, recorded), torch.where(online, known, recorded_known)
