"""Reward models: one batched product is as many networks one by one, of raw observations."""

import numpy as np
import pytest
import torch

from offline_rl.networks.reward import LinearHead, RewardModel


def make(*, slope=0.01, squashed=True, mean=None, std=None):
    mean, std = np.zeros(4, np.float32) if mean is None else mean, np.ones(4, np.float32) if std is None else std
    model = RewardModel(mean, std, 2, [8, 6], 3, slope, squashed=squashed)
    model.initialize(np.random.default_rng(0))
    return model.double()


@pytest.fixture
def rows():
    generator = np.random.default_rng(1)
    return tuple(torch.from_numpy(generator.uniform(-2, 2, (7, size))) for size in (4, 2))


@pytest.mark.parametrize("squashed", [True, False])
def test_each_network_is_linear_layers_with_leaky_activations(rows, squashed):
    """Broken by networks that share weights, by a ReLU, or by actions that are not cut."""
    model, (observation, action) = make(squashed=squashed), rows
    for member in range(3):
        hidden = torch.cat((observation, action.clamp(-0.999, 0.999)), 1)
        for place in (0, 2):
            hidden = hidden @ model.layers[place][member].T + model.layers[place + 1][member]
            hidden = torch.nn.functional.leaky_relu(hidden, 0.01)
        output = (hidden @ model.layers[4][member].T + model.layers[5][member])[:, 0]
        assert torch.allclose(model(*rows)[member], output.tanh() if squashed else output)
        assert torch.allclose(model.features(*rows)[:, 6 * member : 6 * member + 6], hidden)


def test_the_normalisation_of_what_comes_in_is_undone(rows):
    """Broken by a model that sees normalised observations: it would depend on what the policy asks for."""
    mean, std = np.arange(4, dtype=np.float32), np.array([1, 2, 3, 4], np.float32)
    normalised = (rows[0] - torch.from_numpy(mean)) / torch.from_numpy(std)
    assert torch.allclose(make(mean=mean, std=std)(normalised, rows[1]), make()(*rows))


def test_each_network_can_see_rows_of_its_own(rows):
    """Broken by giving every network the first one's rows."""
    model = make()
    own = [torch.stack([column.roll(member, 0) for member in range(3)]) for column in rows]
    together = model(*own)
    for member in range(3):
        assert torch.allclose(together[member], model(own[0][member], own[1][member])[member])


def test_the_head_begins_with_nothing_and_is_cut():
    """Broken by a head that starts at random, or that can outweigh the networks."""
    head = LinearHead(3)
    head.initialize(np.random.default_rng(0))
    features = torch.tensor([[1.0, 2.0, 3.0], [-9.0, 0.0, 0.1]])
    assert torch.equal(head(features), torch.zeros(2))
    head.weight.data.fill_(1.0)
    assert torch.equal(head(features), torch.tensor([1.0, -1.0]))
