"""Properties of DoC's networks, losses and acting; each names the mistake that breaks it.

What the objective is about is shown on tables, in ``test_doc_tabular.py``.
"""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.datasets import random_dataset

from offline_rl.algos.doc.agent import Config, DoC
from offline_rl.data import Dataset
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.data.windows import EpisodeWindows, Windows
from offline_rl.envs.finite import bernoulli_bandit, lucky_arm
from offline_rl.training.updates.sampler import Sampler

SMALL = {
    "hidden_dims": [16, 16],
    "batch_size": 8,
    "past": 4,
    "future": 3,
    "latent_size": 3,
    "width": 16,
    "layers": 1,
    "negatives": 5,
    "energy_places": 2,
    "candidates": 20,
}
ENCODERS = ["transformer", "mlp"]


@pytest.fixture(scope="module")
def dataset():
    return random_dataset()


@pytest.fixture(scope="module")
def rows(dataset):
    return packed(dataset)


def packed(dataset):
    return PackedRows.of(dataset, Preprocessing.fit(dataset, normalize=True))


def make(rows, encoder="transformer", dataset=None, **settings):
    agent = DoC(
        Config(**{**SMALL, "encoder": encoder, **settings}),
        5,
        2,
        steps=10,
        preprocessing=Preprocessing.fit(dataset, normalize=True) if dataset else None,
        dtype=torch.float64,
    )
    agent.prepare(rows)
    if encoder == "transformer":
        agent.groups["model"].flat.mul_(4)  # away from the almost linear beginning, where no input matters much
    return agent


def a_batch(agent, rows, step=1):
    return Sampler(agent, rows).batch(step)


def parameters_of_q(agent):
    encoder = agent.model.encoder
    reader = encoder.future if hasattr(encoder, "future") else encoder.step
    return [*reader.parameters(), *encoder.posterior_head.parameters()]


def parameters_of_prior(agent):
    encoder = agent.model.encoder
    return [
        *(encoder.prior_past.parameters() if hasattr(encoder, "prior_past") else ()),
        *encoder.prior_head.parameters(),
    ]


def norm(loss, parameters):
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return sum(float(gradient.norm()) for gradient in found if gradient is not None)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_value_and_prior_ride_on_z_without_moving_it(rows, encoder):
    """Broken by a missing detach in either loss, or by the detach on the prior instead of the posterior."""
    agent = make(rows, encoder)
    view = agent.view(a_batch(agent, rows))
    q, prior = parameters_of_q(agent), parameters_of_prior(agent)
    assert norm(agent.value_loss(view), q) == 0
    assert norm(agent.prior_loss(view), q) == 0
    assert norm(agent.value_loss(view), list(agent.model.value.parameters())) > 0
    assert norm(agent.prior_loss(view), prior) > 0
    for loss in (agent.policy_loss(view), agent.information(view, view.latent, frozen=True)):
        assert norm(loss, q) > 0
        assert norm(loss, prior) == 0
        assert norm(loss, list(agent.model.value.parameters())) == 0


@pytest.mark.parametrize("encoder", ENCODERS)
def test_each_step_moves_its_own_side_only(rows, encoder):
    """Broken by an f that is not frozen in the main step, or by its step reaching the encoder."""
    agent = make(rows, encoder)
    batch = a_batch(agent, rows)
    view = agent.view(batch)
    flats = {name: group.flat for name, group in agent.groups.items()}
    for moving, staying, loss in (("energy", "model", agent.energy_loss), ("model", "energy", agent.model_loss)):
        before = {name: flat.clone() for name, flat in flats.items()}
        agent.minimize(batch, **{moving: lambda b, loss=loss: loss(b, agent.view(batch))})
        assert torch.equal(flats[staying], before[staying])
        assert not torch.equal(flats[moving], before[moving])
    assert norm(agent.energy_loss(batch, view)[0], agent.groups["model"].parameters) == 0


@pytest.mark.parametrize("encoder", ENCODERS)
def test_f_raises_what_q_lowers(rows, encoder):
    """Broken by the wrong sign on either side: the authors' code has it on the encoder's."""
    agent = make(rows, encoder, dropout=0.0)
    batch = a_batch(agent, rows)

    def information():
        view = agent.view(batch)
        return agent.information(view, view.latent, frozen=True)

    before = information().detach()
    for _ in range(30):
        agent.minimize(batch, energy=lambda b: agent.energy_loss(b, agent.view(b)))
    raised = information().detach()
    assert raised > before
    found = torch.autograd.grad(information(), agent.groups["model"].parameters, allow_unused=True)
    ours = torch.autograd.grad(agent.model_loss(batch, agent.view(batch))[0], agent.groups["model"].parameters)
    without = dataclasses.replace(agent.config, beta=0.0)
    agent.config, kept = without, agent.config
    rest = torch.autograd.grad(agent.model_loss(batch, agent.view(batch))[0], agent.groups["model"].parameters)
    agent.config = kept
    # What β adds to the main step's gradient is β times the gradient of E_f: descent.
    share = float(agent.groups["model"].count + 1) / (agent.config.beta_ramp * agent.steps)
    assert share >= 1
    for e_f, whole, part in zip(found, ours, rest, strict=True):
        assert torch.allclose(whole - part, torch.zeros_like(whole) if e_f is None else e_f, atol=1e-9)
    with torch.no_grad():
        for parameter, gradient in zip(agent.groups["model"].parameters, found, strict=True):
            if gradient is not None:
                parameter.sub_(1e-3 * gradient)
    assert information() < raised


def test_beta_grows_over_its_share_of_the_run(rows):
    """Broken by a ramp over the whole run, or by one that never ends."""
    agent = make(rows, "mlp", beta=2.0, beta_ramp=0.5, dropout=0.0)
    batch = a_batch(agent, rows)
    found = []
    for taken in (0, 1, 4, 9):
        agent.groups["model"].count.fill_(taken)
        view = agent.view(batch)
        loss, metrics = agent.model_loss(batch, view)
        rest = sum(metrics[name] for name in ("policy_loss", "value_loss", "prior_loss"))
        rest = rest + agent.config.standard_weight * metrics["standard_divergence"]
        found.append(float((loss - rest).detach() / metrics["information"]))
    assert found == pytest.approx([0.4, 0.8, 2.0, 2.0], rel=1e-5)


def changed(batch, place, present):
    """Change all that an agent cannot know when it chooses the action at ``place``; ``present`` spares the state."""
    steps, later = batch.steps, place + present
    new = {}
    for name in ("action", "reward", "terminated", "next_observation", "return_to_go"):
        new[name] = vars(steps)[name].clone()
        new[name][:, place:] += 1
    for name in ("observation", "previous_reward"):
        new[name] = vars(steps)[name].clone()
        new[name][:, later:] += 1
    return dataclasses.replace(batch, steps=dataclasses.replace(steps, **new))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_future_is_known_through_z_only(rows, encoder):
    """Broken by the reward of a step as the token before its action, or by features of the wrong token."""
    agent = make(rows, encoder)
    batch = a_batch(agent, rows)
    before = agent.view(batch)
    for step in range(agent.config.future):
        after = agent.view(changed(batch, batch.place + step, present=1))
        assert torch.equal(before.features[:, : step + 1], after.features[:, : step + 1])
        own = agent.view(changed(batch, batch.place + step, present=0))
        assert (before.features[:, step] != own.features[:, step]).any(1).all()
    after = agent.view(changed(batch, batch.place, present=1))
    assert torch.equal(before.prior.mean, after.prior.mean)
    assert torch.equal(before.prior.log_std, after.prior.log_std)
    assert (before.posterior.mean != after.posterior.mean).any(1).all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_no_loss_depends_on_what_is_padded(rows, encoder):
    """Broken by a missing mask in the likelihood, the set of steps, the last token, or the places of outcomes."""
    agent = make(rows, encoder, future=6)
    batch = a_batch(agent, rows)
    mask = batch.steps.mask
    garbage = {
        name: torch.where(mask.view(*mask.shape, *[1] * (value.ndim - 2)), value, (7 * value + 3).to(value.dtype))
        for name, value in vars(batch.steps).items()
        if name != "mask"
    }
    other = dataclasses.replace(batch, steps=dataclasses.replace(batch.steps, **garbage))
    assert 0 < mask[:, : batch.place].double().mean() < 1 or encoder == "mlp"
    assert 0 < mask[:, batch.place :].double().mean() < 1
    views = [agent.view(b) for b in (batch, other)]
    metrics = [agent.model_loss(b, view)[1] for b, view in zip((batch, other), views, strict=True)]
    for name, value in metrics[0].items():
        assert torch.equal(value, metrics[1][name]), name
    losses = [agent.energy_loss(b, view)[0] for b, view in zip((batch, other), views, strict=True)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(("past", "future"), [(1, 1), (2, 5), (5, 2)])
def test_episodes_of_one_step_and_any_windows_train(encoder, past, future):
    """Broken by NaN from attention to nothing, by an empty mean, or by futures reshaped with the past's length."""
    generator = np.random.default_rng(0)
    short = Dataset.from_arrays(
        observations=generator.standard_normal((40, 5)),
        actions=generator.uniform(-1, 1, (40, 2)),
        rewards=generator.standard_normal(40),
        terminated=np.ones(40),
        next_observations=generator.standard_normal((40, 5)),
    )
    agent = make(packed(short), encoder, past=past, future=future)
    sampler = Sampler(agent, packed(short))
    for step in (1, 2):
        metrics = agent.update(sampler.batch(step), step)
        assert all(value.isfinite() for value in metrics.values())
    assert all(group.flat.isfinite().all() for group in agent.groups.values())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_same_seed_gives_the_same_weights_whatever_is_prefetched(rows, encoder):
    """Broken by any draw that is not a function of (seed, name, step); the second agent is stopped on its way."""
    states = []
    for block, stop in ((200, None), (1, 3)):
        agent = make(rows, encoder)
        for step in range(1, 6):
            if step == stop:
                state = {name: tensor.clone() for name, tensor in agent.training_state().items()}
                agent = make(rows, encoder)
                agent.load_training_state(state)
            agent.update(Sampler(agent, rows, block).batch(step), step)
        states.append(agent.training_state())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_z_is_the_sample_of_the_prior_with_the_highest_value(rows, encoder):
    """Broken as in the authors' code, which gives all candidates the value of one."""
    agent = make(rows, encoder)
    steps = agent.model.scaled(a_batch(agent, rows).history)
    prior, features = agent.model.encoder.prior(steps), agent.model.encoder.features(steps)[0][:, -1]
    samples = prior.mean[:, None] + prior.log_std.exp()[:, None] * agent.model.candidate_noise
    values = torch.stack([agent.model.values(features, samples[:, k]).amin(0) for k in range(20)], 1)
    assert all(len(row.unique()) == 20 for row in values)
    found, value = agent.model.best(prior, features, agent.model.candidate_noise)
    assert torch.allclose(value, values.amax(1))
    assert torch.allclose(found, samples[torch.arange(8), values.argmax(1)])
    agent.model.values = lambda features, latent: latent[:, 0].expand(3, -1)
    first, _ = agent.model.best(prior, features, agent.model.candidate_noise)
    assert torch.equal(first[:, 0], samples[:, :, 0].amax(1))
    only, _ = agent.model.best(prior, features, agent.model.candidate_noise[:1])
    assert torch.equal(only, samples[:, 0])


def test_the_smallest_value_decides(rows):
    """Broken by the mean, or by the first head alone."""
    agent = make(rows, "mlp")
    prior = agent.model.encoder.prior(a_batch(agent, rows).history)
    agent.model.values = lambda features, latent: torch.stack((latent[:, 0], -latent[:, 0], 9 + 0 * latent[:, 0]))
    samples = prior.mean[:, None] + prior.log_std.exp()[:, None] * agent.model.candidate_noise
    found, _ = agent.model.best(prior, torch.zeros(8, 5).double(), agent.model.candidate_noise)
    assert torch.equal(found[:, 0].abs(), samples[:, :, 0].abs().amin(1))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_z_is_kept_for_f_steps_in_each_environment(rows, encoder):
    """Broken by choosing in every step, or by one clock for all environments."""
    agent = make(rows, encoder)
    generator = np.random.default_rng(0)
    chosen, promises = [], []
    for time in range(8):
        if time == 4:
            agent.reset(np.array([False, True]))
        agent.act(generator.standard_normal((2, 5)), np.zeros(2))
        chosen.append(agent.latent.clone())
        promises.append(agent.promise.clone())
    for row, starts in ((0, (0, 3, 6)), (1, (0, 3, 4, 7))):
        for time in range(1, 8):
            assert torch.equal(chosen[time][row], chosen[time - 1][row]) == (time not in starts), (row, time)
    assert (torch.stack(promises)[:, 0] == promises[0][0]).all()
    assert [time for time in range(1, 8) if promises[time][1] != promises[time - 1][1]] == [4]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_acting_sees_what_training_saw(dataset, rows, encoder):
    """Broken by a reward a step late, by rewards that are not scaled, or by an action in the wrong slot."""
    agent = make(rows, encoder, dataset=dataset)
    lengths = np.diff(dataset.episode_bounds)
    start = int(dataset.episode_bounds[np.flatnonzero(lengths >= 7)[0]])
    windows = EpisodeWindows(rows)
    reward = None
    for row in range(start, start + 7):
        acted = agent.act(dataset.observations[row], reward)
        steps = agent.model.scaled(
            windows.around(torch.tensor([row]), Windows(agent.windows.history, 1), torch.float64)
        )
        with torch.inference_mode():
            features = agent.model.encoder.features(steps)[0][:, -1:]
            expected = agent.model.action(features, agent.latent)[0, 0].numpy()
            agent.history._steps.action[0, -1] = torch.from_numpy(dataset.actions[row].copy())
        np.testing.assert_allclose(acted, expected, atol=1e-5)
        reward = dataset.rewards[row]


def test_what_is_saved_is_enough_to_act(dataset, rows):
    """Broken by scales that are not among the weights, or by candidates that are drawn again."""
    agent = make(rows, dataset=dataset)
    loaded = DoC(agent.config, 5, 2, steps=10, preprocessing=agent.preprocessing, dtype=torch.float64)
    loaded.load_acting_weights(agent.acting_weights())
    for step in range(4):
        observation = np.full(5, step / 2)
        assert np.array_equal(loaded.act(observation, 1.0), agent.act(observation, 1.0))
    assert torch.equal(loaded.promise, agent.promise)
    assert agent.model.return_scale == np.abs(dataset.episode_returns).max()


def test_rewards_enter_networks_at_one_scale(rows):
    """Broken by scaling the rewards of the future, but not those of the past."""
    agent = make(rows, "mlp")
    steps = EpisodeWindows(rows).around(torch.arange(len(rows)), Windows(2, 1), torch.float64)
    scaled = agent.model.scaled(steps)
    assert float(scaled.reward[:, 1].mean()) == pytest.approx(0, abs=1e-6)
    assert float(scaled.reward[:, 1].std()) == pytest.approx(1, abs=0.01)
    known = steps.mask[:, 0]
    assert torch.allclose(scaled.previous_reward[known, 1], scaled.reward[known, 0])
    assert not torch.allclose(scaled.previous_reward, steps.previous_reward)


def test_likelihoods_are_those_of_the_distributions(rows):
    """Broken by a likelihood without its constant, which would change what β means, or by a mean over entries."""
    agent = make(rows, "mlp")
    agent.model.log_std.data[:] = torch.tensor([-1.0, 0.5])
    view = agent.view(a_batch(agent, rows))
    mean = agent.model.action(view.features, view.latent)
    action = view.future.action
    theirs = torch.distributions.Normal(mean, agent.model.log_std.exp()).log_prob(action).sum(2)
    found = agent.model.log_likelihood(view.features, view.latent, action)
    assert torch.allclose(found, theirs, atol=1e-3)
    categorical = make(rows, "mlp", discrete=True)
    view = categorical.view(a_batch(categorical, rows))
    probability = categorical.model.action(view.features, view.latent)
    one_hot = torch.eye(2).double()[torch.ones(8, 3, dtype=torch.long)]
    found = categorical.model.log_likelihood(view.features, view.latent, one_hot)
    assert torch.allclose(found, probability[:, :, 1].log())
    assert torch.allclose(probability.sum(2), torch.ones(8, 3).double())


# On problems whose answers are known, with the settings with which they were first found: small networks, no ramps.
LEARNING = {
    "encoder": "mlp",
    "discrete": True,
    "past": 1,
    "future": 1,
    "latent_size": 2,
    "hidden_dims": [32, 32],
    "batch_size": 128,
    "learning_rate": 1e-3,
    "energy_learning_rate": 3e-3,
    "negatives": 16,
    "energy_places": 1,
    "candidates": 256,
    "warmup": 0.0,
    "beta_ramp": 0.0,
    "gradient_clip": 100.0,
}
STEPS = 2000


def trained(problem, seed, steps=STEPS, episodes=2000, **settings):
    data = Dataset.from_arrays(**problem.columns(problem.collect(episodes, seed=seed)))
    preprocessing = Preprocessing.fit(data, normalize=True)
    agent = DoC(Config(**{**LEARNING, **settings}), 1, 2, seed=seed, steps=steps, preprocessing=preprocessing)
    rows = PackedRows.of(data, preprocessing)
    agent.prepare(rows)
    sampler = Sampler(agent, rows)
    for step in range(1, steps + 1):
        metrics = agent.update(sampler.batch(step), step)
    return agent, rows, metrics


@pytest.fixture(scope="module")
def bandits():
    return [trained(bernoulli_bandit(0.1), seed) for seed in range(3)]


@pytest.mark.slow
def test_the_better_arm_is_found_where_success_does_not_tell(bandits):
    """Broken by the wrong sign of β, with which some seeds pull the worse arm."""
    probabilities = [agent.act(np.ones(1))[1] for agent, _, _ in bandits]
    assert np.mean(probabilities) > 0.8
    assert np.mean([float(agent.promise) for agent, _, _ in bandits]) == pytest.approx(0.9, abs=0.1)


@pytest.mark.slow
def test_the_prior_learns_the_aggregate_posterior(bandits):
    """Broken as in the authors' code, where the prior gets no gradient.

    The last steps are the prior's alone, because q keeps turning a little while f chases it.
    """
    for agent, rows, _ in bandits:
        prior_parameters, sampler = parameters_of_prior(agent), Sampler(agent, rows)
        for step in range(STEPS + 1, STEPS + 301):
            loss = agent.prior_loss(agent.view(sampler.batch(step)))
            for parameter, gradient in zip(prior_parameters, torch.autograd.grad(loss, prior_parameters), strict=True):
                parameter.data.sub_(0.02 * gradient)
        windows = EpisodeWindows(rows).around(torch.arange(len(rows)), agent.windows)
        steps = agent.model.scaled(windows)
        with torch.no_grad():
            posterior, prior = agent.model.encoder.posterior(steps), agent.model.encoder.prior(steps)
        mean = posterior.mean.mean(0)
        std = ((2 * posterior.log_std).exp() + posterior.mean.square()).mean(0).sub(mean.square()).sqrt()
        assert ((prior.mean[0] - mean).abs() < 0.1).all()
        ratio = prior.log_std[0].exp() / std
        assert ((ratio > 0.8) & (ratio < 1.25)).all()


@pytest.mark.slow
def test_the_energy_of_a_shuffled_z_is_the_information_of_the_action():
    """Broken by negatives that are not drawn from all outcomes, or by a sum in the place of the mean over them."""
    agent, rows, _ = trained(bernoulli_bandit(0.1), 0, steps=1, negatives=63)
    sampler = Sampler(agent, rows)
    found = []
    for step in range(1, 1001):
        batch = sampler.batch(step)
        view = agent.view(batch)
        shuffled = dataclasses.replace(view, latent=view.latent.roll(1, 0))
        metrics = agent.minimize(batch, energy=lambda b, shuffled=shuffled: agent.energy_loss(b, shuffled))
        found.append(-float(metrics["energy_loss"]))
    assert np.mean(found[-500:]) == pytest.approx(0.1463, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.0, 10.0])
def test_without_luck_the_constraint_costs_nothing(beta):
    """Broken by an energy that does not know the action."""
    agent, _, metrics = trained(lucky_arm(p=1.0, prize=0.0, sure=1.0), 0, steps=2000, episodes=500, beta=beta)
    assert float(metrics["policy_loss"]) < 0.05
    assert agent.act(np.ones(1))[1] > 0.95
    assert float(agent.promise) == pytest.approx(1.0, abs=0.05)
