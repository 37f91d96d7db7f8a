"""Properties of TD3+BC that hold whatever the data; each names the mistake that breaks it."""

import dataclasses

import pytest
import torch
from helpers.agents import snapshot
from parity.harness import make_batches

from offline_rl.algos.td3_bc import TD3BC, Config


@pytest.fixture
def agent():
    return TD3BC(Config(hidden_dims=[32, 32], batch_size=32), 5, 2)


def test_actor_and_targets_move_on_even_steps_only(agent):
    """Broken by forgetting policy_delay, or by moving the targets on every update."""
    for step, batch in enumerate(make_batches(agent, 4), start=1):
        before = snapshot(agent)
        agent.update(batch, step)
        after = snapshot(agent)
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert "critic.parameters" in moved
        slow = {"actor.parameters", "actor.target", "critic.target"}
        assert moved & slow == (slow if step % 2 == 0 else set())


def test_targets_average_new_weights_exactly(agent):
    """Broken by averaging before the actor's step, or with the rates exchanged."""
    batches = make_batches(agent, 2)
    agent.update(batches[0], 1)
    before = snapshot(agent)
    agent.update(batches[1], 2)
    after = snapshot(agent)
    for name in ("actor", "critic"):
        expected = before[f"{name}.target"].lerp(after[f"{name}.parameters"], 0.005)
        assert torch.equal(after[f"{name}.target"], expected)


def test_target_of_a_terminal_row_is_its_reward(agent):
    """Broken by bootstrapping beyond the end of an episode."""
    (batch,) = make_batches(agent, 1)
    ended = dataclasses.replace(batch, terminated=torch.ones_like(batch.terminated))
    assert torch.equal(agent.critic_target(ended), batch.reward)


def test_the_noise_on_target_actions_is_clipped(agent):
    """Broken by leaving out the clip at 0.5: twice as large a draw then changes the target."""
    (batch,) = make_batches(agent, 1)
    large = {"target": torch.sign(batch.draws["target"]) * 10}
    larger = {"target": torch.sign(batch.draws["target"]) * 20}
    first = agent.critic_target(dataclasses.replace(batch, draws=large))
    assert torch.equal(first, agent.critic_target(dataclasses.replace(batch, draws=larger)))


def test_a_scaled_critic_leaves_the_actors_gradient_unchanged(agent):
    """Broken by letting the gradient run through λ, or by a floor under E|Q|."""
    (batch,) = make_batches(agent, 1)

    def gradient():
        loss, _ = agent.actor_loss(batch)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(agent.actor.parameters()))])

    before = gradient()
    with torch.no_grad():
        for layer in list(agent.critic.mlp.layers)[-2:]:
            layer.mul_(8.0)
    assert torch.allclose(before, gradient(), rtol=1e-5, atol=1e-8)


def test_a_reward_transform_touches_rewards_only():
    """Broken as in a published program whose transform hit the next state instead of the reward."""
    plain = TD3BC(Config(hidden_dims=[32, 32], batch_size=32), 5, 2)
    shifted = TD3BC(Config(hidden_dims=[32, 32], batch_size=32, reward_scale=3.0, reward_shift=-1.0), 5, 2)
    (batch,) = make_batches(plain, 1)
    kept = {name: value.clone() for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    difference = shifted.critic_target(batch) - plain.critic_target(batch)
    assert torch.allclose(difference, 3.0 * batch.reward - 1.0 - batch.reward, atol=1e-6)
    shifted.update(batch, 1)
    assert all(torch.equal(value, getattr(batch, name)) for name, value in kept.items())


def test_the_actors_step_leaves_the_critics_alone(agent):
    """Broken by letting the actor's loss reach the critics' weights."""
    batch, _ = make_batches(agent, 2)
    agent.update(batch, 1)
    before = snapshot(agent)
    agent.minimize(batch, actor=agent.actor_loss)
    after = snapshot(agent)
    assert torch.equal(before["critic.parameters"], after["critic.parameters"])
    assert not torch.equal(before["actor.parameters"], after["actor.parameters"])
