"""Properties of A2PR that hold whatever the data; each names the mistake that breaks it."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.agents import snapshot
from helpers.datasets import random_dataset
from parity.harness import make_batches

from offline_rl.agent import merged, presets
from offline_rl.algos.a2pr import A2PR, AdvantageGate, Config
from offline_rl.algos.td3_bc import TD3BC
from offline_rl.algos.td3_bc import Config as TD3BCConfig
from offline_rl.data.d4rl import DATASETS
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.envs import find_task
from offline_rl.networks import ConditionalVAE
from offline_rl.networks.vae import LOG_STD_BOUNDS, kl_divergence
from offline_rl.training.updates.sampler import Sampler

SMALL = {"hidden_dims": [32, 32], "actor_hidden_dims": [32, 32], "vae_hidden_dims": [24, 24], "batch_size": 32}
ALL = {f"{network}.parameters" for network in ("actor", "critic", "value", "vae")} | {"actor.target", "critic.target"}


def make(**settings):
    return A2PR(Config(**{**SMALL, **settings}), 5, 2)


@pytest.fixture
def agent():
    return make()


@pytest.fixture
def batch(agent):
    return make_batches(agent, 1)[0]


class FixedCritic:
    """Gives the same Q₁, whatever the action."""

    def __init__(self, q):
        self.q = torch.as_tensor(q)

    def frozen(self, observation, action, count=None):
        return self.q[None] + 0 * action.sum(1)


def gate_of(agent, batch):
    next_action = agent.next_action(batch)
    return agent.advantage_gate(batch, next_action, agent.bootstrap(batch, agent.target_critic, next_action))


def with_value(advantage, value):
    return dataclasses.replace(advantage, value=torch.full_like(advantage.value, value))


def gradient(loss, network):
    found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, retain_graph=True)
    return torch.cat([g.reshape(-1) for g in found if g is not None])


def moved(agent, change):
    """Return which weights a change moves."""
    before = snapshot(agent)
    change()
    return {name for name, tensor in agent.training_state().items() if not torch.equal(tensor, before[name])} & ALL


@pytest.mark.parametrize("value", [-5.0, 1.0, 5.0])
def test_the_reference_is_the_vaes_action_unless_the_datasets_is_strictly_better(agent, batch, value):
    """Broken by > for ≥, by exchanging the two, or by letting V decide."""
    first = dataclasses.replace(batch, **{n: t[:3] for n, t in vars(batch).items() if n != "draws"})
    agent.critic = FixedCritic([2.0, 1.0, 0.0])
    agent.candidate = lambda batch, action: torch.full_like(action, 0.25)
    advantage = AdvantageGate(torch.ones(3), torch.full((3,), value), torch.zeros(3))
    reference, _, metrics = agent.reference_action(first, torch.zeros(3, 2), advantage)
    assert (reference[:2] == 0.25).all()
    assert torch.equal(reference[2], first.action[2])
    assert metrics["vae_reference"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("candidate_q", "q", "is_open"),
    [(-1, -1, 0), (1, -1, 1), (-1, 1, 1), (1, 1, 1), (-1, 0, 0), (0, -1, 1), (0, 0, 1)],
)
def test_the_gate_opens_if_either_action_beats_v_and_weighs_once(batch, candidate_q, q, is_open):
    """Broken by adding the two conditions, by ≥ for the dataset's action, or by > for the VAE's."""
    agent = make(constraint_weight=0.4)
    agent.critic = FixedCritic(torch.full((32,), float(candidate_q)))
    advantage = AdvantageGate(torch.full((32,), float(q)), torch.zeros(32), torch.zeros(32))
    action = agent.actor(batch.observation)
    reference, _, _ = agent.reference_action(batch, action, advantage)
    agent.config = dataclasses.replace(agent.config, alpha=0.0)
    _, metrics = agent.actor_loss(batch, advantage)
    pull = 0.4 * (action - reference).square().mean()
    assert torch.allclose(metrics["constraint"], is_open * pull)
    assert metrics["gated"] == is_open


def test_where_v_is_above_both_actions_only_q_moves_the_actor(agent, batch):
    """Broken by a gate that compares Q with Q, or by a pull outside the gate."""
    advantage = with_value(gate_of(agent, batch), 1e6)
    loss, metrics = agent.actor_loss(batch, advantage)
    q = agent.critic.frozen(batch.observation, agent.actor(batch.observation), count=1)[0]
    expected = -agent.config.alpha / q.detach().abs().mean() * q.mean()
    assert metrics["constraint"] == 0
    assert torch.equal(gradient(loss, agent.actor), gradient(expected, agent.actor))


def test_rejected_rows_teach_the_vae_no_action(agent, batch):
    """Broken by gating the divergence too, by ≥ in the filter, or by a filter the wrong way round."""
    advantage = gate_of(agent, batch)
    tied = dataclasses.replace(advantage, value=advantage.q)
    loss, metrics = agent.vae_loss(batch, tied)
    assert metrics["accepted"] == 0
    assert (gradient(loss, agent.vae.decoder) == 0).all()
    divergence = agent.config.kl_weight * kl_divergence(*agent.vae.encode(batch.observation, batch.action))
    assert torch.allclose(gradient(loss, agent.vae.encoder), gradient(divergence, agent.vae.encoder), atol=1e-8)
    assert gradient(loss, agent.vae.encoder).norm() > 0


def test_the_reconstruction_error_is_averaged_over_all_rows(batch):
    """Broken by dividing by the number of accepted rows."""
    agent = make(kl_weight=0.0)
    advantage = gate_of(agent, batch)
    half = dataclasses.replace(advantage, value=torch.where(torch.arange(32) < 16, -1e6, 1e6))
    first = dataclasses.replace(
        batch,
        **{name: value[:16] for name, value in vars(batch).items() if name != "draws"},
        draws={name: value[:16] for name, value in batch.draws.items()},
    )
    accepted_only = dataclasses.replace(half, q=half.q[:16], value=half.value[:16])
    loss, metrics = agent.vae_loss(batch, half)
    alone, metrics_alone = agent.vae_loss(first, accepted_only)
    assert torch.allclose(loss, alone / 2)
    assert metrics["accepted"] == 0.5
    assert torch.allclose(metrics["reconstruction_error"], metrics_alone["reconstruction_error"])


def test_the_divergence_is_that_of_normal_distributions():
    """Broken by a log-std taken for a log-variance, or by a sum for a mean."""
    zero = torch.zeros(4, 6)
    assert kl_divergence(zero, zero) == 0
    mean, log_std = torch.randn(4, 6), torch.randn(4, 6)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, log_std.exp()), normal(zero, zero + 1)).mean()
    assert torch.allclose(kl_divergence(mean, log_std), expected)
    assert kl_divergence(mean, zero) > 0
    assert kl_divergence(zero, log_std) > 0


def test_the_vaes_loss_is_affine_in_the_weight_of_its_reconstruction_error(batch):
    """Broken by a weight on the divergence as well, or by its square."""
    losses = []
    for weight in (0.0, 1.0, 3.0):
        agent = make(reconstruction_weight=weight)
        loss, metrics = agent.vae_loss(batch, gate_of(agent, batch))
        losses.append(loss)
    assert torch.allclose(losses[0], 0.5 * metrics["kl"])
    assert torch.allclose(losses[2] - losses[0], 3 * (losses[1] - losses[0]), rtol=1e-5)


def test_the_gradient_runs_through_the_reconstruction(batch):
    """Broken by detaching the VAE's action."""
    gradients = {}
    for detach in (False, True):
        agent = make(alpha=0.0, detach_candidate=detach)
        advantage = dataclasses.replace(gate_of(agent, batch), q=torch.full((32,), -1e6))
        loss, metrics = agent.actor_loss(batch, with_value(advantage, -1e6))
        assert metrics["vae_reference"] == metrics["gated"] == 1
        gradients[detach] = gradient(loss, agent.actor)
    assert not torch.allclose(gradients[False], gradients[True], rtol=1e-2)


def test_a_vae_that_reproduces_the_policy_leaves_it_alone(batch):
    """Broken by detaching the VAE's action: the pull is zero then, its gradient is not; or by another reference."""
    agent = make(alpha=0.0)
    agent.vae.frozen = lambda observation, action, noise: action
    advantage = dataclasses.replace(gate_of(agent, batch), q=torch.full((32,), -1e6))
    loss, metrics = agent.actor_loss(batch, with_value(advantage, -1e6))
    assert metrics["constraint"] == 0
    assert (gradient(loss, agent.actor) == 0).all()


def test_the_pull_to_the_vaes_action_has_the_jacobian_of_both_sides(batch):
    """Broken by losing the gradient through the latent, the encoder or the decoder."""
    agent = make(alpha=0.0)
    advantage = with_value(dataclasses.replace(gate_of(agent, batch), q=torch.full((32,), -1e6)), -1e6)
    action = agent.actor(batch.observation).detach().requires_grad_()
    agent.actor = lambda _: action
    (found,) = torch.autograd.grad(agent.actor_loss(batch, advantage)[0], action)
    noise = batch.draws["candidate"]
    candidate, _, _ = agent.vae(batch.observation, action, noise)
    rows = [torch.autograd.grad(candidate[:, i].sum(), action, retain_graph=True)[0] for i in range(2)]
    jacobian = torch.stack(rows, 1)
    difference = (action - candidate).detach()
    through = torch.einsum("bij,bi->bj", torch.eye(2) - jacobian, difference)
    assert torch.allclose(found, 2 / action.numel() * through, atol=1e-7)
    assert jacobian.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["actor", "critic", "value", "vae"])
def test_each_loss_moves_its_own_network_only(agent, name):
    """Broken by one optimiser for two networks, or by gradients that stay from another loss."""
    first, batch = make_batches(agent, 2)
    agent.update(first, 1)
    advantage = gate_of(agent, batch)
    target = agent.bootstrap(batch, agent.target_critic, agent.next_action(batch))
    losses = {
        "actor": lambda batch: agent.actor_loss(batch, advantage),
        "critic": lambda batch: agent.critic_loss(batch, target),
        "value": lambda batch: agent.value_loss(batch, advantage),
        "vae": lambda batch: agent.vae_loss(batch, advantage),
    }
    assert moved(agent, lambda: agent.minimize(batch, **{name: losses[name]})) == {f"{name}.parameters"}


def test_the_actors_step_computes_no_gradient_of_other_networks(agent, batch):
    """Broken by passing through the VAE or the critics without freezing them."""
    loss, _ = agent.actor_loss(batch, gate_of(agent, batch))
    for network in (agent.vae, agent.critic, agent.value):
        found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, retain_graph=True)
        assert all(g is None for g in found)


def test_with_the_datasets_action_and_an_open_gate_it_is_td3_bc(agent):
    """Broken by any difference in critics, λ, divisors, the order of updates or the targets' rate."""
    agent.reference_action = lambda batch, action, advantage: (batch.action, torch.ones(len(action)), {})
    td3_bc = TD3BC(TD3BCConfig(hidden_dims=[32, 32], batch_size=32), 5, 2)
    for step, batch in enumerate(make_batches(agent, 6), start=1):
        agent.update(batch, step)
        td3_bc.update(batch, step)
    for name, tensor in td3_bc.training_state().items():
        assert torch.equal(tensor, agent.training_state()[name]), name


def test_the_values_target_is_the_smaller_of_two_one_step_targets(agent, batch):
    """Broken by taking one of them, by the larger, by other next actions, or by bootstrapping beyond the end."""
    agent.update(batch, 1)
    batch = dataclasses.replace(batch, terminated=(torch.arange(32) < 8).float())
    next_action = agent.next_action(batch)
    old = agent.bootstrap(batch, agent.target_critic, next_action)
    old[8::2] -= 1
    old[9::2] += 1
    new = agent.bootstrap(batch, agent.critic, next_action)
    target = agent.advantage_gate(batch, next_action, old).value_target
    assert ((target <= old) & (target <= new)).all()
    assert ((target == old) | (target == new)).all()
    assert (target < old).any()
    assert (target < new).any()
    assert torch.equal(target[:8], batch.reward[:8])
    assert not target.requires_grad


def test_the_baseline_is_v_before_its_update_and_q_after_its_own(agent):
    """Broken by evaluating V again after its step, or Q₁(s, a) before the critics'."""
    seen = []
    judge = agent.advantage_gate
    agent.advantage_gate = lambda *arguments: seen.append(judge(*arguments)) or seen[-1]
    used = []
    reference_action = agent.reference_action
    agent.reference_action = lambda batch, action, j: used.append(j) or reference_action(batch, action, j)
    batches = make_batches(agent, 2)
    agent.update(batches[0], 1)
    before = agent.value(batches[1].observation)[0, :, 0].clone()
    agent.update(batches[1], 2)
    assert used == [seen[1]]
    assert torch.equal(used[0].value, before)
    assert not torch.equal(used[0].value, agent.value(batches[1].observation)[0, :, 0])
    assert torch.equal(used[0].q, agent.critic(batches[1].observation, batches[1].action)[0])


def test_actor_and_targets_move_on_even_steps_only(agent):
    """Broken by forgetting policy_delay, by targets of V and VAE, or by targets that move on every update."""
    fast = {"critic.parameters", "value.parameters", "vae.parameters"}
    for step, batch in enumerate(make_batches(agent, 4), start=1):
        before = snapshot(agent)
        assert moved(agent, lambda s=step, b=batch: agent.update(b, s)) == (ALL if step % 2 == 0 else fast)
        if step % 2 == 0:
            after = agent.training_state()
            for name in ("actor", "critic"):
                expected = before[f"{name}.target"].lerp(after[f"{name}.parameters"], 0.005)
                assert torch.equal(after[f"{name}.target"], expected)
    assert {name for name in before if name.endswith(".target")} == {"actor.target", "critic.target"}


def test_the_vae_keeps_its_bounds(agent, batch):
    """Broken by leaving out the tanh or the cut of the log-std."""
    with torch.no_grad():
        for layer in (*agent.vae.encoder.layers, *agent.vae.decoder.layers):
            layer.mul_(30)
    reconstruction, _, log_std = agent.vae(batch.observation, batch.action, batch.draws["vae"])
    assert reconstruction.abs().max() <= 1
    low, high = LOG_STD_BOUNDS
    assert log_std.min() == low == -4
    assert log_std.max() == high == 15


@pytest.mark.parametrize(
    ("sizes", "counts"),
    [((11, 3), (135_427, 402_946, 200_705, 1_162_515)), ((17, 6), (137_734, 407_554, 202_241, 1_189_530))],
)
def test_the_networks_are_as_large_as_the_authors(sizes, counts):
    """Broken by another number of layers, width or latent size, or by a second head that is no head."""
    agent = A2PR(Config(), *sizes)
    assert tuple(len(agent.groups[name].flat) for name in ("actor", "critic", "value", "vae")) == counts
    assert agent.draws()["vae"].size == 2 * sizes[1]


def test_a_frozen_vae_gives_the_same_action_and_gradient(agent, batch):
    """Broken by another order of heads or another noise in one of the two ways."""
    action = batch.action.clone().requires_grad_()
    plain, _, _ = agent.vae(batch.observation, action, batch.draws["vae"])
    frozen = agent.vae.frozen(batch.observation, action, batch.draws["vae"])
    assert torch.equal(plain, frozen)
    assert torch.equal(*(torch.autograd.grad(out.square().sum(), action)[0] for out in (plain, frozen)))


def test_the_latent_size_can_be_chosen():
    """Broken by a decoder that expects 2 A."""
    vae = ConditionalVAE(5, 2, [8], latent_size=3)
    vae.initialize(np.random.default_rng(0))
    assert vae.decode(torch.zeros(4, 5), torch.zeros(4, 3)).shape == (4, 2)
    assert all(head.shape == (4, 3) for head in vae.encode(torch.zeros(4, 5), torch.zeros(4, 2)))


def test_the_unit_of_rewards_does_not_matter_to_the_actor(agent, batch):
    """Broken by letting the gradient run through λ, or by a threshold other than zero."""

    def facts():
        advantage = gate_of(agent, batch)
        loss, metrics = agent.actor_loss(batch, advantage)
        shares = torch.stack([advantage.accepts().float().mean(), metrics["gated"], metrics["vae_reference"]])
        return shares, gradient(loss, agent.actor)

    shares, before = facts()
    with torch.no_grad():
        for layer in (*list(agent.critic.mlp.layers)[-2:], *list(agent.value.layers)[-2:]):
            layer.mul_(8.0)
    scaled_shares, after = facts()
    assert torch.equal(shares, scaled_shares)
    assert torch.allclose(before, after, rtol=1e-5, atol=1e-8)


def test_each_draw_goes_to_its_own_place(agent):
    """Broken by using the VAE's noise twice, or by exchanging the draws."""
    places = {"target": "critic", "vae": "vae", "candidate": "actor"}
    batches = make_batches(agent, 2)

    def gradients(draws):
        fresh = make()
        fresh.update(batches[0], 1)
        fresh.update(dataclasses.replace(batches[1], draws=draws), 2)
        return {name: group.gradient.clone() for name, group in fresh.groups.items()}

    before = gradients(batches[1].draws)
    for name, place in places.items():
        changed = gradients({**batches[1].draws, name: -batches[1].draws[name]})
        assert not torch.equal(before[place], changed[place])
        untouched = {"target": set(), "vae": {"critic", "value"}, "candidate": {"critic", "value", "vae"}}[name]
        assert all(torch.equal(before[other], changed[other]) for other in untouched)


def test_the_same_seed_gives_the_same_weights():
    """Broken by any draw that is not a function of (seed, name, step)."""
    dataset = random_dataset()
    rows = PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=True))
    states = []
    for block in (16, 3):
        agent = make()
        sampler = Sampler(agent, rows, block)
        for step in range(1, 9):
            agent.update(sampler.batch(step), step)
        states.append(snapshot(agent))
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_a_sample_of_the_prior_knows_nothing_of_the_policy(batch):
    """Broken by a sample that is not cut at 0.5, or by encoding the policy's action all the same."""
    agent = make(sample_prior=True)
    action = torch.zeros(32, 2)
    candidate = agent.candidate(batch, action)
    assert torch.equal(candidate, agent.candidate(batch, action + 0.5))
    large, larger = ({**batch.draws, "candidate": batch.draws["candidate"].sign() * size} for size in (1, 2))
    first, second = (agent.candidate(dataclasses.replace(batch, draws=d), action) for d in (large, larger))
    assert torch.equal(first, second)
    assert not torch.equal(first, candidate)


def test_presets_are_of_known_tasks_and_say_only_what_differs():
    """Broken by a task's misspelled name, which no run would ever look up."""
    defaults = dataclasses.asdict(Config())
    for name, settings in A2PR.PRESETS.items():
        task = find_task(name.removesuffix("-*"))
        assert name in (task.name, f"{task.robot.name}-*")
        assert merged(presets(A2PR, task.robot.name, task.name)) == settings
        assert all(defaults[key] != value for key, value in settings.items())
        Config(**settings)


def test_all_of_halfcheetah_has_alpha_40():
    """Broken by an entry for some halfcheetah data alone: every command its authors published has it."""
    halfcheetah = [name for name in DATASETS if name.startswith("halfcheetah-")]
    assert len(halfcheetah) == 17
    for name in [*halfcheetah, "halfcheetah", "HalfCheetah-v4"]:
        assert merged(presets(A2PR, "halfcheetah", name))["alpha"] == 40
