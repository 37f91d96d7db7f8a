"""Replicas as one: their weights lie side by side, and one update, mapped over them, moves all.

An algorithm is written for one agent. ``torch.vmap`` runs its update on all replicas at once, so that a GPU, to which a
kernel costs the same for one small network or for twenty, does all their work with the kernels of one. Rounding
differs from a replica's alone, so trajectories drift apart though their statistics do not.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from offline_rl.agent import Agent, Batch, Metrics, OptimizerGroup, TargetNetwork
from offline_rl.data.packed import PackedRows
from offline_rl.training.updates.lending import batch_like, fields_of, lend

ALIGNMENT = 64
"""Numbers to whose multiples blocks of parameters begin, which fast kernels ask for."""


class Stack:
    """Replicas of one algorithm, at the same step, whose settings differ in ``stackable_settings`` alone.

    It holds copies of all that updates change: :meth:`pull` takes it from the agents, :meth:`push` gives it back.

    Args:
        agents: The replicas.
        rows: The dataset.
    """

    def __init__(self, agents: Sequence[Agent], rows: PackedRows) -> None:
        first = agents[0]
        self._agents = agents
        self._template = first.fresh_copy(first.device, first.dtype)
        self._template.lengths_used = first.lengths_used  # updates are the template's, the note is the replicas'
        self._template.prepare(rows)
        everyone = [agent.config.settings() for agent in agents]
        settings = {name: [own[name] for own in everyone] for name in differing(agents)}
        self._settings = {name: self._one_for_each(values) for name, values in settings.items()}
        self._places = torch.arange(len(agents), device=first.device)
        self._lent: list[tuple[nn.Module, Blocks]] = []
        self._groups: dict[str, StackedGroup] = {}
        self._targets: dict[str, StackedTarget] = {}
        for name, group in self._template.groups.items():
            rates = [agent.groups[name].adam.learning_rate for agent in agents]
            own = self._one_for_each(rates) if len(set(rates)) > 1 else None
            self._groups[name] = StackedGroup(group, len(agents), own)
            self._lent.append((group.network, self._groups[name].blocks))
        for name, target in self._template.targets.items():
            self._targets[name] = StackedTarget(target, len(agents), self._groups[name].blocks)
            self._lent.append((target.network, self._targets[name].blocks))
        self._template.groups.update(self._groups)
        self._template.targets.update(self._targets)
        self.pull()

    def pull(self) -> None:
        """Take all that updates change from the agents."""
        for place, agent in enumerate(self._agents):
            for name, group in self._groups.items():
                group.write(place, agent.groups[name].state())
            for name, target in self._targets.items():
                target.blocks.write(place, agent.targets[name].flat)

    def push(self) -> None:
        """Give all that updates changed back to the agents."""
        for place, agent in enumerate(self._agents):
            for name, group in self._groups.items():
                group.read(place, agent.groups[name].state())
            for name, target in self._targets.items():
                target.blocks.read(place, agent.targets[name].flat)

    def update(self, batch: Batch, step: int) -> Metrics:
        """Make an update of all replicas, and return their metrics, each ``(M,)``.

        Args:
            batch: Their batches one after the other, ``(M B, ...)``.
            step: Its number.
        """
        count = len(self._agents)
        fields = _unflattened(fields_of(batch), count)

        def mapped(
            place: Tensor, weights: list[list[Tensor]], settings: dict[str, Tensor], fields: dict[str, Any]
        ) -> Metrics:
            for group in self._groups.values():
                group.place = place
            for (network, _), lent in zip(self._lent, weights, strict=True):
                lend(network, lent)
            for name, value in settings.items():
                self._template.config.put(name, value)
            return self._template.update(batch_like(batch, fields), step)

        weights = [blocks.parameters for _, blocks in self._lent]
        metrics: Metrics = torch.vmap(mapped)(self._places, weights, self._settings, fields)
        return metrics

    def _one_for_each(self, values: Sequence[float]) -> Tensor:
        """Return a number for each replica."""
        return torch.tensor(values, dtype=self._template.dtype, device=self._template.device)


def differing(agents: Sequence[Agent]) -> list[str]:
    """Name the settings in which agents of one algorithm differ."""
    first, *others = (agent.config.settings() for agent in agents)
    return [name for name, value in first.items() if any(other.get(name) != value for other in others)]


class Blocks:
    """Parameters of M networks of one kind in one flat tensor, each parameter's M values side by side.

    Args:
        network: One of the kind.
        count: M.
        learned: Whether gradients of them are asked for.

    Attributes:
        flat: All of them, with gaps that mean nothing.
        parameters: Each ``(M, ...)``, views of ``flat``.
    """

    def __init__(self, network: nn.Module, count: int, *, learned: bool = False) -> None:
        own = list(network.parameters())
        sizes = [count * parameter.numel() for parameter in own]
        rooms = [math.ceil(size / ALIGNMENT) * ALIGNMENT for size in sizes]
        self.flat = torch.zeros(sum(rooms), dtype=own[0].dtype, device=own[0].device)
        self.parameters = [
            room[:size].view(count, *parameter.shape).requires_grad_(learned)
            for room, size, parameter in zip(torch.split(self.flat, rooms), sizes, own, strict=True)
        ]
        self._sizes = [parameter.numel() for parameter in own]

    @functools.cached_property
    def owners(self) -> Tensor:
        """Which replica each number in ``flat`` is of; of gaps, any."""
        owners = torch.zeros_like(self.flat, dtype=torch.int32)
        for block in self.parameters:
            first, count = block.storage_offset(), block.shape[0]
            replicas = torch.arange(count, dtype=torch.int32, device=self.flat.device)
            owners[first : first + block.numel()] = replicas.repeat_interleave(block.numel() // count)
        return owners

    @torch.no_grad()
    def write(self, place: int, flat: Tensor) -> None:
        """Put in a replica's parameters, as :class:`ParameterGroup` lays them out."""
        for block, part in zip(self.parameters, torch.split(flat, self._sizes), strict=True):
            block[place] = part.view(block.shape[1:])

    @torch.no_grad()
    def read(self, place: int, flat: Tensor) -> None:
        """Take out a replica's parameters."""
        torch.cat([block[place].reshape(-1) for block in self.parameters], out=flat)


class StackedTarget:
    """A :class:`TargetNetwork` for M agents at once.

    Args:
        target: One agent's.
        count: M.
        online: The parameters of the networks that the targets move after.
    """

    def __init__(self, target: TargetNetwork, count: int, online: Blocks) -> None:
        self.network = target.network
        self.blocks = Blocks(target.network, count)
        self.flat = self.blocks.flat
        self._online = online

    def track(self, rate: float | Tensor) -> None:
        """Move by θ' ← rate θ + (1 - rate) θ', with a rate for all or, mapped, one for each."""
        if isinstance(rate, Tensor):
            rate = torch.func.debug_unwrap(rate, recurse=False)[self.blocks.owners]
        self.flat.lerp_(self._online.flat, rate)


class StackedGroup:
    """An :class:`OptimizerGroup` for M agents at once.

    Args:
        group: One agent's; its settings and its count serve all.
        count: M.
        rates: ``(M,)``, learning rates where they differ.

    Attributes:
        place: While an update is mapped over the agents, the place of the one that it is mapped to.
    """

    place: Tensor

    def __init__(self, group: OptimizerGroup, count: int, rates: Tensor | None = None) -> None:
        self.network, self.adam, self.count = group.network, group.adam, group.count
        self.blocks = Blocks(group.network, count, learned=True)
        self.flat, self.parameters = self.blocks.flat, self.blocks.parameters
        self._gradient, self._mean, self._square = (Blocks(group.network, count) for _ in range(3))
        self._parts = {"parameters": self.blocks, "mean": self._mean, "square": self._square}
        self._rates = None
        if rates is not None:
            # A step is in proportion to its rate: it is taken with a rate of one, and then shortened.
            self._rates, self.adam = rates[self.blocks.owners], dataclasses.replace(group.adam, learning_rate=1.0)
        self._norms: Tensor | None = None

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients ``(M, ...)`` of a loss that is mapped over replicas.

        No replica's loss knows another's parameters, so the gradients of their sum are those of each.
        """
        return torch.autograd.grad(torch.func.debug_unwrap(loss, recurse=False).sum(), self.parameters)

    def step(self, gradients: tuple[Tensor, ...]) -> None:
        """Take one Adam step for every replica."""
        torch._foreach_copy_(self._gradient.parameters, list(gradients))
        if self.adam.gradient_clip is not None:
            self._norms = _norms(gradients)
            shares = self.adam.clip(self._norms)
            for block in self._gradient.parameters:
                block.mul_(shares.view(-1, *[1] * (block.ndim - 1)))
        before = None if self._rates is None else self.flat.clone()
        self.adam.step(self.flat, self._gradient.flat, self._mean.flat, self._square.flat, self.count)
        if self._rates is not None and before is not None:
            self.flat.copy_(before.lerp_(self.flat, self._rates))

    def gradient_norm(self) -> Tensor:
        """Return, for the agent that the update is mapped to, the length of the last gradient before it was clipped."""
        norms = _norms(self._gradient.parameters) if self._norms is None else self._norms
        return norms.index_select(0, self.place.reshape(1))[0]

    def state(self) -> dict[str, Tensor]:
        """Return everything that continuing exactly needs, of all agents, as :class:`Blocks` lays it out."""
        return {name: blocks.flat for name, blocks in self._parts.items()} | {"count": self.count}

    def write(self, place: int, state: Mapping[str, Tensor]) -> None:
        """Put in a replica's state."""
        for name, blocks in self._parts.items():
            blocks.write(place, state[name])
        self.count.copy_(state["count"])

    def read(self, place: int, state: Mapping[str, Tensor]) -> None:
        """Take out a replica's state."""
        for name, blocks in self._parts.items():
            blocks.read(place, state[name])
        state["count"].copy_(self.count)


def _norms(gradients: Sequence[Tensor]) -> Tensor:
    """Return the lengths ``(M,)`` of M agents' gradients, each of which lies in parts ``(M, ...)``."""
    return torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0).sqrt()


def _unflattened(fields: dict[str, Any], count: int) -> dict[str, Any]:
    return {
        name: _unflattened(value, count) if isinstance(value, dict) else value.unflatten(0, (count, -1))
        for name, value in fields.items()
    }
