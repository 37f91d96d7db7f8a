import pytest
import torch
from parity.harness import Kinks, Layers, check_float32, check_float64, layers_of
from parity.test_dt import Masks

from offline_rl.algos.spot import SPOT, Config

SMALL = {"batch_size": 48, "hidden_dims": [40, 32], "vae_hidden_dims": [48, 40], "vae_steps": 5}
TUNED = {
    "constraint_weight": 0.3,
    "kl_weight": 0.8,
    "dropout": 0.35,
    "discount": 0.95,
    "policy_delay": 3,
    "reward_scale": 3.0,
    "reward_shift": -1.0,
    "vae_steps": 6,
}
SETTINGS = [SMALL, {**SMALL, **TUNED}, {**SMALL, "dropout": 0.0, "vae_steps": 0}]


class PlainSPOT:
    """SPOT as its authors' two programs do it, one after the other; dropout's masks are made row by row."""

    def __init__(self, agent):
        self.c = agent.config
        self.actor = Layers(layers_of(agent.actor), agent.groups["actor"])
        self.critics = [Layers(layers_of(agent.critic, member), agent.groups["critic"]) for member in range(2)]
        *trunk, weight, bias = (layer[0].detach() for layer in agent.vae.encoder.layers)
        latent = 2 * agent.action_size
        self.trunk = Layers(trunk, agent.groups["vae"])
        self.mean = Layers([weight[:latent], bias[:latent]], agent.groups["vae"])
        self.log_std = Layers([weight[latent:], bias[latent:]], agent.groups["vae"])
        self.decoder = Layers([layer[0].detach() for layer in agent.vae.decoder.layers], agent.groups["vae"])
        self.target_actor = Layers(layers_of(agent.target_actor))
        self.target_critics = [Layers(layers_of(agent.target_critic, member)) for member in range(2)]

    def update(self, b, step):
        return self.train_vae(b) if step <= self.c.vae_steps else self.train_policy(b, step)

    def train_vae(self, b):
        loss = self.bound(b.observation, b.action, b.draws["latent"])
        networks = [self.trunk, self.mean, self.log_std, self.decoder]
        per_network = [torch.autograd.grad(loss, network.tensors, retain_graph=True) for network in networks]
        for network, gradient in zip(networks, per_network, strict=True):
            network.adam(gradient, 1e-3)
        return {"vae": loss}, {"vae": vae_order(*per_network)}

    def bound(self, observation, action, noise):
        hidden = Kinks.relu(self.trunk(torch.cat([observation, action], 1)))
        mean, log_std = self.mean(hidden), torch.clip(self.log_std(hidden), -4, 15)
        std = torch.exp(log_std)
        decoded = torch.tanh(self.decoder(torch.cat([observation, mean + std * noise], 1)))
        reconstruction = ((decoded - action) ** 2).mean(1)
        divergence = -0.5 * (1 + torch.log(std**2) - mean**2 - std**2).mean(1)
        return (reconstruction + self.c.kl_weight * divergence).mean()

    def train_policy(self, b, step):
        losses, gradients = {}, {}
        loss = self.critic_loss(b)
        per_critic = [torch.autograd.grad(loss, critic.tensors, retain_graph=True) for critic in self.critics]
        for critic, gradient in zip(self.critics, per_critic, strict=True):
            critic.adam(gradient, 3e-4)
        losses["critic"], gradients["critic"] = loss, interleaved(per_critic)
        if step % self.c.policy_delay == 0:
            action = self.act(self.actor, b.observation, b.draws.get("dropout"))
            q = self.critics[0](torch.cat([b.observation, action], 1))[:, 0]
            constraint = self.bound(b.observation, action, b.draws["latent"])
            loss = -q.mean() / q.abs().mean().detach() + self.c.constraint_weight * constraint
            gradient = torch.autograd.grad(loss, self.actor.tensors)
            self.actor.adam(gradient, 3e-4)
            losses["actor"], gradients["actor"] = loss, gradient
            self.target_actor.follow(self.actor, 0.005)
            for target, critic in zip(self.target_critics, self.critics, strict=True):
                target.follow(critic, 0.005)
        return losses, gradients

    def critic_loss(self, b):
        noise = torch.clip(0.2 * b.draws["target"], -0.5, 0.5)
        next_action = self.act(self.target_actor, b.next_observation, b.draws.get("target_dropout"))
        pair = torch.cat([b.next_observation, torch.clip(next_action + noise, -1, 1)], 1)
        value = torch.minimum(self.target_critics[0](pair), self.target_critics[1](pair))[:, 0]
        reward = self.c.reward_scale * b.reward + self.c.reward_shift
        y = (reward + self.c.discount * (1 - b.terminated) * value).detach()
        pair = torch.cat([b.observation, b.action], 1)
        return sum(((critic(pair)[:, 0] - y) ** 2).mean() for critic in self.critics)

    def act(self, actor, observation, keys):
        if keys is None:
            return torch.tanh(actor(observation))
        actions = []
        for row, key in zip(observation, keys, strict=True):
            h, drop = row, Masks(self.c.dropout, key)
            for weight, bias in zip(actor.tensors[0:-2:2], actor.tensors[1:-2:2], strict=True):
                h = Kinks.relu(weight @ h + bias)
                h = h * drop(len(h))
            actions.append(torch.tanh(actor.tensors[-2] @ h + actor.tensors[-1]))
        return torch.stack(actions)


def interleaved(per_critic):
    """Order two critics' gradients as the stacked critics' parameters are: layer by layer, both critics in each."""
    return [torch.stack(two) for two in zip(*per_critic, strict=True)]


def vae_order(trunk, mean, log_std, decoder):
    """Order tensors as the VAE's parameters are: its two heads are one layer."""
    return [*trunk, *(torch.cat(two) for two in zip(mean, log_std, strict=True)), *decoder]


def weights(agent, plain):
    vae = vae_order(*(network.tensors for network in (plain.trunk, plain.mean, plain.log_std, plain.decoder)))
    return {
        "actor": (agent.actor.parameters(), plain.actor.tensors),
        "critics": (agent.critic.parameters(), interleaved([c.tensors for c in plain.critics])),
        "vae": (agent.vae.parameters(), vae),
        "target actor": (agent.target_actor.parameters(), plain.target_actor.tensors),
        "target critics": (agent.target_critic.parameters(), interleaved([c.tensors for c in plain.target_critics])),
    }


@pytest.mark.parametrize("settings", SETTINGS)
def test_spot_in_float64(settings):
    check_float64(SPOT(Config(**settings), 11, 3, dtype=torch.float64), PlainSPOT, weights)


@pytest.mark.parametrize("settings", SETTINGS)
def test_spot_in_float32(settings):
    check_float32(SPOT(Config(**settings), 11, 3), PlainSPOT, weights)
