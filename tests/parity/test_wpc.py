import pytest
import torch
from parity.harness import Layers, check_float32, check_float64, layers_of, make_batches, saturate
from parity.test_td3_bc import interleaved

from offline_rl.algos.wpc import WPC, Config

SMALL = {"hidden_dims": [64, 48], "batch_size": 64}
CASES = {
    "plain": {"batch_size": 64},
    "tuned": {
        **SMALL,
        "alpha": 40.0,
        "discount": 0.9,
        "target_rate": 0.05,
        "policy_noise": 0.4,
        "noise_clip": 0.3,
        "policy_delay": 3,
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 2e-3,
        "value_learning_rate": 1.5e-3,
        "reward_scale": 3.0,
        "reward_shift": 0.2,
    },
}


class PlainWPC:
    """wPC as its authors' program does it, in its order: critics, value, actor, targets."""

    def __init__(self, agent):
        self.c = agent.config
        self.actor = Layers(layers_of(agent.actor), agent.groups["actor"])
        self.critics = [Layers(layers_of(agent.critic, member), agent.groups["critic"]) for member in range(2)]
        self.value = Layers(layers_of(agent.value), agent.groups["value"])
        self.target_actor = Layers(layers_of(agent.target_actor))
        self.target_critics = [Layers(layers_of(agent.target_critic, member)) for member in range(2)]

    def update(self, b, step):
        losses, gradients = {}, {}
        y, data = self.target(b), torch.cat([b.observation, b.action], 1)
        loss = sum(((critic(data)[:, 0] - y) ** 2).mean() for critic in self.critics)
        per_critic = [torch.autograd.grad(loss, critic.tensors, retain_graph=True) for critic in self.critics]
        for critic, gradient in zip(self.critics, per_critic, strict=True):
            critic.adam(gradient, self.c.critic_learning_rate)
        losses["critic"], gradients["critic"] = loss, interleaved(per_critic)

        value = self.value(b.observation)[:, 0]
        losses["value"] = ((value - y) ** 2).mean()
        gradients["value"] = torch.autograd.grad(losses["value"], self.value.tensors)
        self.value.adam(gradients["value"], self.c.value_learning_rate)
        weight = 1.0 * (self.critics[0](data)[:, 0] > value).detach()
        assert 0 < weight.mean() < 1

        if step % self.c.policy_delay == 0:
            action = torch.tanh(self.actor(b.observation))
            q = self.critics[0](torch.cat([b.observation, action], 1))[:, 0]
            pull = (weight[:, None] * (action - b.action) ** 2).mean()
            losses["actor"] = -self.c.alpha / q.abs().mean().detach() * q.mean() + pull
            gradients["actor"] = torch.autograd.grad(losses["actor"], self.actor.tensors)
            self.actor.adam(gradients["actor"], self.c.actor_learning_rate)
            self.target_actor.follow(self.actor, self.c.target_rate)
            for target, critic in zip(self.target_critics, self.critics, strict=True):
                target.follow(critic, self.c.target_rate)
        return losses, gradients

    def target(self, b):
        noise = torch.clip(self.c.policy_noise * b.draws["target"], -self.c.noise_clip, self.c.noise_clip)
        action = torch.clip(torch.tanh(self.target_actor(b.next_observation)) + noise, -1, 1)
        pair = torch.cat([b.next_observation, action], 1)
        smaller = torch.minimum(self.target_critics[0](pair), self.target_critics[1](pair))[:, 0]
        reward = self.c.reward_scale * b.reward + self.c.reward_shift
        return (reward + self.c.discount * (1 - b.terminated) * smaller).detach()


def wpc_weights(agent, plain):
    return {
        "actor": (agent.actor.parameters(), plain.actor.tensors),
        "value": (agent.value.parameters(), plain.value.tensors),
        "critics": (agent.critic.parameters(), interleaved([c.tensors for c in plain.critics])),
        "target actor": (agent.target_actor.parameters(), plain.target_actor.tensors),
        "target critics": (agent.target_critic.parameters(), interleaved([c.tensors for c in plain.target_critics])),
    }


@pytest.mark.parametrize("case", CASES)
def test_wpc_in_float64(case):
    agent = WPC(Config(**CASES[case]), 11, 3, dtype=torch.float64)
    check_float64(agent, PlainWPC, wpc_weights, saturate(make_batches(agent)))


@pytest.mark.parametrize("case", CASES)
def test_wpc_in_float32(case):
    agent = WPC(Config(**{**SMALL, **CASES[case]}), 11, 3)
    check_float32(agent, PlainWPC, wpc_weights, saturate(make_batches(agent)))
