"""Properties of ReBRAC that hold whatever the data; each names the mistake that breaks it."""

import dataclasses

import pytest
import torch
from helpers.agents import snapshot
from parity.harness import make_batches

from offline_rl.agent import merged, presets
from offline_rl.algos import td3_bc
from offline_rl.algos.rebrac import Config, ReBRAC
from offline_rl.envs.tasks import find_task

SMALL = {"hidden_dims": [32, 24], "batch_size": 32}


@pytest.fixture
def agent():
    return ReBRAC(Config(**SMALL, critic_penalty=0.5), 5, 2)


def changed(batch, **fields):
    return dataclasses.replace(batch, **{name: torch.full_like(getattr(batch, name), v) for name, v in fields.items()})


def as_td3_bc(dtype=torch.float64):
    """Make both with what ReBRAC's page says that they differ in taken away, and equal weights."""
    plain = td3_bc.TD3BC(td3_bc.Config(**SMALL, alpha=1.0), 5, 2, dtype=dtype)
    same = {name: getattr(plain.config, name) for name in ("actor_learning_rate", "critic_learning_rate")}
    settings = {**SMALL, **same, "normalize": True, "critic_layer_norm": "none"}
    ours = ReBRAC(Config(**settings, critic_penalty=0.0, actor_penalty=1 / 2), 5, 2, dtype=dtype)
    ours.load_training_state(plain.training_state())
    return ours, plain


def with_one_critic(agent):
    """Let both critics be the first, and stay so: then their minimum is the first one's value."""
    for network in (agent.critic, agent.target_critic):
        for layer in network.mlp.layers:
            layer.data[1] = layer.data[0]


def test_without_its_own_parts_it_is_td3_bc():
    """Broken by any difference that the page does not name: 20 updates leave the same weights."""
    ours, plain = as_td3_bc()
    for each in (ours, plain):
        with_one_critic(each)
    for step, batch in enumerate(make_batches(ours), start=1):
        metrics, expected = ours.update(batch, step), plain.update(batch, step)
        assert {name for name in metrics if name not in expected} <= {"next_known", "distance"}
    ours, plain = ours.training_state(), plain.training_state()
    assert set(ours) == set(plain)
    for name in ours:
        assert torch.allclose(ours[name], plain[name], rtol=0, atol=1e-12), name


def test_the_critics_update_is_that_of_td3_bc_to_the_last_bit():
    """Without the penalty; broken by a penalty that is added where its weight is 0, in another order of operations."""
    ours, plain = as_td3_bc(torch.float32)
    (batch,) = make_batches(ours, 1)
    assert torch.equal(ours.critic_target(batch), plain.critic_target(batch))
    ours.update(batch, 1)
    plain.update(batch, 1)
    assert torch.equal(ours.groups["critic"].flat, plain.groups["critic"].flat)


def test_the_actor_asks_both_critics():
    """Broken by Q₁ alone, as in TD3+BC."""
    ours, plain = as_td3_bc()
    (batch,) = make_batches(ours, 1)
    q = ours.critic(batch.observation, ours.actor(batch.observation))
    weight = 1 / q.amin(0).abs().mean()
    loss, metrics = ours.actor_loss(batch)
    assert torch.isclose(loss, metrics["distance"] / 2 - weight * q.amin(0).mean(), rtol=1e-12)
    assert not torch.isclose(loss, plain.actor_loss(batch)[0], rtol=1e-3)


def test_the_settings_in_which_it_differs_are_those_that_the_page_names():
    ours, plain = Config().settings(), td3_bc.Config().settings()
    assert set(ours) ^ set(plain) == {"alpha", "actor_penalty", "critic_penalty", "released_targets"}
    networks = {"hidden_dims", "critic_layer_norm"}
    rest = {"batch_size", "normalize", "actor_learning_rate", "critic_learning_rate"}
    assert {name for name in ours if name in plain and ours[name] != plain[name]} == networks | rest


def test_the_penalty_is_summed_over_the_entries_of_an_action(agent):
    """Broken by a mean, by a distance that is not squared, or by a discount that is left out."""
    (batch,) = make_batches(agent, 1)
    batch = changed(batch, next_known=1.0, terminated=0.0)
    far = dataclasses.replace(batch, next_action=batch.next_action + 1)
    noise = (batch.draws["target"] * 0.2).clamp(-0.5, 0.5)
    action = (agent.target_actor(batch.next_observation) + noise).clamp(-1, 1)
    difference = (action - batch.next_action).square() - (action - batch.next_action - 1).square()
    found = agent.critic_target(far) - agent.critic_target(batch)
    assert torch.allclose(found, 0.99 * 0.5 * difference.sum(1), atol=1e-5)


def test_an_action_that_is_not_known_changes_nothing(agent):
    """Broken by a penalty for the distance from whatever stands where the next action is not known."""
    (batch,) = make_batches(agent, 1)
    unknown = changed(batch, next_known=0.0)
    free = ReBRAC(dataclasses.replace(agent.config, critic_penalty=0.0), 5, 2)
    assert torch.equal(agent.critic_target(unknown), free.critic_target(batch))
    assert torch.equal(agent.critic_target(changed(unknown, next_action=9.0)), agent.critic_target(unknown))


def test_the_target_of_a_terminal_row_is_its_reward(agent):
    """Broken by a penalty beyond the end of an episode."""
    (batch,) = make_batches(agent, 1)
    ended = changed(batch, terminated=1.0, next_known=1.0)
    assert torch.equal(agent.critic_target(ended), batch.reward)


@pytest.mark.parametrize("released", [False, True])
def test_only_the_actors_target_lags_in_the_released_code(released):
    """There targets move before the actor's step, but after the critics'."""
    agent = ReBRAC(Config(**SMALL, released_targets=released), 5, 2)
    first, second = make_batches(agent, 2)
    agent.update(first, 1)
    before = snapshot(agent)
    agent.update(second, 2)
    after = snapshot(agent)
    followed = {"actor": before if released else after, "critic": after}
    for name, state in followed.items():
        expected = before[f"{name}.target"].lerp(state[f"{name}.parameters"], 0.005)
        assert torch.equal(after[f"{name}.target"], expected)
    assert not torch.equal(before["actor.parameters"], after["actor.parameters"])


def test_networks_start_as_the_authors():
    """First actions and values are nearly 0; hidden biases are 0.1."""
    agent = ReBRAC(Config(), 11, 3)
    for network, bound in ((agent.actor, 1e-3), (agent.critic, 3e-3)):
        *_, weight, bias = layers = list(network.mlp.layers)
        assert len(layers) == 8
        assert all((layer == 0.1).all() for layer in layers[1:-2:2])
        assert 0.9 * bound < float(weight.detach().abs().max()) <= bound
        assert 0 < float(bias.detach().abs().max()) <= bound
        assert layers[2].abs().max() <= 1 / 16
    assert len(agent.critic.mlp.norms) == 6 and not agent.actor.mlp.norms


def test_presets_are_pairs_of_the_authors_grid_for_known_tasks():
    """Broken by a task's misspelled name, which no run would ever look up, or by exchanged penalties."""
    kinds = ("random", "medium", "expert", "medium-expert", "medium-replay", "full-replay")
    tasks = {f"{robot}-{kind}-v2" for robot in ("halfcheetah", "hopper", "walker2d") for kind in kinds}
    assert set(ReBRAC.PRESETS) == tasks
    for name, settings in ReBRAC.PRESETS.items():
        task = find_task(name)
        assert merged(presets(ReBRAC, task.robot.name, task.name)) == settings
        assert settings["actor_penalty"] in (0.001, 0.01, 0.05, 0.1)
        assert settings["critic_penalty"] in (0, 0.001, 0.01, 0.1, 0.5)
