"""How raw observations and environment actions become what networks see; part of every agent."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline_rl.data.dataset import Dataset
from offline_rl.data.names import FIELDS, Names, checked_names, key_of
from offline_rl.errors import AgentError

FloatArray = NDArray[np.float32]

VECTORS = ("observation_mean", "observation_std", "action_low", "action_high")
LARGEST = 1e12
"""Mean, spread or bound beyond which, or below whose inverse, single precision is at its end."""


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
    def fit(cls, dataset: Dataset, *, normalize: bool) -> "Preprocessing":
        """Normalise by mean and standard deviation + 1e-3 of the dataset's observations, as TD3+BC does."""
        result = replace(
            cls.identity(dataset.observation_size, dataset.action_size),
            observation_names=dataset.observation_names,
            action_names=dataset.action_names,
        )
        if normalize:
            observations = dataset.observations.astype(np.float64)
            result.observation_mean[:] = observations.mean(0)
            result.observation_std[:] = observations.std(0) + 1e-3
        result.action_low[:], result.action_high[:] = dataset.action_bounds
        return result

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocessing":
        """Rebuild from :meth:`to_json`; a float32 survives the way through JSON unchanged."""
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
