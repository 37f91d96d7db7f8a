"""Windows over episodes: rows with the steps before and after them, for algorithms that learn from sequences.

A window is named by a row: its history ends there, its future begins there. Rows drawn uniformly are therefore episodes
drawn with a probability proportional to their length, and a uniform place in each.
"""

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from offline_rl.data.packed import PackedRows

S = TypeVar("S", bound="Steps")


@dataclass(frozen=True)
class Windows:
    """How many neighbours in the same episode each row of a batch comes with.

    Attributes:
        history: K, steps up to and including the row; missing ones are padded on the left.
        future: F, steps from the row on; missing ones are padded on the right.
    """

    history: int
    future: int

    @property
    def length(self) -> int:
        """K + F - 1, for the row is in both."""
        return self.history + self.future - 1


@dataclass(frozen=True)
class Steps:
    """Successive steps of B episodes, T of each; what is padded means nothing, and nothing may depend on it.

    Attributes:
        observation: ``(B, T, O)``, normalised.
        action: ``(B, T, A)`` in [-1, 1].
        previous_reward: ``(B, T)``, of the step before; 0 at the first step of an episode.
        return_to_go: ``(B, T)``, undiscounted, of this and all later steps.
        time: ``(B, T)`` int64, steps since the episode began.
        mask: ``(B, T)`` bool, False where padded.
    """

    observation: Tensor
    action: Tensor
    previous_reward: Tensor
    return_to_go: Tensor
    time: Tensor
    mask: Tensor

    def part(self: S, first: int, last: int | None = None) -> S:
        """Return the steps ``first`` to ``last``, which is not included; the rest if it is None."""
        return dataclasses.replace(self, **{name: tensor[:, first:last] for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class RecordedSteps(Steps):
    """Steps of a dataset, of which it is known what followed.

    Attributes:
        reward: ``(B, T)``.
        terminated: ``(B, T)``, 1 where the episode truly ended, else 0.
        next_observation: ``(B, T, O)``, normalised; meaningless where ``terminated``.
    """

    reward: Tensor
    terminated: Tensor
    next_observation: Tensor


class EpisodeWindows:
    """Cuts windows out of packed rows, all of a batch by one gather, and knows each row's place in its episode.

    The return-to-go is that of the episode as recorded: rewards of rows that training leaves out, such as the last one
    of an episode that was cut, count.

    Args:
        rows: The dataset.
    """

    def __init__(self, rows: PackedRows) -> None:
        self._rows = rows
        bounds, row = rows.episode_bounds, np.arange(len(rows))
        lengths = np.diff(bounds)
        first, last = np.repeat(bounds[:-1], lengths), np.repeat(bounds[1:], lengths) - 1
        reward = rows.columns().reward.double().cpu().numpy()
        before = np.cumsum(reward) - reward
        returns_to_go = np.repeat(rows.episode_returns, lengths) - (before - before[first])
        previous = np.where(row > first, np.roll(reward, 1), 0.0)
        self._place = torch.from_numpy(np.stack([row - first, last - row], 1)).to(rows.device)
        self._extras = torch.from_numpy(np.stack([previous, returns_to_go], 1)).float().to(rows.device)

    def around(self, index: Tensor, windows: Windows, dtype: torch.dtype = torch.float32) -> RecordedSteps:
        """Return the steps around the rows at ``index`` ``(B,)``, which stand at place K - 1 of K + F - 1.

        Padded places hold copies of the episode's first or last row.
        """
        wanted = torch.arange(1 - windows.history, windows.future, device=index.device)
        age, left = self._place.index_select(0, index)[:, :, None].unbind(1)
        offset = torch.minimum(torch.maximum(wanted, -age), left)
        flat = (index[:, None] + offset).reshape(-1)
        columns, extras = self._rows.columns(flat), self._extras.index_select(0, flat).to(dtype)
        shaped = {name: column.to(dtype).unflatten(0, offset.shape) for name, column in columns._asdict().items()}
        previous_reward, return_to_go = extras.view(*offset.shape, 2).unbind(2)
        return RecordedSteps(
            **shaped,
            previous_reward=previous_reward,
            return_to_go=return_to_go,
            time=age + offset,
            mask=offset == wanted,
        )


def complete_rows(rows: PackedRows) -> Tensor | None:
    """Return the rows of complete episodes, whose returns are known; None for all, also if no episode is complete."""
    kept = np.repeat(rows.episode_complete, np.diff(rows.episode_bounds))
    return None if kept.all() or not kept.any() else torch.from_numpy(np.flatnonzero(kept)).to(rows.device)
