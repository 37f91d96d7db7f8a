import pytest
import torch
from helpers.agents import agent_of
from parity.harness import Layers, check_float32, check_float64, layers_of, make_batches, saturate
from parity.test_cql import PlainCQL, PlainPolicy, cql_weights
from parity.test_iql import PlainIQL, iql_weights, normal, prepare

SMALL = {"hidden_dims": [48, 40], "batch_size": 32}
IQL_TUNED = {
    "beta_low": 8.0,
    "beta_high": 14.0,
    "balance_every": 1,
    "expectile": 0.9,
    "weight_limit": 4.0,
    "discount": 0.9,
    "target_rate": 0.05,
    "reward_shift": -1.0,
    "balance_learning_rate": 1e-3,
    "actor_learning_rate": 2e-3,
    # A faster one brings the balance's loss so near to zero that its relative error means nothing.
    "temperature_learning_rate": 1e-2,
}
CQL_TUNED = {
    "beta_low": 0.25,
    "beta_high": 2.0,
    "balance_every": 3,
    "conservative_weight": 3.0,
    "num_actions": 3,
    "layer_norm": False,
    "reward_scale": 2.0,
    "balance_learning_rate": 1e-3,
    "temperature_learning_rate": 3e-2,
}
RELEASED = {"num_actions": 2, "released_mapping": True, "released_next_balance": True}
CASES = {
    "iql": SMALL,
    "iql tuned": {**SMALL, **IQL_TUNED},
    "iql released": {**SMALL, "released_weights": True},
    "cql": {**SMALL, "base": "cql", "batch_size": 16},
    "cql tuned": {**SMALL, **CQL_TUNED, "base": "cql"},
    "cql released": {**SMALL, **RELEASED, "base": "cql"},
}


def with_angles(observation, beta):
    """Append sin(β / n^(2i/6)) and cos(β / n^(2i/6)) for i = 0, 1, 2 and n = 10000."""
    angles = [beta / 10_000 ** (2 * i / 6) for i in range(3)]
    numbers = [function(angle)[:, None] for angle in angles for function in (torch.sin, torch.cos)]
    return torch.cat([observation, *numbers], 1)


class PlainOnIQL(PlainIQL):
    """FamO2O's half on IQL, in the order of its authors' program: V, balance, temperature, policy, critics."""

    def __init__(self, agent):
        super().__init__(agent)
        group = agent.groups["balance"]
        self.low = self.c.beta_low
        self.high = self.c.beta_high
        self.every = self.c.balance_every
        self.balance = Layers(layers_of(agent.balance.actor), group)
        self.balance_log_std = Layers([agent.balance.actor.spread[0]], group)
        self.log_temperature = Layers([agent.log_temperature.value], agent.groups["temperature"])

    def update(self, b, step):
        self.now = step
        losses, gradients = super().update(b, step)
        return {**losses, **self.extra[0]}, {**gradients, **self.extra[1]}

    def beta_of(self, observation, noise):
        """Return β, and the log-density of x = tanh u by the change of variables."""
        mean = self.balance(observation)[:, 0]
        std = torch.exp(torch.clip(self.balance_log_std.tensors[0], -10, 2))
        u = mean + std * noise[:, 0]
        x = torch.tanh(u)
        density = torch.distributions.Normal(mean, std.expand_as(mean)).log_prob(u) - torch.log(1 - x**2)
        return (x + 1) / 2 * (self.high - self.low) + self.low, density

    def actor_step(self, b, action, advantage):
        """Make the steps of balance, temperature and policy; both losses see the other's old parameters."""
        self.extra = ({}, {})
        if self.agent.phase == "offline":
            beta = self.low + (self.high - self.low) * b.draws["beta"][:, 0]
        else:
            beta = self.beta_of(b.observation, b.draws["online_beta"])[0].detach()
        balance_step = self.balance_step(b) if self.now % self.every == 0 else lambda: None
        weight = torch.clip(torch.exp(beta * advantage), max=self.c.weight_limit)
        if self.c.released_weights:
            # Row j weighs the mean over i of min(exp(β_i A_j), limit), whatever its own β.
            weights = [torch.clip(torch.exp(beta * one), max=self.c.weight_limit).mean() for one in advantage]
            weight = torch.stack(weights)
        mean = torch.tanh(self.actor(with_angles(b.observation, beta)))
        loss = -(weight * normal(mean, self.log_std.tensors[0]).log_prob(action).sum(1)).mean()
        gradient = torch.autograd.grad(loss, self.log_std.tensors + self.actor.tensors)
        balance_step()
        self.log_std.adam(gradient[:1], self.c.actor_learning_rate)
        self.actor.adam(gradient[1:], self.c.actor_learning_rate)
        return loss, gradient

    def balance_step(self, b):
        beta, density = self.beta_of(b.observation, b.draws["balance"])
        mean = torch.tanh(self.actor(with_angles(b.observation, beta)))
        action = mean + normal(mean, self.log_std.tensors[0]).stddev * b.draws["balance_action"]
        pair = torch.cat([b.observation, action], 1)
        q = torch.minimum(self.target_critics[0](pair), self.target_critics[1](pair))[:, 0]
        log_temperature = self.log_temperature.tensors[0]
        loss = (torch.exp(log_temperature).detach() * density - q).mean()
        gradient = torch.autograd.grad(loss, self.balance.tensors + self.balance_log_std.tensors, retain_graph=True)
        temperature_loss = torch.exp(log_temperature) * (-density.mean().detach() + 0.5)
        temperature_gradient = torch.autograd.grad(temperature_loss, [log_temperature])
        self.extra = (
            {"balance": loss, "temperature": temperature_loss},
            {"balance": gradient, "temperature": temperature_gradient},
        )

        def step():
            self.balance.adam(gradient[:-1], self.c.balance_learning_rate)
            self.balance_log_std.adam(gradient[-1:], self.c.balance_learning_rate)
            self.log_temperature.adam(temperature_gradient, self.c.temperature_learning_rate)

        return step


class PlainOnCQL(PlainCQL):
    """FamO2O's half on CQL, as its authors' program states it, with or without its two mistakes."""

    def __init__(self, agent):
        super().__init__(agent)
        self.agent = agent
        self.low = self.c.beta_low
        self.high = self.c.beta_high
        self.balance = PlainPolicy(agent.balance.actor, agent.groups["balance"])

    def update(self, b, step):
        self.now = step
        return super().update(b, step)

    def beta_of(self, observation, noise):
        x = self.balance(observation, noise)[0][:, 0]
        length = self.high - self.low
        return x * length + self.low if self.c.released_mapping else (x + 1) / 2 * length + self.low

    def all_losses(self, b):
        s = b.observation
        if self.agent.phase == "offline":
            beta = self.low + (self.high - self.low) * b.draws["beta"][:, 0]
        else:
            beta = self.beta_of(s, b.draws["online_beta"]).detach()
        own = self.beta_of(s, b.draws["balance"])
        following = self.beta_of(b.next_observation, b.draws["next_balance"])
        next_beta = own if self.c.released_next_balance else following
        losses, gradients = self.base_losses(b, with_angles(s, beta), with_angles(b.next_observation, next_beta), beta)
        if self.now % self.c.balance_every == 0:
            action, _ = self.policy(with_angles(s, own), b.draws["balance_action"])
            losses["balance"] = -self.smaller(self.critics, s, action).mean()
            gradients["balance"] = torch.autograd.grad(losses["balance"], self.balance.tensors)
        return losses, gradients

    def step(self, losses, gradients):
        super().step(losses, gradients)
        if "balance" in gradients:
            self.balance.adam(gradients["balance"], self.c.balance_learning_rate)


def weights_on_iql(agent, plain):
    own = plain.balance.tensors + plain.balance_log_std.tensors
    return {
        **iql_weights(agent, plain),
        "balance": (agent.balance.parameters(), own),
        "temperature": (agent.log_temperature.parameters(), plain.log_temperature.tensors),
    }


def weights_on_cql(agent, plain):
    return {**cql_weights(agent, plain), "balance": (agent.balance.parameters(), plain.balance.tensors)}


def prepared(case, phase, dtype):
    agent = agent_of("famo2o", CASES[case], 11, 3, dtype=dtype)
    agent.phase = phase
    if agent.config.base == "cql":
        return agent, PlainOnCQL, weights_on_cql, saturate(make_batches(agent))
    prepare(agent)
    return agent, PlainOnIQL, weights_on_iql, saturate(make_batches(agent))


@pytest.mark.parametrize("phase", ["offline", "online"])
@pytest.mark.parametrize("case", CASES)
def test_famo2o_in_float64(case, phase):
    check_float64(*prepared(case, phase, torch.float64))


@pytest.mark.parametrize("phase", ["offline", "online"])
@pytest.mark.parametrize("case", CASES)
def test_famo2o_in_float32(case, phase):
    check_float32(*prepared(case, phase, torch.float32))
