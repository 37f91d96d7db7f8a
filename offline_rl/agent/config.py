"""The settings that every algorithm has, and their limits."""

import typing
from dataclasses import dataclass, field

from offline_rl.errors import AgentError
from offline_rl.settings import conform, require


@dataclass(frozen=True)
class AgentConfig:
    """Settings that every algorithm has."""

    hidden_dims: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the hidden layers of every network."""
    batch_size: int = 256
    """Rows in a batch, drawn uniformly with replacement."""
    normalize: bool = True
    """Normalise observations by the dataset's mean and standard deviation."""

    def __post_init__(self) -> None:
        conform(self, AgentError)
        self.require("batch_size", "hidden_dims", at_least=1)

    def require(self, *names: str, **limits: float) -> None:
        """Refuse settings outside ``at_least``, ``above`` or ``at_most``; for ``__post_init__``."""
        require(self, AgentError, *names, **limits)


def decimals(config_class: type[AgentConfig], *but: str) -> tuple[str, ...]:
    """Name the settings that hold a decimal number, but for some."""
    hints = typing.get_type_hints(config_class)
    return tuple(name for name, kind in hints.items() if kind is float and name not in but)
