"""Properties of SPOT that hold whatever the data; each names the mistake that breaks it."""

import dataclasses

import pytest
import torch
from helpers.agents import gradient, moved
from parity.harness import make_batches

from offline_rl.agent import merged, presets
from offline_rl.algos.spot import SPOT, Config
from offline_rl.algos.td3_bc import TD3BC
from offline_rl.algos.td3_bc import Config as TD3BCConfig
from offline_rl.envs import find_task
from offline_rl.errors import AgentError
from offline_rl.networks.dropout import Dropout

SMALL = {"hidden_dims": [32, 32], "vae_hidden_dims": [24, 24], "batch_size": 32, "vae_steps": 0}
FAST = {"critic.parameters"}
POLICY = FAST | {"actor.parameters", "actor.target", "critic.target"}


def make(steps=1000, **settings):
    return SPOT(Config(**{**SMALL, **settings}), 5, 2, steps=steps)


@pytest.fixture
def agent():
    return make()


@pytest.fixture
def batch(agent):
    return make_batches(agent, 1)[0]


class TD3WithDropout(TD3BC):
    """TD3 whose actors have dropout, made of TD3+BC's critics without its pull."""

    def next_action(self, batch):
        return self.target_actor(batch.next_observation, Dropout(0.1, batch.draws["target_dropout"]))

    def actor_loss(self, batch):
        action = self.actor(batch.observation, Dropout(0.1, batch.draws["dropout"]))
        q = self.critic.frozen(batch.observation, action, count=1)[0]
        return -q.mean() / q.detach().abs().mean(), {}


def test_without_its_constraint_it_is_td3_with_dropout():
    """Broken by any other term, divisor, order of updates or place of dropout."""
    agent = make(constraint_weight=0.0)
    td3 = TD3WithDropout(TD3BCConfig(hidden_dims=[32, 32], batch_size=32), 5, 2)
    for step, batch in enumerate(make_batches(agent, 8), start=1):
        agent.update(batch, step)
        td3.update(batch, step)
    for name, tensor in td3.training_state().items():
        assert torch.equal(tensor, agent.training_state()[name]), name


def test_the_vae_learns_first_and_then_never_again():
    """Broken by a policy that moves with an untrained VAE, or by a VAE that goes on."""
    agent = make(vae_steps=3)
    for step, batch in enumerate(make_batches(agent, 6), start=1):
        expected = {"vae.parameters"} if step <= 3 else POLICY if step % 2 == 0 else FAST
        assert moved(agent, lambda s=step, b=batch: agent.update(b, s)) == expected
        assert agent.repeats(step) == (step > 3)


def test_the_penalty_is_the_elbo_but_for_a_factor_and_a_constant(agent, batch):
    """Broken by other divisors of error and divergence: the decoder's variance is β / 4, as the authors say."""
    mean, log_std = agent.vae.encode(batch.observation, batch.action)
    normal = torch.distributions.Normal
    posterior = normal(mean, log_std.exp())
    divergence = torch.distributions.kl_divergence(posterior, normal(torch.zeros_like(mean), 1.0)).sum(1)
    decoded = agent.vae.decode(batch.observation, mean + log_std.exp() * batch.draws["latent"])
    likelihood = normal(decoded, (agent.config.kl_weight / 4) ** 0.5)
    elbo = likelihood.log_prob(batch.action).sum(1) - divergence
    best = likelihood.log_prob(decoded).sum(1)
    penalty, metrics = agent.negative_bound(batch, batch.action)
    assert torch.allclose(penalty, agent.config.kl_weight / 4 * (best - elbo).mean(), rtol=1e-5)
    assert torch.allclose(penalty, metrics["reconstruction_error"] + 0.5 * metrics["kl"])


def test_the_actors_loss_is_affine_in_the_weight_of_the_constraint(batch):
    """Broken by a weight on Q as well, or by its square."""
    losses = []
    for weight in (0.0, 1.0, 3.0):
        loss, metrics = make(constraint_weight=weight).actor_loss(batch)
        losses.append(loss)
    assert torch.allclose(losses[1] - losses[0], metrics["constraint"], rtol=1e-5)
    assert torch.allclose(losses[2] - losses[0], 3 * metrics["constraint"], rtol=1e-5)


def test_the_gradient_of_the_penalty_runs_through_encoder_and_decoder(agent, batch):
    """Broken by detaching the action in one of the three places where it stands."""
    agent = make(constraint_weight=1.0, dropout=0.0)
    action = agent.actor(batch.observation).detach().requires_grad_()
    (found,) = torch.autograd.grad(agent.negative_bound(batch, action, frozen=True)[0], action)
    step = 1e-3 * torch.randn(action.shape, generator=torch.Generator().manual_seed(0))
    double = SPOT(agent.config, 5, 2, dtype=torch.float64)
    wide = dataclasses.replace(
        batch,
        observation=batch.observation.double(),
        draws={name: draw.double() for name, draw in batch.draws.items()},
    )
    ahead, behind = (double.negative_bound(wide, (action + sign * step).detach().double())[0] for sign in (1, -1))
    assert torch.allclose((found * step).sum().double(), (ahead - behind) / 2, rtol=1e-3)


def test_the_actors_step_computes_no_gradient_of_other_networks(agent, batch):
    """Broken by passing through the VAE or the critics without freezing them."""
    loss, _ = agent.actor_loss(batch)
    for network in (agent.vae, agent.critic):
        found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, retain_graph=True)
        assert all(g is None for g in found)


def test_a_scaled_critic_leaves_the_actors_gradient_unchanged(agent, batch):
    """Broken by letting the gradient run through E|Q|, or by a floor under it."""
    before = gradient(agent.actor_loss(batch)[0], agent.actor)
    with torch.no_grad():
        for layer in list(agent.critic.mlp.layers)[-2:]:
            layer.mul_(8.0)
    assert torch.allclose(before, gradient(agent.actor_loss(batch)[0], agent.actor), rtol=1e-5, atol=1e-8)


def test_each_draw_goes_to_its_own_place(agent, batch):
    """Broken by one mask for both actors, by dropout that the target's actor has lost, or by noise used twice."""
    places = {"target": "critic", "target_dropout": "critic", "dropout": "actor", "latent": "actor"}

    def losses(draws):
        changed = dataclasses.replace(batch, draws=draws)
        return {"critic": agent.critic_loss(changed)[0], "actor": agent.actor_loss(changed)[0]}

    before = losses(batch.draws)
    assert set(places) == set(batch.draws)
    for name, place in places.items():
        after = losses({**batch.draws, name: 1 - batch.draws[name]})
        assert {loss for loss in before if not torch.equal(before[loss], after[loss])} == {place}


def test_an_agent_acts_without_dropout(agent, batch):
    """Broken by a policy that differs from call to call, or that is shrunk."""
    plain = TD3BC(TD3BCConfig(hidden_dims=[32, 32]), 5, 2)
    noise = torch.randn(32, 2)
    assert torch.equal(agent.policy(batch.observation), plain.policy(batch.observation))
    assert torch.equal(agent.explore(batch.observation, noise), plain.explore(batch.observation, noise))


def test_without_dropout_no_keys_are_drawn():
    assert set(make(dropout=0.0).draws()) == {"target", "latent"}


def test_the_weight_falls_online_only_and_not_below_its_share():
    """Broken by counting from the run's beginning, by a weight that falls offline, or one that falls unasked."""
    agent = make(steps=100, cool_online=True, cooling_steps=50, cooled_share=0.3)
    assert agent.share_of_weight(90) == 1
    assert agent.lengths_used == set()
    for online, expected in ((agent, (0.98, 0.5, 0.3, 0.3)), (make(steps=100), (1, 1, 1, 1))):
        online.phase = "online"
        assert [online.share_of_weight(step) for step in (101, 125, 140, 900)] == pytest.approx(expected)


def test_the_share_reaches_the_loss(batch):
    """Broken by an update that asks for the share and forgets it."""
    losses = {}
    for cool in (True, False):
        agent = make(steps=100, constraint_weight=2.0, cool_online=cool, cooling_steps=50)
        agent.phase = "online"
        metrics = agent.update(batch, 130)
        losses[cool] = metrics["actor_loss"]
    assert torch.allclose(losses[False] - losses[True], 2.0 * (1 - 0.4) * metrics["constraint"], rtol=1e-5)


@pytest.mark.parametrize("steps", [0, 9, 10])
def test_a_run_that_would_end_before_the_policy_learns_is_refused(steps):
    with pytest.raises(AgentError, match="vae_steps is 10 and the run has"):
        make(steps=steps, vae_steps=10)
    make(steps=11, vae_steps=10)
    make(steps=steps, vae_steps=0)


def test_what_the_vae_has_never_seen_costs_more():
    """Broken by the penalty's sign: here the data's actions are all near 0.5 in the first entry, 0 in the second."""
    agent = make(vae_steps=400, vae_learning_rate=3e-3, kl_weight=0.1)
    centre = torch.tensor([0.5, 0.0])
    batches = [dataclasses.replace(b, action=centre + 0.02 * b.action) for b in make_batches(agent, 10)]
    for step in range(1, 401):
        agent.update(batches[step % 10], step)
    actions = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    usual, unusual = (agent.negative_bound(batches[0], action.expand(32, 2))[0].detach() for action in actions)
    assert usual < unusual / 2


@pytest.mark.parametrize(
    ("sizes", "counts"), [((11, 3), (69_635, 139_778, 1_162_515)), ((17, 6), (71_942, 144_386, 1_189_530))]
)
def test_the_networks_are_as_large_as_the_authors(sizes, counts):
    """Broken by another number of layers, width or latent size."""
    agent = SPOT(Config(), *sizes)
    assert tuple(len(agent.groups[name].flat) for name in ("actor", "critic", "vae")) == counts
    assert agent.draws()["latent"].size == 2 * sizes[1]


def test_presets_are_of_known_tasks_and_change_the_constraint_alone():
    """Broken by a task's misspelled name, which no run would ever look up."""
    for name, settings in SPOT.PRESETS.items():
        task = find_task(name)
        assert name == task.name
        assert merged(presets(SPOT, task.robot.name, task.name)) == settings
        assert set(settings) == {"constraint_weight"}
        Config(**settings)
    assert len(SPOT.PRESETS) == 9
