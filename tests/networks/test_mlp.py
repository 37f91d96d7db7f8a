import copy

import numpy as np
import pytest
import torch

from offline_rl.kernels import choice as kernels
from offline_rl.networks import MLP, Critic, DeterministicActor
from offline_rl.networks.mlp import _Together


def network(input_size=5, output_size=2, hidden=(7, 6), count=2, dtype=torch.float64, **options):
    mlp = MLP(input_size, output_size, hidden, count, **options).to(dtype)
    mlp.initialize(np.random.default_rng(0))
    return mlp


def normed(**options):
    """Make normalised networks whose scales and shifts are not those of the start."""
    mlp = network(**{"layer_norm": "before", **options})
    generator = torch.Generator().manual_seed(0)
    for parameter in mlp.norms:
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return mlp


def plain(mlp, x):
    outputs = []
    for member in range(mlp.layers[0].shape[0]):
        h = x
        pairs = list(zip(mlp.layers[0::2], mlp.layers[1::2], strict=True))
        for position, (weight, bias) in enumerate(pairs):
            h = torch.nn.functional.linear(h, weight[member], bias[member])
            h = h if position == len(pairs) - 1 else torch.relu(h)
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.parametrize("hidden", [(), (7,), (7, 6), (7, 6, 5, 4)])
@pytest.mark.parametrize("count", [1, 3])
def test_values_and_gradients_equal_autograds_on_plain_layers(hidden, count):
    mlp = network(hidden=hidden, count=count)
    x = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(count, 9, 2, dtype=torch.float64)
    inputs = [x, *mlp.layers]
    ours = torch.autograd.grad((mlp(x) * weight).sum(), inputs)
    theirs = torch.autograd.grad((plain(mlp, x) * weight).sum(), inputs)
    assert torch.allclose(mlp(x), plain(mlp, x), atol=1e-14)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-13)


@pytest.mark.parametrize("hidden", [(), (7,), (7, 6, 5)])
@pytest.mark.parametrize("count", [1, 3])
def test_a_gpus_way_gives_the_same(hidden, count):
    """It can be called on a CPU, too; broken by a wrong order of the layers' gradients, or a forgotten mask."""
    mlp, x = network(hidden=hidden, count=count), torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(count, 9, 2, dtype=torch.float64)
    together = _Together.apply(x.expand(count, 9, 5), *mlp.layers)
    assert torch.allclose(together, mlp(x), atol=1e-14)
    ours, expected = (torch.autograd.grad((y * weight).sum(), [x, *mlp.layers]) for y in (together, mlp(x)))
    for a, b in zip(ours, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-13)
    frozen = _Together.apply(x.expand(count, 9, 5), *(layer.detach() for layer in mlp.layers))
    assert torch.equal(torch.autograd.grad((frozen * weight).sum(), x)[0], ours[0])


def test_frozen_gives_the_inputs_gradient_only():
    mlp = network()
    x = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    (through_frozen,) = torch.autograd.grad(mlp.frozen(x).sum(), x)
    (through_plain,) = torch.autograd.grad(plain(mlp, x).sum(), x)
    assert torch.allclose(through_frozen, through_plain, atol=1e-13)
    with pytest.raises(RuntimeError, match=r"does not require grad|not have been used"):
        torch.autograd.grad(mlp.frozen(x).sum(), list(mlp.layers))


def test_frozen_can_leave_networks_out():
    mlp = network()
    x = torch.randn(9, 5, dtype=torch.float64)
    assert torch.equal(mlp.frozen(x, count=1), mlp(x)[:1])


def plain_normed(mlp, x, member, place):
    h = x
    for layer in range(0, 4, 2):
        h = torch.nn.functional.linear(h, mlp.layers[layer][member], mlp.layers[layer + 1][member])
        h = torch.relu(h) if place == "after" else h
        spread = (h.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
        h = (h - h.mean(1, keepdim=True)) / spread * mlp.norms[layer][member] + mlp.norms[layer + 1][member]
        h = torch.relu(h) if place == "before" else h
    return torch.nn.functional.linear(h, mlp.layers[4][member], mlp.layers[5][member])


@pytest.mark.parametrize("place", ["before", "after"])
def test_layers_are_normalised_before_or_after_their_relu(place):
    """Broken by the other order, by normalising the last layer as well, or by another epsilon."""
    mlp, x = normed(layer_norm=place), 1e-2 * torch.randn(9, 5, dtype=torch.float64)
    assert torch.allclose(mlp(x), torch.stack([plain_normed(mlp, x, member, place) for member in range(2)]), atol=1e-12)
    assert len(mlp.norms) == 4
    assert [float(norm.detach().mean()) for norm in network(layer_norm=place).norms] == [1, 0, 1, 0]
    assert not network(layer_norm="none").norms


@pytest.mark.parametrize("place", ["before", "after"])
def test_frozen_normalised_layers_give_the_inputs_gradient_only(place):
    """Broken by gradients for scales and shifts that nobody asked for."""
    mlp = normed(layer_norm=place)
    x = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    assert torch.equal(mlp.frozen(x, count=1), mlp(x)[:1])
    assert torch.equal(*(torch.autograd.grad(way(x).sum(), x)[0] for way in (mlp, mlp.frozen)))
    assert not mlp.frozen(x.detach()).requires_grad


def plain_gelu(x):
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(("activation", "plain"), [("relu", torch.relu), ("gelu", plain_gelu)])
def test_a_normalisation_can_follow_the_activation(activation, plain):
    """Broken by the other order, the exact GELU, the last layer's normalisation, or another epsilon."""
    mlp, x = normed(layer_norm="after", activation=activation), 1e-2 * torch.randn(9, 5, dtype=torch.float64)
    outputs = []
    for member in range(2):
        h = x
        for layer in range(0, 4, 2):
            h = plain(torch.nn.functional.linear(h, mlp.layers[layer][member], mlp.layers[layer + 1][member]))
            spread = (h.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
            h = (h - h.mean(1, keepdim=True)) / spread * mlp.norms[layer][member] + mlp.norms[layer + 1][member]
        outputs.append(torch.nn.functional.linear(h, mlp.layers[4][member], mlp.layers[5][member]))
    assert torch.allclose(mlp(x), torch.stack(outputs), atol=1e-12)
    assert torch.equal(mlp.frozen(x, count=1), mlp(x)[:1])


class Halves:
    """Drops the first half of a layer's activations, and counts its calls."""

    calls = 0

    def __call__(self, x):
        self.calls += 1
        return 2 * x * (torch.arange(x.shape[1]) >= x.shape[1] // 2)


def test_dropout_is_on_every_hidden_layer_and_on_no_other():
    """Broken by dropout on the input or the output, by one call for both networks, or by gradients that pass it by."""
    mlp, drop, x = network(), Halves(), torch.randn(9, 5, dtype=torch.float64)
    found = mlp(x, drop)
    assert drop.calls == 4
    with torch.no_grad():
        for width, position in ((7, 0), (6, 2)):
            for part in mlp.layers[position : position + 2]:
                part[:, : width // 2] = 0
            mlp.layers[position + 2].mul_(2)
    assert torch.allclose(found, mlp(x), atol=1e-12)
    weight = mlp.layers[2]
    assert (torch.autograd.grad(mlp(x, drop).sum(), weight)[0][:, :, :3] == 0).all()


def test_initial_weights_follow_the_bound_and_the_generator():
    mlp, again = network(100, 10, (50,)), network(100, 10, (50,))
    assert all(torch.equal(a, b) for a, b in zip(mlp.layers, again.layers, strict=True))
    assert mlp.layers[0].abs().max() <= 0.1
    assert mlp.layers[0].abs().max() > 0.099
    assert abs(float(mlp.layers[0].detach().std()) - 0.1 / 3**0.5) < 0.002


def test_shapes_of_heads():
    actor, critic = DeterministicActor(5, 2, [8]), Critic(5, 2, [8], count=3)
    for head in (actor, critic):
        head.initialize(np.random.default_rng(0))
    observation, action = torch.randn(4, 5), torch.randn(4, 2)
    assert actor(observation).shape == (4, 2)
    assert critic(observation, action).shape == (3, 4)
    assert critic.frozen(observation, action, count=1).shape == (1, 4)
    assert copy.deepcopy(actor)(observation).equal(actor(observation))


def test_the_chosen_kernel_is_exact():
    kernel = kernels.choose_kernel()
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        kernels.use_kernel(kernel, 1)
        assert kernels._product_error() < 1e-5
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def test_a_product_in_bfloat16_would_be_refused(monkeypatch):
    exact = torch.Tensor.__matmul__

    def coarse(left, right):
        if left.dtype == torch.float32:
            return exact(left.bfloat16(), right.bfloat16()).float()
        return exact(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", coarse)
    assert kernels._product_error() > 3e-5


@pytest.mark.parametrize("hidden", [(), (7,), (7, 6, 5)])
@pytest.mark.parametrize("count", [1, 3])
def test_the_inputs_gradient_and_what_weights_get_through_it_are_autograds(hidden, count):
    """Broken by a forgotten mask, or by a layer out of order."""
    mlp = network(hidden=hidden, count=count)
    x, weight = torch.randn(9, 5).double(), torch.randn(count, 9, 5).double()
    own = x.expand(count, 9, 5).clone().requires_grad_()
    outputs = [spelled_out(mlp, member, own[member]).sum() for member in range(count)]
    (theirs,) = torch.autograd.grad(sum(outputs), own, create_graph=True)
    ours = mlp.input_gradient(x)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)
    parameters = list(mlp.parameters())
    pairs = [
        torch.autograd.grad((value * weight).square().sum(), parameters, allow_unused=True, materialize_grads=True)
        for value in (ours, theirs)
    ]
    for a, b in zip(*pairs, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def spelled_out(mlp, member, x):
    """Apply one network of a stack with nothing but PyTorch's functions."""
    pairs = list(zip(mlp.layers[0::2], mlp.layers[1::2], strict=True))
    for weight, bias in pairs[:-1]:
        x = torch.nn.functional.linear(x, weight[member], bias[member]).relu()
    return torch.nn.functional.linear(x, pairs[-1][0][member], pairs[-1][1][member])


@pytest.mark.parametrize("options", [{"layer_norm": "before"}, {"activation": "gelu"}])
def test_the_inputs_gradient_of_other_networks_is_refused(options):
    """Broken by the gradient of a plain network, which would be wrong for these."""
    with pytest.raises(NotImplementedError, match="ReLU only"):
        network(**options).input_gradient(torch.randn(9, 5).double())


def test_the_inputs_gradient_is_the_same_in_a_stack_of_agents():
    """Broken by an operation that mixes agents under ``torch.vmap``."""
    mlp = network()
    parameters = [torch.stack((own.detach(), own.detach() + 0.1)) for own in mlp.parameters()]
    names, x = [name for name, _ in mlp.named_parameters()], torch.randn(2, 9, 5).double()

    def of(own, one):
        return torch.func.functional_call(Slopes(mlp), {f"mlp.{n}": p for n, p in zip(names, own, strict=True)}, (one,))

    stacked = torch.vmap(of)(parameters, x)
    alone = [of([parameter[place] for parameter in parameters], x[place]) for place in range(2)]
    assert torch.allclose(stacked, torch.stack(alone), rtol=0, atol=1e-13)


@pytest.mark.parametrize("options", [{"layer_norm": "before"}, {"layer_norm": "after", "activation": "gelu"}])
def test_normalised_networks_are_the_same_in_a_stack_of_agents(options):
    """There all of an agent's networks are one product; broken by a scale, shift or bias of another network."""
    mlp = normed(**options)
    parameters = [torch.stack((own.detach(), own.detach() + 0.1)) for own in mlp.parameters()]
    names, x = [name for name, _ in mlp.named_parameters()], torch.randn(2, 9, 5).double()

    def loss(own, one):
        return torch.func.functional_call(mlp, dict(zip(names, own, strict=True)), (one,)).square().mean()

    stacked = torch.vmap(torch.func.grad(loss))(parameters, x)
    own = [[parameter[place].clone().requires_grad_() for parameter in parameters] for place in range(2)]
    alone = [torch.autograd.grad(loss(own[place], x[place]), own[place]) for place in range(2)]
    for ours, theirs in zip(stacked, map(torch.stack, zip(*alone, strict=True)), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


class Slopes(torch.nn.Module):
    """Calls ``input_gradient``, as a module does."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp

    def forward(self, x):
        return self.mlp.input_gradient(x)


def test_a_critics_action_gradient_is_that_of_its_own_values():
    """Broken by the columns of observations, or by a sum over critics."""
    critic = Critic(4, 3, (8, 6), 5).double()
    critic.initialize(np.random.default_rng(0))
    observation, action = torch.randn(9, 4).double(), torch.randn(9, 3).double().requires_grad_()
    found = critic.action_gradient(observation, action)
    assert found.shape == (5, 9, 3)
    for member, values in enumerate(critic(observation, action)):
        assert torch.allclose(found[member], torch.autograd.grad(values.sum(), action, retain_graph=True)[0])
