"""Properties of SAC-N that hold whatever the data; each names the mistake that breaks it."""

import dataclasses

import pytest
import torch
from helpers.agents import snapshot
from parity.harness import make_batches, saturate

import offline_rl as orl
from offline_rl.algos.sac_n import SACN, Config


def make(count=6, **changes):
    return SACN(Config(hidden_dims=[32, 32], batch_size=32, num_critics=count, **changes), 5, 2)


@pytest.fixture
def agent():
    return make()


@pytest.fixture
def batch(agent):
    return saturate(make_batches(agent, 1))[0]


def lowered(network, member, amount):
    """Lower all values of one critic of a stack."""
    network.mlp.layers[-1].data[member] -= amount


@pytest.mark.parametrize("member", range(6))
def test_any_target_critic_that_is_lower_lowers_the_target(agent, batch, member):
    """Broken by asking only the first two, or by a mean."""
    batch = dataclasses.replace(batch, terminated=torch.zeros(32))
    there = agent.actor(batch.next_observation)
    agent.log_temperature.value.data.fill_(-60.0)
    before = agent.critic_target(batch, there)
    lowered(agent.target_critic, member, 50.0)
    fall = (before - agent.critic_target(batch, there)) / 0.99
    assert ((fall > 49.9) & (fall < 50.1)).all()


@pytest.mark.parametrize("member", range(6))
def test_the_policy_follows_the_lowest_critic(agent, batch, member):
    """Broken by one critic that is always asked, as TD3+BC does."""
    lowered(agent.critic, member, 50.0)
    action, likelihood = agent.actor(batch.observation).sample(batch.draws["policy"])
    loss, metrics = agent.actor_loss(batch, action, likelihood, q_weight=1.0)
    own = agent.critic(batch.observation, action)[member]
    assert torch.allclose(metrics["policy_q"], own.mean())
    temperature = agent.log_temperature().exp()
    assert torch.allclose(loss, (temperature * likelihood - own).mean())


def test_a_critic_learns_the_same_whatever_the_number_of_the_others(batch):
    """Broken by a mean over critics: the learning rate of each would hang on N."""
    gradients = []
    for count in (1, 6):
        agent = make(count)
        for layer, first in zip(agent.critic.mlp.layers, make(1).critic.mlp.layers, strict=True):
            layer.data[:1] = first
        loss, _ = agent.critic_loss(batch, torch.ones(32))
        gradients.append([own[0] for own in torch.autograd.grad(loss, list(agent.critic.parameters()))])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-8) for a, b in zip(*gradients, strict=True))


def test_more_critics_value_unknown_actions_lower():
    """What the algorithm is for: the minimum of nested ensembles falls with their number."""
    agent = make(40)
    agent.critic.mlp.layers[-2].data.mul_(100)
    observation, action = torch.randn(200, 5), torch.rand(200, 2) * 2 - 1
    values = agent.critic(observation, action)
    lowest = [values[:count].amin(0).mean() for count in (1, 2, 10, 40)]
    assert lowest == sorted(lowest, reverse=True)
    assert lowest[0] > lowest[-1]


def test_the_spread_is_that_of_the_critics_at_the_data(agent, batch):
    """Broken by a spread over rows."""
    _, metrics = agent.critic_loss(batch, torch.ones(32))
    q = agent.critic(batch.observation, batch.action)
    assert torch.allclose(metrics["q_std"], q.std(0, correction=0).mean())
    assert make(1).critic_loss(batch, torch.ones(32))[1]["q_std"] == 0


def test_every_update_moves_everything_and_the_targets_after_the_critics(agent, batch):
    """Broken by a loss left out, or by targets that move first."""
    before = snapshot(agent)
    agent.update(batch, 1)
    after = snapshot(agent)
    assert not any(torch.equal(before[f"{name}.parameters"], after[f"{name}.parameters"]) for name in agent.groups)
    assert torch.equal(after["critic.target"], before["critic.target"].lerp(after["critic.parameters"], 0.005))


def test_networks_start_as_the_authors_do():
    """Broken by exchanging the two bounds, by biases of 0, by SAC's log-std, or by two hidden layers."""
    agent = SACN(Config(), 11, 3)
    for network, bound in ((agent.critic, 3e-3), (agent.actor, 1e-3)):
        layers = network.mlp.layers
        assert len(layers) == 8
        assert 0.9 * bound < layers[6].abs().max() <= bound
        assert (layers[7].abs() <= bound).all()
        assert all((bias == 0.1).all() for bias in list(layers[1:7:2]))
        assert all(0.99 < w.abs().max() * w.shape[2] ** 0.5 <= 1 for w in list(layers[0:6:2]))
    assert len(agent.critic.mlp.layers[0]) == 10
    assert not torch.equal(agent.critic.mlp.layers[0][0], agent.critic.mlp.layers[0][1])
    assert agent.actor(torch.randn(9, 11)).log_std.abs().max() < 0.3


@pytest.mark.parametrize(("raw", "cut"), [(-9.0, -5.0), (9.0, 2.0)])
def test_the_log_std_is_cut(agent, raw, cut):
    """Broken by SAC's wider bounds."""
    agent.actor.mlp.layers[-1].data[0, 2:] = raw
    assert (agent.actor(torch.randn(9, 5)).log_std == cut).all()


@pytest.mark.parametrize(
    ("dataset", "count"),
    [
        ("halfcheetah-medium-v2", 10),
        ("hopper-medium-v2", 500),
        ("hopper-medium-replay-v2", 200),
        ("walker2d-medium-expert-v2", 20),
    ],
)
def test_presets_are_the_published_numbers_of_critics(dataset, count):
    assert SACN.PRESETS[dataset] == {"num_critics": count}
    assert len(SACN.PRESETS) == 9


def test_no_critics_are_refused():
    with pytest.raises(orl.AgentError, match="num_critics is 0; it must be at least 1"):
        Config(num_critics=0)
