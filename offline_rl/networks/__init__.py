"""Networks and the operations under them."""

from offline_rl.networks.gaussian import GaussianActor, SquashedGaussian, SquashedGaussianActor
from offline_rl.networks.heads import Critic, DeterministicActor, Scalar, Value
from offline_rl.networks.mlp import MLP, LayerNorm
from offline_rl.networks.vae import ConditionalVAE

__all__ = [
    "MLP",
    "ConditionalVAE",
    "Critic",
    "DeterministicActor",
    "GaussianActor",
    "LayerNorm",
    "Scalar",
    "SquashedGaussian",
    "SquashedGaussianActor",
    "Value",
]
