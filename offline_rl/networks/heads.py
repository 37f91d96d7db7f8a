"""Networks as algorithms use them: actors and critics made of MLPs."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from offline_rl.networks.dropout import Dropout
from offline_rl.networks.initializers import Initializer, uniform
from offline_rl.networks.mlp import MLP, Activation, LayerNorm


class DeterministicActor(nn.Module):
    """π(s) = tanh(MLP(s)): one action in (-1, 1) for each observation."""

    def __init__(
        self, observation_size: int, action_size: int, hidden_dims: Sequence[int], *, initializer: Initializer = uniform
    ) -> None:
        super().__init__()
        self.mlp = MLP(observation_size, action_size, hidden_dims, initializer=initializer)

    def initialize(self, generator: np.random.Generator) -> None:
        """Draw all parameters from ``generator``."""
        self.mlp.initialize(generator)

    def forward(self, observation: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Map observations ``(B, O)`` to actions ``(B, A)``, with ``dropout`` on each hidden layer if given."""
        return self.mlp(observation, dropout)[0].tanh()


class Critic(nn.Module):
    """``count`` independent estimates Q(s, a)."""

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden_dims: Sequence[int],
        count: int = 2,
        *,
        initializer: Initializer = uniform,
        layer_norm: LayerNorm = "none",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.mlp = MLP(
            observation_size + action_size,
            1,
            hidden_dims,
            count,
            initializer=initializer,
            layer_norm=layer_norm,
            activation=activation,
        )

    def initialize(self, generator: np.random.Generator) -> None:
        """Draw all parameters from ``generator``."""
        self.mlp.initialize(generator)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Map observations ``(B, O)`` and actions ``(B, A)`` to values ``(count, B)``."""
        return self.mlp(torch.cat((observation, action), 1)).squeeze(-1)

    def frozen(self, observation: Tensor, action: Tensor, count: int | None = None) -> Tensor:
        """Values of the first ``count`` critics, without gradients for their weights."""
        return self.mlp.frozen(torch.cat((observation, action), 1), count).squeeze(-1)

    def action_gradient(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return each critic's ∇ₐ Q(s, a) ``(count, B, A)``, which a loss may hold: it passes gradients to weights."""
        return self.mlp.input_gradient(torch.cat((observation, action), 1))[..., observation.shape[1] :]


class Value(nn.Module):
    """One estimate V(s)."""

    def __init__(
        self, observation_size: int, hidden_dims: Sequence[int], *, initializer: Initializer = uniform
    ) -> None:
        super().__init__()
        self.mlp = MLP(observation_size, 1, hidden_dims, initializer=initializer)

    def initialize(self, generator: np.random.Generator) -> None:
        """Draw all parameters from ``generator``."""
        self.mlp.initialize(generator)

    def forward(self, observation: Tensor) -> Tensor:
        """Map observations ``(B, O)`` to values ``(B,)``."""
        return self.mlp(observation)[0, :, 0]


class Scalar(nn.Module):
    """One number that is learned, such as the logarithm of a temperature."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.empty(()))
        self._start = start

    def initialize(self, generator: np.random.Generator) -> None:
        """Put the number where it starts; nothing is drawn."""
        self.value.data.fill_(self._start)

    def forward(self) -> Tensor:
        """Return the number, without dimensions."""
        return self.value
