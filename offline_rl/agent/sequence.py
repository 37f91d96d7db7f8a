"""What algorithms that learn from windows of episodes share: the settings of their transformers and optimiser."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from offline_rl.agent import AgentConfig
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
    """What reads windows: transformers, or quick perceptrons with ``hidden_dims`` that see one state of the past."""
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
