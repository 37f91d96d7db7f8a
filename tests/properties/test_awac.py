"""Properties of AWAC that hold whatever the data; each names the mistake that breaks it."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers.agents import snapshot
from parity.harness import make_batches

import offline_rl as orl
from offline_rl.algos.awac import AWAC, Config

SMALL = {"hidden_dims": [32, 32], "batch_size": 32}


def make(**settings):
    return AWAC(Config(**{**SMALL, **settings}), 5, 2)


@pytest.fixture
def agent():
    return make()


@pytest.fixture
def batch(agent):
    return make_batches(agent, 1)[0]


def narrow(agent):
    """Make the policy's samples equal to its mean, but for 2e-9."""
    agent.actor.free_log_std.data.fill_(-20.0)
    return agent


def gradient_of(agent, batch):
    loss, _ = agent.actor_loss(batch)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, agent.groups["actor"].parameters)])


def test_weights_are_capped_and_count_what_is_capped():
    """Broken by a temperature that multiplies, by a cap before the exponential, or by counting what is not capped."""
    weight, metrics = make(temperature=0.5).weights(torch.tensor([-0.5, 0.0, 2.3, 2.35, 500.0]))
    assert torch.allclose(weight, torch.tensor([math.exp(-1), 1.0, math.exp(4.6), 100.0, 100.0]), rtol=1e-5)
    assert metrics["capped"] == pytest.approx(0.4)


def test_normalised_weights_have_a_mean_of_one_and_no_cap():
    """Broken by a sum of one, by a cap, or by an exponential that overflows."""
    advantage = torch.cat([torch.zeros(999), torch.tensor([1000.0])])
    weight, _ = make(normalize_weights=True).weights(advantage)
    assert weight[-1] == 1000 and weight.mean() == 1
    one, other = (make(normalize_weights=True).weights(advantage[:9] + shift)[0] for shift in (0.0, 5.0))
    assert torch.allclose(one, other)


def test_a_policy_that_repeats_the_data_has_no_advantage(agent, batch):
    """Broken by comparing other critics, or other states, on the two sides of the difference."""
    with torch.no_grad():
        own = narrow(agent).policy(batch.observation)
    _, metrics = agent.actor_loss(dataclasses.replace(batch, action=own))
    assert metrics["advantage"].abs() < 1e-6 and metrics["weight"] == pytest.approx(1, abs=1e-5)


def test_the_advantage_is_that_over_a_sample_cut_to_the_bounds(agent, batch):
    """Broken by the policy's mean for a sample, by Q₁ alone, by the target critics, or by no cut."""
    agent.actor.free_log_std.data.fill_(1.0)
    with torch.no_grad():
        raw = agent.actor(batch.observation) + math.e * batch.draws["policy"]
        assert raw.abs().max() > 1
        own, given = (agent.critic(batch.observation, a) for a in (raw.clamp(-1, 1), batch.action))
    expected = torch.minimum(given[0], given[1]) - torch.minimum(own[0], own[1])
    assert torch.allclose(agent.actor_loss(batch)[1]["advantage"], expected.mean(), atol=1e-6)


def test_a_hot_policy_clones_the_behaviour(batch):
    """Broken by a temperature that does not divide the whole advantage."""
    agent = make(temperature=1e9)
    with torch.no_grad():
        mean, std = agent.actor(batch.observation), agent.actor.log_std().exp()
    expected = -torch.distributions.Normal(mean, std).log_prob(batch.action).sum(1).mean()
    assert torch.allclose(agent.actor_loss(batch)[0], expected, rtol=1e-5)


def test_no_gradient_runs_through_the_weights(agent, batch):
    """Broken by a weight that the policy can make larger by making its own samples worse."""
    weight, _ = agent.weights(agent.advantage(batch, agent.explore(batch.observation, batch.draws["policy"]).detach()))
    mean, log_std = agent.actor(batch.observation), agent.actor.log_std()
    likelihood = torch.distributions.Normal(mean, log_std.exp()).log_prob(batch.action).sum(1)
    loss = -(weight * likelihood).mean()
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, agent.groups["actor"].parameters)])
    assert torch.allclose(gradient_of(agent, batch), expected, rtol=1e-4, atol=1e-6)


def test_the_policy_sees_the_make_criticss(batch):
    """Broken by losses that are all taken before the first step, as in the authors' code."""
    fast, start = make(critic_learning_rate=0.1), make()
    before = gradient_of(start, batch)
    fast.update(batch, 1)
    start.critic.load_state_dict(fast.critic.state_dict())
    expected = gradient_of(start, batch)
    assert torch.allclose(fast.groups["actor"].gradient, expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(before, expected, rtol=1e-2)


def test_every_update_moves_everything_and_the_targets_after_the_critics(agent, batch):
    """Broken by a delayed policy, by targets that move first, or by the rates exchanged."""
    before = snapshot(agent)
    agent.update(batch, 1)
    after = snapshot(agent)
    assert not any(torch.equal(before[f"{name}.parameters"], after[f"{name}.parameters"]) for name in agent.groups)
    assert torch.equal(after["critic.target"], before["critic.target"].lerp(after["critic.parameters"], 0.005))


def test_the_target_of_a_terminal_row_is_its_reward(agent, batch):
    """Broken by bootstrapping beyond the end of an episode."""
    ended = dataclasses.replace(batch, terminated=torch.ones_like(batch.terminated))
    assert torch.equal(agent.critic_target(ended), batch.reward)


def test_a_reward_transform_touches_rewards_only(agent, batch):
    """Broken by a shift before the factor, or by transforming the batch in place."""
    kept = {name: value.clone() for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    other = make(reward_scale=3.0, reward_shift=-1.0)
    difference = other.critic_target(batch) - agent.critic_target(batch)
    assert torch.allclose(difference, 2.0 * batch.reward - 1.0, atol=1e-6)
    other.update(batch, 1)
    assert all(torch.equal(value, getattr(batch, name)) for name, value in kept.items())


def test_exploring_adds_the_policys_own_noise_and_stays_within_bounds(agent):
    """Broken by a squashed mean, by a variance for a std, or by no cut."""
    agent.actor.free_log_std.data.copy_(torch.tensor([-3.0, -2.0]))
    observation, noise = torch.randn(20_000, 5) / 10, torch.randn(20_000, 2)
    with torch.no_grad():
        assert torch.equal(agent.policy(observation), agent.actor.mlp(observation)[0].clamp(-1, 1))
        added = agent.explore(observation, noise) - agent.policy(observation)
        wild = agent.explore(observation, 100 * noise)
        far = agent.policy(1e3 * observation)
    assert torch.allclose(added.std(0), torch.tensor([-3.0, -2.0]).exp(), rtol=0.03)
    assert wild.abs().max() == far.abs().max() == 1


def test_a_saved_agent_acts_and_explores_as_before(agent, tmp_path):
    """Broken by a log-std that is not saved."""
    agent.actor.free_log_std.data.fill_(-2.0)
    agent.save(tmp_path / "agent")
    loaded = orl.load_agent(tmp_path / "agent")
    observation, noise = np.ones(5, np.float32), np.ones(2, np.float32)
    assert np.array_equal(loaded.act(observation), agent.act(observation))
    assert np.array_equal(loaded.act_with_noise(observation, noise), agent.act_with_noise(observation, noise))


@pytest.mark.parametrize(("sizes", "counts"), [((11, 3), (135_430, 271_362)), ((17, 6), (137_740, 275_970))])
def test_the_networks_are_as_large_as_corls(sizes, counts):
    """Broken by another width or depth, a second output, or a state-dependent std."""
    agent = AWAC(Config(), *sizes)
    assert tuple(len(agent.groups[name].flat) for name in ("actor", "critic")) == counts


def test_the_better_of_two_actions_is_learned():
    """Broken by the advantage's sign: where both actions are recorded equally often, the policy takes the better."""
    agent = make(temperature=0.1, actor_learning_rate=1e-2, critic_learning_rate=1e-2, discount=0.0)
    for step, batch in enumerate(make_batches(agent, 100), start=1):
        good = (batch.index % 2 == 0)[:, None]
        action = torch.where(good, 0.5, -0.5).expand(32, 2)
        agent.update(dataclasses.replace(batch, action=action, reward=good[:, 0].float()), step)
    with torch.no_grad():
        assert agent.policy(batch.observation).mean() > 0.3
