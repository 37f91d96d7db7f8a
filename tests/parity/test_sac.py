import pytest
import torch
from parity.harness import Layers, check_float32, check_float64, make_batches, saturate
from parity.test_cql import PlainPolicy, cql_weights, critic_of
from parity.test_td3_bc import interleaved

from offline_rl.algos.sac import SAC, Config

SMALL = {"hidden_dims": [48, 40], "batch_size": 24}
CASES = {
    "plain": SMALL,
    "tuned": {
        **SMALL,
        "hidden_dims": [40, 48, 32],
        "discount": 0.9,
        "target_rate": 0.05,
        "reward_scale": 3.0,
        "reward_shift": -1.0,
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 2e-3,
        "temperature_learning_rate": 5e-2,
    },
    "normalised": {**SMALL, "layer_norm": True},
}


class PlainSAC:
    """Soft actor-critic as the second paper's algorithm 1 states it, one critic after the other."""

    def __init__(self, agent):
        self.c, self.size = agent.config, agent.action_size
        self.critics = [critic_of(agent.critic, member, agent.groups["critic"]) for member in range(2)]
        self.target_critics = [critic_of(agent.target_critic, member) for member in range(2)]
        self.policy = PlainPolicy(agent.actor, agent.groups["actor"])
        self.log_temperature = Layers([agent.log_temperature.value], agent.groups["temperature"])

    def update(self, b, step):
        log_temperature = self.log_temperature.tensors[0]
        temperature = torch.exp(log_temperature).detach()
        y = self.target(b, temperature)
        pair = torch.cat([b.observation, b.action], 1)
        errors = [((critic(pair)[:, 0] - y) ** 2).mean() for critic in self.critics]
        action, log_likelihood = self.policy(b.observation, b.draws["policy"])
        pair = torch.cat([b.observation, action], 1)
        q = torch.minimum(self.critics[0](pair), self.critics[1](pair))[:, 0]
        losses = {
            "critic": errors[0] + errors[1],
            "actor": (temperature * log_likelihood - q).mean(),
            "temperature": -log_temperature * (log_likelihood.detach() - self.size).mean(),
        }
        per_critic = [torch.autograd.grad(e, c.tensors) for e, c in zip(errors, self.critics, strict=True)]
        gradients = {
            "critic": interleaved(per_critic),
            "actor": torch.autograd.grad(losses["actor"], self.policy.tensors),
            "temperature": torch.autograd.grad(losses["temperature"], self.log_temperature.tensors),
        }
        self.policy.adam(gradients["actor"], self.c.actor_learning_rate)
        self.log_temperature.adam(gradients["temperature"], self.c.temperature_learning_rate)
        for critic, target, gradient in zip(self.critics, self.target_critics, per_critic, strict=True):
            critic.adam(gradient, self.c.critic_learning_rate)
            target.follow(critic, self.c.target_rate)
        return losses, gradients

    def target(self, b, temperature):
        action, log_likelihood = self.policy(b.next_observation, b.draws["target"])
        pair = torch.cat([b.next_observation, action], 1)
        q = torch.minimum(self.target_critics[0](pair), self.target_critics[1](pair))[:, 0]
        reward = self.c.reward_scale * b.reward + self.c.reward_shift
        value = q - temperature * log_likelihood
        return (reward + self.c.discount * (1 - b.terminated) * value).detach()


def prepared(case, dtype):
    agent = SAC(Config(**CASES[case]), 11, 3, dtype=dtype)
    return agent, saturate(make_batches(agent))


@pytest.mark.parametrize("case", CASES)
def test_sac_in_float64(case):
    agent, batches = prepared(case, torch.float64)
    check_float64(agent, PlainSAC, cql_weights, batches)


@pytest.mark.parametrize("case", CASES)
def test_sac_in_float32(case):
    agent, batches = prepared(case, torch.float32)
    check_float32(agent, PlainSAC, cql_weights, batches)
