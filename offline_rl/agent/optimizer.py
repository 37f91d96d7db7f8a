"""Adam on one flat tensor for each network, and targets that move slowly after one.

An update sees optimisers and targets through two protocols, :class:`OptimizerGroup` and :class:`TargetNetwork`. An
agent's own are :class:`ParameterGroup` and :class:`Target`. Others stand in their place while the updates of several
agents are made as one (``StackedGroup``) or one is traced to be compiled (``TracedGroup``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class OptimizerGroup(Protocol):
    """The parameters of one network and what moves them, as an update sees them."""

    @property
    def network(self) -> nn.Module:
        """The network."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """Its parameters, views of ``flat``."""

    @property
    def flat(self) -> Tensor:
        """All parameters in one tensor."""

    @property
    def adam(self) -> "Adam":
        """The settings of the optimiser."""

    @property
    def count(self) -> Tensor:
        """Steps taken so far, a number on the device: what a ramp in a loss is computed from."""

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Return a loss's gradients, one for each parameter."""

    def step(self, gradients: tuple[Tensor, ...]) -> None:
        """Take one step along ``gradients``, one for each parameter."""

    def gradient_norm(self) -> Tensor:
        """Return the length, a number, that the gradient of the last step had before it was clipped; for metrics."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that continuing exactly needs, under ``parameters``, ``mean``, ``square`` and ``count``."""


class TargetNetwork(Protocol):
    """A network that moves slowly after another one, as an update sees it."""

    @property
    def network(self) -> nn.Module:
        """The network."""

    @property
    def flat(self) -> Tensor:
        """All its parameters in one tensor."""

    def track(self, rate: float | Tensor) -> None:
        """Move by θ' ← rate θ + (1 - rate) θ'."""


@dataclass(frozen=True)
class Adam:
    """Adam with β 0.9 and 0.999 and ε 1e-8.

    Attributes:
        learning_rate: The largest one, if it changes.
        decay_steps: Steps in which the learning rate falls to 0 along half a cosine; None for a constant one.
        warmup_steps: Steps in which the learning rate grows in proportion before that.
        weight_decay: AdamW's: every step takes this times the learning rate off each parameter's share.
        gradient_clip: Longest gradient of the whole group, a longer one is shortened to it; None for any.
    """

    learning_rate: float
    decay_steps: int | None = None
    warmup_steps: int = 0
    weight_decay: float = 0.0
    gradient_clip: float | None = None

    def rate(self, count: Tensor, flat: Tensor) -> float | Tensor:
        """Return the learning rate of the step after ``count``; one that changes is computed where the count lives."""
        rate: float | Tensor = self.learning_rate
        if self.decay_steps is not None:
            share = (count.double() / self.decay_steps).clamp(max=1)
            rate = rate / 2 * (1 + (math.pi * share).cos())
        if self.warmup_steps:
            rate = rate * ((count.double() + 1) / self.warmup_steps).clamp(max=1)
        # A GPU's kernel reads a single number, whatever the parameters are.
        dtype = torch.float32 if flat.is_cuda else flat.dtype
        return rate.to(dtype) if isinstance(rate, Tensor) else rate

    def clip(self, norm: Tensor) -> Tensor:
        """Return the factor that makes a gradient of length ``norm`` as short as ``gradient_clip`` asks."""
        assert self.gradient_clip is not None
        return (self.gradient_clip / norm.clamp_min(1e-12)).clamp(max=1)

    def step(self, flat: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, count: Tensor) -> None:
        """Take the step after ``count``, in place, with parameters, gradient and moments given."""
        adam(flat, gradient, mean, square, count, self.rate(count, flat), self.weight_decay)


class ParameterGroup:
    """The parameters that one optimiser moves, as views of one flat tensor, and Adam.

    One flat tensor makes Adam one fused call and the target's average one ``lerp_``. The fused operation is called
    directly: ``torch.optim`` would load a compiler, a second in every process, and cost 0.2 ms a step.

    Args:
        network: Whose parameters.
        adam: Adam's settings, or its learning rate alone.
    """

    def __init__(self, network: nn.Module, adam: Adam | float) -> None:
        self.network = network
        self.adam = adam if isinstance(adam, Adam) else Adam(adam)
        self.parameters = list(network.parameters())
        self.flat = flatten(network)
        # Not by zeros_like, for the reason why flatten has no torch.cat.
        self.gradient, *moments = (self.flat.new_zeros(self.flat.shape) for _ in range(3))
        self.count = torch.zeros((), device=self.flat.device)
        self._moments = moments[0], moments[1]
        self._norm: Tensor | None = None

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Return a loss's gradients, one for each parameter."""
        return torch.autograd.grad(loss, self.parameters)

    def step(self, gradients: tuple[Tensor, ...]) -> None:
        """Take one Adam step along ``gradients``, one for each parameter."""
        torch.cat([gradient.reshape(-1) for gradient in gradients], out=self.gradient)
        if self.adam.gradient_clip is not None:
            self._norm = self.gradient.norm()
            self.gradient *= self.adam.clip(self._norm)
        self.adam.step(self.flat, self.gradient, *self._moments, self.count)

    def gradient_norm(self) -> Tensor:
        """Return the length that the gradient of the last step had before it was clipped."""
        return self.gradient.norm() if self._norm is None else self._norm

    def state(self) -> dict[str, Tensor]:
        """Return everything that continuing exactly needs: weights, Adam's moments and its step count."""
        mean, square = self._moments
        return {"parameters": self.flat, "mean": mean, "square": square, "count": self.count}


def adam(  # noqa: PLR0917 (all are numbers of one formula)
    flat: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    count: Tensor,
    rate: float | Tensor,
    weight_decay: float,
) -> None:
    """Count one step and take it: Adam with β 0.9 and 0.999, ε 1e-8, and AdamW's decay, all in place."""
    count += 1
    torch._fused_adamw_(
        [flat],
        [gradient],
        [mean],
        [square],
        [],
        [count],
        lr=rate,
        beta1=0.9,
        beta2=0.999,
        weight_decay=weight_decay,
        eps=1e-8,
        amsgrad=False,
        maximize=False,
    )


class Target(NamedTuple):
    """A network that moves slowly after another one: itself, its parameters in one flat tensor, and the other's."""

    network: nn.Module
    flat: Tensor
    online: Tensor

    def track(self, rate: float | Tensor) -> None:
        """Move by θ' ← rate θ + (1 - rate) θ'."""
        self.flat.lerp_(self.online, rate)


def flatten(network: nn.Module) -> Tensor:
    """Move a network's parameters into one flat tensor and make them views of it."""
    parameters = list(network.parameters())
    # Not by torch.cat: of sizes alone (device "meta") it loads a compiler, which takes more than a second.
    flat = parameters[0].detach().new_empty(sum(parameter.numel() for parameter in parameters))
    offset = 0
    for parameter in parameters:
        part = flat[offset : offset + parameter.numel()].view_as(parameter)
        part.copy_(parameter.detach())
        parameter.data = part
        offset += parameter.numel()
    return flat
