"""How weights start: what each rule promises of them."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from offline_rl.networks import Critic
from offline_rl.networks.initializers import glorot, lecun, orthogonal, small_last, uniform


def start(rule, shape, last=False, seed=0):
    return rule(np.random.default_rng(seed), shape, last)


@pytest.mark.parametrize("shape", [(2, 7, 30), (2, 30, 7), (1, 1, 8), (1, 6, 6)])
@pytest.mark.parametrize("last", [False, True])
def test_orthogonal_rows_or_columns_have_length_root_two(shape, last):
    """Broken by a gain of 1, by another gain in the last layer, or by transposing."""
    weight, bias = start(orthogonal, shape, last)
    assert weight.shape == shape
    assert not bias.any()
    for matrix in weight:
        short = matrix if shape[1] <= shape[2] else matrix.T
        assert np.allclose(short @ short.T, 2 * np.eye(len(short)))


def test_orthogonal_weights_are_drawn_from_all_directions():
    """Broken by taking the factorisation's signs, whose diagonal is never positive here: the first entry would be."""
    firsts = [start(orthogonal, (1, 4, 4), seed=seed)[0][0, 0, 0] for seed in range(400)]
    assert abs(np.mean(np.sign(firsts))) < 0.15
    assert np.mean(np.square(firsts)) == pytest.approx(2 / 4, rel=0.15)


def test_orthogonal_networks_of_one_stack_differ():
    weight, _ = start(orthogonal, (2, 5, 5))
    assert not np.allclose(weight[0], weight[1])


def test_lecun_weights_have_variance_one_over_fan_in_and_are_cut_at_two_deviations():
    """Broken by the variance of the normal distribution before it is cut, or by no cut."""
    weight, bias = start(lecun, (2, 300, 200))
    sigma = 1 / math.sqrt(200) / stats.truncnorm(-2, 2).std()
    assert weight.var() == pytest.approx(1 / 200, rel=0.02)
    assert 1.99 * sigma < np.abs(weight).max() <= 2 * sigma
    assert stats.kstest(weight.ravel() / sigma, stats.truncnorm(-2, 2).cdf).pvalue > 0.01
    assert not bias.any()


def test_the_last_layer_of_lecun_is_uniform_and_small():
    """Broken by starting it like the others."""
    weight, bias = start(lecun, (2, 30, 400), last=True)
    bound = math.sqrt(0.03 / 400)
    assert stats.kstest(weight.ravel(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 0.01
    assert not bias.any()


@pytest.mark.parametrize("last", [False, True])
def test_glorot_weights_have_variance_two_over_both_sizes(last):
    """Broken by the variance of either size alone, by another distribution, or by another last layer."""
    weight, bias = start(glorot, (2, 300, 200), last)
    bound = math.sqrt(6 / 500)
    assert stats.kstest(weight.ravel(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 0.01
    assert not bias.any()


@pytest.mark.parametrize("bound", [3e-3, 1e-3])
def test_a_small_last_layer_comes_with_raised_hidden_biases(bound):
    """Broken by a bias of 0, by a last bias of 0.1, or by a last layer that starts like the others."""
    rule = partial(small_last, bound=bound)
    (weight, bias), (last, last_bias) = start(rule, (2, 300, 64)), start(rule, (2, 300, 64), last=True)
    assert stats.kstest(weight.ravel(), stats.uniform(-1 / 8, 2 / 8).cdf).pvalue > 0.01
    assert (bias == 0.1).all()
    for values in (last, last_bias):
        assert stats.kstest(values.ravel(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 0.01


def test_the_default_draws_as_it_always_has():
    """Broken by another order of draws: every recorded result would change."""
    generator = np.random.default_rng(0)
    weight, bias = start(uniform, (2, 3, 4))
    assert np.array_equal(weight, generator.uniform(-0.5, 0.5, (2, 3, 4)))
    assert np.array_equal(bias, generator.uniform(-0.5, 0.5, (2, 3)))


@pytest.mark.parametrize("rule", [uniform, orthogonal, lecun, glorot, small_last])
def test_a_networks_last_layer_is_told_so_and_the_generator_decides(rule):
    """Broken by taking every layer, or none, for the last."""
    calls = []

    def spy(generator, shape, last):
        calls.append((shape, last))
        return rule(generator, shape, last)

    critics = [Critic(5, 2, [8, 6], initializer=spy) for _ in range(2)]
    for critic in critics:
        critic.initialize(np.random.default_rng(1))
    assert calls[:3] == [((2, 8, 7), False), ((2, 6, 8), False), ((2, 1, 6), True)]
    assert all(torch.equal(*pair) for pair in zip(*(critic.parameters() for critic in critics), strict=True))
