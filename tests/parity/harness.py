"""Steps an agent beside a plain float64 restatement of its algorithm, update by update.

Nothing here is shared with the package: networks are lists of arrays, Adam is written out, gradients come from autograd
on plain operations.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch

from offline_rl.agent import Agent, Batch, NextActionBatch, Uniform

UPDATES = 20
ROUNDING = 1e-7
"""How far a float32 input of a ReLU may be from the float64 one."""


class Kinks:
    """Remembers how near to zero a ReLU was used: there its gradient jumps, and rounding decides on which side."""

    nearest = math.inf

    @classmethod
    def relu(cls, x):
        cls.nearest = min(cls.nearest, float(x.detach().abs().min()))
        return torch.maximum(x, torch.zeros_like(x))


class Layers:
    """A plain network: weights and biases in float64, with Adam's moments.

    Takes its start from views of an agent's parameters; with the optimiser that moves them, also from its moments.
    """

    def __init__(self, views, group=None):
        self.tensors = [view.detach().double().clone().requires_grad_() for view in views]
        state = {} if group is None else group.state()
        self.first, self.second = (
            [_same_place(state[name], view) if state else torch.zeros_like(view).double() for view in views]
            for name in ("mean", "square")
        )
        self.count = int(state["count"]) if state else 0

    def __call__(self, x):
        """Apply linear layers with ReLU between them."""
        pairs = list(zip(self.tensors[0::2], self.tensors[1::2], strict=True))
        for position, (weight, bias) in enumerate(pairs):
            x = x @ weight.T + bias
            if position < len(pairs) - 1:
                x = Kinks.relu(x)
        return x

    def adam(self, gradients, learning_rate):
        """Kingma & Ba 2015, algorithm 1, with beta 0.9 and 0.999 and epsilon 1e-8."""
        self.count += 1
        with torch.no_grad():
            for tensor, gradient, m, v in zip(self.tensors, gradients, self.first, self.second, strict=True):
                m.mul_(0.9).add_(gradient, alpha=0.1)
                v.mul_(0.999).add_(gradient * gradient, alpha=0.001)
                mean = m / (1 - 0.9**self.count)
                spread = (v / (1 - 0.999**self.count)).sqrt()
                tensor.sub_(learning_rate * mean / (spread + 1e-8))

    def follow(self, other, rate):
        """Polyak average."""
        with torch.no_grad():
            for own, theirs in zip(self.tensors, other.tensors, strict=True):
                own.copy_(rate * theirs + (1 - rate) * own)


class NormedLayers(Layers):
    """A plain network whose hidden layers are normalised, before or after their ReLU; ``norms``: scales and shifts."""

    def __init__(self, views, norms, group=None, place="before"):
        super().__init__([*views, *norms], group)
        self.depth, self.place = len(views), place

    def __call__(self, x):
        for layer in range(0, self.depth - 2, 2):
            x = x @ self.tensors[layer].T + self.tensors[layer + 1]
            x = Kinks.relu(x) if self.place == "after" else x
            centred = x - x.mean(1, keepdim=True)
            x = centred / ((centred**2).mean(1, keepdim=True) + 1e-6) ** 0.5
            scale, shift = self.tensors[self.depth + layer : self.depth + layer + 2]
            x = scale * x + shift
            x = Kinks.relu(x) if self.place == "before" else x
        return x @ self.tensors[self.depth - 2].T + self.tensors[self.depth - 1]


def _same_place(flat_tensor, view):
    """Take from a flat tensor what lies where ``view`` lies in the flat parameters."""
    return flat_tensor.as_strided(view.shape, view.stride(), view.storage_offset()).double().clone()


def layers_of(network, member: int = 0) -> list[torch.Tensor]:
    """Take one MLP of a stack as weights and biases."""
    return [layer[member].detach() for layer in network.mlp.layers]


def critics_of(agent: Agent, network, group=None) -> list[Layers]:
    """Take both critics of a stack, whose layers are normalised where and if the agent's settings say."""
    place, norms = agent.config.critic_layer_norm, network.mlp.norms
    assert len(norms) == (0 if place == "none" else len(network.mlp.layers) - 2)
    return [
        Layers(layers_of(network, member), group)
        if place == "none"
        else NormedLayers(layers_of(network, member), [norm[member].detach() for norm in norms], group, place)
        for member in range(2)
    ]


def make_batches(agent: Agent, count: int = UPDATES, seed: int = 0) -> list[Batch]:
    """Make batches of plausible data and noise, the same for every precision."""
    generator = np.random.default_rng(seed)
    size, kind = agent.config.batch_size, NextActionBatch if agent.needs_next_action else Batch
    batches = []
    for _ in range(count):
        arrays = {
            "observation": generator.standard_normal((size, agent.observation_size)),
            "action": np.tanh(generator.standard_normal((size, agent.action_size))),
            "reward": generator.standard_normal(size),
            "terminated": (generator.random(size) < 0.1).astype(float),
            "next_observation": generator.standard_normal((size, agent.observation_size)),
        }
        if agent.needs_next_action:
            arrays["next_action"] = np.tanh(generator.standard_normal((size, agent.action_size)))
            arrays["next_known"] = (generator.random(size) < 0.8).astype(float)
        draws = {
            name: (generator.random if isinstance(agent.draws()[name], Uniform) else generator.standard_normal)(
                (size, width)
            )
            for name, width in draw_sizes(agent).items()
        }
        # Rounded to float32 first, so that both precisions see the very same numbers.
        as_tensor = lambda array: torch.from_numpy(array.astype(np.float32)).to(agent.dtype)  # noqa: E731
        batches.append(
            kind(
                **{name: as_tensor(array) for name, array in arrays.items()},
                index=torch.arange(size),
                draws={name: as_tensor(array) for name, array in draws.items()},
            )
        )
    return batches


def saturate(batches: list[Batch], every: int = 4) -> list[Batch]:
    """Put the actions of some rows on the border, where recorded ones often lie."""
    border = [torch.where(batch.index[:, None] % every == 0, batch.action.sign(), batch.action) for batch in batches]
    return [dataclasses.replace(batch, action=action) for batch, action in zip(batches, border, strict=True)]


def draw_sizes(agent: Agent) -> dict[str, int]:
    """Return the length of the vector that each draw of the agent makes for a row."""
    named = {"action": agent.action_size, "observation": agent.observation_size}
    return {name: named.get(draw.size, draw.size) for name, draw in agent.draws().items()}


def relative(value, reference) -> float:
    """Size of the difference over the size of the reference."""
    value, reference = (torch.as_tensor(x).detach().double().reshape(-1) for x in (value, reference))
    return float((value - reference).norm() / reference.norm().clamp_min(1e-300))


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def check_float64(
    agent: Agent, make_reference: Callable, weights: Callable, batches: list[Batch] | None = None
) -> None:
    """All losses, gradients and weights agree to 1e-10 over UPDATES updates."""
    assert agent.dtype == torch.float64
    reference = make_reference(agent)
    for step, batch in enumerate(batches or make_batches(agent), start=1):
        metrics = agent.update(batch, step)
        losses, gradients = reference.update(batch, step)
        for name, loss in losses.items():
            assert relative(metrics[f"{name}_loss"], loss) < 1e-10, (step, name)
            assert relative(agent.groups[name].gradient, flat(gradients[name])) < 1e-10, (step, name)
        for name, (ours, theirs) in weights(agent, reference).items():
            assert (flat(ours) - flat(theirs)).abs().max() < 1e-10, (step, name)


def check_float32(
    agent: Agent, make_reference: Callable, weights: Callable, batches: list[Batch] | None = None
) -> None:
    """Losses and gradients at equal weights agree to 1e-5; after UPDATES free updates weights do to 1e-6 on average.

    The mean, not the maximum: where a gradient is almost zero, Adam turns rounding into a whole step. In an update that
    brings some ReLU within rounding of its kink, gradients need only agree to 1 %; most updates do not.
    """
    assert agent.dtype == torch.float32
    free, strict = make_reference(agent), 0
    for step, batch in enumerate(batches or make_batches(agent), start=1):
        double = type(batch)(**{k: _double(v) for k, v in vars(batch).items()})
        at_equal_weights = make_reference(agent)
        metrics = agent.update(batch, step)
        Kinks.nearest = math.inf
        losses, gradients = at_equal_weights.update(double, step)
        strict += Kinks.nearest > ROUNDING
        limit = 1e-5 if Kinks.nearest > ROUNDING else 1e-2
        for name, loss in losses.items():
            assert relative(metrics[f"{name}_loss"], loss) < 1e-5, (step, name)
            assert relative(agent.groups[name].gradient, flat(gradients[name])) < limit, (step, name)
        free.update(double, step)
    assert strict >= UPDATES / 2
    for name, (ours, theirs) in weights(agent, free).items():
        assert (flat(ours).double() - flat(theirs)).abs().mean() < 1e-6, name


def _double(value):
    if isinstance(value, dict):
        return {name: _double(entry) for name, entry in value.items()}
    return value.double() if value.is_floating_point() else value
