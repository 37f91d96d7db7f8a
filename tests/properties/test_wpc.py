"""Properties of wPC that hold whatever the data; each names the mistake that breaks it."""

import dataclasses

import pytest
import torch
from helpers.agents import snapshot
from parity.harness import make_batches

from offline_rl.algos.td3_bc import TD3BC
from offline_rl.algos.td3_bc import Config as TD3BCConfig
from offline_rl.algos.wpc import WPC, Config

SMALL = {"hidden_dims": [32, 32], "batch_size": 32}


def make(**settings):
    return WPC(Config(**{**SMALL, **settings}), 5, 2)


@pytest.fixture
def agent():
    return make()


@pytest.fixture
def batch(agent):
    return make_batches(agent, 1)[0]


def gradient_of(agent, batch):
    loss, _ = agent.actor_loss(batch)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, agent.groups["actor"].parameters)])


def with_value(agent, value):
    agent.value = lambda observation: torch.as_tensor(value).expand(len(observation))
    return agent


def test_where_every_action_is_desirable_it_is_td3_bc(agent, batch):
    """Broken by another weight than 1, by a mean over desirable rows alone, or by any other change of TD3+BC."""
    plain = TD3BC(TD3BCConfig(**SMALL), 5, 2)
    loss, metrics = with_value(agent, -1e9).actor_loss(batch)
    assert metrics["desirable"] == 1
    assert torch.equal(loss, plain.actor_loss(batch)[0])
    assert torch.equal(gradient_of(agent, batch), gradient_of(plain, batch))


def test_where_no_action_is_desirable_nothing_pulls(agent, batch):
    """Broken by a pull to the policy's own action that keeps it where it is."""
    free = with_value(agent, 1e9)
    loss, metrics = free.actor_loss(batch)
    assert metrics["desirable"] == 0 and metrics["constraint"] == 0
    q = free.critic.frozen(batch.observation, free.actor(batch.observation), count=1)[0]
    expected = -2.5 * q.mean() / q.abs().mean().detach()
    assert torch.allclose(loss, expected)
    gradients = torch.autograd.grad(expected, free.groups["actor"].parameters)
    assert torch.allclose(gradient_of(free, batch), torch.cat([g.reshape(-1) for g in gradients]), atol=1e-7)


def test_the_pull_is_the_mean_over_all_rows(batch):
    """Broken by dividing by the number of desirable rows, or by a pull to the others."""
    agent = make(alpha=0.0)
    action = (torch.rand(32, 2) * 2 - 1).requires_grad_()
    agent.actor = lambda _: action
    with torch.no_grad():
        q = agent.critic(batch.observation, batch.action)[0]
    loss, metrics = with_value(agent, q.median()).actor_loss(batch)
    desirable = (q > q.median())[:, None]
    assert metrics["desirable"] == desirable.float().mean() == 0.5
    (gradient,) = torch.autograd.grad(loss, action)
    expected = torch.where(desirable, 2 * (action - batch.action) / 64, 0.0).detach()
    assert torch.allclose(gradient, expected, atol=1e-7)


def test_an_action_as_good_as_the_state_is_not_desirable(agent, batch):
    """Broken by ≥ for >, by the smaller Q for Q₁, or by the target critics."""
    with torch.no_grad():
        q = agent.critic(batch.observation, batch.action)[0]
    assert not with_value(agent, q).desirable(batch).any()
    assert with_value(agent, q - 1e-3).desirable(batch).all()


def test_v_learns_the_critics_target(agent, batch):
    """Broken by V learning Q₁(s, a), or a target of its own."""
    target = agent.critic_target(batch)
    before = snapshot(agent)
    metrics = agent.update(batch, 1)
    value = make().value(batch.observation)
    assert torch.equal(before["value.parameters"], snapshot(make())["value.parameters"])
    assert torch.allclose(metrics["value_loss"], (value - target).square().mean())


def test_the_actor_sees_the_old_v_and_the_make_criticss(batch):
    """Broken by a comparison with V from after its step, or with Q₁ from before: both learn fast here."""
    fast, start = make(value_learning_rate=0.1, critic_learning_rate=0.1), make()
    fast.update(batch, 2)
    start.critic.load_state_dict(fast.critic.state_dict())
    expected = gradient_of(start, batch)
    assert torch.allclose(fast.groups["actor"].gradient, expected, rtol=1e-4, atol=1e-7)
    start.value.load_state_dict(fast.value.state_dict())
    assert not torch.allclose(gradient_of(start, batch), expected, rtol=1e-2)


def test_actor_and_targets_move_on_even_steps_only_and_the_rest_always(agent):
    """Broken by a delayed V, by forgetting policy_delay, or by targets that move first."""
    for step, batch in enumerate(make_batches(agent, 4), start=1):
        before = snapshot(agent)
        agent.update(batch, step)
        after = snapshot(agent)
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert {"critic.parameters", "value.parameters"} <= moved
        slow = {"actor.parameters", "actor.target", "critic.target"}
        assert moved & slow == (slow if step % 2 == 0 else set())
        if step % 2 == 0:
            assert torch.equal(after["critic.target"], before["critic.target"].lerp(after["critic.parameters"], 0.005))


def test_critics_are_those_of_td3_bc(batch):
    """Broken by a critics' loss that V changes: until the actor moves, the critics' weights are the same bytes."""
    plain, own = TD3BC(TD3BCConfig(**SMALL), 5, 2), make()
    for agent in (plain, own):
        agent.update(batch, 1)
    states = snapshot(plain), snapshot(own)
    for name in ("critic.parameters", "actor.parameters", "actor.target", "critic.target"):
        assert torch.equal(*(state[name] for state in states))


def test_a_terminal_row_teaches_v_its_reward(agent, batch):
    """Broken by bootstrapping beyond the end of an episode."""
    ended = dataclasses.replace(batch, terminated=torch.ones_like(batch.terminated))
    value = agent.value(batch.observation)
    assert torch.allclose(agent.update(ended, 1)["value_loss"], (value - batch.reward).square().mean())
