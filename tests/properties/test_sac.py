"""Properties of SAC that hold whatever the data; each names the mistake that breaks it."""

import dataclasses

import pytest
import torch
from helpers.agents import snapshot
from parity.harness import make_batches, saturate

from offline_rl.algos.sac import SAC, Config


@pytest.fixture
def agent():
    return SAC(Config(hidden_dims=[32, 32], batch_size=32), 5, 2)


@pytest.fixture
def batch(agent):
    return saturate(make_batches(agent, 1))[0]


def test_the_target_values_entropy_and_ends_with_the_episode(agent, batch):
    """Broken by CQL's hard target, by the entropy's sign, or by bootstrapping beyond the end."""
    batch = dataclasses.replace(batch, terminated=torch.zeros(32))
    there = agent.actor(batch.next_observation)
    _, log_likelihood = there.sample(batch.draws["target"])
    agent.log_temperature.value.data.fill_(-30.0)
    hard = agent.critic_target(batch, there)
    agent.log_temperature.value.data.fill_(0.0)
    assert torch.allclose(agent.critic_target(batch, there) - hard, -0.99 * log_likelihood, atol=1e-4)
    ended = dataclasses.replace(batch, terminated=torch.ones(32))
    assert torch.equal(agent.critic_target(ended, there), batch.reward)


def test_values_of_actions_on_the_border_are_learned_there(agent, batch):
    """Broken by CQL's cut of recorded actions: nothing is inverted here, and random actions reach far out."""
    assert batch.action.abs().max() == 1
    assert torch.equal(agent.transformed(batch).action, batch.action)


def test_every_update_moves_everything_and_the_targets_after_the_critics(agent, batch):
    """Broken by a loss left out, or by targets that move first."""
    before = snapshot(agent)
    agent.update(batch, 1)
    after = snapshot(agent)
    assert not any(torch.equal(before[f"{name}.parameters"], after[f"{name}.parameters"]) for name in agent.groups)
    assert torch.equal(after["critic.target"], before["critic.target"].lerp(after["critic.parameters"], 0.005))
