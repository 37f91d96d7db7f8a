"""What an agent has lived through, as episodes and segments: of its own rows, which come in one after the other."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline_rl.data.packed import Columns
from offline_rl.data.replay import Replay
from offline_rl.draws import Stream
from offline_rl.preferences.segments import Segments

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Experience:
    """The rows that an agent has collected so far, T of them.

    Attributes:
        columns: Of these rows.
        bounds: ``(E + 1,)``; rows of the complete episode e are ``bounds[e]:bounds[e + 1]``. The one in play is left
            out.
    """

    columns: Columns
    bounds: IntArray

    @classmethod
    def of(cls, replay: Replay) -> "Experience":
        """Find the episodes in a replay's own rows.

        A row ends its episode if it says so, or if the next row begins elsewhere than where it led: that was a time
        limit. Two starts are never equal to the last bit.
        """
        columns = replay.offline.split(replay.online())
        leads_on = (columns.next_observation[:-1] == columns.observation[1:]).all(1) & (columns.terminated[:-1] == 0)
        ended = (~leads_on).cpu().numpy()
        if len(columns.reward):  # of the last row only its own word is known
            ended = np.append(ended, bool(columns.terminated[-1]))
        return cls(columns, np.concatenate([[0], np.flatnonzero(ended) + 1]).astype(np.int64))

    def segments(self, length: int, episodes: int) -> Segments | None:
        """Return the segments of ``length`` steps in the last so many episodes; None if these are all shorter."""
        bounds = self.bounds[-episodes - 1 :]
        return Segments.of(bounds, length) if (np.diff(bounds) >= length).any() else None

    def rewards(self, rows: IntArray) -> FloatArray:
        """Return the true rewards of rows ``(...)``: for the teacher's eyes only."""
        return self.columns.reward.cpu().double().numpy()[rows]

    def mean_reward(self, episodes: int) -> float:
        """Return the mean true reward of a step in the last so many episodes; 0 without any."""
        bounds = self.bounds[-episodes - 1 :]
        rewards = self.rewards(np.arange(bounds[0], bounds[-1]))
        return float(rewards.mean()) if len(rewards) else 0.0

    def steps(self, rows: IntArray) -> tuple[Tensor, Tensor]:
        """Return observations ``(..., O)`` and actions ``(..., A)`` of rows ``(...)``."""
        index = torch.from_numpy(rows).to(self.columns.action.device)
        return self.columns.observation[index], self.columns.action[index]


def first_rows(segments: Segments, count: int, seed: int, step: int) -> IntArray:
    """Draw ``count`` pairs of segments; return the rows ``(count, 2)`` at which they begin."""
    return segments.draw(count, Stream(seed, "queries"), step)[:, :, 0]
