import math

import numpy as np
import pytest
import torch
from helpers.datasets import random_dataset
from parity.harness import Layers, check_float32, check_float64, layers_of, make_batches, saturate
from parity.test_td3_bc import interleaved

from offline_rl.algos.iql import IQL, Config
from offline_rl.data import Dataset
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.networks import GaussianActor

TUNED = {
    "expectile": 0.9,
    "beta": 10.0,
    "weight_limit": 4.0,
    "discount": 0.9,
    "target_rate": 0.05,
    "reward_shift": -1.0,
    "hidden_dims": [64, 48, 32],
    "batch_size": 100,
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 2e-3,
    "value_learning_rate": 5e-4,
}
SMALL = {"hidden_dims": [64, 48], "batch_size": 64}
CASES = {
    "plain": ({}, {}),
    "tuned": (TUNED, {}),
    "raw rewards": ({**SMALL, "scale_rewards": False}, {"online_steps": 10}),
    "decaying": ({**SMALL, "actor_learning_rate": 3e-3}, {"steps": 15}),
    "deterministic": ({**SMALL, "deterministic": True}, {"steps": 30}),
    "narrow": ({**SMALL, "weight_limit": 2.0}, {"log_std": (-6.0, 0.5, 2.5)}),
}


class PlainIQL:
    """IQL as its paper and its authors' program state it."""

    def __init__(self, agent):
        self.agent, self.c = agent, agent.config
        self.value = Layers(layers_of(agent.value), agent.groups["value"])
        self.critics = [Layers(layers_of(agent.critic, member), agent.groups["critic"]) for member in range(2)]
        self.target_critics = [Layers(layers_of(agent.target_critic, member)) for member in range(2)]
        self.actor = Layers(layers_of(agent.actor), agent.groups["actor"])
        if isinstance(agent.actor, GaussianActor):
            self.log_std = Layers([agent.actor.free_log_std], agent.groups["actor"])
        self.scale = 1000 / return_range(agent.test_dataset) if self.c.scale_rewards else 1.0

    def update(self, b, step):
        losses, gradients = {}, {}
        action = torch.clip(b.action, -1 + 1e-5, 1 - 1e-5)
        pair = torch.cat([b.observation, action], 1)
        q = torch.minimum(self.target_critics[0](pair), self.target_critics[1](pair))[:, 0].detach()

        difference = q - self.value(b.observation)[:, 0]
        weight = torch.where(difference > 0, torch.full_like(q, self.c.expectile), 1 - self.c.expectile)
        losses["value"] = (weight * difference**2).mean()
        gradients["value"] = torch.autograd.grad(losses["value"], self.value.tensors)
        self.value.adam(gradients["value"], self.c.value_learning_rate)

        advantage = (q - self.value(b.observation)[:, 0]).detach()
        losses["actor"], gradients["actor"] = self.actor_step(b, action, advantage)

        reward = self.scale * b.reward + self.c.reward_shift
        y = (reward + self.c.discount * (1 - b.terminated) * self.value(b.next_observation)[:, 0]).detach()
        loss = ((self.critics[0](pair)[:, 0] - y) ** 2 + (self.critics[1](pair)[:, 0] - y) ** 2).mean()
        per_critic = [torch.autograd.grad(loss, critic.tensors, retain_graph=True) for critic in self.critics]
        for critic, gradient in zip(self.critics, per_critic, strict=True):
            critic.adam(gradient, self.c.critic_learning_rate)
        losses["critic"], gradients["critic"] = loss, interleaved(per_critic)
        for target, critic in zip(self.target_critics, self.critics, strict=True):
            target.follow(critic, self.c.target_rate)
        return losses, gradients

    def actor_step(self, b, action, advantage):
        weight = torch.clip(torch.exp(self.c.beta * advantage), max=self.c.weight_limit)
        mean = torch.tanh(self.actor(b.observation))
        if self.c.deterministic:
            loss = (weight * ((mean - action) ** 2).sum(1)).mean()
            gradient = torch.autograd.grad(loss, self.actor.tensors)
            self.actor.adam(gradient, self.learning_rate())
            return loss, gradient
        loss = -(weight * normal(mean, self.log_std.tensors[0]).log_prob(action).sum(1)).mean()
        gradient = torch.autograd.grad(loss, self.log_std.tensors + self.actor.tensors)
        self.log_std.adam(gradient[:1], self.learning_rate())
        self.actor.adam(gradient[1:], self.learning_rate())
        return loss, gradient

    def learning_rate(self):
        if self.agent.online_steps:
            return self.c.actor_learning_rate
        share = min(self.actor.count / self.agent.steps, 1)
        return self.c.actor_learning_rate * (0.5 + 0.5 * math.cos(math.pi * share))


def normal(mean, log_std):
    return torch.distributions.Normal(mean, torch.exp(torch.clip(log_std, -5, 2)))


def return_range(dataset):
    """Return the range of the episodes' returns; every episode of the dataset ends where it is terminal."""
    returns, total = [], 0.0
    for reward, terminated in zip(dataset.rewards.tolist(), dataset.terminated, strict=True):
        total += reward
        if terminated:
            returns.append(total)
            total = 0.0
    return max(returns) - min(returns)


def iql_weights(agent, plain):
    own = plain.log_std.tensors if isinstance(agent.actor, GaussianActor) else []
    return {
        "actor": (agent.actor.parameters(), own + plain.actor.tensors),
        "value": (agent.value.parameters(), plain.value.tensors),
        "critics": (agent.critic.parameters(), interleaved([c.tensors for c in plain.critics])),
        "target critics": (agent.target_critic.parameters(), interleaved([c.tensors for c in plain.target_critics])),
    }


def prepared(case, dtype):
    settings, options = CASES[case]
    options = dict(options)
    log_std = options.pop("log_std", None)
    agent = IQL(Config(**settings), 11, 3, dtype=dtype, **options)
    prepare(agent)
    if log_std:
        agent.actor.free_log_std.data.copy_(torch.tensor(log_std))
    return agent, saturate(make_batches(agent))


def prepare(agent):
    """Give the agent a dataset of whole episodes, whose returns both sides look at."""
    recorded = random_dataset(rows=400, observation_size=agent.observation_size, action_size=agent.action_size)
    names = ("observations", "actions", "rewards", "next_observations")
    arrays = {name: getattr(recorded, name) for name in names}
    terminated = recorded.terminated | (np.arange(400) == 399)
    agent.test_dataset = Dataset.from_arrays(**arrays, terminated=terminated)
    agent.prepare(PackedRows.of(agent.test_dataset, Preprocessing.identity(*agent.preprocessing.sizes)))


@pytest.mark.parametrize("case", CASES)
def test_iql_in_float64(case):
    agent, batches = prepared(case, torch.float64)
    check_float64(agent, PlainIQL, iql_weights, batches)


@pytest.mark.parametrize("case", CASES)
def test_iql_in_float32(case):
    agent, batches = prepared(case, torch.float32)
    check_float32(agent, PlainIQL, iql_weights, batches)
