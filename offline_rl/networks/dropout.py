"""Dropout whose masks are a pure function of a key: no generator state, nothing drawn on the host but the key.

A transformer drops millions of numbers an update, too many to send with a batch. Each row of a batch brings two uniform
numbers instead, a function of (seed, name, step) like everything that is drawn, and a hash of these, of the number of
the call and of an element's place decides about the element, on the device. An interrupted run therefore goes on with
the same masks, and a captured graph gets new ones with every batch.
"""

import math

import torch
from torch import Tensor

KEY_SIZE = 2
"""Uniform numbers that a row's key is made of."""

_BITS = 16
"""An element is dropped if so many hashed bits are, as a number, below the rate: rates are met to 1 in 65,536."""
_KEY_SCALE = float(1 << 24)
"""A uniform float32 is a whole number of these parts of 1."""
_PLACE, _CALL = 0x9E3779B1, 0x7FEB352D
_MIX = (16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)
"""Shifts and factors of the last steps of MurmurHash3 (Austin Appleby, public domain)."""


class Dropout:
    """Drops elements of the activations it is called with; every call uses other masks, in the order of the calls.

    Args:
        rate: Probability of an element to become 0; those that stay are divided by 1 - rate.
        keys: ``(B, 2)`` from U[0, 1), one key for each row of the activations.
    """

    def __init__(self, rate: float, keys: Tensor) -> None:
        self._rate = rate
        first, second = (keys * _KEY_SCALE).to(torch.int32).unbind(1)
        # One hash of both, so that keys which share a number have nothing in common.
        self._keys = _hashed(_hashed(first) ^ second)[:, None]
        self._calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``x`` ``(B, ...)`` with some of its elements dropped."""
        self._calls += 1
        if self._rate == 0:
            return x
        return x * self._kept(x) / (1 - self._rate)

    def _kept(self, x: Tensor) -> Tensor:
        size = math.prod(x.shape[1:])
        # Every hash decides about two elements.
        words = torch.arange(-(-size // 2), dtype=torch.int32, device=x.device) * _signed(_PLACE)
        salt = _signed(_CALL * self._calls)
        hashed = _hashed((words ^ salt)[None] ^ self._keys)
        # Its lower and its upper half, with their signs.
        bits = torch.stack(((hashed << _BITS) >> _BITS, hashed >> _BITS), 2).flatten(1)[:, :size]
        lowest = round(self._rate * (1 << _BITS)) - (1 << (_BITS - 1))
        return (bits >= lowest).view(x.shape)


def _hashed(word: Tensor) -> Tensor:
    """Mix the bits of int32 numbers; products wrap around."""
    for shift, factor in _MIX:
        # The sign must not be shifted in.
        word = word ^ ((word >> shift) & ((1 << (32 - shift)) - 1))
        if factor != 1:
            word = word * _signed(factor)
    return word


def _signed(word: int) -> int:
    """Read the lowest 32 bits as a signed number."""
    return (word + (1 << 31)) % (1 << 32) - (1 << 31)
