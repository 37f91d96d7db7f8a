import pytest
import torch
from parity.harness import Layers, check_float32, check_float64, layers_of, make_batches, saturate
from parity.test_td3_bc import interleaved

from offline_rl.algos.awac import AWAC, Config

TUNED = {
    "temperature": 2.0,
    "weight_limit": 1.1,
    "discount": 0.9,
    "target_rate": 0.05,
    "reward_scale": 0.5,
    "reward_shift": -1.0,
    "hidden_dims": [64, 48],
    "batch_size": 100,
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 2e-3,
}
SMALL = {"hidden_dims": [64, 48], "batch_size": 64}
CASES = {
    "plain": ({**SMALL, "hidden_dims": [48, 48, 48]}, None),
    "tuned": (TUNED, None),
    "normalised weights": ({**SMALL, "normalize_weights": True, "temperature": 0.5}, None),
    "narrow": (SMALL, (-21.0, 0.5, 2.5)),
}


class PlainAWAC:
    """AWAC as its paper and CORL's program state it."""

    def __init__(self, agent):
        self.c = agent.config
        self.critics = [Layers(layers_of(agent.critic, member), agent.groups["critic"]) for member in range(2)]
        self.target_critics = [Layers(layers_of(agent.target_critic, member)) for member in range(2)]
        self.actor = Layers(layers_of(agent.actor), agent.groups["actor"])
        self.log_std = Layers([agent.actor.free_log_std], agent.groups["actor"])

    def update(self, b, step):
        losses, gradients = {}, {}
        losses["critic"], gradients["critic"] = self.critic_step(b)
        losses["actor"], gradients["actor"] = self.actor_step(b)
        for target, critic in zip(self.target_critics, self.critics, strict=True):
            target.follow(critic, self.c.target_rate)
        return losses, gradients

    def critic_step(self, b):
        there = smaller(self.target_critics, b.next_observation, self.sample(b.next_observation, b.draws["target"]))
        reward = self.c.reward_scale * b.reward + self.c.reward_shift
        y = (reward + self.c.discount * (1 - b.terminated) * there).detach()
        pair = torch.cat([b.observation, b.action], 1)
        loss = sum(((critic(pair)[:, 0] - y) ** 2).mean() for critic in self.critics)
        per_critic = [torch.autograd.grad(loss, critic.tensors, retain_graph=True) for critic in self.critics]
        for critic, gradient in zip(self.critics, per_critic, strict=True):
            critic.adam(gradient, self.c.critic_learning_rate)
        return loss, interleaved(per_critic)

    def actor_step(self, b):
        own = smaller(self.critics, b.observation, self.sample(b.observation, b.draws["policy"]))
        advantage = (smaller(self.critics, b.observation, b.action) - own).detach()
        raw = torch.exp(advantage / self.c.temperature)
        weight = raw / raw.mean() if self.c.normalize_weights else torch.clip(raw, max=self.c.weight_limit)
        likelihood = self.distribution(b.observation).log_prob(b.action).sum(1)
        loss = -(weight * likelihood).mean()
        gradient = torch.autograd.grad(loss, self.log_std.tensors + self.actor.tensors)
        self.log_std.adam(gradient[:1], self.c.actor_learning_rate)
        self.actor.adam(gradient[1:], self.c.actor_learning_rate)
        return loss, gradient

    def distribution(self, observation):
        return torch.distributions.Normal(
            self.actor(observation), torch.exp(torch.clip(self.log_std.tensors[0], -20, 2))
        )

    def sample(self, observation, noise):
        own = self.distribution(observation)
        return torch.clip(own.mean + own.stddev * noise, -1, 1).detach()


def smaller(critics, observation, action):
    pair = torch.cat([observation, action], 1)
    return torch.minimum(critics[0](pair), critics[1](pair))[:, 0]


def awac_weights(agent, plain):
    return {
        "actor": (agent.actor.parameters(), plain.log_std.tensors + plain.actor.tensors),
        "critics": (agent.critic.parameters(), interleaved([c.tensors for c in plain.critics])),
        "target critics": (agent.target_critic.parameters(), interleaved([c.tensors for c in plain.target_critics])),
    }


def prepared(case, dtype):
    settings, log_std = CASES[case]
    agent = AWAC(Config(**settings), 11, 3, dtype=dtype)
    if log_std:
        agent.actor.free_log_std.data.copy_(torch.tensor(log_std))
    return agent, saturate(make_batches(agent))


@pytest.mark.parametrize("case", CASES)
def test_awac_in_float64(case):
    agent, batches = prepared(case, torch.float64)
    check_float64(agent, PlainAWAC, awac_weights, batches)


@pytest.mark.parametrize("case", CASES)
def test_awac_in_float32(case):
    agent, batches = prepared(case, torch.float32)
    check_float32(agent, PlainAWAC, awac_weights, batches)
