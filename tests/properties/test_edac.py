"""Properties of EDAC that hold whatever the data; each names the mistake that breaks it."""

import pytest
import torch
from parity.harness import make_batches

import offline_rl as orl
from offline_rl.algos.edac import EDAC, Config


def make(count=6, **changes):
    return EDAC(Config(hidden_dims=[32, 32], batch_size=32, num_critics=count, **changes), 5, 2)


@pytest.fixture
def batch():
    return make_batches(make(), 1)[0]


@pytest.mark.parametrize("count", [2, 6])
def test_critics_that_are_one_have_the_largest_similarity(batch, count):
    """Broken by counting a critic with itself, or by another divisor: N (N - 1) pairs over N - 1."""
    agent = make(count)
    for layer in agent.critic.mlp.layers:
        layer.data[:] = layer.data[:1].clone()
    assert agent.similarity(batch).item() == pytest.approx(count, rel=1e-5)
    assert agent.critic_loss(batch, torch.ones(32))[1]["cosine"].item() == pytest.approx(1, rel=1e-5)


def test_opposite_critics_have_the_smallest_similarity(batch):
    """Broken by absolute or squared cosines."""
    agent = make(2)
    for layer in agent.critic.mlp.layers:
        layer.data[1] = layer.data[0]
    agent.critic.mlp.layers[-2].data[1] *= -1
    assert agent.similarity(batch).item() == pytest.approx(-2, rel=1e-5)


def test_the_length_of_gradients_does_not_count(batch):
    """Broken by a product of gradients instead of a cosine."""
    agent = make()
    before = agent.similarity(batch)
    agent.critic.mlp.layers[-2].data *= torch.tensor([1e-2, 1.0, 10.0, 3.0, 0.5, 1e3])[:, None, None]
    assert torch.allclose(agent.similarity(batch), before, atol=1e-4)


def test_similarity_is_of_the_action_alone(batch):
    """Broken by gradients of the observation, too: critics that know it alone have none of the action."""
    agent = make()
    agent.critic.mlp.layers[0].data[:, :, 5:] = 0
    assert agent.similarity(batch) == 0


def test_its_term_makes_critics_different(batch):
    """Broken by the sign of η."""
    cosines = []
    for eta in (0.0, 10.0):
        agent = make(eta=eta, critic_learning_rate=3e-3)
        for step in range(1, 101):
            agent.update(batch, step)
        cosines.append(agent.critic_loss(batch, torch.ones(32))[1]["cosine"].item())
    assert cosines[1] < cosines[0] - 0.1
    assert cosines[1] >= -1 / 5 - 1e-5  # six unit vectors cannot be further apart


def test_a_critic_without_any_gradient_gives_numbers(batch):
    """Broken by a length of 0 that is divided by, or by the slope of a root at 0."""
    agent = make()
    agent.critic.mlp.layers[1].data[0] = -1e3  # its first layer is off
    for step in (1, 2):
        metrics = agent.update(batch, step)
    assert all(torch.isfinite(value).all() for value in metrics.values())
    assert torch.isfinite(agent.groups["critic"].flat).all()


def test_only_weights_that_make_slopes_are_moved_by_the_term(batch):
    """Broken by a term that also shifts values: biases get nothing through it."""
    agent = make()
    layers = list(agent.critic.mlp.layers)
    gradients = torch.autograd.grad(agent.similarity(batch), layers, allow_unused=True)
    assert [gradient is None for gradient in gradients] == [False, True] * 3
    assert all(gradient.abs().max() > 0 for gradient in gradients[0::2])


@pytest.mark.parametrize(
    ("dataset", "settings"),
    [
        ("halfcheetah-medium-v2", (10, 1.0)),
        ("halfcheetah-medium-expert-v2", (10, 5.0)),
        ("hopper-medium-v2", (50, 1.0)),
        ("hopper-medium-expert-v2", (50, 1.0)),
        ("walker2d-medium-replay-v2", (10, 1.0)),
        ("walker2d-medium-expert-v2", (10, 5.0)),
    ],
)
def test_presets_are_the_published_settings(dataset, settings):
    assert EDAC.PRESETS[dataset] == dict(zip(("num_critics", "eta"), settings, strict=True))
    assert len(EDAC.PRESETS) == 9


def test_one_critic_is_refused():
    with pytest.raises(orl.AgentError, match="num_critics is 1; it must be at least 2"):
        Config(num_critics=1)
