"""Stochastic actors against PyTorch's distributions, and the scalars beside them."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from offline_rl.networks import GaussianActor, Scalar, SquashedGaussianActor, Value
from offline_rl.networks.gaussian import SquashedGaussian, log_likelihood, squashed_log_likelihood


def started(network):
    network = network.double()
    network.initialize(np.random.default_rng(0))
    return network


def normal(*shape, seed=0):
    """Give small numbers: PyTorch's own inverse of tanh loses the digits of large ones."""
    return 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def observation():
    return normal(9, 5).requires_grad_()


def test_the_likelihood_is_the_normal_distributions():
    """Broken by leaving out a constant, or by a mean over entries."""
    mean, log_std, noise = normal(3, 9, 2)
    expected = Normal(mean, log_std.exp()).log_prob(mean + log_std.exp() * noise).sum(1)
    assert torch.allclose(log_likelihood(noise, log_std), expected)


def test_the_squashed_likelihood_is_that_of_the_tanh_of_a_normal_variable():
    """Broken by the slope's sign, or by leaving out its factor 2."""
    mean, log_std, noise = normal(3, 9, 2)
    u = mean + log_std.exp() * noise
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform())
    assert torch.allclose(squashed_log_likelihood(u, noise, log_std), squashed.log_prob(u.tanh()).sum(1))


def test_the_squashed_likelihood_integrates_to_one():
    """Broken by anything that is no density of x = tanh u."""
    x = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1]
    u = torch.atanh(x)
    density = squashed_log_likelihood(u[:, None], ((u - 0.3) / 0.5)[:, None], torch.tensor(math.log(0.5))).exp()
    assert torch.trapezoid(density, x) == pytest.approx(1, abs=1e-6)


def test_the_squashed_likelihood_stays_finite_and_its_gradient_too():
    """Broken by log(1 - tanh² u), which is log 0 from u = 9.1 on in float32."""
    u = torch.tensor([[-60.0], [20.0], [60.0]], requires_grad=True)
    value = squashed_log_likelihood(u, torch.zeros(3, 1), torch.zeros(1))
    assert torch.allclose(value, 2 * u.abs()[:, 0].detach() - 2 * math.log(2) - math.log(2 * math.pi) / 2)
    assert torch.allclose(torch.autograd.grad(value.sum(), u)[0], 2 * u.sign())


def test_a_gaussian_actor_squashes_its_mean_and_shares_its_std(observation):
    """Broken by a linear mean, or a std that starts elsewhere."""
    actor = started(GaussianActor(5, 2, [8], (-5, 2)))
    assert torch.equal(actor(observation), actor.mlp(observation)[0].tanh())
    assert torch.equal(actor.log_std(), torch.zeros(2, dtype=torch.float64))


def test_a_squashed_actor_can_share_its_std(observation):
    """Broken by squashing the mean as well, by a std that starts elsewhere, or by no cut."""
    actor = started(SquashedGaussianActor(5, 2, [8], shared_std=True, log_std_bounds=(-10, 2)))
    mean, log_std = actor(observation)
    assert torch.equal(mean, actor.mlp(observation)[0])
    assert log_std.tolist() == [0, 0]
    actor.spread[0].data.copy_(torch.tensor([-11.0, 3.0]))
    assert actor(observation).log_std.tolist() == [-10, 2]


def test_samples_come_with_their_likelihoods_and_take_any_number_of_draws():
    """Broken by noise that is not scaled by the std, or by one std for all draws of a state."""
    mean, log_std = normal(2, 9, 2)
    noise = normal(4, 9, 2, seed=1)
    sample, likelihood = SquashedGaussian(mean, log_std).sample(noise)
    assert torch.equal(sample, (mean + log_std.exp() * noise).tanh())
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform())
    assert torch.allclose(likelihood, squashed.log_prob(sample).sum(2))
    shared, _ = SquashedGaussian(mean, log_std[0]).sample(noise)
    assert torch.equal(shared[:, 0], sample[:, 0])
    assert not torch.equal(shared[:, 1], sample[:, 1])


def test_the_log_std_is_cut_when_it_is_used():
    """Broken by cutting nothing, or by bounds in the wrong order."""
    actor = started(GaussianActor(5, 3, [8], (-5, 2)))
    actor.free_log_std.data.copy_(torch.tensor([-7.0, 1.5, 3.0]))
    assert actor.log_std().tolist() == [-5, 1.5, 2]


def test_a_squashed_actors_log_std_is_a_learned_line_in_the_second_half(observation):
    """Broken by exchanging the halves, or scale and shift, or by not cutting."""
    actor = started(SquashedGaussianActor(5, 2, [8]))
    output = actor.mlp(observation)[0]
    mean, log_std = actor(observation)
    assert torch.equal(mean, output[:, :2])
    assert torch.equal(log_std, output[:, 2:] - 1)
    actor.spread[0].data.fill_(1000.0)
    low, high = (bound(actor(observation)[1]) for bound in (torch.min, torch.max))
    assert (low, high) == (-20, 2)
    slopes = torch.autograd.grad(started(actor)(observation)[1].sum(), list(actor.spread))
    assert slopes[0] == pytest.approx(float(output[:, 2:].detach().sum()))
    assert slopes[1] == 18


def test_without_a_line_the_log_std_is_the_second_half_itself(observation):
    """Broken by scalars that are learned all the same, or by another start."""
    actor = started(SquashedGaussianActor(5, 2, [8], scaled_std=False, log_std_bounds=(-0.01, 0.01)))
    output = actor.mlp(observation)[0]
    assert torch.equal(actor(observation).log_std, output[:, 2:].clamp(-0.01, 0.01))
    assert len(list(actor.parameters())) == len(list(actor.mlp.parameters()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianActor(5, 2, [8], (-5, 2)),
        lambda: SquashedGaussianActor(5, 2, [8]),
        lambda: SquashedGaussianActor(5, 2, [8], scaled_std=False),
        lambda: SquashedGaussianActor(5, 1, [8], shared_std=True),
    ],
)
def test_a_frozen_actor_gives_the_inputs_gradient_only(observation, make):
    """Broken by gradients for weights that nobody asked for, scale and shift included."""
    actor = started(make())
    plain, frozen = (list(way(observation)) for way in (actor, actor.frozen))
    sums = [sum(part.square().sum() for part in parts) for parts in (plain, frozen)]
    assert torch.equal(*sums)
    assert torch.equal(*(torch.autograd.grad(total, observation)[0] for total in sums))
    assert not any(part.requires_grad for part in actor.frozen(observation.detach()))


def test_scalars_and_values_have_their_shapes(observation):
    """Broken by a start that is not kept, or by a value with a dimension too many."""
    scalar, value = started(Scalar(0.5)), started(Value(5, [8]))
    assert scalar() == 0.5
    assert scalar().shape == ()
    assert value(observation).shape == (9,)
    assert torch.equal(copy.deepcopy(value)(observation), value(observation))
