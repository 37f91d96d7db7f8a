"""Adam on one flat tensor for each network, and targets that move slowly after one."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn


class ParameterGroup:
    """The parameters that one optimiser moves, as views of one flat tensor, and Adam.

    One flat tensor makes Adam one fused call and the target's average one ``lerp_``. The fused operation is called
    directly: ``torch.optim`` would load a compiler, a second in every process, and cost 0.2 ms a step.

    Args:
        network: Whose parameters.
        learning_rate: Adam's.
        decay_steps: Steps in which the learning rate falls to 0 along half a cosine; None for a constant one.
        warmup_steps: Steps in which the learning rate grows in proportion before that.
        weight_decay: AdamW's: every step takes this times the learning rate off each parameter's share.
        gradient_clip: Longest gradient of the whole group, a longer one is shortened to it; None for any.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float,
        decay_steps: int | None = None,
        *,
        warmup_steps: int = 0,
        weight_decay: float = 0.0,
        gradient_clip: float | None = None,
    ) -> None:
        self.network = network
        self.parameters = list(network.parameters())
        self.flat = _flatten(network)
        self.gradient = torch.zeros_like(self.flat)
        self.learning_rate = learning_rate
        self._decay_steps = decay_steps
        self._warmup_steps = warmup_steps
        self.weight_decay = weight_decay
        self.gradient_clip = gradient_clip
        self._moments = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self._count = torch.zeros((), device=self.flat.device)

    @property
    def count(self) -> Tensor:
        """Steps taken so far, a number on the device: what a ramp in a loss is computed from."""
        return self._count

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Return a loss's gradients, one for each parameter."""
        return torch.autograd.grad(loss, self.parameters)

    def step(self, gradients: tuple[Tensor, ...]) -> None:
        """Take one Adam step (β 0.9 and 0.999, ε 1e-8) along ``gradients``, one for each parameter."""
        torch.cat([gradient.reshape(-1) for gradient in gradients], out=self.gradient)
        if self.gradient_clip is not None:
            self.gradient *= self.clip(self.gradient)
        self.move(self.flat, self.gradient, *self._moments)

    def clip(self, gradient: Tensor) -> Tensor:
        """Return the factor that makes a gradient as short as ``gradient_clip`` asks."""
        assert self.gradient_clip is not None
        length: Tensor = gradient.norm()
        return (self.gradient_clip / length.clamp_min(1e-12)).clamp(max=1)

    def move(self, flat: Tensor, gradient: Tensor, mean: Tensor, square: Tensor) -> None:
        """Take the Adam step of this group's settings and count with parameters ``flat`` and moments given."""
        adam(flat, gradient, mean, square, self._count, self.rate(self._count), self.weight_decay)

    def rate(self, count: Tensor) -> float | Tensor:
        """Return the learning rate of the step after ``count``; one that changes is computed where the count lives."""
        rate: float | Tensor = self.learning_rate
        if self._decay_steps is not None:
            share = (count.double() / self._decay_steps).clamp(max=1)
            rate = rate / 2 * (1 + (math.pi * share).cos())
        if self._warmup_steps:
            rate = rate * ((count.double() + 1) / self._warmup_steps).clamp(max=1)
        # A GPU's kernel reads a single number, whatever the parameters are.
        dtype = torch.float32 if self.flat.is_cuda else self.flat.dtype
        return rate.to(dtype) if isinstance(rate, Tensor) else rate

    def state(self) -> dict[str, Tensor]:
        """Return everything that continuing exactly needs: weights, Adam's moments and its step count."""
        mean, square = self._moments
        return {"parameters": self.flat, "mean": mean, "square": square, "count": self._count}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state` returned."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


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

    def track(self, rate: float) -> None:
        """Move by θ' ← rate θ + (1 - rate) θ'."""
        self.flat.lerp_(self.online, rate)


def _flatten(network: nn.Module) -> Tensor:
    """Move a network's parameters into one flat tensor and make them views of it."""
    parameters = list(network.parameters())
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    offset = 0
    for parameter in parameters:
        parameter.data = flat[offset : offset + parameter.numel()].view_as(parameter)
        offset += parameter.numel()
    return flat
