"""Properties of CQL that hold whatever the data; each names the mistake that breaks it."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers.agents import snapshot
from parity.harness import make_batches, saturate

import offline_rl as orl
from offline_rl.algos.cql import CQL, Config
from offline_rl.networks.gaussian import SquashedGaussian

SMALL = {"hidden_dims": [32, 32], "batch_size": 32, "num_actions": 4}


def make(**settings):
    return CQL(Config(**{**SMALL, **settings}), 5, 2)


@pytest.fixture
def agent():
    return make()


@pytest.fixture
def batch(agent):
    return make_batches(agent, 1)[0]


def sampled(agent, batch):
    return agent.sampled_actions(batch, agent.actor(batch.observation), agent.actor(batch.next_observation))


def gap(agent, batch, critic):
    """Return the conservative term for a made-up critic."""
    agent.critic = critic
    return agent.conservative_loss(batch, torch.zeros(32), *sampled(agent, batch))[1]["conservative_gap"]


def test_uniform_actions_fill_the_cube_and_have_its_density(agent, batch):
    """Broken by drawing from [0, 1]^A, a mistake known from CQL's early programs, or by another density."""
    actions, log_densities = sampled(agent, batch)
    assert actions.shape == (12, 32, 2)
    random = actions[:4]
    assert -1 <= random.min() < -0.95
    assert 0.95 < random.max() <= 1
    assert torch.equal(log_densities[:4], torch.full((4, 32), -2 * math.log(2)))


def test_the_integral_of_a_constant_is_estimated_exactly_by_uniform_actions(agent, batch):
    """Broken by the sign of the density: every uniform action must stand for exp(c) times the cube's volume 4."""
    agent.actor.forward = lambda observation: SquashedGaussian(torch.zeros(32, 2), torch.full((32, 2), 30.0))
    # So wide a policy puts all its samples on the border, where its density is huge: they count for nothing.
    constant = lambda observation, action: torch.full((2, len(action)), 3.0)  # noqa: E731
    assert gap(agent, batch, constant) == pytest.approx(math.log(4 * 4), rel=1e-4)


def test_the_conservative_term_does_not_see_the_level_of_q(agent, batch):
    """Broken by taking the data's value out of one critic only, or by a mean for a log-sum-exp of differences."""
    slope = lambda observation, action: action.sum(1).expand(2, -1)  # noqa: E731
    shifted = lambda observation, action: slope(observation, action) + 7  # noqa: E731
    assert gap(agent, batch, slope) == pytest.approx(float(gap(agent, batch, shifted)), abs=1e-5)


def test_samples_of_the_next_states_policy_are_valued_in_the_state(agent, batch):
    """Broken by giving the critic the next states."""
    seen = []

    def critic(observation, action):
        seen.append(observation)
        return action.sum(1).expand(2, -1)

    gap(agent, batch, critic)
    assert torch.equal(seen[0], batch.observation.repeat(13, 1))


def test_the_next_states_move_the_target_and_one_kind_of_actions(agent, batch):
    """Broken by exchanging the two policies, or by drawing both kinds with one draw."""
    changed = dataclasses.replace(batch, next_observation=batch.next_observation + 1)
    (before, _), (after, _) = sampled(agent, batch), sampled(agent, changed)
    assert torch.equal(before[:4], after[:4])
    assert not torch.isclose(before[4:8], after[4:8]).any(0).all()
    assert torch.equal(before[8:], after[8:])


def test_a_weight_of_zero_is_soft_actor_critic(batch):
    """Broken by a weight on the squared error, or by leaving it off the data's value."""
    agent = make(conservative_weight=0.0)
    target = torch.linspace(-1, 1, 32)
    loss, _ = agent.conservative_loss(batch, target, *sampled(agent, batch))
    assert torch.allclose(loss, (agent.critic(batch.observation, batch.action) - target).square().mean(1).sum())


def test_a_larger_weight_lowers_values_outside_the_data():
    """Broken by the sign of the conservative term."""
    gaps = []
    for weight in (0.0, 5.0):
        agent = make(conservative_weight=weight, critic_learning_rate=1e-2)
        (batch,) = make_batches(agent, 1)
        for step in range(1, 41):
            metrics = agent.update(batch, step)
        gaps.append(float(metrics["conservative_gap"]))
    assert gaps[1] < gaps[0] - 1


def test_the_target_is_without_entropy_and_ends_with_the_episode(agent, batch):
    """Broken by a soft backup, or by bootstrapping beyond the end."""
    there = agent.actor(batch.next_observation)
    before = agent.critic_target(batch, there)
    agent.log_temperature.value.data.fill_(5.0)
    assert torch.equal(agent.critic_target(batch, there), before)
    ended = dataclasses.replace(batch, terminated=torch.ones_like(batch.terminated))
    assert torch.equal(agent.critic_target(ended, there), batch.reward)


@pytest.mark.parametrize(("entropy", "sign"), [(-3.0, 1), (-2.0, 0), (-1.0, -1)])
def test_the_temperature_rises_below_the_entropy_of_minus_a(agent, batch, entropy, sign):
    """Broken by the loss's sign, or by another target: A is 2 here."""
    before = agent.log_temperature().item()
    agent.minimize(batch, temperature=lambda b: agent.temperature_loss(b, torch.full((32,), -entropy)))
    assert np.sign(agent.log_temperature().item() - before) == sign


def test_a_higher_temperature_widens_the_policy(agent, batch):
    """Broken by the sign of the likelihood in the policy's loss."""
    slopes = []
    for level in (-20.0, 5.0):
        agent.log_temperature.value.data.fill_(level)
        loss, _ = agent.losses(batch, 1)["actor"](batch)
        slopes.append(torch.autograd.grad(loss, agent.actor.spread[1])[0])
    assert slopes[1] < min(slopes[0], 0)


def test_every_update_moves_everything_and_the_targets_after_the_critics(agent, batch):
    """Broken by targets that move first, or by the rates exchanged."""
    before = snapshot(agent)
    agent.update(batch, 1)
    after = snapshot(agent)
    assert not any(torch.equal(before[f"{name}.parameters"], after[f"{name}.parameters"]) for name in agent.groups)
    assert torch.equal(after["critic.target"], before["critic.target"].lerp(after["critic.parameters"], 0.005))


def test_all_losses_see_the_parameters_from_before_the_update(batch):
    """Broken by stepping one after the other: critics learn fast here, which the policy must not see."""
    gradients = []
    for rate in (1e-9, 1.0):
        agent = make(critic_learning_rate=rate, temperature_learning_rate=rate)
        agent.update(batch, 1)
        gradients.append(agent.groups["actor"].gradient)
    assert torch.equal(*gradients)


def test_rewards_and_actions_of_the_dataset_stay_as_they_are(agent, batch):
    """Broken by transforming in place, or by an actions' limit of 1."""
    agent.config = dataclasses.replace(agent.config, reward_scale=3.0, reward_shift=-1.0)
    (border,) = saturate([batch])
    kept = {name: value.clone() for name, value in vars(border).items() if isinstance(value, torch.Tensor)}
    agent.update(border, 1)
    assert all(torch.equal(value, getattr(border, name)) for name, value in kept.items())
    transformed = agent.transformed(border)
    assert torch.equal(transformed.reward, 3 * border.reward - 1)
    assert transformed.action.abs().max() == pytest.approx(0.999)


def test_each_draw_goes_to_its_own_place(agent, batch):
    """Broken by using a draw twice, or by exchanging draws."""
    places = {
        "policy": {"actor", "temperature"},
        "target": {"critic"},
        "random": {"critic"},
        "current": {"critic"},
        "next": {"critic"},
    }

    def gradients(draws):
        fresh = make()
        fresh.update(dataclasses.replace(batch, draws=draws), 1)
        return {name: group.gradient.clone() for name, group in fresh.groups.items()}

    before = gradients(batch.draws)
    assert set(places) == set(batch.draws)
    for name, moved in places.items():
        changed = gradients({**batch.draws, name: 0.9 * batch.draws[name]})
        assert {group for group in before if not torch.equal(before[group], changed[group])} == moved


def test_acting_takes_the_mode_and_exploring_a_sample(agent, batch):
    """Broken by noise after the tanh, or by noise in the policy."""
    noise = torch.randn(32, 2)
    mean, log_std = agent.actor(batch.observation)
    assert torch.equal(agent.policy(batch.observation), mean.tanh())
    assert torch.equal(agent.explore(batch.observation, noise), (mean + log_std.exp() * noise).tanh())
    assert agent.explore(batch.observation, 100 * noise).abs().max() <= 1


def test_a_saved_agent_acts_and_explores_as_before(agent, tmp_path):
    """Broken by a log-std's line that is not saved."""
    agent.actor.spread[1].data.fill_(-2.0)
    agent.save(tmp_path / "agent")
    loaded = orl.load_agent(tmp_path / "agent")
    observation, noise = np.ones(5, np.float32), np.ones(2, np.float32)
    assert np.array_equal(loaded.act(observation), agent.act(observation))
    assert np.array_equal(loaded.act_with_noise(observation, noise), agent.act_with_noise(observation, noise))


def test_the_networks_start_small_and_normalised_critics_are_larger():
    """Broken by PyTorch's initial weights, or by a layer norm that is never built."""
    plain, normed = CQL(Config(), 11, 3), CQL(Config(layer_norm=True), 11, 3)
    for network in (plain.critic, plain.actor):
        assert 0.01 < network.mlp.layers[4].abs().max() <= math.sqrt(0.03 / 256)
        assert not network.mlp.layers[1].any()
    sizes = [len(agent.groups["critic"].flat) for agent in (plain, normed)]
    assert sizes == [2 * 69_889, 2 * (69_889 + 4 * 256)]
    assert len(plain.groups["actor"].flat) == 70_408
