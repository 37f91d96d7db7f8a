import pytest
import torch
from parity.harness import Layers, check_float32, check_float64, critics_of, layers_of

from offline_rl.algos.bc import BC
from offline_rl.algos.bc import Config as BCConfig
from offline_rl.algos.td3_bc import TD3BC, Config

ROBUST = {"critic_hidden_dims": [48, 40, 32], "critic_layer_norm": "after"}
SETTINGS = [
    {},
    {"alpha": 40.0, "reward_scale": 3.0, "reward_shift": -1.0, "hidden_dims": [64, 48, 32]},
    {**ROBUST, "hidden_dims": [64, 48]},
    # Rewards of one sign, lest the actor's loss be a difference of nearly equal numbers.
    {"critic_layer_norm": "before", "hidden_dims": [64, 48], "reward_shift": 2.0},
]


class PlainTD3BC:
    """TD3+BC as its paper and its authors' program state it."""

    def __init__(self, agent):
        self.c = agent.config
        self.actor = Layers(layers_of(agent.actor), agent.groups["actor"])
        self.critics = critics_of(agent, agent.critic, agent.groups["critic"])
        self.target_actor = Layers(layers_of(agent.target_actor))
        self.target_critics = critics_of(agent, agent.target_critic)

    def update(self, batch, step):
        losses, gradients = {}, {}
        loss = self.critic_loss(batch)
        per_critic = [torch.autograd.grad(loss, critic.tensors, retain_graph=True) for critic in self.critics]
        for critic, gradient in zip(self.critics, per_critic, strict=True):
            critic.adam(gradient, self.c.critic_learning_rate)
        losses["critic"], gradients["critic"] = loss, interleaved(per_critic)
        if step % 2 == 0:
            loss = self.actor_loss(batch)
            gradient = torch.autograd.grad(loss, self.actor.tensors)
            self.actor.adam(gradient, self.c.actor_learning_rate)
            losses["actor"], gradients["actor"] = loss, gradient
            self.target_actor.follow(self.actor, 0.005)
            for target, critic in zip(self.target_critics, self.critics, strict=True):
                target.follow(critic, 0.005)
        return losses, gradients

    def critic_loss(self, b):
        noise = torch.clip(0.2 * b.draws["target"], -0.5, 0.5)
        next_action = torch.clip(torch.tanh(self.target_actor(b.next_observation)) + noise, -1, 1)
        pair = torch.cat([b.next_observation, next_action], 1)
        value = torch.minimum(self.target_critics[0](pair), self.target_critics[1](pair))[:, 0]
        reward = self.c.reward_scale * b.reward + self.c.reward_shift
        y = (reward + 0.99 * (1 - b.terminated) * value).detach()
        pair = torch.cat([b.observation, b.action], 1)
        return sum(((critic(pair)[:, 0] - y) ** 2).mean() for critic in self.critics)

    def actor_loss(self, b):
        action = torch.tanh(self.actor(b.observation))
        q = self.critics[0](torch.cat([b.observation, action], 1))[:, 0]
        weight = self.c.alpha / q.abs().mean().detach()
        return -weight * q.mean() + ((action - b.action) ** 2).mean()


class PlainBC:
    """Regression on the dataset's actions."""

    def __init__(self, agent):
        self.actor = Layers(layers_of(agent.actor), agent.groups["actor"])

    def update(self, batch, step):
        loss = ((torch.tanh(self.actor(batch.observation)) - batch.action) ** 2).mean()
        gradient = torch.autograd.grad(loss, self.actor.tensors)
        self.actor.adam(gradient, 3e-4)
        return {"actor": loss}, {"actor": gradient}


def interleaved(per_critic):
    """Order two critics' gradients as the stacked critics' parameters are: layer by layer, both critics in each."""
    return [torch.stack(pair) for pair in zip(*per_critic, strict=True)]


def td3_bc_weights(agent, plain):
    return {
        "actor": (agent.actor.parameters(), plain.actor.tensors),
        "target actor": (agent.target_actor.parameters(), plain.target_actor.tensors),
        "critics": (agent.critic.parameters(), interleaved([c.tensors for c in plain.critics])),
        "target critics": (agent.target_critic.parameters(), interleaved([c.tensors for c in plain.target_critics])),
    }


def bc_weights(agent, plain):
    return {"actor": (agent.actor.parameters(), plain.actor.tensors)}


@pytest.mark.parametrize("settings", SETTINGS)
def test_td3_bc_in_float64(settings):
    check_float64(TD3BC(Config(**settings), 11, 3, dtype=torch.float64), PlainTD3BC, td3_bc_weights)


@pytest.mark.parametrize("settings", SETTINGS)
def test_td3_bc_in_float32(settings):
    check_float32(TD3BC(Config(**settings), 11, 3), PlainTD3BC, td3_bc_weights)


def test_bc_in_float64():
    check_float64(BC(BCConfig(), 17, 6, dtype=torch.float64), PlainBC, bc_weights)


def test_bc_in_float32():
    check_float32(BC(BCConfig(), 17, 6), PlainBC, bc_weights)
