"""Properties of IQL that hold whatever the data; each names the mistake that breaks it."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers.agents import snapshot
from helpers.datasets import random_dataset
from parity.harness import make_batches

import offline_rl as orl
from offline_rl.agent import merged, presets
from offline_rl.algos.iql import IQL, Config
from offline_rl.data import Dataset
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.envs import find_task

SMALL = {"hidden_dims": [32, 32], "batch_size": 32}


def make(settings=None, **options):
    return IQL(Config(**{**SMALL, **(settings or {})}), 5, 2, **options)


@pytest.fixture
def agent():
    return make()


@pytest.fixture
def batch(agent):
    return make_batches(agent, 1)[0]


def rows_of(dataset):
    return PackedRows.of(dataset, Preprocessing.identity(5, 2))


def with_rewards(rewards, terminated):
    data = random_dataset(rows=len(rewards))
    return rows_of(
        Dataset.from_arrays(
            observations=data.observations,
            actions=data.actions,
            next_observations=data.next_observations,
            rewards=rewards,
            terminated=terminated,
        )
    )


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_v_learns_the_expectile(batch, expectile):
    """Broken by exchanging τ and 1 - τ: of a value that is 0 or 1 equally often, the expectile is τ."""
    agent = make({"expectile": expectile})
    q = (torch.arange(32) % 2).to(torch.float32)
    for value, sign in ((expectile - 0.1, -1), (expectile, 0), (expectile + 0.1, 1)):
        constant = torch.full((32,), value, requires_grad=True)
        agent.value = lambda observation, constant=constant: constant
        (slope,) = torch.autograd.grad(agent.value_loss(batch, q)[0], constant)
        assert torch.sign((slope.sum() * 1e5).round()) == sign


def test_an_expectile_of_one_half_is_half_a_squared_error(agent, batch):
    """Broken by any other factor in front of V's loss."""
    half = make({"expectile": 0.5})
    q = torch.linspace(-3, 3, 32)
    assert torch.allclose(half.value_loss(batch, q)[0], (q - half.value(batch.observation)).square().mean() / 2)


def test_weights_are_capped_and_count_what_is_capped(agent):
    """Broken by a cap before the exponential, or by counting what is not capped."""
    weight, metrics = agent.weights(torch.tensor([0.0, 1.0, 4.6, 4.7, 1000.0]))
    assert torch.allclose(weight, torch.tensor([1.0, math.e, math.exp(4.6), 100.0, 100.0]), rtol=1e-5)
    assert metrics["capped"] == pytest.approx(0.4)


def test_beta_zero_clones_the_behaviour(batch):
    """Broken by a β that does not multiply the whole advantage."""
    agent = make({"beta": 0.0})
    loss, _ = agent.actor_loss(batch, torch.linspace(-9, 9, 32))
    assert torch.allclose(loss, agent.imitation_loss(batch.observation, batch.action).mean())


def test_the_likelihood_is_that_of_a_normal_distribution_around_a_squashed_mean(agent, batch):
    """Broken by squashing the sample, by a mean over action entries, or by leaving out the constant."""
    agent.actor.free_log_std.data.copy_(torch.tensor([-0.5, 0.3]))
    mean = agent.actor.mlp(batch.observation)[0].tanh()
    expected = torch.distributions.Normal(mean, agent.actor.free_log_std.exp()).log_prob(batch.action).sum(1)
    assert torch.allclose(agent.imitation_loss(batch.observation, batch.action), -expected, atol=1e-5)


def test_v_and_critics_never_see_the_policy(batch):
    """Broken by a target that evaluates an action of the policy."""
    states = []
    for scale in (1.0, 3.0):
        agent = make()
        agent.groups["actor"].flat.mul_(scale)
        for step in (1, 2):
            agent.update(batch, step)
        states.append(snapshot(agent))
    assert not torch.equal(*(state["actor.parameters"] for state in states))
    for name in ("value.parameters", "critic.parameters", "critic.target"):
        assert torch.equal(*(state[name] for state in states))


def test_every_update_moves_everything_and_the_targets_after_the_critics(agent, batch):
    """Broken by a delayed policy, by targets that move first, or by the rates exchanged."""
    before = snapshot(agent)
    agent.update(batch, 1)
    after = snapshot(agent)
    assert not any(torch.equal(before[f"{name}.parameters"], after[f"{name}.parameters"]) for name in agent.groups)
    assert torch.equal(after["critic.target"], before["critic.target"].lerp(after["critic.parameters"], 0.005))


def test_the_policy_sees_the_new_v(agent, batch):
    """Broken by an advantage from before V's step, CORL's choice: V learns fast here, so the two differ much."""
    fast = make({"value_learning_rate": 0.1})
    fast.update(batch, 1)
    start = make()
    with torch.no_grad():
        q = start.target_critic(batch.observation, batch.action).amin(0)
        advantage = q - fast.value(batch.observation)
    loss, _ = start.actor_loss(batch, advantage)
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, start.groups["actor"].parameters)])
    assert torch.allclose(fast.groups["actor"].gradient, expected, rtol=1e-4, atol=1e-6)


def test_the_target_of_a_terminal_row_is_its_reward(agent, batch):
    """Broken by bootstrapping beyond the end of an episode."""
    ended = dataclasses.replace(batch, terminated=torch.ones_like(batch.terminated))
    losses = agent.losses(ended, torch.zeros(32), 1)
    assert torch.equal(losses["critic"].keywords["target"], batch.reward)


def test_the_unit_of_rewards_does_not_matter():
    """Broken by scaling by the best return alone, or by returns of rows instead of episodes."""
    rewards, terminated = np.arange(40.0) - 5, np.arange(40) % 10 == 9
    scaled = []
    for factor in (1.0, 8.0):
        agent = make()
        agent.prepare(with_rewards(factor * rewards, terminated))
        scaled.append(agent.reward_scale * factor)
    # The episodes' sums are those of -5 ... 4 and of 25 ... 34: 300 apart.
    assert scaled == pytest.approx([1000 / 300, 1000 / 300])


@pytest.mark.parametrize("rewards", [np.zeros(20), np.ones(20)])
def test_equal_returns_are_refused_where_they_would_divide_by_zero(rewards):
    """Broken by dividing all the same."""
    rows = with_rewards(rewards, np.arange(20) % 10 == 9)
    with pytest.raises(orl.AgentError, match="all 2 are equal; give --scale_rewards False"):
        make().prepare(rows)
    raw = make({"scale_rewards": False})
    raw.prepare(rows)
    assert raw.reward_scale == 1


def test_a_fragment_counts_as_an_episode_only_where_it_is_asked_to():
    """Broken by CORL's setting with the authors' factor: the smallest return would be that of a few steps."""
    rewards = np.concatenate([np.full(10, 1.0), np.full(10, 2.0), np.full(3, 0.5)])
    rows = with_rewards(rewards, np.isin(np.arange(23), (9, 19)))
    assert rows.episode_complete.tolist() == [True, True, False]
    factors = {}
    for counts in (True, False):
        agent = make({"scale_fragment": counts})
        agent.prepare(rows)
        factors[counts] = agent.reward_scale
    assert factors == {True: 1000 / 18.5, False: 1000 / 10.0}
    for one in (with_rewards(np.arange(10.0), np.zeros(10, bool)), with_rewards(np.ones(12), np.arange(12) == 9)):
        with pytest.raises(orl.AgentError, match=r"all [01] are equal; give --scale_rewards False"):
            make({"scale_fragment": False}).prepare(one)


def test_rewards_and_actions_of_the_dataset_stay_as_they_are(batch):
    """Broken by transforming in place: rows that come again would be scaled again."""
    agent = make({"reward_shift": -1.0})
    kept = {name: value.clone() for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    agent.update(batch, 1)
    assert all(torch.equal(value, getattr(batch, name)) for name, value in kept.items())
    assert torch.equal(agent.transformed(batch).reward, batch.reward - 1)


def test_only_the_policys_learning_rate_decays_and_only_offline():
    """Broken by decaying V, or by going on to decay where an online phase follows."""
    rates = {}
    for online_steps in (0, 5):
        agent = make(steps=10, online_steps=online_steps)
        batches = make_batches(agent, 12)
        for step in range(1, 13):
            before = snapshot(agent)
            agent.update(batches[step - 1], step)
        rates[online_steps] = {
            name: float((group.flat - before[f"{name}.parameters"]).abs().max()) for name, group in agent.groups.items()
        }
    assert rates[0]["actor"] == 0
    assert all(rate > 1e-5 for rate in [*rates[5].values(), rates[0]["value"], rates[0]["critic"]])


def test_exploring_adds_the_policys_own_noise_and_stays_within_bounds(agent):
    """Broken by noise before the tanh, by a variance for a std, or by no cut."""
    agent.actor.free_log_std.data.copy_(torch.tensor([-3.0, -2.0]))
    observation = torch.randn(20_000, 5) / 10
    noise = torch.randn(20_000, 2)
    with torch.no_grad():
        added = agent.explore(observation, noise) - agent.policy(observation)
        wild = agent.explore(observation, 100 * noise)
    assert torch.allclose(added.std(0), torch.tensor([-3.0, -2.0]).exp(), rtol=0.03)
    assert torch.equal(agent.policy(observation), agent.policy(observation))
    assert wild.abs().max() == 1


def test_a_deterministic_policy_explores_with_noise_of_the_config(batch):
    """Broken by a policy that keeps a std, or by noise that is not scaled."""
    agent = make({"deterministic": True, "exploration_noise": 0.5})
    assert len(agent.groups["actor"].parameters) == 6
    noise = torch.linspace(-0.2, 0.2, 64).view(32, 2)
    with torch.no_grad():
        assert torch.equal(
            agent.explore(batch.observation, noise), (agent.policy(batch.observation) + 0.5 * noise).clamp(-1, 1)
        )


def test_a_saved_agent_acts_and_explores_as_before(agent, tmp_path):
    """Broken by a log-std that is not saved."""
    agent.actor.free_log_std.data.fill_(-2.0)
    agent.save(tmp_path / "agent")
    loaded = orl.load_agent(tmp_path / "agent")
    observation, noise = np.ones(5, np.float32), np.ones(2, np.float32)
    assert np.array_equal(loaded.act(observation), agent.act(observation))
    assert np.array_equal(loaded.act_with_noise(observation, noise), agent.act_with_noise(observation, noise))


@pytest.mark.parametrize(
    ("sizes", "counts"), [((11, 3), (69_638, 69_121, 139_778)), ((17, 6), (71_948, 70_657, 144_386))]
)
def test_the_networks_are_as_large_as_the_authors(sizes, counts):
    """Broken by another width, a second output, or a state-dependent std."""
    agent = IQL(Config(), *sizes)
    assert tuple(len(agent.groups[name].flat) for name in ("actor", "value", "critic")) == counts


def test_presets_are_of_known_tasks_and_say_only_what_differs():
    """Broken by a task's misspelled name, which no run would ever look up."""
    defaults = dataclasses.asdict(Config())
    assert len(IQL.PRESETS) == 19
    for name, settings in IQL.PRESETS.items():
        task = find_task(name.replace("-*", "-umaze-v2"))
        assert name in (task.name, f"{task.robot.family}-*")
        assert merged(presets(IQL, task.robot.family, task.name)) == settings
        assert all(defaults[key] != value for key, value in settings.items())
        Config(**settings)
