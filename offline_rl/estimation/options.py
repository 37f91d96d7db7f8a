"""Options of an off-policy estimate."""

from dataclasses import dataclass, field
from typing import Annotated

from offline_rl.errors import AgentError
from offline_rl.settings import AtLeast, Count, Fraction, Positive, conform


@dataclass(frozen=True)
class EstimateOptions:
    """How an agent's value is estimated from recorded episodes."""

    discount: Fraction | None = None
    """Discount factor γ; by default the agent's own setting, else 0.99."""
    updates: Count = 20_000
    """Gradient steps of fitted Q evaluation."""
    members: Annotated[int, AtLeast(2)] = 8
    """Critics, each on a bootstrap sample of the episodes; their spread makes the interval."""
    hidden_dims: Annotated[list[int], AtLeast(1)] = field(default_factory=lambda: [128, 128])
    """Widths of the hidden layers of each critic; none for a linear critic."""
    batch_size: Count = 256
    """Rows in a batch, which all critics share."""
    learning_rate: Positive = 1e-3
    """Adam's learning rate, which falls to 0 along half a cosine."""
    target_rate: Fraction | None = None
    """Rate τ at which targets follow the critics; by default fast enough for the discount and the updates."""
    noise: bool = False
    """Estimate the policy with its exploration noise, instead of the policy that evaluate plays."""
    seed: int = 0
    """Decides initial weights, batches, bootstrap samples and the policy's noise."""

    def __post_init__(self) -> None:
        conform(self, AgentError)
        if self.seed < 0:
            raise AgentError(f"seed is {self.seed}; it must be at least 0")
