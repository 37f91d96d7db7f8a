"""How raw observations and environment actions become what networks see; part of every agent."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline_rl.data.dataset import Dataset
from offline_rl.data.names import FIELDS, Names, checked_names, key_of
from offline_rl.data.rules import LARGEST
from offline_rl.envs.layout import Layout
from offline_rl.envs.tasks import is_d4rls
from offline_rl.errors import AgentError, DatasetError, quoted

FloatArray = NDArray[np.float32]

VECTORS = ("observation_mean", "observation_std", "action_low", "action_high")
D4RL_SCALE = "std + 1e-3"
OWN_SCALE = "std"
"""What a run's record says observations were divided by."""

ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Spread, as a part of an entry's size, that is nothing but rounding: such an entry is constant."""


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """Normalisation of observations and scaling of actions.

    Attributes:
        observation_mean: ``(O,)``, subtracted from observations.
        observation_std: ``(O,)``, by which they are then divided.
        action_low: ``(A,)``, the environment action that networks know as -1.
        action_high: ``(A,)``, the environment action that networks know as +1.
        observation_names: ``(O,)``, what the entries of an observation are called, or None if nobody has named them.
        action_names: ``(A,)``, likewise.
    """

    observation_mean: FloatArray
    observation_std: FloatArray
    action_low: FloatArray
    action_high: FloatArray
    observation_names: Names | None = None
    action_names: Names | None = None

    def __post_init__(self) -> None:
        for name in VECTORS:
            values = getattr(self, name)
            if values.ndim != 1 or not (np.abs(values) <= LARGEST).all():
                raise AgentError(f"{name} is no list of finite numbers up to {LARGEST:g}")
        if (self.observation_std < 1 / LARGEST).any():
            raise AgentError(f"observation_std must be at least {1 / LARGEST:g}; it divides observations")
        if self.action_low.shape == self.action_high.shape and (self.action_low > self.action_high).any():
            raise AgentError("action_low is above action_high")
        for field, size in zip(FIELDS, (len(self.observation_mean), len(self.action_low)), strict=True):
            key = key_of(field)
            object.__setattr__(self, key, checked_names(getattr(self, key), field, size, AgentError))

    @classmethod
    def identity(cls, observation_size: int, action_size: int) -> "Preprocessing":
        """Leave observations as they are and actions in [-1, 1]."""
        return cls(
            observation_mean=np.zeros(observation_size, np.float32),
            observation_std=np.ones(observation_size, np.float32),
            action_low=np.full(action_size, -1, np.float32),
            action_high=np.full(action_size, 1, np.float32),
        )

    @classmethod
    def fit(cls, dataset: Dataset, *, normalize: bool, d4rl: bool | None = None) -> "Preprocessing":
        """Normalise by the mean and the standard deviation of the dataset's observations.

        For D4RL's tasks 1e-3 is added to the deviation, as TD3+BC does. That number has a unit, so other data, of
        whatever scale, goes by its own deviation; an entry that does not vary becomes 0.

        Args:
            dataset: The data.
            normalize: False leaves observations as they are.
            d4rl: Whether it is used for one of D4RL's tasks; by default if the dataset's own task is one.

        Raises:
            DatasetError: An observation varies so little, or a next one lies so far away, that single precision is at
                its end.
        """
        result = replace(
            cls.identity(dataset.observation_size, dataset.action_size),
            observation_names=dataset.observation_names,
            action_names=dataset.action_names,
        )
        if normalize:
            result.observation_mean[:], spread = _moments(dataset.observations)
            by_d4rl = _is_d4rls(dataset) if d4rl is None else d4rl
            result.observation_std[:] = spread + 1e-3 if by_d4rl else _own_scale(dataset, spread)
            if not by_d4rl:
                _check_distance(dataset, result)
        result.action_low[:], result.action_high[:] = dataset.action_bounds
        return result

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocessing":
        """Rebuild from :meth:`to_json`; a float32 survives the way through JSON unchanged."""
        for name in VECTORS:
            if not isinstance(values[name], list):
                raise AgentError(f"{name} is no list of finite numbers; it is {quoted(values[name])}")
            if strange := [value for value in values[name] if isinstance(value, (bool, str))]:
                raise AgentError(f"{name} is no list of finite numbers; it holds {quoted(strange[0])}")
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            found: dict[str, Any] = {name: np.asarray(values[name], np.float32) for name in VECTORS}
        return cls(**found | {key_of(field): values.get(key_of(field)) for field in FIELDS})

    def to_json(self) -> dict[str, Any]:
        """Return the four vectors, and the names if there are some, as lists."""
        return self.vectors() | self.names()

    def vectors(self) -> dict[str, list[float]]:
        """Return the four vectors as lists."""
        return {name: getattr(self, name).tolist() for name in VECTORS}

    def names(self) -> dict[str, list[str]]:
        """Return the names of entries by their keys; those that nobody has given are not there."""
        found = {key_of(field): getattr(self, key_of(field)) for field in FIELDS}
        return {key: list(names) for key, names in found.items() if names}

    @cached_property
    def layout(self) -> Layout | None:
        """How the environment's observations are nested, by their names; None if they are vectors."""
        return Layout.of_names(self.observation_names)

    @property
    def sizes(self) -> tuple[int, int]:
        """O and A; an inconsistent one has a negative size."""
        o, a = len(self.observation_mean), len(self.action_low)
        return (o if len(self.observation_std) == o else -1, a if len(self.action_high) == a else -1)

    def normalized(self, observation: FloatArray) -> FloatArray:
        """Normalise raw observations ``(..., O)`` in float32."""
        return (observation.astype(np.float32, copy=False) - self.observation_mean) / self.observation_std

    def to_network(self, action: FloatArray) -> FloatArray:
        """Map environment actions ``(..., A)`` to [-1, 1]; exact where the range is [-1, 1] already."""
        return (action - self._action_center) / self._action_scale

    def to_environment(self, action: FloatArray) -> FloatArray:
        """Map a network's actions ``(..., A)`` to the environment's range, clipped to it."""
        scaled = action * self._action_scale + self._action_center
        return scaled.clip(self.action_low, self.action_high)

    @property
    def _action_center(self) -> FloatArray:
        return (self.action_high + self.action_low) * np.float32(0.5)

    @property
    def _action_scale(self) -> FloatArray:
        return (self.action_high - self.action_low) * np.float32(0.5)


def _is_d4rls(dataset: Dataset) -> bool:
    """Say whether a dataset's own task is one of D4RL's; one that brings its own environment has another."""
    return dataset.environment is None and is_d4rls(dataset.task)


def _own_scale(dataset: Dataset, spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what divides each entry ``(O,)``: its spread, or what leaves one that does not vary near 0."""
    size = np.maximum(dataset.observations.max(0), -dataset.observations.min(0)).astype(np.float64)
    constant = spread <= ROUNDING * size
    faint = ~constant & (spread < 1 / LARGEST)
    if faint.any():
        entry = int(np.argmax(faint))
        raise DatasetError(
            f"{dataset.name}: observation {_entry(dataset, entry)} varies by {spread[entry]:.3g} only, with which "
            "single precision cannot compute; give it in a smaller unit"
        )
    return np.where(constant, np.maximum(1, ROUNDING * size), spread)


def _moments(observations: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation ``(O,)`` in double precision, to the bit numpy's, with one copy for both."""
    values = observations.astype(np.float64)
    mean = values.mean(0)
    values -= mean
    np.multiply(values, values, out=values)
    return mean, np.sqrt(values.sum(0) / len(values))


def _check_distance(dataset: Dataset, fitted: Preprocessing) -> None:
    """Refuse a next observation whose distance from all observations is beyond any scale of theirs."""
    following = dataset.next_observations
    mean, std = (values.astype(np.float64) for values in (fitted.observation_mean, fitted.observation_std))
    farthest = np.maximum(following.max(0) - mean, mean - following.min(0)) / std
    if (farthest > LARGEST).any():
        entry = int(np.argmax(farthest > LARGEST))
        row = int(np.argmax(np.abs(following[:, entry] - mean[entry])))
        raise DatasetError(
            f"{dataset.name}: next observation {_entry(dataset, entry)} is {following[row, entry]:g} in row {row}, "
            f"{farthest[entry]:g} times the spread of all observations away from them; repair that row"
        )


def _entry(dataset: Dataset, entry: int) -> str:
    names = getattr(dataset, "observation_names", None)
    return f"'{names[entry]}'" if names else f"entry {entry}"
