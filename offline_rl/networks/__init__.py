"""Networks and the operations under them."""

from offline_rl.networks.heads import Critic, DeterministicActor
from offline_rl.networks.mlp import MLP

__all__ = ["MLP", "Critic", "DeterministicActor"]
