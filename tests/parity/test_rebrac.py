import pytest
import torch
from parity.harness import Layers, check_float32, check_float64, critics_of, layers_of
from parity.test_td3_bc import interleaved, td3_bc_weights

from offline_rl.algos.rebrac import Config, ReBRAC

SMALL = {"hidden_dims": [64, 48, 40], "batch_size": 64}
TUNED = {
    **SMALL,
    "actor_penalty": 0.05,
    "critic_penalty": 0.5,
    "discount": 0.95,
    "target_rate": 0.02,
    "actor_learning_rate": 3e-4,
    "reward_scale": 3.0,
    "reward_shift": 2.0,
}
SETTINGS = [
    SMALL,
    {**TUNED, "released_targets": True},
    {**TUNED, "critic_layer_norm": "before", "critic_hidden_dims": [40, 32]},
    {**TUNED, "critic_layer_norm": "none", "critic_penalty": 0.0},
]


class PlainReBRAC:
    """ReBRAC as its authors' program states it, but for the rows whose next action is not known."""

    def __init__(self, agent):
        self.c = agent.config
        self.actor = Layers(layers_of(agent.actor), agent.groups["actor"])
        self.critics = critics_of(agent, agent.critic, agent.groups["critic"])
        self.target_actor = Layers(layers_of(agent.target_actor))
        self.target_critics = critics_of(agent, agent.target_critic)

    def update(self, b, step):
        losses, gradients = {}, {}
        target = self.target(b).detach()
        pair = torch.cat([b.observation, b.action], 1)
        loss = sum(((critic(pair)[:, 0] - target) ** 2).mean() for critic in self.critics)
        per_critic = [torch.autograd.grad(loss, critic.tensors, retain_graph=True) for critic in self.critics]
        for critic, gradient in zip(self.critics, per_critic, strict=True):
            critic.adam(gradient, self.c.critic_learning_rate)
        losses["critic"], gradients["critic"] = loss, interleaved(per_critic)
        if step % 2 == 1:
            return losses, gradients
        loss = self.actor_loss(b)
        gradient = torch.autograd.grad(loss, self.actor.tensors)
        losses["actor"], gradients["actor"] = loss, gradient
        if self.c.released_targets:  # the parameters that the actor is about to leave
            self.target_actor.follow(self.actor, self.c.target_rate)
            self.actor.adam(gradient, self.c.actor_learning_rate)
        else:
            self.actor.adam(gradient, self.c.actor_learning_rate)
            self.target_actor.follow(self.actor, self.c.target_rate)
        for target, critic in zip(self.target_critics, self.critics, strict=True):
            target.follow(critic, self.c.target_rate)
        return losses, gradients

    def target(self, b):
        noise = torch.clip(0.2 * b.draws["target"], -0.5, 0.5)
        action = torch.clip(torch.tanh(self.target_actor(b.next_observation)) + noise, -1, 1)
        pair = torch.cat([b.next_observation, action], 1)
        values = []
        for row, value in enumerate(torch.minimum(self.target_critics[0](pair), self.target_critics[1](pair))[:, 0]):
            distance = sum((action[row, j] - b.next_action[row, j]) ** 2 for j in range(action.shape[1]))
            values.append(value - self.c.critic_penalty * distance if b.next_known[row] else value)
        reward = self.c.reward_scale * b.reward + self.c.reward_shift
        return reward + self.c.discount * (1 - b.terminated) * torch.stack(values)

    def actor_loss(self, b):
        action = torch.tanh(self.actor(b.observation))
        pair = torch.cat([b.observation, action], 1)
        q = torch.minimum(self.critics[0](pair), self.critics[1](pair))[:, 0]
        distance = ((action - b.action) ** 2).sum(1)
        return (self.c.actor_penalty * distance - q / q.abs().mean().detach()).mean()


@pytest.mark.parametrize("settings", SETTINGS)
def test_rebrac_in_float64(settings):
    check_float64(ReBRAC(Config(**settings), 11, 3, dtype=torch.float64), PlainReBRAC, td3_bc_weights)


@pytest.mark.parametrize("settings", SETTINGS)
def test_rebrac_in_float32(settings):
    check_float32(ReBRAC(Config(**settings), 11, 3), PlainReBRAC, td3_bc_weights)
