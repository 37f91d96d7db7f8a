"""Transitions of an offline dataset, and what is known of the episodes they come from."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from offline_rl.data.names import FIELDS, Field, Names, checked_names, key_of, labels_of, numbered, places, quoted
from offline_rl.data.rows import Recording, Selection, checked, exact_rows
from offline_rl.data.rules import BoolArray, FloatArray, IntArray
from offline_rl.documents import parse_json
from offline_rl.errors import DatasetError

if TYPE_CHECKING:
    from offline_rl.envs.tasks import Task

COLUMNS = ("observations", "actions", "rewards", "next_observations", "terminated", "truncated")
EPISODES = ("episode_returns", "episode_lengths", "episode_complete")
RECORDED_ENDS = "as recorded"
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
        _ = self.observation_names, self.action_names  # refuses what does not fit

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
    def observation_names(self) -> Names | None:
        """Names of the entries of an observation, `(O,)`: a table's columns; None where nobody has named them."""
        key = key_of("observation")
        return checked_names(
            self.metadata.get(key), "observation", self.observation_size, DatasetError, f"{self.name}: "
        )

    @property
    def action_names(self) -> Names | None:
        """Names of the entries of an action, `(A,)`; None where nobody has named them."""
        key = key_of("action")
        return checked_names(self.metadata.get(key), "action", self.action_size, DatasetError, f"{self.name}: ")

    @property
    def names(self) -> dict[str, list[str]]:
        """The names of columns as JSON values by their keys in the metadata; those that nobody gave are not there."""
        found = {key_of(field): getattr(self, key_of(field)) for field in FIELDS}
        return {key: list(names) for key, names in found.items() if names}

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
    def ends(self) -> str:
        """How the ends of episodes are known: "as recorded", or in words what was made of rows without any."""
        parts = self.metadata.get("parts", [self.metadata])
        said = [part.get("ends") for part in parts if isinstance(part, dict)]
        return " + ".join(dict.fromkeys(text[:200] if isinstance(text, str) else RECORDED_ENDS for text in said))

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
    def whole_returns(self) -> npt.NDArray[np.float64]:
        """Returns of the complete episodes; of the fragments if there are only fragments."""
        return self.episode_returns[self.episode_complete] if self.episode_complete.any() else self.episode_returns

    @property
    def mean_return(self) -> float:
        """Mean of :attr:`whole_returns`; NaN without any episode."""
        return float(self.whole_returns.mean()) if len(self.whole_returns) else math.nan

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

        The task is this dataset's, or the other's where this one names none. Where either has names of columns, the
        other's columns are brought into the order of this one's; columns without names count as `observation_0`, ….

        Raises:
            DatasetError: The sizes or the names of columns differ, or the two name different robots.
        """
        pair = f"'{self.name}' and '{other.name}' cannot be joined"
        names = {field: _joined_names(self, other, field, pair) for field in FIELDS}
        for what in ("observation_size", "action_size"):
            if getattr(self, what) != getattr(other, what):
                sizes = f"{what.replace('_', ' ')}s are {getattr(self, what)} and {getattr(other, what)}"
                raise DatasetError(f"{pair}: their {sizes}; join data of one robot only")
        if self.task and other.task and _robot(self) != _robot(other):
            raise DatasetError(f"{pair}: their tasks are {self.task} and {other.task}; join data of one robot only")
        other = _reordered(other, names)
        bounds = _joined_bounds(self, other)
        if bounds is None:
            raise DatasetError(f"{pair}: their action bounds differ; rescale the actions of one of them")
        measured = {MEASURED_BOUNDS: True} if all(MEASURED_BOUNDS in each.metadata for each in (self, other)) else {}
        parts = [self.metadata, other.metadata]
        environment = self.environment or (None if self.task else other.environment)
        named = {key_of(field): list(own) for field, own in names.items() if own}
        return Dataset(
            name=f"{self.name}+{other.name}",
            episode_bounds=np.concatenate([self.episode_bounds, other.episode_bounds[1:] + len(self)]),
            metadata={"task": self.task or other.task, "action_bounds": bounds, "parts": parts, **measured, **named}
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
        observation_names: Sequence[str] | None = None,
        action_names: Sequence[str] | None = None,
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
            observation_names: `(O,)`, by default the columns where `observations` is a frame; the agent keeps them.
                `next_observations` of a frame are then taken by name, with or without "next_" before it.
            action_names: `(A,)`, likewise.
            metadata: Further JSON values to keep with it.

        Returns:
            The dataset.

        Raises:
            DatasetError: The arrays do not fit each other, are not finite numbers, or leave no transition; or names do
                not fit.
        """
        names: dict[Field, Any] = {
            "observation": _names_given(observation_names, observations),
            "action": _names_given(action_names, actions),
        }
        if names["observation"] is not None and next_observations is not None:
            next_observations = _following(name, next_observations, names["observation"])
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
        for field, size in zip(FIELDS, (recording.observations.shape[1], recording.actions.shape[1]), strict=True):
            if found := checked_names(names[field], field, size, DatasetError, f"{name}: "):
                described[key_of(field)] = list(found)
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
            raise DatasetError(_why_no_rows(recording))
        if recording.ends:
            metadata = {**metadata, "ends": recording.ends}
        ends = recording.terminated | recording.truncated
        bounds = np.concatenate([[0], np.flatnonzero(ends[:-1]) + 1, [len(recording)]])
        complete = np.ones(len(bounds) - 1, bool)
        complete[-1] = ends[-1] and not last_episode_cut
        rows_used = np.diff(np.searchsorted(rows, bounds))
        used = rows_used > 0
        whole = recording.owned and len(rows) == len(recording)
        observations, actions, rewards = (
            column if whole else column[rows]
            for column in (recording.observations, recording.actions, recording.rewards)
        )
        return cls(
            name=name,
            observations=observations,
            actions=actions,
            rewards=rewards,
            next_observations=selection.next_observations,
            terminated=selection.terminated,
            truncated=selection.truncated,
            episode_bounds=np.concatenate([[0], np.cumsum(rows_used[used])]),
            episode_returns=np.add.reduceat(recording.rewards.astype(np.float64), bounds[:-1])[used],
            episode_lengths=np.diff(bounds)[used],
            episode_complete=complete[used],
            metadata=metadata,
        )


def _why_no_rows(recording: Recording) -> str:
    """Return the sentence for a recording of which no row can be used."""
    said = f"{recording.source} has no usable transition among its {len(recording)} rows"
    if recording.next_observations is None and recording.truncated[:-1].all() and not recording.terminated.any():
        return (
            f"{said}: each of its episodes has one step, none is marked terminated and no next observations are given; "
            "one-step episodes need terminated = 1, or next observations"
        )
    return f"{said}; record longer episodes, or use the mode 'exact' with next_observations"


def _environment(value: Any) -> dict[str, Any] | None:
    """Return the description of an environment, or the JSON text of one; None if it is none."""
    try:
        found = parse_json(value) if isinstance(value, str) else value
        references = found["references"]
        kinds = {"id": str, "kwargs": dict, "max_episode_steps": int | None, "wrappers": list}
        fits = all(isinstance(found[name], kind) for name, kind in kinds.items())
        fits = fits and (references is None or [type(number) for number in references] == [float, float])
        return dict(found) if fits else None
    except (TypeError, KeyError, ValueError, RecursionError):
        return None


def _robot(dataset: Dataset) -> object:
    """Return what must be equal of two datasets that are joined.

    That is the first word of a task's name, "hopper" for both "hopper-medium-v2" and "Hopper-v4"; or an environment of
    the data's own with all that it is made with.
    """
    if dataset.environment:
        return [dataset.environment[key] for key in ("id", "kwargs", "max_episode_steps", "wrappers")]
    return re.split(r"[-_]", (dataset.task or "").lower())[0]


def _names_given(names: Sequence[str] | None, values: npt.ArrayLike) -> Sequence[str] | None:
    """Return the names of columns: as given, or those of a frame; None if there are none."""
    if names is not None:
        return names
    labels = labels_of(values) if not isinstance(values, Mapping) else None
    return labels if labels and all(isinstance(label, str) for label in labels) else None


def _following(source: str, values: npt.ArrayLike, names: Sequence[str]) -> npt.ArrayLike:
    """Return next observations in the order of the observations, if both are frames."""
    labels = _names_given(None, values)
    if labels is None:
        return values
    plain = [label if label in names else label.removeprefix("next_") for label in labels]
    order = places(plain, tuple(names), "observation", DatasetError, f"{source}: next_observations", "observations")
    return np.asarray(values)[:, order]


def _joined_names(one: Dataset, other: Dataset, field: Field, pair: str) -> Names | None:
    """Return the names of the columns of two datasets that are joined; None if neither has any."""
    found = [getattr(each, key_of(field)) for each in (one, other)]
    if found == [None, None]:
        return None
    sizes = [getattr(each, f"{field}_size") for each in (one, other)]
    first, second = (own or numbered(field, size) for own, size in zip(found, sizes, strict=True))
    if set(first) != set(second):
        pairs = ((one, first, set(second)), (other, second, set(first)))
        faults = [
            f"only '{each.name}' has {quoted(alone)}"
            for each, own, others in pairs
            if (alone := [name for name in own if name not in others])
        ]
        unnamed = "" if all(found) else " (a part without names has numbered ones)"
        raise DatasetError(f"{pair}: {' and '.join(faults)}{unnamed}; name the columns of both alike")
    return tuple(first)


def _reordered(dataset: Dataset, names: Mapping[Field, Names | None]) -> Dataset:
    """Return a dataset whose columns, which have these names, are in their order."""
    columns: dict[str, Any] = {}
    metadata = dict(dataset.metadata)
    for field, order in names.items():
        own = getattr(dataset, key_of(field)) or numbered(field, getattr(dataset, f"{field}_size"))
        if order is None or own == order:
            continue
        at = {name: place for place, name in enumerate(own)}
        place = [at[name] for name in order]
        for column in (f"{field}s", f"next_{field}s"):
            if column in COLUMNS:
                columns[column] = np.ascontiguousarray(getattr(dataset, column)[:, place])
        metadata[key_of(field)] = list(order)
        if field == "action":
            metadata["action_bounds"] = [bound[place].tolist() for bound in dataset.action_bounds]
    return replace(dataset, metadata=metadata, **columns) if columns else dataset


def _joined_bounds(one: Dataset, other: Dataset) -> list[list[float]] | None:
    """Return the action bounds of both datasets; None if they contradict each other.

    Stated bounds hold for measured ones within them; of measured ones, the lower and the higher.
    """
    (low, high), (other_low, other_high) = one.action_bounds, other.action_bounds
    widest = np.stack([np.minimum(low, other_low), np.maximum(high, other_high)])
    stated = [each.action_bounds for each in (one, other) if MEASURED_BOUNDS not in each.metadata]
    return widest.tolist() if all(np.array_equal(widest, bounds) for bounds in stated) else None
