import dataclasses

import pytest
import torch
from parity.harness import Kinks, Layers, check_float32, check_float64, critics_of, layers_of
from parity.test_td3_bc import ROBUST

from offline_rl.algos.a2pr import A2PR, AdvantageGate, Config

UNIFORM = {"batch_size": 64}
TUNED = {
    "alpha": 40.0,
    "reconstruction_weight": 1.5,
    "constraint_weight": 0.8,
    "discount": 0.995,
    "reward_scale": 3.0,
    "reward_shift": -1.0,
    "hidden_dims": [64, 48, 32],
    "actor_hidden_dims": [40, 32],
    "vae_hidden_dims": [96, 80],
}
SETTINGS = [
    UNIFORM,
    TUNED,
    {**TUNED, "sample_prior": True},
    {**TUNED, "reward_shift": 1.0, "detach_candidate": True},
    {**TUNED, **ROBUST},
]


@dataclasses.dataclass(frozen=True)
class RecordedGate(AdvantageGate):
    """Keeps what it decided, for the second implementation."""

    decisions: dict = dataclasses.field(default_factory=dict)

    def accepts(self):
        return self.decisions.setdefault("accepts", super().accepts())

    def prefers(self, candidate_q):
        return self.decisions.setdefault("prefers", super().prefers(candidate_q))

    def is_open(self, candidate_q):
        return self.decisions.setdefault("gate", super().is_open(candidate_q))


class RecordedA2PR(A2PR):
    def advantage_gate(self, *arguments):
        found = super().advantage_gate(*arguments)
        self.last = RecordedGate(found.q, found.value, found.value_target)
        return self.last


class PlainA2PR:
    """A2PR as its authors' program does it.

    Each decision is made here too and compared with the agent's; where the two sides of a comparison are equal but for
    rounding, the agent's is taken.
    """

    def __init__(self, agent):
        self.agent, self.c = agent, agent.config
        self.actor = Layers(layers_of(agent.actor), agent.groups["actor"])
        self.critics = critics_of(agent, agent.critic, agent.groups["critic"])
        self.value = Layers(layers(agent.value), agent.groups["value"])
        *trunk, weight, bias = layers(agent.vae.encoder)
        size = 2 * agent.action_size
        self.trunk = Layers(trunk, agent.groups["vae"])
        self.mean = Layers([weight[:size], bias[:size]], agent.groups["vae"])
        self.log_std = Layers([weight[size:], bias[size:]], agent.groups["vae"])
        self.decoder = Layers(layers(agent.vae.decoder), agent.groups["vae"])
        self.target_actor = Layers(layers_of(agent.target_actor))
        self.target_critics = critics_of(agent, agent.target_critic)

    def update(self, b, step):
        losses, gradients = {}, {}

        # Critics.
        noise = torch.clip(0.2 * b.draws["target"], -0.5, 0.5)
        next_pair = pair(
            b.next_observation, torch.clip(torch.tanh(self.target_actor(b.next_observation)) + noise, -1, 1)
        )
        old_target = self.backup(b, self.target_critics, next_pair)
        data_pair = pair(b.observation, b.action)
        loss = sum(((critic(data_pair)[:, 0] - old_target) ** 2).mean() for critic in self.critics)
        per_critic = [torch.autograd.grad(loss, critic.tensors, retain_graph=True) for critic in self.critics]
        for critic, gradient in zip(self.critics, per_critic, strict=True):
            critic.adam(gradient, 3e-4)
        losses["critic"], gradients["critic"] = loss, interleaved(per_critic)

        # Value; its output before the update is the baseline of everything below.
        target = torch.minimum(self.backup(b, self.critics, next_pair), old_target)
        value = self.value(b.observation)[:, 0]
        losses["value"] = ((value - target) ** 2).mean()
        gradients["value"] = torch.autograd.grad(losses["value"], self.value.tensors)
        self.value.adam(gradients["value"], 3e-4)
        value = value.detach()

        # VAE.
        data_q = self.critics[0](data_pair)[:, 0].detach()
        accepted = self.decide("accepts", data_q > value, data_q - value)
        reconstruction, mean, log_variance = self.autoencode(b.observation, b.action, b.draws["vae"])
        squares = accepted.double()[:, None] * (reconstruction - b.action) ** 2
        divergence = -0.5 * (1 + log_variance - mean**2 - torch.exp(log_variance)).mean()
        loss = self.c.reconstruction_weight * squares.sum() / squares.numel() + 0.5 * divergence
        networks = [self.trunk, self.mean, self.log_std, self.decoder]
        per_network = [torch.autograd.grad(loss, network.tensors, retain_graph=True) for network in networks]
        for network, gradient in zip(networks, per_network, strict=True):
            network.adam(gradient, 1e-3)
        losses["vae"], gradients["vae"] = loss, vae_order(*per_network)

        if step % 2 == 0:
            loss = self.actor_loss(b, data_q, value)
            gradient = torch.autograd.grad(loss, self.actor.tensors)
            self.actor.adam(gradient, 3e-4)
            losses["actor"], gradients["actor"] = loss, gradient
            for target_critic, critic in zip(self.target_critics, self.critics, strict=True):
                target_critic.follow(critic, 0.005)
            self.target_actor.follow(self.actor, 0.005)
        return losses, gradients

    def backup(self, b, critics, next_pair):
        smallest = torch.minimum(critics[0](next_pair), critics[1](next_pair))[:, 0]
        reward = self.c.reward_scale * b.reward + self.c.reward_shift
        return (reward + self.c.discount * (1 - b.terminated) * smallest).detach()

    def autoencode(self, observation, action, noise):
        hidden = Kinks.relu(self.trunk(pair(observation, action)))
        mean, log_std = self.mean(hidden), torch.clip(self.log_std(hidden), -4, 15)
        latent = mean + torch.exp(log_std) * noise
        return torch.tanh(self.decoder(pair(observation, latent))), mean, 2 * log_std

    def actor_loss(self, b, data_q, value):
        action = torch.tanh(self.actor(b.observation))
        q = self.critics[0](pair(b.observation, action))[:, 0]
        if self.c.sample_prior:
            candidate = torch.tanh(self.decoder(pair(b.observation, torch.clip(b.draws["candidate"], -0.5, 0.5))))
        else:
            candidate = self.autoencode(b.observation, action, b.draws["candidate"])[0]
        if self.c.detach_candidate:
            candidate = candidate.detach()
        candidate_q = self.critics[0](pair(b.observation, candidate))[:, 0].detach()
        prefers = self.decide("prefers", candidate_q >= data_q, candidate_q - data_q)
        best = torch.maximum(candidate_q, data_q)
        gate = self.decide("gate", (candidate_q >= value) | (data_q > value), best - value)
        reference = prefers[:, None] * candidate + ~prefers[:, None] * b.action
        pull = torch.where(gate[:, None], self.c.constraint_weight * (action - reference) ** 2, 0.0)
        return -self.c.alpha / q.abs().mean().detach() * q.mean() + pull.mean()

    def decide(self, name, own, margin):
        theirs = self.agent.last.decisions[name]
        tolerance = (1e-10 if self.agent.dtype == torch.float64 else 1e-5) * margin.abs().mean()
        assert (margin[own != theirs].abs() <= tolerance).all(), name
        return theirs


def pair(left, right):
    return torch.cat([left, right], 1)


def layers(mlp):
    return [layer[0].detach() for layer in mlp.layers]


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
        "value": (agent.value.parameters(), plain.value.tensors),
        "vae": (agent.vae.parameters(), vae),
        "target actor": (agent.target_actor.parameters(), plain.target_actor.tensors),
        "target critics": (agent.target_critic.parameters(), interleaved([c.tensors for c in plain.target_critics])),
    }


@pytest.mark.parametrize("settings", SETTINGS)
def test_a2pr_in_float64(settings):
    check_float64(RecordedA2PR(Config(**settings), 11, 3, dtype=torch.float64), PlainA2PR, weights)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a2pr_in_float32(settings):
    check_float32(RecordedA2PR(Config(**settings), 11, 3), PlainA2PR, weights)
