"""What an update is given: rows of the dataset, windows of them, and random numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from offline_rl.data.windows import RecordedSteps

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class Normal:
    """A draw from N(0, 1) for each row of a batch; an entry of :meth:`Agent.draws`.

    Attributes:
        size: ``"action"`` or ``"observation"`` for a vector of that size, or a number.
    """

    size: str | int


@dataclass(frozen=True)
class Uniform:
    """A draw from U[0, 1) for each row of a batch; an entry of :meth:`Agent.draws`.

    Attributes:
        size: As :class:`Normal`'s.
    """

    size: str | int


Draw = Normal | Uniform


@dataclass(frozen=True)
class Batch:
    """Some rows of the dataset, or of what was collected online, and the random numbers of one update.

    Attributes:
        observation: ``(B, O)``, normalised.
        action: ``(B, A)`` in [-1, 1].
        reward: ``(B,)``.
        terminated: ``(B,)``, 1 where the episode truly ended, else 0; a time limit is no end.
        next_observation: ``(B, O)``, normalised; meaningless where ``terminated``.
        index: ``(B,)``, the rows' numbers; those from the dataset's size on were collected online.
        draws: What :meth:`Agent.draws` asked for, each ``(B, size)``.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    next_observation: Tensor
    index: Tensor
    draws: Mapping[str, Tensor]


@dataclass(frozen=True)
class NextActionBatch(Batch):
    """Some rows with what was done next, for an algorithm that sets ``needs_next_action``.

    Attributes:
        next_action: ``(B, A)`` in [-1, 1], the recorded action in ``next_observation``; meaningless where unknown.
        next_known: ``(B,)``, 1 where the episode goes on and its next row is among the data, else 0.
    """

    next_action: Tensor
    next_known: Tensor


@dataclass(frozen=True)
class WindowBatch(Batch):
    """Some rows with the steps around them; the fields of :class:`Batch` are those of the rows themselves.

    Attributes:
        steps: ``(B, K + F - 1, ...)``, from the history's first step to the future's last.
        place: K - 1, where the rows stand in ``steps``.
    """

    steps: RecordedSteps
    place: int

    @property
    def history(self) -> RecordedSteps:
        """The last K steps up to and including the rows, ``(B, K, ...)``."""
        return self.steps.part(0, self.place + 1)

    @property
    def future(self) -> RecordedSteps:
        """The F steps from the rows on, ``(B, F, ...)``."""
        return self.steps.part(self.place)


class Length(NamedTuple):
    """How many updates a run has in each phase, for the loop; an algorithm asks ``Agent.steps``, which is noted."""

    offline: int
    online: int
