import dataclasses
import math

import pytest
import torch
from parity.harness import Layers, NormedLayers, check_float32, check_float64, layers_of, make_batches, saturate
from parity.test_td3_bc import interleaved

from offline_rl.algos.cql import CQL, Config

SMALL = {"hidden_dims": [48, 40], "batch_size": 24}
CASES = {
    "plain": {**SMALL, "num_actions": 10},
    "wide": {"batch_size": 32, "num_actions": 2},
    "tuned": {
        **SMALL,
        "hidden_dims": [40, 48, 32],
        "num_actions": 3,
        "conservative_weight": 0.7,
        "discount": 0.9,
        "target_rate": 0.05,
        "reward_scale": 3.0,
        "reward_shift": -1.0,
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 2e-3,
        "temperature_learning_rate": 5e-2,
    },
    "normalised": {**SMALL, "num_actions": 4, "layer_norm": True},
}


class PlainPolicy:
    """A tanh of normal variables, whose log-std is a learned line in half of an MLP's output."""

    def __init__(self, actor, group=None):
        self.net = Layers(layers_of(actor), group)
        self.line = Layers(list(actor.spread), group)

    @property
    def tensors(self):
        return self.net.tensors + self.line.tensors

    def __call__(self, x, noise):
        """Return actions and their log-likelihoods, from the density of a normal variable and the slope of tanh."""
        output = self.net(x)
        size = output.shape[1] // 2
        log_std = torch.clip(self.line.tensors[0] * output[:, size:] + self.line.tensors[1], -20, 2)
        distribution = torch.distributions.Normal(output[:, :size], torch.exp(log_std))
        u = output[:, :size] + torch.exp(log_std) * noise
        slope = 4 / (torch.exp(u) + torch.exp(-u)) ** 2
        return torch.tanh(u), (distribution.log_prob(u) - torch.log(slope)).sum(1)

    def adam(self, gradient, learning_rate):
        self.net.adam(gradient[:-2], learning_rate)
        self.line.adam(gradient[-2:], learning_rate)


class PlainCQL:
    """CQL with importance weights, as JaxCQL's program states it, one kind of action after the other."""

    def __init__(self, agent):
        self.c = agent.config
        self.sizes = agent.action_size, agent.config.num_actions
        self.critics = [critic_of(agent.critic, member, agent.groups["critic"]) for member in range(2)]
        self.target_critics = [critic_of(agent.target_critic, member) for member in range(2)]
        self.policy = PlainPolicy(agent.actor, agent.groups["actor"])
        self.log_temperature = Layers([agent.log_temperature.value], agent.groups["temperature"])

    def update(self, b, step):
        b = dataclasses.replace(
            b,
            action=torch.clip(b.action, -0.999, 0.999),
            reward=self.c.reward_scale * b.reward + self.c.reward_shift,
        )
        losses, gradients = self.all_losses(b)
        self.step(losses, gradients)
        return losses, gradients

    def all_losses(self, b):
        return self.base_losses(b, b.observation, b.next_observation, 1.0)

    def base_losses(self, b, inputs, next_inputs, q_weight):
        """Return losses and gradients; the policy reads ``inputs``, the critics observations."""
        action, log_likelihood = self.policy(inputs, b.draws["policy"])
        log_temperature = self.log_temperature.tensors[0]
        q = self.smaller(self.critics, b.observation, action)
        losses = {
            "actor": (torch.exp(log_temperature).detach() * log_likelihood - q_weight * q).mean(),
            "temperature": -log_temperature * (log_likelihood.detach() - self.sizes[0]).mean(),
            "critic": self.critic_loss(b, inputs, next_inputs),
        }
        per_critic = [torch.autograd.grad(losses["critic"], c.tensors, retain_graph=True) for c in self.critics]
        gradients = {
            "actor": torch.autograd.grad(losses["actor"], self.policy.tensors),
            "temperature": torch.autograd.grad(losses["temperature"], self.log_temperature.tensors),
            "critic": interleaved(per_critic),
        }
        return losses, gradients

    def critic_loss(self, b, inputs, next_inputs):
        next_action, _ = self.policy(next_inputs, b.draws["target"])
        bootstrap = self.smaller(self.target_critics, b.next_observation, next_action)
        y = (b.reward + self.c.discount * (1 - b.terminated) * bootstrap).detach()
        pair = torch.cat([b.observation, b.action], 1)
        candidates = list(self.candidates(b, inputs, next_inputs))
        loss = 0
        for critic in self.critics:
            q = critic(pair)[:, 0]
            exponents = [critic(torch.cat([b.observation, a], 1))[:, 0] - density for a, density in candidates]
            conservative = torch.log(torch.exp(torch.stack(exponents)).sum(0)) - q
            loss = loss + ((q - y) ** 2).mean() + self.c.conservative_weight * conservative.mean()
        return loss

    def candidates(self, b, inputs, next_inputs):
        """Give the sampled actions and their log-densities, one after the other."""
        size, count = self.sizes
        for number in range(count):
            part = slice(number * size, (number + 1) * size)
            yield 2 * b.draws["random"][:, part] - 1, math.log(0.5**size)
            for name, source in (("current", inputs), ("next", next_inputs)):
                action, log_likelihood = self.policy(source, b.draws[name][:, part])
                yield action.detach(), log_likelihood.detach()

    def smaller(self, critics, observation, action):
        pair = torch.cat([observation, action], 1)
        return torch.minimum(critics[0](pair), critics[1](pair))[:, 0]

    def step(self, losses, gradients):
        self.policy.adam(gradients["actor"], self.c.actor_learning_rate)
        self.log_temperature.adam(gradients["temperature"], self.c.temperature_learning_rate)
        for member, critic in enumerate(self.critics):
            own = [gradient[member] for gradient in gradients["critic"]]
            critic.adam(own, self.c.critic_learning_rate)
            self.target_critics[member].follow(critic, self.c.target_rate)


def critic_of(critic, member, group=None):
    norms = [norm[member].detach() for norm in critic.mlp.norms]
    return NormedLayers(layers_of(critic, member), norms, group) if norms else Layers(layers_of(critic, member), group)


def cql_weights(agent, plain):
    return {
        "actor": (agent.actor.parameters(), plain.policy.tensors),
        "temperature": (agent.log_temperature.parameters(), plain.log_temperature.tensors),
        "critics": (agent.critic.parameters(), interleaved([c.tensors for c in plain.critics])),
        "target critics": (agent.target_critic.parameters(), interleaved([c.tensors for c in plain.target_critics])),
    }


def prepared(case, dtype):
    agent = CQL(Config(**CASES[case]), 11, 3, dtype=dtype)
    return agent, saturate(make_batches(agent))


@pytest.mark.parametrize("case", CASES)
def test_cql_in_float64(case):
    agent, batches = prepared(case, torch.float64)
    check_float64(agent, PlainCQL, cql_weights, batches)


@pytest.mark.parametrize("case", CASES)
def test_cql_in_float32(case):
    agent, batches = prepared(case, torch.float32)
    check_float32(agent, PlainCQL, cql_weights, batches)
