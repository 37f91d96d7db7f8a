"""Segments: as many successive steps of one episode as people are shown when asked which behaviour they prefer."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offline_rl.draws import Stream
from offline_rl.errors import DatasetError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Segments:
    """All segments of L rows that lie inside single episodes.

    An episode is drawn uniformly among those of L rows or more, then a start in it: episodes, not rows, are equally
    likely, as in B-Pref, Preference Transformer and Uni-RLHF.

    Attributes:
        length: L.
        first: ``(E,)`` int64, first rows of the episodes that are long enough.
        starts: ``(E,)`` int64, places in each at which a segment can start.
        share: Share of the dataset's rows that are in these episodes: the part of the data that is ever shown. Where it
            is small, the segments show only the better part of the data.
    """

    length: int
    first: IntArray
    starts: IntArray
    share: float

    @classmethod
    def of(cls, episode_bounds: IntArray, length: int) -> "Segments":
        """Find the segments.

        Args:
            episode_bounds: ``(E + 1,)``; rows of episode e are ``episode_bounds[e]:episode_bounds[e + 1]``.
            length: L.

        Raises:
            DatasetError: No episode has so many rows, or the length is not positive.
        """
        if length < 1:
            raise DatasetError(f"the length of segments is {length}; it must be at least 1")
        lengths = np.diff(episode_bounds)
        long_enough = lengths >= length
        if not long_enough.any():
            raise DatasetError(
                f"no episode has {length} rows, the longest has {lengths.max(initial=0)}; take shorter segments"
            )
        return cls(
            length=length,
            first=episode_bounds[:-1][long_enough],
            starts=lengths[long_enough] - length + 1,
            share=float(lengths[long_enough].sum() / lengths.sum()),
        )

    def draw(self, count: int, stream: Stream, step: int = 0) -> IntArray:
        """Draw the rows of ``count`` pairs of segments ``(count, 2, L)``.

        The two of a pair are independent. Pair i of a step is the same whatever the count.
        """
        chance = stream.at(step).random((count, 2, 2))
        episode = (chance[..., 0] * len(self.first)).astype(np.int64)
        start = self.first[episode] + (chance[..., 1] * self.starts[episode]).astype(np.int64)
        return segment_rows(start, self.length)


def segment_rows(start: IntArray, length: int) -> IntArray:
    """Return the rows ``(..., L)`` of the segments that start at the rows ``start`` ``(...)``."""
    return start[..., None] + np.arange(length)
