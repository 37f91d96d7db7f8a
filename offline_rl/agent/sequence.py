"""Algorithms that learn from windows of episodes, and act on the last steps instead of one observation alone.

They share the settings of their transformers and optimiser, a history of the episodes in play, and target returns.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from offline_rl.agent.base import Agent
from offline_rl.agent.config import AgentConfig
from offline_rl.data.history import History
from offline_rl.data.windows import Steps, Windows
from offline_rl.errors import AgentError
from offline_rl.settings import AtLeast, AtMost, Count, NonNegative, Positive

LONGEST = 1_000_000
"""Steps that a window may have at most."""


@dataclass(frozen=True)
class SequenceConfig(AgentConfig):
    """Settings of algorithms with transformers; the defaults are the Decision Transformer's."""

    batch_size: Count = 64
    """Windows in a batch, drawn uniformly with replacement from all those of complete episodes."""
    encoder: Literal["transformer", "mlp"] = "transformer"
    """What reads windows: transformers, or quick MLPs with ``hidden_dims`` that see one state of the past."""
    width: Count = 128
    """Size of a transformer's features."""
    layers: Count = 3
    """Blocks of a transformer."""
    heads: Count = 1
    """Attention heads in each block."""
    dropout: Annotated[float, AtLeast(0), AtMost(0.99)] = 0.1
    """Share of a transformer's activations that each update drops."""
    learning_rate: Positive = 1e-4
    """AdamW's learning rate."""
    warmup: Annotated[float, AtLeast(0), AtMost(0.99)] = 0.1
    """Share of the run in which the learning rate grows to its value."""
    weight_decay: NonNegative = 1e-4
    """AdamW's weight decay."""
    gradient_clip: Positive = 0.25
    """Longest gradient of all that AdamW moves; a longer one is shortened to it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder == "transformer" and self.width % self.heads:
            raise AgentError(f"heads is {self.heads}; it must divide width, which is {self.width}")

    @property
    def transformer(self) -> dict[str, Any]:
        """The size of a transformer, as its class takes it."""
        return {"width": self.width, "layers": self.layers, "heads": self.heads}

    @property
    def adamw(self) -> dict[str, Any]:
        """The optimiser's settings but the learning rate, as :meth:`offline_rl.agent.Agent.optimizer` takes them."""
        return {"warmup": self.warmup, "weight_decay": self.weight_decay, "gradient_clip": self.gradient_clip}


class SequenceAgent(Agent):
    """Base of algorithms whose updates see windows of episodes and whose policy sees the last K steps.

    Besides what every algorithm writes, ``build_policy`` sets ``history``, ``build_learner`` sets ``windows``, and
    :meth:`policy` begins with ``self.history.append_observation(observation)``, which returns the last steps, and ends
    with ``self.history.set_action(action)``. :meth:`on_window` does the same for a history that is given.

    Attributes:
        history: The last K steps of the episodes in play.
        windows: K steps before and F steps after each row of a batch; :meth:`update` gets a :class:`WindowBatch`.
    """

    history: History
    windows: Windows
    window_fields: ClassVar[tuple[str, ...]] = ()
    """Fields of ``Steps`` that :meth:`on_window` reads."""
    memory_size: int = 0
    """M, numbers that :meth:`on_window` keeps from step to step besides the history; ``build_policy`` may set it."""
    target: np.ndarray = np.asarray(0)
    """Which of :meth:`target_labels` each environment asks for, one index or ``(E,)``; :meth:`reset` sets it."""

    def on_window(self, steps: Steps, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Act as ``policy`` does, on a history that is given, padded on the left; exported files are made of it.

        Args:
            steps: ``(B, K, ...)``, of which ``window_fields`` have a meaning. ``return_to_go`` is what is asked for.
            memory: ``(B, M)``, what was returned for the step before; it means nothing at an episode's first step.

        Returns:
            The newest actions ``(B, A)`` in [-1, 1], and the numbers ``(B, M)`` to keep for the next step.
        """
        raise AgentError(f"{self.name} does not say how it acts on a given history, so it cannot be exported")

    def memory(self) -> Tensor:
        """Return what ``policy`` keeps besides the history ``(B, M)``, as :meth:`on_window` returns it."""
        return torch.zeros(0)

    def target_return(self) -> Tensor | None:
        """Return the return that is asked for, ``(1, 1)`` or one for each environment ``(E, 1)``; None if none is."""
        return None

    @classmethod
    def target_labels(cls, config: Any) -> Sequence[str]:
        """Label the target returns that an evaluation asks for; one, unnamed, if there are none."""
        return ("",)

    def reset(
        self,
        mask: np.ndarray | None = None,
        target: int | np.ndarray = 0,
        *,
        condition: int | np.ndarray | None = None,
    ) -> None:
        """Forget the episodes that have ended, and say which return the new ones ask for.

        Args:
            mask: ``(B,)``, True for the environments where an episode begins; None for all, of which there may then be
                another number than before.
            target: Which of :meth:`target_labels`, one index or ``(B,)``; kept where only some are reset.
            condition: The earlier name of ``target``.

        Raises:
            AgentError: There is no such target return, or the mask is of another number of environments.
        """
        if condition is not None:
            warnings.warn("reset(condition=...) is now reset(target=...)", DeprecationWarning, stacklevel=2)
            target = condition
        if mask is None:
            known = len(self.target_labels(self.config))
            self.target = np.asarray(target)
            if ((self.target < 0) | (self.target >= known)).any():
                raise AgentError(f"target is {target}; {self.name} has {known} target returns, counted from 0")
        self.history.reset(mask)

    def act(
        self, observation: Any, reward: np.ndarray | float | None = None, *, deterministic: bool = True
    ) -> np.ndarray:
        """As :meth:`Agent.act`; the observation joins the history, and ``reward`` is what the last actions earned."""
        raw = self._raw(observation)
        self.history.set_reward(reward)
        return super().act(raw, deterministic=deterministic)


def target_labels(algorithm: type[Agent], config: Any) -> Sequence[str]:
    """Label the target returns that an evaluation of any algorithm asks for; one, unnamed, where there are none."""
    return algorithm.target_labels(config) if issubclass(algorithm, SequenceAgent) else ("",)
