"""Properties of FQL that hold whatever the data; each names the mistake that breaks it."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.agents import gradient, moved, snapshot
from parity.harness import make_batches

from offline_rl.algos.fql import FQL, Config
from offline_rl.envs import find_task
from offline_rl.training.evaluation import play

SMALL = {"hidden_dims": [32, 32], "batch_size": 32}


def make(**settings):
    return FQL(Config(**{**SMALL, **settings}), 5, 2)


@pytest.fixture
def agent():
    return make()


@pytest.fixture
def batch(agent):
    return make_batches(agent, 1)[0]


@pytest.mark.parametrize("name", ["actor", "flow", "critic"])
def test_each_loss_moves_its_own_network_only(agent, batch, name):
    """Broken by a policy that moves the flow it is pulled to, or the critics that judge it."""
    losses = {
        "actor": agent.actor_loss,
        "flow": agent.flow_loss,
        "critic": lambda batch: agent.critic_loss(batch, agent.critic_target(batch)),
    }
    assert moved(agent, lambda: agent.minimize(batch, **{name: losses[name]})) == {f"{name}.parameters"}
    for other in {"actor", "flow", "critic"} - {name}:
        parameters = list(agent.groups[other].network.parameters())
        assert all(g is None for g in torch.autograd.grad(losses[name](batch)[0], parameters, allow_unused=True))


def test_all_losses_see_the_weights_from_before(agent, batch):
    """Broken by critics that step before the policy asks them, or by targets that move before y is made."""
    expected = {
        "actor": agent.actor_loss(batch)[0].detach(),
        "flow": agent.flow_loss(batch)[0].detach(),
        "critic": agent.critic_loss(batch, agent.critic_target(batch))[0].detach(),
    }
    metrics = agent.update(batch, 1)
    assert all(torch.equal(metrics[f"{name}_loss"], loss) for name, loss in expected.items())


def test_targets_follow_the_critics_from_before_their_step(agent):
    """Broken by the usual order: the released code moves them by the old weights."""
    for step, batch in enumerate(make_batches(agent, 3), start=1):
        before = snapshot(agent)
        agent.update(batch, step)
        expected = before["critic.target"].lerp(before["critic.parameters"], 0.005)
        assert torch.equal(agent.training_state()["critic.target"], expected)
    assert not torch.equal(before["critic.target"], before["critic.parameters"])


def field_of(agent, velocity):
    """Put a field in the flow's place; the network's input is (s, x, t)."""
    agent.flow = lambda joined: velocity(joined[:, 5:7], joined[:, 7:])[None]


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_the_flow_is_followed_by_eulers_steps_from_their_left_ends(batch, steps):
    """Broken by another number of steps, by times that begin at 1/steps, or by a cut after every step."""
    agent, noise = make(flow_steps=steps), 3 * batch.draws["policy"]
    field_of(agent, lambda x, t: -x)
    assert torch.allclose(agent.flow_action(batch.observation, noise), (noise * (1 - 1 / steps) ** steps).clamp(-1, 1))
    field_of(agent, lambda x, t: t.expand(-1, 2))
    mean_of_times = (steps - 1) / (2 * steps)
    assert torch.allclose(agent.flow_action(batch.observation, noise / 9), (noise / 9 + mean_of_times).clamp(-1, 1))


@pytest.mark.slow
def test_the_flow_learns_both_of_two_actions():
    """Broken by a velocity of the wrong sign or start, or by a mean of both, which is no action of the data."""
    agent = make(learning_rate=1e-2, batch_size=64)
    for batch in make_batches(agent, 500):
        two = dataclasses.replace(batch, action=0.6 * batch.action.sign(), observation=0 * batch.observation)
        agent.minimize(two, flow=agent.flow_loss)
    made = agent.flow_action(torch.zeros(400, 5), torch.randn(400, 2, generator=torch.Generator().manual_seed(0)))
    assert ((made.abs() - 0.6).abs() < 0.2).float().mean() > 0.75
    assert all(0.4 < (made[:, entry] > 0).float().mean() < 0.6 for entry in range(2))


def test_the_distillation_sees_the_action_before_its_cut_and_q_after_it(agent, batch):
    """Broken by exchanging the two: outside of [-1, 1] only the pull then has a gradient."""
    beyond = torch.full((32, 2), 3.0, requires_grad=True)
    agent.one_step = lambda observation, noise: beyond
    loss, metrics = agent.actor_loss(batch)
    (found,) = torch.autograd.grad(loss, beyond)
    teacher = agent.flow_action(batch.observation, batch.draws["policy"])
    assert torch.allclose(found, agent.config.alpha * 2 * (3 - teacher) / 64)
    q = agent.critic(batch.observation, torch.ones(32, 2)).mean()
    assert torch.allclose(metrics["policy_q"], q)


def test_policy_and_flow_are_given_the_same_noise(agent, batch):
    """Broken by noise of its own for either, with which the pull would be to a mean."""
    agent.one_step = agent.flow_action
    assert agent.actor_loss(batch)[1]["distillation"] == 0


def test_the_policys_loss_is_affine_in_alpha(batch):
    """Broken by a weight on Q as well, or by its square."""
    losses = []
    for alpha in (0.0, 1.0, 3.0):
        loss, metrics = make(alpha=alpha).actor_loss(batch)
        losses.append(loss)
    assert torch.equal(losses[0], -metrics["policy_q"])
    assert torch.allclose(losses[1] - losses[0], metrics["distillation"], atol=1e-6)
    assert torch.allclose(losses[2] - losses[0], 3 * metrics["distillation"], atol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
def test_normalised_q_does_not_know_the_unit_of_rewards(batch, normalize):
    """Broken by letting the gradient run through E|Q|, or by dividing though nobody asked for it."""
    agent = make(alpha=0.0, normalize_q_loss=normalize)
    before = gradient(agent.actor_loss(batch)[0], agent.actor)
    with torch.no_grad():
        for layer in list(agent.critic.mlp.layers)[-2:]:
            layer.mul_(8.0)
    after = gradient(agent.actor_loss(batch)[0], agent.actor)
    assert torch.allclose(before * (1 if normalize else 8), after, rtol=1e-4, atol=1e-7)


def test_the_aggregation_is_that_of_targets_alone(batch):
    """Broken by a policy that asks the smaller value, too, or by a mean of rewards."""
    mean, least = make(), make(q_aggregation="min")
    for agent in (mean, least):
        agent.update(batch, 1)
    action = mean.one_step(batch.next_observation, batch.draws["target"]).clamp(-1, 1)
    values = mean.target_critic(batch.next_observation, action)
    for agent, value in ((mean, values.mean(0)), (least, values.amin(0))):
        expected = batch.reward + 0.99 * (1 - batch.terminated) * value
        assert torch.allclose(agent.critic_target(batch), expected, rtol=1e-3, atol=1e-3)
    assert (mean.critic_target(batch) > least.critic_target(batch)).any()
    fresh = make(), make(q_aggregation="min")
    assert torch.equal(*(agent.actor_loss(batch)[0] for agent in fresh))


def test_target_of_a_terminal_row_is_its_reward(batch):
    """Broken by bootstrapping beyond the end of an episode, or by a transform of anything but rewards."""
    ended = dataclasses.replace(batch, terminated=torch.ones_like(batch.terminated))
    agent = make(reward_scale=3.0, reward_shift=-1.0)
    assert torch.allclose(agent.critic_target(ended), 3 * batch.reward - 1)


def test_each_draw_goes_to_its_own_place(agent, batch):
    """Broken by one noise for two purposes."""
    places = {"start": "flow", "time": "flow", "policy": "actor", "target": "critic"}

    def losses(draws):
        changed = dataclasses.replace(batch, draws=draws)
        return {
            "critic": agent.critic_loss(changed, agent.critic_target(changed))[0],
            "flow": agent.flow_loss(changed)[0],
            "actor": agent.actor_loss(changed)[0],
        }

    before = losses(batch.draws)
    assert set(places) == set(batch.draws)
    for name, place in places.items():
        after = losses({**batch.draws, name: 1 - batch.draws[name]})
        assert {loss for loss in before if not torch.equal(before[loss], after[loss])} == {place}


def test_exploring_samples_the_policy_and_acting_takes_no_noise(agent, batch):
    """Broken by noise that is added to the action, or by an action outside of [-1, 1]."""
    noise = batch.draws["policy"]
    assert torch.equal(agent.policy(batch.observation), agent.explore(batch.observation, 0 * noise))
    expected = agent.actor(torch.cat((batch.observation, noise), 1))[0].clamp(-1, 1)
    assert torch.equal(agent.explore(batch.observation, noise), expected)
    with torch.no_grad():
        for layer in agent.actor.layers:
            layer.mul_(30)
    assert agent.explore(batch.observation, noise).abs().max() == 1


def test_episodes_are_scored_with_noise_of_their_own():
    """Broken by scoring the action of noise 0, by noise that depends on who plays beside, or that repeats itself."""
    agent = FQL(Config(**SMALL), 11, 3, seed=3)
    agent.groups["actor"].flat.mul_(3)
    returns, *_ = play(agent, find_task("hopper"), "plain", [1, 2, 3])
    assert returns == play(agent, find_task("hopper"), "plain", [1, 2, 3])[0]
    # Another size of the batch can change a policy's last bits.
    beside = play(agent, find_task("hopper"), "plain", [2, 3])[0]
    assert np.allclose(returns[1:], beside, rtol=1e-4)
    seen = []
    act = agent.act_with_noise
    agent.act_with_noise = lambda observation, noise: seen.append(noise) or act(observation, noise)
    play(agent, find_task("hopper"), "plain", [1, 2])
    assert len(np.unique(np.concatenate(seen), axis=0)) == 2 * len(seen)


@pytest.mark.parametrize(
    ("sizes", "counts"), [((11, 3), (797_187, 797_699, 1_600_514)), ((17, 6), (803_334, 803_846, 1_609_730))]
)
def test_the_networks_are_as_large_as_the_authors(sizes, counts):
    """Broken by another number of layers or width, a time that the policy reads, or critics without normalisation."""
    agent = FQL(Config(), *sizes)
    assert tuple(len(agent.groups[name].flat) for name in ("actor", "flow", "critic")) == counts
    hidden = 3 * (512 * 512 + 512)
    observation, action = sizes
    size = (observation + action) * 512 + 512 + hidden + 512 * action + action
    critic = (observation + action) * 512 + 512 + hidden + 512 + 1 + 4 * 1024
    assert counts == (size, size + 512, 2 * critic)
