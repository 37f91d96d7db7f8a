"""A variational autoencoder of actions given a state, as BCQ and its descendants use it.

Its sizes and bounds are those of the code of BCQ (Scott Fujimoto, David Meger, Doina Precup. Off-Policy Deep
Reinforcement Learning without Exploration. ICML 2019, arXiv 1812.02900).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from offline_rl.networks.mlp import MLP

LOG_STD_BOUNDS = -4.0, 15.0
"""Where the logarithm of the latent's standard deviation is cut."""


class ConditionalVAE(nn.Module):
    """An encoder (s, a) → N(mean, std²) of latents ``(B, L)``, and a decoder (s, latent) → action in (-1, 1).

    Args:
        observation_size: O.
        action_size: A.
        hidden_dims: Widths of the hidden layers of the encoder, and of the decoder.
        latent_size: L; by default 2 A.
    """

    def __init__(
        self, observation_size: int, action_size: int, hidden_dims: Sequence[int], latent_size: int | None = None
    ) -> None:
        super().__init__()
        self.latent_size = 2 * action_size if latent_size is None else latent_size
        # One last layer of width 2 L is two linear heads of width L: same inputs, same bound of initial weights.
        self.encoder = MLP(observation_size + action_size, 2 * self.latent_size, hidden_dims)
        self.decoder = MLP(observation_size + self.latent_size, action_size, hidden_dims)

    def initialize(self, generator: np.random.Generator) -> None:
        """Draw all parameters from ``generator``."""
        self.encoder.initialize(generator)
        self.decoder.initialize(generator)

    def forward(self, observation: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode actions, draw latents, and decode them.

        Args:
            observation: ``(B, O)``.
            action: ``(B, A)``.
            noise: ``(B, L)`` from N(0, 1).

        Returns:
            The reconstructed actions ``(B, A)``, and the mean and the log-std of the latents, each ``(B, L)``.
        """
        mean, log_std = self.encode(observation, action)
        return self.decode(observation, mean + log_std.exp() * noise), mean, log_std

    def frozen(self, observation: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """Return the reconstructed actions ``(B, A)``; parameters are constants, the action's gradient is computed."""
        mean, log_std = self.encode(observation, action, frozen=True)
        return self.decode(observation, mean + log_std.exp() * noise, frozen=True)

    def encode(self, observation: Tensor, action: Tensor, *, frozen: bool = False) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-std of the latents, each ``(B, L)``; ``frozen`` makes parameters constants."""
        heads = _of(self.encoder, frozen)(torch.cat((observation, action), 1))[0]
        mean, log_std = heads.chunk(2, 1)
        return mean, log_std.clamp(*LOG_STD_BOUNDS)

    def decode(self, observation: Tensor, latent: Tensor, *, frozen: bool = False) -> Tensor:
        """Return the actions ``(B, A)`` of latents ``(B, L)``; ``frozen`` makes parameters constants."""
        return _of(self.decoder, frozen)(torch.cat((observation, latent), 1))[0].tanh()


def kl_divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """Return KL(N(mean, std²) ‖ N(0, 1)) of latents ``(B, L)``, averaged over rows and entries."""
    return (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).mean() / 2


def _of(network: MLP, frozen: bool) -> Callable[[Tensor], Tensor]:
    return network.frozen if frozen else network
