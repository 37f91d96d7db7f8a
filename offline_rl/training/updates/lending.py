"""Updates with other tensors than an agent's own: networks that compute with lent weights, batches taken apart."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from offline_rl.agent import Batch


def lend(network: nn.Module, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Let a network compute with these tensors instead of its parameters; returns what it computed with before."""
    left, lent, before = iter(tensors), dict[int, Tensor](), list[Tensor]()
    for module in network.modules():
        for name, own in module._parameters.items():
            if own is None:
                continue
            if id(own) not in lent:  # tied parameters are one
                lent[id(own)] = next(left)
                before.append(own)
            module._parameters[name] = lent[id(own)]  # type: ignore[assignment]
    return before


def fields_of(batch: Batch) -> dict[str, Any]:
    """Return a batch's fields; those that hold tensors of their own as dictionaries, others are left out."""
    fields: dict[str, Any] = {}
    for name, value in vars(batch).items():
        if isinstance(value, Tensor):
            fields[name] = value
        elif isinstance(value, Mapping):
            fields[name] = dict(value)
        elif dataclasses.is_dataclass(value):
            fields[name] = dict(vars(value))
    return fields


def batch_like(batch: Batch, fields: dict[str, Any]) -> Batch:
    """Return a batch with other tensors, as :func:`fields_of` lays them out."""
    whole = {
        name: dataclasses.replace(vars(batch)[name], **value) if dataclasses.is_dataclass(vars(batch)[name]) else value
        for name, value in fields.items()
    }
    return dataclasses.replace(batch, **whole)
