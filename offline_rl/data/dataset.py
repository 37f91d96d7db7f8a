"""Transitions of an offline dataset, and what is known of the episodes they come from."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from offline_rl.data.rows import BoolArray, FloatArray, IntArray, Recording, Selection, checked, exact_rows
from offline_rl.documents import parse_json
from offline_rl.errors import DatasetError

if TYPE_CHECKING:
    from offline_rl.envs.tasks import Task

COLUMNS = ("observations", "actions", "rewards", "next_observations", "terminated", "truncated")
EPISODES = ("episode_returns", "episode_lengths", "episode_complete")
MEASURED_BOUNDS = "action_bounds_measured"
"""Key of the metadata where nobody has stated the bounds of actions, and the data's own lowest and highest stand in."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """N transitions from E episodes, episode after episode, in time order. All arrays are read-only.

    Attributes:
        name: What to call it in tables and messages.
        observations: `(N, O)` float32.
        actions: `(N, A)` float32.
        rewards: `(N,)` float32.
        next_observations: `(N, O)` float32; means nothing where `terminated`.
        terminated: `(N,)` bool, the episode ended in a terminal state: there is no value beyond it.
        truncated: `(N,)` bool, the episode was cut after this row, but could have gone on.
        episode_bounds: `(E + 1,)` int64; rows of episode e are `episode_bounds[e]:episode_bounds[e + 1]`, never none.
        episode_returns: `(E,)` float64, of the episode as recorded, with rows that are not used here.
        episode_lengths: `(E,)` int64, as recorded.
        episode_complete: `(E,)` bool, False for a fragment cut by the end of the recording.
        metadata: JSON values: where the data comes from, how it was read, and the file's own attributes.
    """

    name: str
    observations: FloatArray
    actions: FloatArray
    rewards: FloatArray
    next_observations: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    episode_bounds: IntArray
    episode_returns: npt.NDArray[np.float64]
    episode_lengths: IntArray
    episode_complete: BoolArray
    metadata: dict[str, Any]

    def __post_init__(self) -> None:
        for field in (*COLUMNS, "episode_bounds", *EPISODES):
            getattr(self, field).setflags(write=False)

    def __len__(self) -> int:
        return len(self.rewards)

    def __repr__(self) -> str:
        return (
            f"Dataset('{self.name}', {len(self):,} transitions, {len(self.episode_returns):,} episodes, "
            f"{self.observation_size} observations, {self.action_size} actions)"
        )

    @property
    def observation_size(self) -> int:
        """O, the numbers in an observation."""
        return int(self.observations.shape[1])

    @property
    def action_size(self) -> int:
        """A, the numbers in an action."""
        return int(self.actions.shape[1])

    @property
    def action_bounds(self) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest action, `(A,)` each."""
        bounds = np.array(self.metadata.get("action_bounds", (-1, 1)), np.float32)
        low, high = np.broadcast_to(bounds.reshape(2, -1), (2, self.action_size))
        return low, high

    @property
    def task(self) -> str | None:
        """What names the task: a D4RL id if loaded as one, else the file's `env_id` or `dataset`, else None.

        For data that says which environment it was recorded in, as Minari's does, the id of that.
        """
        named = (self.metadata.get(key) for key in ("task", "env_id", "dataset"))
        first = next((name for name in named if isinstance(name, str) and name), None)
        return first or (self.environment or {}).get("id")

    @property
    def environment(self) -> dict[str, Any] | None:
        """The environment the data was recorded in, if it says so; see `offline_rl.envs.recovered`."""
        return _environment(self.metadata.get("environment"))

    def find_task(self) -> "Task | None":
        """Return the task that agents trained on this data are scored on; None if the data names none.

        Raises:
            TaskError: The task is unknown, or cannot be rebuilt.
        """
        from offline_rl.envs.recovered import recovered_task
        from offline_rl.envs.tasks import find_task

        if self.task is None:
            return None
        if self.environment is None or self.task != self.environment["id"]:
            return find_task(self.task)
        return recovered_task(
            self.environment,
            observation_size=self.observation_size,
            action_size=self.action_size,
            mean_return=self.mean_return,
        )

    @property
    def mean_return(self) -> float:
        """Mean return of the complete episodes; of the fragments if there are only fragments."""
        complete = self.episode_complete if self.episode_complete.any() else np.ones_like(self.episode_complete)
        return float(self.episode_returns[complete].mean())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex over the transitions and the bounds of episodes; name, path and metadata do not matter."""
        digest = hashlib.sha256()
        for field in (*COLUMNS, "episode_bounds"):
            array = getattr(self, field)
            digest.update(f"{field} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def __add__(self, other: "Dataset") -> "Dataset":
        """Put the rows of another dataset of the same robot after the rows of this one.

        The task is this dataset's, or the other's where this one names none.

        Raises:
            DatasetError: The sizes differ, or the two name different robots.
        """
        pair = f"'{self.name}' and '{other.name}' cannot be joined"
        for what in ("observation_size", "action_size"):
            if getattr(self, what) != getattr(other, what):
                sizes = f"{what.replace('_', ' ')}s are {getattr(self, what)} and {getattr(other, what)}"
                raise DatasetError(f"{pair}: their {sizes}; join data of one robot only")
        if self.task and other.task and _robot(self) != _robot(other):
            raise DatasetError(f"{pair}: their tasks are {self.task} and {other.task}; join data of one robot only")
        bounds = _joined_bounds(self, other)
        if bounds is None:
            raise DatasetError(f"{pair}: their action bounds differ; rescale the actions of one of them")
        measured = {MEASURED_BOUNDS: True} if all(MEASURED_BOUNDS in each.metadata for each in (self, other)) else {}
        parts = [self.metadata, other.metadata]
        environment = self.environment or (None if self.task else other.environment)
        return Dataset(
            name=f"{self.name}+{other.name}",
            episode_bounds=np.concatenate([self.episode_bounds, other.episode_bounds[1:] + len(self)]),
            metadata={"task": self.task or other.task, "action_bounds": bounds, "parts": parts, **measured}
            | ({"environment": environment} if environment else {}),
            **{field: np.concatenate([getattr(self, field), getattr(other, field)]) for field in (*COLUMNS, *EPISODES)},
        )

    @classmethod
    def from_arrays(  # noqa: PLR0917
        cls,
        observations: npt.ArrayLike,
        actions: npt.ArrayLike,
        rewards: npt.ArrayLike,
        terminated: npt.ArrayLike,
        truncated: npt.ArrayLike | None = None,
        next_observations: npt.ArrayLike | None = None,
        *,
        name: str = "arrays",
        task: str | None = None,
        action_bounds: tuple[npt.ArrayLike, npt.ArrayLike] = (-1.0, 1.0),
        metadata: dict[str, Any] | None = None,
    ) -> "Dataset":
        """Make a dataset of your own arrays, which are copied.

        Rows are in time order and episodes follow one another; an episode ends where `terminated` or `truncated` is
        set, and at the last row. Without `next_observations` the next row is taken, and a row whose successor is
        unknown (the end of a truncated episode, the last row) is left out unless it is terminated.

        Args:
            observations: `(N, O)`.
            actions: `(N, A)`, within `action_bounds`.
            rewards: `(N,)`.
            terminated: `(N,)`.
            truncated: `(N,)`, or None if no episode was cut.
            next_observations: `(N, O)`, or None.
            name: What to call it.
            task: What names the task, such as "Hopper-v4" or "hopper-medium-v2".
            action_bounds: Lowest and highest action, one number or `(A,)` each.
            metadata: Further JSON values to keep with it.

        Returns:
            The dataset.

        Raises:
            DatasetError: The arrays do not fit each other, are not finite numbers, or leave no transition.
        """
        arrays = {
            "observations": observations,
            "actions": actions,
            "rewards": rewards,
            "terminated": terminated,
            "truncated": truncated,
            "next_observations": next_observations,
        }
        recording = checked(name, arrays, action_bounds=action_bounds)
        described = {**(metadata or {}), "action_bounds": [np.asarray(bound).tolist() for bound in action_bounds]}
        if task:
            described["task"] = task
        return cls.assemble(recording, exact_rows(recording), name=name, metadata=described)

    @classmethod
    def from_table(
        cls,
        table: Mapping[str, npt.ArrayLike],
        *,
        name: str = "table",
        task: str | None = None,
        action_bounds: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> "Dataset":
        """Make a dataset of a table with a row for each step, such as a pandas frame; `load_dataset` reads files of it.

        Columns are `observation_0`, `observation_1`, … (or with other endings), `action_0`, …, `reward`; `terminated`,
        `truncated`, `episode`, at least one of them; and optionally `next_observation_0`, …. See
        `offline_rl.data.tables` for what they mean.

        Args:
            table: Columns by name.
            name: What to call it.
            task: What names the task, such as "Hopper-v4" or "hopper-medium-v2".
            action_bounds: Lowest and highest action, one number or `(A,)` each; by default those in the table, beyond
                which a trained agent then never goes.
            metadata: Further JSON values to keep with it.

        Returns:
            The dataset.

        Raises:
            DatasetError: A column is missing, or holds something that cannot be used.
        """
        from offline_rl.data.tables import from_table

        return from_table(table, name=name, task=task, action_bounds=action_bounds, metadata=metadata)

    @classmethod
    def assemble(
        cls,
        recording: Recording,
        selection: Selection,
        *,
        name: str,
        metadata: dict[str, Any],
        last_episode_cut: bool = False,
    ) -> "Dataset":
        """Make a dataset of the selected rows of a recording.

        An episode of which no row is selected is left out altogether.

        Args:
            recording: The rows as recorded.
            selection: Those to use.
            name: What to call the dataset.
            metadata: JSON values to keep with it.
            last_episode_cut: The recording stopped inside its last episode, even if a flag is set in the last row.

        Returns:
            The dataset.

        Raises:
            DatasetError: No row is selected.
        """
        rows = selection.rows
        if len(rows) == 0:
            raise DatasetError(
                f"{recording.source} has no usable transition among its {len(recording)} rows; "
                "record longer episodes, or use the mode 'exact' with next_observations"
            )
        ends = recording.terminated | recording.truncated
        bounds = np.concatenate([[0], np.flatnonzero(ends[:-1]) + 1, [len(recording)]])
        complete = np.ones(len(bounds) - 1, bool)
        complete[-1] = ends[-1] and not last_episode_cut
        rows_used = np.diff(np.searchsorted(rows, bounds))
        used = rows_used > 0
        return cls(
            name=name,
            observations=recording.observations[rows],
            actions=recording.actions[rows],
            rewards=recording.rewards[rows],
            next_observations=selection.next_observations,
            terminated=selection.terminated,
            truncated=selection.truncated,
            episode_bounds=np.concatenate([[0], np.cumsum(rows_used[used])]),
            episode_returns=np.add.reduceat(recording.rewards.astype(np.float64), bounds[:-1])[used],
            episode_lengths=np.diff(bounds)[used],
            episode_complete=complete[used],
            metadata=metadata,
        )


def _environment(value: Any) -> dict[str, Any] | None:
    """Return the description of an environment, or the JSON text of one; None if it is none."""
    try:
        found = parse_json(value) if isinstance(value, str) else value
        references = found["references"]
        kinds = {"id": str, "kwargs": dict, "max_episode_steps": int | None, "wrappers": list}
        fits = all(isinstance(found[name], kind) for name, kind in kinds.items())
        fits = fits and (references is None or [type(number) for number in references] == [float, float])
        return dict(found) if fits else None
    except (TypeError, KeyError, ValueError):
        return None


def _robot(dataset: Dataset) -> object:
    """Return what must be equal of two datasets that are joined.

    That is the first word of a task's name, "hopper" for both "hopper-medium-v2" and "Hopper-v4"; or an environment of
    the data's own with all that it is made with.
    """
    if dataset.environment:
        return [dataset.environment[key] for key in ("id", "kwargs", "max_episode_steps", "wrappers")]
    return re.split(r"[-_]", (dataset.task or "").lower())[0]


def _joined_bounds(one: Dataset, other: Dataset) -> list[list[float]] | None:
    """Return the action bounds of both datasets; None if they contradict each other.

    Stated bounds hold for measured ones within them; of measured ones, the lower and the higher.
    """
    (low, high), (other_low, other_high) = one.action_bounds, other.action_bounds
    widest = np.stack([np.minimum(low, other_low), np.maximum(high, other_high)])
    stated = [each.action_bounds for each in (one, other) if MEASURED_BOUNDS not in each.metadata]
    return widest.tolist() if all(np.array_equal(widest, bounds) for bounds in stated) else None
