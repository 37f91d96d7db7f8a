import math

import pytest
import torch
from parity.harness import Layers, check_float32, check_float64, layers_of

from offline_rl.algos.fql import FQL, Config

SMALL = {"batch_size": 48, "hidden_dims": [40, 32]}
TUNED = {
    "alpha": 0.3,
    "normalize_q_loss": True,
    "q_aggregation": "min",
    "flow_steps": 4,
    "layer_norm": False,
    "discount": 0.95,
    "target_rate": 0.1,
    "learning_rate": 1e-3,
    "reward_scale": 3.0,
    "reward_shift": -1.0,
}
SETTINGS = [SMALL, {**SMALL, **TUNED}, {**SMALL, "normalize_q_loss": True, "hidden_dims": [24, 24, 24]}]


def gelu(x):
    """Hendrycks & Gimpel 2016, the approximation by tanh."""
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class GeluLayers(Layers):
    """A plain network with GELU; where ``norms`` are given, each hidden layer is normalised after it."""

    def __init__(self, views, group=None, norms=()):
        super().__init__([*views, *norms], group)
        self.depth = len(views)

    def __call__(self, x):
        for layer in range(0, self.depth - 2, 2):
            x = gelu(x @ self.tensors[layer].T + self.tensors[layer + 1])
            if len(self.tensors) > self.depth:
                centred = x - x.mean(1, keepdim=True)
                scale, shift = self.tensors[self.depth + layer : self.depth + layer + 2]
                x = scale * centred / ((centred**2).mean(1, keepdim=True) + 1e-6) ** 0.5 + shift
        return x @ self.tensors[self.depth - 2].T + self.tensors[self.depth - 1]


def critic_of(network, member, group=None):
    norms = [norm[member].detach() for norm in network.mlp.norms]
    return GeluLayers(layers_of(network, member), group, norms)


class PlainFQL:
    """FQL as its authors' program does it: one loss of all networks, differentiated once, and one optimiser."""

    def __init__(self, agent):
        self.c = agent.config
        self.actor, self.flow = (
            GeluLayers([layer[0].detach() for layer in network.layers], agent.groups[name])
            for name, network in (("actor", agent.actor), ("flow", agent.flow))
        )
        self.critics = [critic_of(agent.critic, member, agent.groups["critic"]) for member in range(2)]
        self.target_critics = [critic_of(agent.target_critic, member) for member in range(2)]

    def update(self, b, step):
        losses = {"critic": self.critic_loss(b), "flow": self.flow_loss(b), "actor": self.actor_loss(b)}
        networks = [self.actor, self.flow, *self.critics]
        everything = [tensor for network in networks for tensor in network.tensors]
        found = iter(torch.autograd.grad(sum(losses.values()), everything))
        gradients = [[next(found) for _ in network.tensors] for network in networks]
        for target, critic in zip(self.target_critics, self.critics, strict=True):
            target.follow(critic, self.c.target_rate)
        for network, gradient in zip(networks, gradients, strict=True):
            network.adam(gradient, self.c.learning_rate)
        return losses, {"actor": gradients[0], "flow": gradients[1], "critic": interleaved(gradients[2:])}

    def critic_loss(self, b):
        action = torch.clip(self.actor(torch.cat([b.next_observation, b.draws["target"]], 1)), -1, 1)
        pair = torch.cat([b.next_observation, action], 1)
        values = [critic(pair)[:, 0] for critic in self.target_critics]
        value = torch.minimum(*values) if self.c.q_aggregation == "min" else (values[0] + values[1]) / 2
        reward = self.c.reward_scale * b.reward + self.c.reward_shift
        y = (reward + self.c.discount * (1 - b.terminated) * value).detach()
        pair = torch.cat([b.observation, b.action], 1)
        return sum(((critic(pair)[:, 0] - y) ** 2).mean() for critic in self.critics) / 2

    def flow_loss(self, b):
        start, time = b.draws["start"], b.draws["time"]
        x = (1 - time) * start + time * b.action
        return ((self.flow(torch.cat([b.observation, x, time], 1)) - (b.action - start)) ** 2).mean()

    def actor_loss(self, b):
        noise = b.draws["policy"]
        x = noise
        for number in range(self.c.flow_steps):
            time = torch.full((len(x), 1), number / self.c.flow_steps, dtype=torch.float64)
            x = x + self.flow(torch.cat([b.observation, x, time], 1)).detach() / self.c.flow_steps
        action = self.actor(torch.cat([b.observation, noise], 1))
        distillation = ((action - torch.clip(x, -1, 1)) ** 2).mean()
        pair = torch.cat([b.observation, torch.clip(action, -1, 1)], 1)
        frozen = [constant(critic) for critic in self.critics]
        q = (frozen[0](pair)[:, 0] + frozen[1](pair)[:, 0]) / 2
        weight = 1 / q.abs().mean().detach() if self.c.normalize_q_loss else 1.0
        return self.c.alpha * distillation - weight * q.mean()


def constant(critic):
    """Copy a network without its gradients."""
    copy = GeluLayers([])
    copy.tensors, copy.depth = [tensor.detach() for tensor in critic.tensors], critic.depth
    return copy


def interleaved(per_critic):
    """Order two critics' tensors as the stacked critics' parameters are: layer by layer, both critics in each."""
    return [torch.stack(two) for two in zip(*per_critic, strict=True)]


def weights(agent, plain):
    return {
        "actor": (agent.actor.parameters(), plain.actor.tensors),
        "flow": (agent.flow.parameters(), plain.flow.tensors),
        "critics": (agent.critic.parameters(), interleaved([c.tensors for c in plain.critics])),
        "target critics": (agent.target_critic.parameters(), interleaved([c.tensors for c in plain.target_critics])),
    }


@pytest.mark.parametrize("settings", SETTINGS)
def test_fql_in_float64(settings):
    check_float64(FQL(Config(**settings), 11, 3, dtype=torch.float64), PlainFQL, weights)


@pytest.mark.parametrize("settings", SETTINGS)
def test_fql_in_float32(settings):
    check_float32(FQL(Config(**settings), 11, 3), PlainFQL, weights)
