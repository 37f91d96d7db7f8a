import pytest
import torch
from parity.harness import Layers, check_float32, check_float64, layers_of, make_batches, saturate
from parity.test_cql import cql_weights, critic_of
from parity.test_td3_bc import interleaved

from offline_rl.algos.sac import SAC
from offline_rl.algos.sac_n import SACN, Config

SMALL = {"hidden_dims": [48, 40, 32], "batch_size": 24, "num_critics": 5}
CASES = {
    "plain": SMALL,
    "one": {**SMALL, "num_critics": 1},
    "tuned": {
        **SMALL,
        "hidden_dims": [40, 48],
        "num_critics": 3,
        "discount": 0.9,
        "target_rate": 0.05,
        "reward_scale": 3.0,
        "reward_shift": -1.0,
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 2e-3,
        "temperature_learning_rate": 5e-2,
    },
}


class PlainPolicy:
    """A tanh of normal variables, whose mean and log-std are the two halves of a MLP's output."""

    def __init__(self, actor, group=None):
        self.net = Layers(layers_of(actor), group)
        self.tensors, self.adam = self.net.tensors, self.net.adam

    def __call__(self, x, noise):
        mean, log_std = self.net(x).chunk(2, 1)
        std = torch.exp(torch.clip(log_std, -5, 2))
        u = mean + std * noise
        density = torch.distributions.Normal(mean, std).log_prob(u)
        return torch.tanh(u), (density - torch.log(4 / (torch.exp(u) + torch.exp(-u)) ** 2)).sum(1)


class PlainSACN:
    """SAC-N as the paper's algorithm 1 states it with η = 0, one critic after the other."""

    def __init__(self, agent):
        self.c, self.size = agent.config, agent.action_size
        members = range(agent.config.num_critics)
        self.critics = [critic_of(agent.critic, member, agent.groups["critic"]) for member in members]
        self.target_critics = [critic_of(agent.target_critic, member) for member in members]
        self.policy = PlainPolicy(agent.actor, agent.groups["actor"])
        self.log_temperature = Layers([agent.log_temperature.value], agent.groups["temperature"])

    def update(self, b, step):
        log_temperature = self.log_temperature.tensors[0]
        temperature = torch.exp(log_temperature).detach()
        critic = self.critic_loss(b, self.target(b, temperature))
        action, log_likelihood = self.policy(b.observation, b.draws["policy"])
        losses = {
            "critic": critic,
            "actor": (temperature * log_likelihood - smallest(self.critics, b.observation, action)).mean(),
            "temperature": -log_temperature * (log_likelihood.detach() - self.size).mean(),
        }
        tensors = [tensor for critic in self.critics for tensor in critic.tensors]
        gradient = torch.autograd.grad(critic, tensors)
        depth = len(self.critics[0].tensors)
        per_critic = [gradient[first : first + depth] for first in range(0, len(gradient), depth)]
        gradients = {
            "critic": interleaved(per_critic),
            "actor": torch.autograd.grad(losses["actor"], self.policy.tensors),
            "temperature": torch.autograd.grad(losses["temperature"], self.log_temperature.tensors),
        }
        self.policy.adam(gradients["actor"], self.c.actor_learning_rate)
        self.log_temperature.adam(gradients["temperature"], self.c.temperature_learning_rate)
        for critic, target, own in zip(self.critics, self.target_critics, per_critic, strict=True):
            critic.adam(own, self.c.critic_learning_rate)
            target.follow(critic, self.c.target_rate)
        return losses, gradients

    def critic_loss(self, b, y):
        pair = torch.cat([b.observation, b.action], 1)
        return sum(((critic(pair)[:, 0] - y) ** 2).mean() for critic in self.critics)

    def target(self, b, temperature):
        action, log_likelihood = self.policy(b.next_observation, b.draws["target"])
        value = smallest(self.target_critics, b.next_observation, action) - temperature * log_likelihood
        reward = self.c.reward_scale * b.reward + self.c.reward_shift
        return (reward + self.c.discount * (1 - b.terminated) * value).detach()


def smallest(critics, observation, action):
    pair = torch.cat([observation, action], 1)
    return torch.stack([critic(pair)[:, 0] for critic in critics]).min(0).values


def prepared(case, dtype):
    agent = SACN(Config(**CASES[case]), 11, 3, dtype=dtype)
    return agent, saturate(make_batches(agent))


@pytest.mark.parametrize("case", CASES)
def test_sac_n_in_float64(case):
    agent, batches = prepared(case, torch.float64)
    check_float64(agent, PlainSACN, cql_weights, batches)


@pytest.mark.parametrize("case", CASES)
def test_sac_n_in_float32(case):
    agent, batches = prepared(case, torch.float32)
    check_float32(agent, PlainSACN, cql_weights, batches)


def test_with_two_critics_and_sacs_networks_it_is_sac():
    """SAC's policy and critics start otherwise; but for them, two critics are SAC to the last bit."""

    class OnSACsNetworks(SACN):
        build_policy, make_critics = SAC.build_policy, SAC.make_critics

    settings = {"hidden_dims": [32, 32], "batch_size": 24}
    ours = OnSACsNetworks(Config(**settings, num_critics=2), 11, 3)
    theirs = SAC(SAC.config_class(**settings), 11, 3)
    for step, batch in enumerate(saturate(make_batches(theirs)), start=1):
        found, expected = ours.update(batch, step), theirs.update(batch, step)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    state = theirs.training_state()
    assert all(torch.equal(value, state[name]) for name, value in ours.training_state().items())
