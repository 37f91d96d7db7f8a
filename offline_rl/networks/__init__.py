"""Networks and the operations under them."""

from offline_rl.networks.gaussian import GaussianActor, SquashedGaussian, SquashedGaussianActor
from offline_rl.networks.heads import Critic, DeterministicActor, Scalar, Value
from offline_rl.networks.mlp import MLP
from offline_rl.networks.vae import ConditionalVAE

__all__ = [
    "MLP",
    "ConditionalVAE",
    "Critic",
    "DeterministicActor",
    "GaussianActor",
    "Scalar",
    "SquashedGaussian",
    "SquashedGaussianActor",
    "Value",
]
