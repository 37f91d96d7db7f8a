"""How raw observations and environment actions become what networks see; part of every agent."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline_rl.data.dataset import Dataset
from offline_rl.errors import AgentError

FloatArray = NDArray[np.float32]

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
    """

    observation_mean: FloatArray
    observation_std: FloatArray
    action_low: FloatArray
    action_high: FloatArray

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            if values.ndim != 1 or not (np.abs(values) <= LARGEST).all():
                raise AgentError(f"{field.name} is no list of finite numbers up to {LARGEST:g}")
        if (self.observation_std < 1 / LARGEST).any():
            raise AgentError(f"observation_std must be at least {1 / LARGEST:g}; it divides observations")
        if self.action_low.shape == self.action_high.shape and (self.action_low > self.action_high).any():
            raise AgentError("action_low is above action_high")

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
        result = cls.identity(dataset.observation_size, dataset.action_size)
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
            return cls(**{field.name: np.asarray(values[field.name], np.float32) for field in fields(cls)})

    def to_json(self) -> dict[str, list[float]]:
        """Return the four vectors as lists."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

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
