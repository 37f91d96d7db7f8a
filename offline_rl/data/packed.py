"""A dataset as training reads it: one packed matrix on the device, one gather for a batch."""

import json
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline_rl.data.dataset import Dataset
from offline_rl.data.preprocessing import Preprocessing

T = TypeVar("T")
BLOCK = 65_536
"""Rows that are laid out together."""
ALIGNMENT = 8
TYPES = {"<i8": "I64", "<f8": "F64", "|b1": "BOOL"}
"""What safetensors calls the types of what is known of episodes."""


class Columns(NamedTuple):
    """What rows hold, as views of one packed matrix; ``terminated`` is 0 or 1 as a float."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    next_observation: Tensor


class PackedRows:
    """All transitions of a dataset, preprocessed, in one matrix ``(N, 2 O + A + 2)``.

    Args:
        arrays: What :meth:`pack` returned, as tensors; nothing is copied on a CPU.
        observation_size: O.
        action_size: A.
        device: Where the matrix lives.

    Attributes:
        episode_bounds: ``(E + 1,)`` int64; rows of episode e are ``episode_bounds[e]:episode_bounds[e + 1]``.
        episode_returns: ``(E,)`` float64, of the episodes as recorded.
        episode_complete: ``(E,)`` bool, False for a fragment cut by the end of the recording.
    """

    def __init__(
        self,
        arrays: Mapping[str, Tensor],
        observation_size: int,
        action_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._matrix = arrays["matrix"].to(device)
        self.episode_bounds = arrays["episode_bounds"].numpy()
        self.episode_returns = arrays["episode_returns"].numpy()
        self.episode_complete = arrays["episode_complete"].numpy()
        self._shared: dict[Hashable, Any] = {}
        self._sizes = [observation_size, action_size, 1, 1, observation_size]

    @classmethod
    def pack(cls, dataset: Dataset, preprocessing: Preprocessing) -> dict[str, np.ndarray]:
        """Lay a dataset out for training."""
        matrix = np.empty((len(dataset), _width(dataset)), np.float32)
        for place, block in _blocks(dataset, preprocessing):
            matrix[place] = block
        return {"matrix": matrix, **_episodes(dataset)}

    @classmethod
    def write(cls, dataset: Dataset, preprocessing: Preprocessing, file: IO[bytes]) -> None:
        """Write what :meth:`pack` returns as safetensors, block by block, so that it never lies in memory as a whole.

        Args:
            dataset: The data.
            preprocessing: What networks see of it.
            file: Open for writing, at its beginning.
        """
        others = _episodes(dataset)
        kinds = {"matrix": ("F32", (len(dataset), _width(dataset)), 4)}
        kinds |= {name: (TYPES[array.dtype.str], array.shape, array.itemsize) for name, array in others.items()}
        header, end = {}, 0
        for name, (kind, shape, size) in kinds.items():
            begin, end = end, end + size * math.prod(shape)
            header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        file.write(len(text).to_bytes(8, "little") + text)
        for _, block in _blocks(dataset, preprocessing):
            file.write(np.ascontiguousarray(block).data)
        for array in others.values():
            file.write(np.ascontiguousarray(array).data)

    @staticmethod
    def size_of(dataset: Dataset) -> int:
        """Return about how many bytes the rows take."""
        return 4 * len(dataset) * _width(dataset)

    @classmethod
    def of(cls, dataset: Dataset, preprocessing: Preprocessing, device: torch.device | str = "cpu") -> "PackedRows":
        """Pack a dataset and put it on ``device``: the short way for scripts and tests."""
        arrays = {name: torch.from_numpy(array) for name, array in cls.pack(dataset, preprocessing).items()}
        return cls(arrays, dataset.observation_size, dataset.action_size, device)

    @classmethod
    def empty(cls, observation_size: int, action_size: int, device: torch.device | str = "cpu") -> "PackedRows":
        """Return no rows at all: what an agent begins with that has to collect its own."""
        arrays = {
            "matrix": torch.empty(0, 2 * observation_size + action_size + 2),
            "episode_bounds": torch.zeros(1, dtype=torch.int64),
            "episode_returns": torch.empty(0, dtype=torch.float64),
            "episode_complete": torch.empty(0, dtype=torch.bool),
        }
        return cls(arrays, observation_size, action_size, device)

    @property
    def width(self) -> int:
        """Numbers in a packed row."""
        return self._matrix.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the matrix lives."""
        return self._matrix.device

    def __len__(self) -> int:
        return self._matrix.shape[0]

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what ``make`` returned the first time for ``key``: for what agents on the same rows can share."""
        if key not in self._shared:
            self._shared[key] = make()
        shared: T = self._shared[key]
        return shared

    def columns(self, index: Tensor | None = None) -> Columns:
        """Return the columns of the rows at ``index`` ``(B,)``, or of all rows."""
        return self.split(self._matrix if index is None else self.gather(index))

    def next_actions(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the actions ``(B, A)`` that followed the rows at ``index`` ``(B,)``, and which are known ``(B,)``.

        One is known where the episode goes on and its next row is here: the one whose observation is what the row led
        to. It may have been left out, as D4RL's rows at a time limit are; then the row's own action is returned.
        """
        following = self.shared("following rows", self._following).index_select(0, index)
        return self.columns().action.index_select(0, following), following != index

    def _following(self) -> Tensor:
        """Return the number of the row that follows each row ``(N,)``; its own where there is none."""
        columns, row = self.columns(), torch.arange(len(self), device=self.device)
        leads_on = (columns.next_observation[:-1] == columns.observation[1:]).all(1) & (columns.terminated[:-1] == 0)
        last = torch.zeros(len(self), dtype=torch.bool, device=self.device)
        last[torch.from_numpy(self.episode_bounds[1:] - 1).to(self.device)] = True
        row[:-1] += leads_on & ~last[:-1]
        return row

    def gather(self, index: Tensor) -> Tensor:
        """Return the packed rows at ``index`` ``(B,)``."""
        return self._matrix.index_select(0, index)

    def split(self, rows: Tensor) -> Columns:
        """Return the columns of packed rows."""
        observation, action, reward, terminated, next_observation = torch.split(rows, self._sizes, dim=1)
        return Columns(observation, action, reward[:, 0], terminated[:, 0], next_observation)


def _width(dataset: Dataset) -> int:
    return 2 * dataset.observation_size + dataset.action_size + 2


def _episodes(dataset: Dataset) -> dict[str, np.ndarray]:
    """Return what is known of the episodes; 8-byte numbers first, so that all of a file is aligned."""
    return {
        "episode_bounds": dataset.episode_bounds.copy(),
        "episode_returns": dataset.episode_returns.copy(),
        "episode_complete": dataset.episode_complete.copy(),
    }


def _blocks(dataset: Dataset, preprocessing: Preprocessing) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
    """Yield the packed rows, some at a time, and where they belong."""
    for begin in range(0, len(dataset), BLOCK):
        place = slice(begin, begin + BLOCK)
        yield (
            place,
            packed(
                preprocessing,
                observations=dataset.observations[place],
                actions=dataset.actions[place],
                rewards=dataset.rewards[place],
                terminated=dataset.terminated[place],
                next_observations=dataset.next_observations[place],
            ),
        )


def packed(
    preprocessing: Preprocessing,
    *,
    observations: npt.ArrayLike,
    actions: npt.ArrayLike,
    rewards: npt.ArrayLike,
    terminated: npt.ArrayLike,
    next_observations: npt.ArrayLike,
) -> npt.NDArray[np.float32]:
    """Lay N raw transitions out as rows ``(N, 2 O + A + 2)``."""
    columns = (
        preprocessing.normalized(np.asarray(observations, np.float32)),
        preprocessing.to_network(np.asarray(actions, np.float32)),
        np.asarray(rewards)[:, None],
        np.asarray(terminated)[:, None],
        preprocessing.normalized(np.asarray(next_observations, np.float32)),
    )
    return np.concatenate(columns, axis=1, dtype=np.float32)
