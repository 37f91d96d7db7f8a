"""Properties of FamO2O that hold whatever the data; each names the mistake that breaks it."""

import copy
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from helpers.agents import agent_of, snapshot
from helpers.datasets import random_dataset
from parity.harness import make_batches

import offline_rl as orl
from offline_rl.agent import Batch
from offline_rl.algos import cql, iql
from offline_rl.algos.famo2o.agent import FAMO2O
from offline_rl.algos.famo2o.balance import embedding, with_balance
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing

SMALL = {"hidden_dims": [32, 32], "batch_size": 32}
BASES = ["iql", "cql"]
PHASES = ["offline", "online"]


def make(base="iql", phase="offline", **settings):
    few = {"num_actions": 4} if base == "cql" else {}
    agent = family({**SMALL, **few, "base": base, **settings})
    agent.phase = phase
    return agent


def family(settings, *sizes, **options):
    return agent_of("famo2o", settings, *(sizes or (5, 2)), **options)


def own_settings(base):
    return set(FAMO2O.classes[base].config_class.types())


def plain(base, **settings):
    if base == "iql":
        return iql.IQL(iql.Config(**SMALL, **settings), 5, 2)
    as_family = {"num_actions": 4, "conservative_weight": 1.0, "layer_norm": True}
    return cql.CQL(cql.Config(**SMALL, **as_family, **settings), 5, 2)


def batch_for(agent, seed=0):
    return make_batches(agent, 1, seed)[0]


def with_draws(batch, **draws):
    return dataclasses.replace(batch, draws={**batch.draws, **draws})


def moved(agent, change):
    """Return which weights a change moves."""
    before = snapshot(agent)
    change()
    kept = {name for name in before if name.endswith((".parameters", ".target"))}
    different = {name for name in kept if not torch.equal(before[name], agent.training_state()[name])}
    return {name.removesuffix(".parameters") for name in different}


def gradients_of_an_update(agent, batch, step=5):
    """Return every group's gradient in an update that leaves the agent as it is."""
    before = snapshot(agent)
    agent.update(batch, step)
    found = {name: group.gradient.clone() for name, group in agent.groups.items()}
    agent.load_training_state(before)
    return found


def changed(first, second):
    return {name for name in first if not torch.equal(first[name], second[name])}


def scale(network, factor):
    """Change what a network says."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(factor)


def actor_loss(agent, batch):
    """Return the policy's loss in an update."""
    batch = agent.transformed(batch)
    if isinstance(agent, cql.CQL):
        return agent.losses(batch, 1)["actor"](batch)[0]
    return agent.actor_loss(batch, torch.linspace(-0.5, 0.5, len(batch.reward)))[0]


# An interval of one point.


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("base", "beta"), [("iql", 3.0), ("cql", 1.0)])
def test_a_family_of_one_is_the_base_with_another_first_bias(base, beta, phase):
    """Broken by a loss that uses β elsewhere as well, or by an embedding that is not an input like others."""
    family, single = make(base, phase, beta_low=beta, beta_high=beta), plain(base)
    weights, folded = list(family.actor.mlp.layers), list(single.actor.mlp.layers)
    constant = embedding(torch.tensor([beta]))[0]
    with torch.no_grad():
        folded[0].copy_(weights[0][:, :, :-6])
        folded[1].copy_(weights[1] + weights[0][:, :, -6:] @ constant)
        for mine, theirs in zip(folded[2:], weights[2:], strict=True):
            mine.copy_(theirs)
    batch = batch_for(family)
    observation, noise = batch.observation, torch.randn(32, 2)
    assert torch.allclose(family.policy(observation), single.policy(observation), atol=1e-6)
    assert torch.allclose(family.explore(observation, noise), single.explore(observation, noise), atol=1e-5)
    losses = [actor_loss(agent, batch) for agent in (family, single)]
    assert torch.allclose(*losses, rtol=1e-5)
    ours, theirs = (torch.autograd.grad(loss, of) for loss, of in zip(losses, (weights, folded), strict=True))
    assert torch.allclose(ours[0][:, :, :-6], theirs[0], rtol=1e-3, atol=1e-5)
    assert torch.allclose(ours[0][:, :, -6:], theirs[1][:, :, None] * constant, rtol=1e-3, atol=1e-5)
    for own, other in zip(ours[1:], theirs[1:], strict=True):
        assert torch.allclose(own, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("interval", [(3.0, 3.0), (1.0, 5.0)])
def test_iqls_critics_never_see_a_balance(interval, phase):
    """Broken by a target that uses the policy, by other initial weights, or by a step out of order."""
    family = make("iql", phase, beta_low=interval[0], beta_high=interval[1])
    single = plain("iql")
    for step, batch in enumerate(make_batches(family, 10), start=1):
        family.update(batch, step)
        single.update(batch, step)
    states = [agent.training_state() for agent in (family, single)]
    names = [name for name in states[0] if name.startswith(("value.", "critic."))]
    assert len(names) == 9
    assert all(torch.equal(*(state[name] for state in states)) for name in names)


# The policy's loss.


def test_as_released_a_rows_weight_is_the_mean_over_all_balances():
    """Broken by a row's own β in its weight, or by a mean over rows instead of balances."""
    agent = make(beta_low=1.0, beta_high=2.0, released_weights=True)
    each = torch.ones(2, requires_grad=True)
    agent.imitation_loss = lambda inputs, action: each
    advantage = torch.tensor([0.7, 3.0])
    for share in ([[0.0], [1.0]], [[1.0], [0.0]]):
        batch = toy_batch(torch.zeros(2, 5), torch.zeros(2, 2), beta=torch.tensor(share))
        loss, _ = agent.actor_loss(batch, advantage)
        (found,) = torch.autograd.grad(loss, each)
        wanted = [np.mean([min(np.exp(beta * one), 100) for beta in (1.0, 2.0)]) / 2 for one in (0.7, 3.0)]
        assert found.tolist() == pytest.approx(wanted)


def test_every_row_is_weighted_with_its_own_balance():
    """Broken by one β for all rows, by a mean of the weights, or by a cap before the exponential."""
    agent = make(beta_low=1.0, beta_high=2.0)
    for advantage, weights in ((0.7, [0.7, 1.4]), (3.0, [3.0, np.log(100)])):
        each = torch.ones(2, requires_grad=True)
        agent.imitation_loss = lambda inputs, action, each=each: each
        batch = toy_batch(torch.zeros(2, 5), torch.zeros(2, 2), beta=torch.tensor([[0.0], [1.0]]))
        loss, metrics = agent.actor_loss(batch, torch.full((2,), advantage))
        (found,) = torch.autograd.grad(loss, each)
        assert torch.allclose(2 * found, torch.tensor(weights).float().exp(), rtol=1e-5)
        assert metrics["capped"] == (0.5 if advantage == 3 else 0)


def test_every_rows_q_is_weighted_with_its_own_balance_on_cql():
    """Broken by one β for all rows, or by weighting the entropy."""
    agent = make("cql", num_actions=1)
    batch = with_draws(batch_for(agent), beta=torch.arange(32.0)[:, None] / 32)
    loss, metrics = agent.losses(batch, 1)["actor"](batch)
    beta = 0.5 + torch.arange(32.0) / 32
    action, likelihood = agent.actor(with_balance(batch.observation, beta)).sample(batch.draws["policy"])
    q = agent.critic(batch.observation, action).amin(0)
    assert torch.allclose(loss, (likelihood - beta * q).mean(), rtol=1e-5)
    assert torch.allclose(metrics["policy_q"], q.mean(), rtol=1e-5)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("base", BASES)
def test_the_policys_loss_does_not_reach_the_balance_model(base, phase):
    """Broken by a β that keeps its gradient."""
    agent = make(base, phase)
    found = torch.autograd.grad(
        actor_loss(agent, batch_for(agent)), list(agent.balance.parameters()), allow_unused=True
    )
    assert found == (None,) * len(found)


@pytest.mark.parametrize("base", BASES)
def test_the_phase_decides_where_the_policys_balances_come_from(base):
    """Broken by a phase that is ignored, or by exchanging the phases."""
    agent = make(base)
    batch, other = (batch_for(agent, seed) for seed in (0, 1))
    for phase, draw, ignored in (("offline", "beta", "online_beta"), ("online", "online_beta", "beta")):
        agent.phase = phase
        before = gradients_of_an_update(agent, batch)["actor"]
        drawn, not_drawn = (
            gradients_of_an_update(agent, with_draws(batch, **{name: other.draws[name]}))["actor"]
            for name in (draw, ignored)
        )
        weights = snapshot(agent)
        scale(agent.balance, 2.0)
        agent.balance.actor.mlp.layers[-1].data += 0.3
        rebalanced = gradients_of_an_update(agent, batch)["actor"]
        agent.load_training_state(weights)
        assert not torch.equal(drawn, before)
        assert torch.equal(not_drawn, before)
        assert torch.equal(rebalanced, before) == (phase == "offline")


@pytest.mark.parametrize("base", BASES)
def test_both_phases_ask_for_the_same_draws(base):
    """Broken by draws that depend on the phase: a sampler is made before it begins."""
    assert make(base, "offline").draws() == make(base, "online").draws()


# Which loss moves what.


@pytest.mark.parametrize("phase", PHASES)
def test_each_draw_goes_to_its_own_place_on_iql(phase):
    """Broken by one noise for balance and action, as in the authors' code, or by exchanging draws."""
    places = {
        "beta": {"actor"} if phase == "offline" else set(),
        "online_beta": {"actor"} if phase == "online" else set(),
        "balance": {"balance", "temperature"},
        "balance_action": {"balance"},
    }
    check_places(make("iql", phase), places)


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("phase", PHASES)
def test_each_draw_goes_to_its_own_place_on_cql(phase, released):
    """Broken by exchanging draws, or by a released behaviour that draws for itself."""
    policy = {"actor", "temperature", "critic"}
    places = {
        "policy": {"actor", "temperature"},
        **{name: {"critic"} for name in ("target", "random", "current", "next")},
        "beta": policy if phase == "offline" else set(),
        "online_beta": policy if phase == "online" else set(),
        "balance": {"balance", "critic"} if released else {"balance"},
        "balance_action": {"balance"},
        "next_balance": set() if released else {"critic"},
    }
    check_places(make("cql", phase, released_next_balance=released), places)


def check_places(agent, places):
    batch = batch_for(agent)
    assert set(places) == set(batch.draws)
    before = gradients_of_an_update(agent, batch)
    for name, groups in places.items():
        after = gradients_of_an_update(agent, with_draws(batch, **{name: 0.9 * batch.draws[name]}))
        assert changed(before, after) == groups, name


@pytest.mark.parametrize(("base", "extra"), [("iql", {"temperature"}), ("cql", set())])
def test_the_balances_step_moves_the_balance_model_alone(base, extra):
    """Broken by a loss that moves the policy or the critics as well."""
    agent = make(base, balance_every=1)
    batch = agent.transformed(batch_for(agent))
    losses = agent.losses(batch, torch.zeros(32), 1) if base == "iql" else agent.losses(batch, 1)
    own = {"balance", *extra}
    assert moved(agent, lambda: agent.minimize(batch, **{name: losses[name] for name in own})) == own
    assert moved(agent, lambda: agent.minimize(batch, actor=losses["actor"])) == {"actor"}


def test_the_balance_model_steps_now_and_then():
    """Broken by another interval than 5 on IQL and 1 on CQL, or by a temperature that steps more often."""
    agent = make("iql")
    often = {"value", "actor", "critic", "critic.target"}
    for step, batch in enumerate(make_batches(agent, 10), start=1):
        expected = often | ({"balance", "temperature"} if step % 5 == 0 else set())
        assert moved(agent, partial(agent.update, batch, step)) == expected
    agent = make("cql")
    everything = {"actor", "critic", "temperature", "balance", "critic.target"}
    assert moved(agent, partial(agent.update, batch_for(agent), 1)) == everything


@pytest.mark.parametrize(("base", "judge"), [("iql", "target_critic"), ("cql", "critic")])
def test_the_balance_is_judged_by_the_targets_on_iql_and_by_the_critics_on_cql(base, judge):
    """Broken by exchanging the two."""
    other = {"target_critic": "critic", "critic": "target_critic"}[judge]
    for name, matters in ((judge, True), (other, False)):
        agent = make(base)
        batch = batch_for(agent)
        before = gradients_of_an_update(agent, batch)["balance"]
        scale(getattr(agent, name), 1.5)
        assert torch.equal(gradients_of_an_update(agent, batch)["balance"], before) != matters


@pytest.mark.parametrize("base", BASES)
def test_policy_and_balance_model_see_each_other_as_before_the_update(base):
    """Broken by stepping one after the other: here each moves far in a step."""
    found = []
    for rate in (1e-9, 1.0):
        rates = {"actor_learning_rate": rate, "balance_learning_rate": rate, "temperature_learning_rate": rate}
        agent = make(base, "online", **rates)
        agent.update(batch_for(agent), 5)
        found.append({name: agent.groups[name].gradient for name in ("actor", "balance", "temperature")})
    assert changed(*found) == set()


@pytest.mark.parametrize("base", BASES)
def test_learning_rates_are_constant(base):
    """Broken by IQL's decay, which would end the policy's learning after the offline phase."""
    agent = family({**SMALL, "base": base}, steps=2)
    for step, batch in enumerate(make_batches(agent, 5), start=1):
        last = moved(agent, partial(agent.update, batch, step))
    assert {"actor", "balance", "temperature", "critic"} <= last


# The balance model's choice.


class KnownPolicy(torch.nn.Module):
    """π(s, β) = 0.5 tanh β without noise; β is read off its sine and cosine."""

    def frozen(self, inputs):
        return 0.5 * torch.atan2(inputs[:, 3:4], inputs[:, 4:5]).tanh()

    def log_std(self):
        return torch.tensor([-10.0])


def known_critics(observation, action):
    """Q = 10 a in the first state, -10 a in the second, -100 (a - 0.25)² in the third."""
    a = action[:, 0]
    return (observation * torch.stack((10 * a, -10 * a, -100 * (a - 0.25) ** 2), 1)).sum(1).expand(2, -1)


def toy_batch(observation, action, **draws):
    zero = torch.zeros(len(observation))
    return Batch(observation, action, zero, zero, observation, torch.arange(len(observation)), draws)


def train_balance(updates, **settings):
    """Train the balance model alone in three states; return the agent and its entropies."""
    agent = family({"beta_low": 0.0, "beta_high": 2.0, "balance_every": 1, **settings}, 3, 1)
    del agent.actor
    agent.actor, agent.target_critic = KnownPolicy(), known_critics
    generator = torch.Generator().manual_seed(0)
    entropies = []
    for _ in range(updates):
        observation = torch.eye(3)[torch.randint(3, (256,), generator=generator)]
        noise = {name: torch.randn(256, 1, generator=generator) for name in ("balance", "balance_action")}
        balance = agent.balance(observation)
        losses = (partial(loss, balance=balance) for loss in (agent.balance_loss, agent.temperature_loss))
        batch = toy_batch(observation, torch.zeros(256, 1), **noise)
        metrics = agent.minimize(batch, **dict(zip(("balance", "temperature"), losses, strict=True)))
        entropies.append(float(metrics["entropy"]))
    return agent, entropies


def test_the_balance_model_picks_the_right_side_in_each_state():
    """Broken by the sign of Q, by a gradient that stops at the policy's input, or by one β for all states."""
    agent, _ = train_balance(1000, hidden_dims=[64, 64])
    high, low, inner = agent.signals(torch.eye(3))["balance"].tolist()
    assert high > 1.5
    assert low < 0.5
    assert abs(inner - 0.549) < 0.2


def test_the_balances_entropy_comes_to_its_target():
    """Broken by the temperature's sign, by another target, or by a temperature that the balance's loss leaves out."""
    settings = {"hidden_dims": [32, 32], "balance_learning_rate": 3e-3, "temperature_learning_rate": 3e-3}
    _, entropies = train_balance(1000, **settings)
    assert np.mean(entropies[-300:]) == pytest.approx(-0.5, abs=0.1)


@pytest.mark.parametrize(("log_std", "sign"), [(-3.0, 1), (-0.3, -1)])
def test_the_temperature_rises_below_the_target_entropy(log_std, sign):
    """Broken by the loss's sign: a narrow balance model must be widened, a wide one may be narrowed."""
    agent = make(balance_every=1)
    agent.balance.actor.spread[0].data.fill_(log_std)
    before = agent.log_temperature().item()
    metrics = agent.update(batch_for(agent), 1)
    assert (metrics["entropy"] < -0.5) == (sign > 0)
    assert np.sign(agent.log_temperature().item() - before) == sign


def test_the_balance_model_seeks_q_on_cql():
    """Broken by the loss's sign."""
    agent = make("cql", balance_learning_rate=1e-2, actor_learning_rate=1e-9, critic_learning_rate=1e-9)
    scale(agent.actor.mlp, 2.0)
    scale(agent.critic.mlp, 2.0)
    batch = batch_for(agent)
    values = [float(agent.update(batch, step)["balance_q"]) for step in range(1, 31)]
    assert values[-1] > values[0]


# The family.


def test_the_family_learns_its_closed_form():
    """Broken by a β in the weights that is not the one in the input.

    One state, actions ±0.5 equally often with advantages ±1: weighted likelihood makes the mean 0.5 tanh β.
    """
    settings = {"hidden_dims": [64, 64], "beta_low": 0.0, "beta_high": 2.0, "actor_learning_rate": 1e-3}
    agent = family(settings, 1, 1)
    sign = torch.where(torch.arange(256) % 2 == 0, 1.0, -1.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        batch = toy_batch(torch.ones(256, 1), 0.5 * sign[:, None], beta=torch.rand(256, 1, generator=generator))
        agent.minimize(batch, actor=partial(agent.actor_loss, advantage=sign))
    beta = torch.tensor([0.25, 0.5, 1.0, 1.5, 2.0])
    mean = agent.actor(with_balance(torch.ones(5, 1), beta))[:, 0]
    assert (mean - 0.5 * beta.tanh()).abs().max() < 0.06
    assert (mean.diff() > 0).all()


def test_a_larger_balance_narrows_the_policy_on_cql():
    """Broken by a β that weighs the entropy: for Q = -50 a² and temperature 1 the best std is √(1 / (100 β))."""
    settings = {"base": "cql", "hidden_dims": [32, 32], "num_actions": 1, "actor_learning_rate": 1e-2}
    agent = family(settings, 1, 1)
    agent.critic.frozen = lambda observation, action: -50 * action[:, 0].square().expand(2, -1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        beta, noise = torch.rand(256, 1, generator=generator), torch.randn(256, 1, generator=generator)
        batch = toy_batch(torch.ones(256, 1), torch.zeros(256, 1), beta=beta)
        q_weight = agent.balance.for_policy(batch, agent.phase)
        action, likelihood = agent.actor(with_balance(batch.observation, q_weight)).sample(noise)
        loss = partial(agent.actor_loss, action=action, log_likelihood=likelihood, q_weight=q_weight)
        agent.minimize(batch, actor=loss)
    beta = torch.tensor([0.5, 1.0, 1.5])
    mean, log_std = agent.actor(with_balance(torch.ones(3, 1), beta))
    std = log_std.exp()[:, 0]
    assert mean.abs().max() < 0.02
    assert std[2] < std[1] < std[0]
    assert torch.allclose(std, (100 * beta).rsqrt(), rtol=0.1)


# The next state's balance.


@pytest.mark.parametrize("released", [False, True])
def test_the_next_states_balance_is_its_own(released):
    """Broken as in the released code, which the switch brings back: there the state decides."""
    agent = make("cql", released_next_balance=released)
    batch = batch_for(agent)
    seen = []
    agent.actor.forward = lambda inputs, forward=agent.actor.forward: seen.append(inputs) or forward(inputs)
    shifted = batch.observation + 1
    for changes in ({}, {"next_observation": shifted}, {"observation": shifted}):
        agent.next_policy(dataclasses.replace(batch, **changes))
    assert torch.equal(seen[0][:, :5], batch.next_observation)
    assert torch.equal(seen[1][:, :5], shifted)
    first, after_next, after_state = (inputs[:, 5:] for inputs in seen)
    assert torch.equal(first, after_next) == released
    assert torch.equal(first, after_state) != released


def test_the_released_mapping_can_turn_q_round():
    """Broken by a switch that does nothing: the policy's β is then outside 0.5 ... 1.5, where none was ever drawn."""
    agent = make("cql", "online", released_mapping=True)
    agent.balance.actor.mlp.layers[-1].data.fill_(-4.0)
    batch = batch_for(agent)
    assert agent.balance.for_policy(batch, agent.phase).max() < 0
    agent.phase = "offline"
    assert agent.balance.for_policy(batch, agent.phase).min() >= 0.5


# Acting.


@pytest.mark.parametrize("base", BASES)
def test_acting_is_deterministic_and_exploring_adds_noise_to_the_action_only(base):
    """Broken by a noisy balance, by noise after the cut, or by a policy that does not see the chosen balance."""
    agent = make(base)
    observation, noise = torch.randn(500, 5), torch.randn(500, 2)
    balance = agent.signals(observation)["balance"]
    assert balance.shape == (500,)
    assert torch.equal(balance, agent.balance.chosen(observation))
    inputs = with_balance(observation, balance)
    if base == "iql":
        agent.actor.free_log_std.data.fill_(-2.0)
        expected = (agent.actor(inputs) + np.exp(-2) * noise).clamp(-1, 1)
        mode = agent.actor(inputs)
    else:
        expected, mode = agent.actor(inputs).sample(noise)[0], agent.actor(inputs).mean.tanh()
    assert torch.allclose(agent.explore(observation, noise), expected, atol=1e-6)
    assert torch.equal(agent.policy(observation), mode)
    assert agent.explore(observation, 100 * noise).abs().max() <= 1
    assert torch.equal(agent.signals(observation)["balance"], balance)


@pytest.mark.parametrize("base", BASES)
def test_a_saved_agent_acts_explores_and_balances_as_before(base, tmp_path):
    """Broken by a balance model that is not saved."""
    agent = make(base)
    scale(agent.balance, 3.0)
    agent.save(tmp_path / "agent")
    loaded = orl.load_agent(tmp_path / "agent")
    observation, noise = np.random.default_rng(0).standard_normal((2, 9, 5)).astype(np.float32)
    assert loaded.name == "famo2o"
    assert np.array_equal(loaded.act(observation), agent.act(observation))
    assert np.array_equal(
        loaded.act_with_noise(observation, noise[:, :2]), agent.act_with_noise(observation, noise[:, :2])
    )
    given = torch.from_numpy(observation)
    assert torch.equal(loaded.signals(given)["balance"], agent.signals(given)["balance"])
    assert set(loaded.acting_weights()) == {
        f"{network}.{name}" for network in ("actor", "balance") for name in getattr(agent, network).state_dict()
    }


@pytest.mark.parametrize("base", BASES)
def test_an_update_goes_on_exactly_from_a_saved_state(base):
    """Broken by a temperature or a balance model that is not part of the state."""
    first, second = make(base, "online"), make(base, "online")
    scale(second.balance, 2.0)
    batches = make_batches(first, 10)
    for step in range(1, 6):
        first.update(batches[step - 1], step)
    second.load_training_state(snapshot(first))
    for step in range(6, 11):
        first.update(batches[step - 1], step)
        second.update(batches[step - 1], step)
    assert changed(first.training_state(), second.training_state()) == set()


@pytest.mark.parametrize(
    ("base", "sizes", "counts"),
    [
        ("iql", (11, 3), (71_174, 69_122, 2 * 69_889)),
        ("iql", (17, 6), (73_484, 70_658, 2 * 72_193)),
        ("cql", (11, 3), (71_944, 69_380, 2 * (69_889 + 1024))),
    ],
)
def test_the_networks_are_as_large_as_the_authors(base, sizes, counts):
    """Broken by another embedding, a state-dependent std on IQL, or critics without layer norm on CQL."""
    agent = family({"base": base}, *sizes)
    assert tuple(len(agent.groups[name].flat) for name in ("actor", "balance", "critic")) == counts


def test_an_agent_can_be_copied():
    """Broken by a constructor that cannot do without a config."""
    agent = make("cql")
    assert type(copy.deepcopy(agent)) is type(agent)


# Settings.

OTHER = {
    "beta_low": 0.75,
    "beta_high": 9.0,
    "balance_every": 2,
    "discount": 0.5,
    "target_rate": 0.5,
    "reward_shift": -1.0,
    "expectile": 0.9,
    "weight_limit": 1.5,
    "scale_rewards": False,
    "reward_scale": 2.0,
    "conservative_weight": 2.0,
    "num_actions": 3,
    "layer_norm": False,
    "released_mapping": True,
    "released_next_balance": True,
    "released_weights": True,
    **{f"{name}_learning_rate": 1e-2 for name in ("balance", "actor", "critic", "temperature", "value")},
}


@pytest.mark.parametrize("base", BASES)
def test_no_setting_is_without_effect(base):
    """Broken by a setting that nothing reads, or that is read on the other base only but not refused here."""
    known = own_settings(base) - {"base", "normalize", "hidden_dims", "batch_size"}
    assert known - {"scale_fragment"} <= set(OTHER) == (own_settings("iql") | own_settings("cql")) & set(OTHER)
    states = {}
    dataset = random_dataset()
    rows = PackedRows.of(dataset, Preprocessing.identity(5, 2))
    for name in [None, *(name for name in OTHER if name in known)]:
        agent = make(base, **({} if name is None else {name: OTHER[name]}))
        agent.prepare(rows)
        for step, batch in enumerate(make_batches(agent, 6), start=1):
            agent.phase = "online" if step > 3 else "offline"
            agent.update(batch, step)
        states[name] = torch.cat([group.flat for group in agent.groups.values()])
    base_state = states.pop(None)
    without = [name for name, state in states.items() if torch.equal(state, base_state)]
    assert without == []


@pytest.mark.parametrize("base", BASES)
def test_settings_of_the_other_base_are_refused(base):
    """Broken by a setting that is silently ignored."""
    other = "cql" if base == "iql" else "iql"
    foreign = own_settings(other) - own_settings(base)
    assert len(foreign) >= 6
    for name in foreign:
        with pytest.raises(orl.AgentError, match=f"{name} has no meaning with base {base}; leave it out, or choose"):
            family({"base": base, name: 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta_low": 6.0}, "beta_low is 6.0; it must be at most beta_high, which is 5.0"),
        ({"base": "cql", "beta_high": 0.25}, "beta_low is 0.5; it must be at most beta_high, which is 0.25"),
        ({"beta_low": -0.5}, "beta_low is -0.5; it must be at least 0"),
        ({"balance_every": 0}, "balance_every is 0; it must be at least 1"),
        ({"balance_learning_rate": 0.0}, "balance_learning_rate is 0.0; it must be above 0"),
        ({"base": "sac"}, "base is 'sac'; it must be one of iql, cql"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    """Broken by a check that forgets the base's own default."""
    with pytest.raises(orl.AgentError, match=message):
        family(settings)


def test_defaults_are_the_bases_except_where_the_authors_differ():
    """Broken by a base whose default changes and a family that stays behind."""
    differs = {"conservative_weight", "layer_norm"}
    for module, algorithm in ((iql, FAMO2O.classes["iql"]), (cql, FAMO2O.classes["cql"])):
        base, own = module.Config().settings(), algorithm.config_class().settings()
        shared = set(base) & set(own)
        assert len(shared) >= 10
        assert {name for name in shared if base[name] != own[name]} <= differs
