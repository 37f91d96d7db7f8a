import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from offline_rl.algos.doc.energy import Energy, pairs_of
from offline_rl.algos.doc.latent import LOG_STD_BOUNDS, Gaussian, at_places, chosen


def normal(rows=6, size=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Gaussian(*torch.randn(2, rows, size, generator=generator, dtype=torch.float64))


def test_the_divergence_is_that_of_normal_distributions():
    """Broken by exchanging the two, by a log-std taken for a log-variance, or by a mean for the sum."""
    first, second = normal(), normal(seed=1)
    theirs = kl_divergence(Normal(first.mean, first.log_std.exp()), Normal(second.mean, second.log_std.exp()))
    assert torch.allclose(first.divergence(second), theirs.sum(1))
    assert (first.divergence(first) == 0).all()
    standard = kl_divergence(Normal(first.mean, first.log_std.exp()), Normal(0.0, 1.0))
    assert torch.allclose(first.divergence(first.standard()), standard.sum(1))


def test_samples_have_the_distributions_moments_and_stds_their_bounds():
    found = Gaussian.of(torch.tensor([[2.0, -1.0, 0.5, 100.0]]))
    noise = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0))
    samples = found.at(noise)
    assert torch.allclose(samples[:, 0].mean(), torch.tensor(2.0), atol=0.03)
    assert torch.allclose(samples[:, 0].std(), torch.tensor(0.5).exp(), atol=0.03)
    assert found.log_std[0, 1] == LOG_STD_BOUNDS[1]


@pytest.fixture
def energy():
    made = Energy(4, 3, [16, 8]).double()
    made.initialize(np.random.default_rng(0))
    return made


def test_the_energy_is_an_mlp_of_both(energy):
    """Broken by pairing the wrong rows, or by a nonlinearity before the sum."""
    situation, outcome = torch.randn(5, 4).double(), torch.randn(7, 3).double()
    pairs = torch.tensor([[0, 6], [1, 1], [5, 2], [3, 0], [4, 4]])
    found = energy(situation, outcome, pairs)
    known, told, rest = (
        [layer[0] for layer in part.layers] for part in (energy.situation, energy.outcome, energy.rest)
    )
    weight, bias = torch.cat((known[0], told[0]), 1), known[1] + told[1]
    for n in range(5):
        for m in range(2):
            x = torch.relu(weight @ torch.cat((situation[n], outcome[pairs[n, m]])) + bias)
            x = torch.relu(rest[0] @ x + rest[1])
            assert torch.allclose(found[n, m], (rest[2] @ x + rest[3])[0])


def test_a_frozen_energy_passes_gradients_on_and_keeps_none(energy):
    situation, outcome, pairs = (
        torch.randn(5, 4).double().requires_grad_(),
        torch.randn(7, 3).double(),
        pairs_of(5, torch.rand(5, 2)),
    )
    frozen, plain = (energy(situation, outcome, pairs, frozen=frozen).square().sum() for frozen in (True, False))
    assert torch.equal(frozen, plain)
    gradients = [torch.autograd.grad(loss, situation)[0] for loss in (frozen, plain)]
    assert torch.allclose(*gradients)
    found = torch.autograd.grad(
        energy(situation, outcome, pairs, frozen=True).sum(), list(energy.parameters()), allow_unused=True
    )
    assert found == (None,) * len(found)


def test_each_outcome_is_compared_with_others_drawn_evenly():
    """Broken by a true outcome among the others, or by a range one too short."""
    uniform = torch.rand(6, 20_000, generator=torch.Generator().manual_seed(0))
    uniform[:, 0], uniform[:, 1] = 0.0, 1 - 2**-24
    pairs = pairs_of(6, uniform)
    for own in range(6):
        assert pairs[own, 0] == own
        counts = pairs[own, 1:].bincount(minlength=6)
        assert counts[own] == 0
        assert ((counts[counts > 0] / 20_000 - 0.2).abs() < 0.02).all()
        assert (counts > 0).sum() == 5
    assert pairs_of(1, torch.rand(1, 3)).tolist() == [[0, 0, 0, 0]]


def test_places_and_choices():
    x = torch.arange(12).view(2, 3, 2)
    assert at_places(x, torch.tensor([[2, 0], [1, 1]])).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]
    new, old = torch.ones(2, 3), torch.zeros(2, 3)
    assert chosen(np.array([True, False]), new, old).tolist() == [[1, 1, 1], [0, 0, 0]]
    assert chosen(np.array([True, True]), new, torch.zeros(0)) is new
