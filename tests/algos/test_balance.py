"""What FamO2O's balances look like to a network, and the interval that they never leave."""

import numpy as np
import pytest
import torch

from offline_rl.algos.famo2o.balance import BalanceModel, embedding, with_balance
from offline_rl.networks import SquashedGaussian, SquashedGaussianActor

TABLE = {
    0.0: (0, 1, 0, 1, 0, 1),
    1.0: (0.841471, 0.540302, 0.046399, 0.998923, 0.002154, 0.999998),
    5.0: (-0.958924, 0.283662, 0.230002, 0.973190, 0.010772, 0.999942),
    8.0: (0.989358, -0.145500, 0.362852, 0.931847, 0.017235, 0.999851),
    14.0: (0.990607, 0.136737, 0.605045, 0.796191, 0.030158, 0.999545),
}


def model(low, high, **options):
    made = BalanceModel(SquashedGaussianActor(5, 1, [8], shared_std=True), low, high, **options)
    made.initialize(np.random.default_rng(0))
    return made


def test_the_embedding_is_sines_and_cosines_in_turn_to_six_digits():
    """Broken by all sines first, by another base than 10000, or by another size than 6 in its exponent."""
    found = embedding(torch.tensor(list(TABLE), dtype=torch.float64))
    assert torch.allclose(found, torch.tensor(list(TABLE.values()), dtype=torch.float64), rtol=0, atol=5e-7)


def test_the_embedding_of_many_is_that_of_each():
    """Broken by anything that mixes rows."""
    beta = torch.linspace(0, 14, 9)
    assert embedding(beta).shape == (9, 6)
    assert torch.equal(embedding(beta), torch.cat([embedding(one) for one in beta.split(1)]))
    assert torch.equal(embedding(beta)[:, 0::2] ** 2 + embedding(beta)[:, 1::2] ** 2 > 0.999999, torch.ones(9, 3) > 0)


def test_a_policy_reads_the_observation_first():
    """Broken by another order: the columns of saved weights would change places."""
    observation, beta = torch.randn(9, 5), torch.rand(9)
    assert torch.equal(with_balance(observation, beta), torch.cat((observation, embedding(beta)), 1))


@pytest.mark.parametrize(("low", "high"), [(1.0, 5.0), (0.5, 1.5), (8.0, 14.0), (2.0, 2.0)])
def test_ends_and_middle_of_the_interval_are_reached(low, high):
    """Broken by a mapping that uses only half of the interval."""
    ends = model(low, high).to_beta(torch.tensor([[-1.0], [0.0], [1.0]]))
    assert ends.tolist() == [low, (low + high) / 2, high]
    assert model(low, high).at(torch.tensor([[0.0], [0.5], [1.0]])).tolist() == ends.tolist()


def test_the_released_mapping_leaves_the_interval():
    """Broken by a switch that does nothing."""
    assert model(0.5, 1.5, released=True).to_beta(torch.tensor([[-1.0], [1.0]])).tolist() == [-0.5, 1.5]


@pytest.mark.parametrize(("low", "high"), [(1.0, 5.0), (0.5, 1.5)])
def test_no_state_gives_a_balance_outside_the_interval(low, high):
    """Broken by the released mapping, or by an unsquashed sample."""
    balance = model(low, high)
    observation, noise = 100 * torch.randn(2000, 5), 3 * torch.randn(2000, 1)
    for beta in (balance.sampled(observation, noise), balance.chosen(observation)):
        assert beta.shape == (2000,)
        assert low <= beta.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < beta.max() <= high
    assert torch.equal(balance.chosen(observation), balance.sampled(observation, 0 * noise))


def test_metrics_describe_balances_without_noise_and_count_those_at_an_end():
    """Broken by counting one end only, or by a width of 1 % of another length."""
    x = torch.tensor([[-1.0], [-0.985], [-0.975], [0.0], [0.979], [0.981]])
    metrics = model(1.0, 5.0).metrics(SquashedGaussian(torch.atanh(x.double()), torch.zeros(1)))
    beta = 1 + 2 * (x + 1)
    assert metrics["beta_at_bounds"] == pytest.approx(3 / 6)
    assert metrics["beta_min"] == pytest.approx(1)
    assert metrics["beta_max"] == pytest.approx(float(beta.max()))
    assert metrics["beta_mean"] == pytest.approx(float(beta.mean()))
    assert metrics["beta_std"] == pytest.approx(float(beta.std(correction=0)))
