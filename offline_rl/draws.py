"""Random numbers as pure functions of (seed, name, step): no generator state to save, share or lose.

Philox is a counter-based generator: the seed and the name make its key, the step its counter. A run therefore resumes
from its step alone, and what one seed draws does not depend on who trains beside it.
"""

import hashlib

import numpy as np


class Stream:
    """One named source of random numbers of one seed.

    Args:
        seed: Any non-negative integer, of any size.
        name: What is drawn, for instance ``"index"``; streams of different names are independent.
    """

    def __init__(self, seed: int, name: str) -> None:
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
        self._bits = np.random.Philox(key=key)
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state
        self._counter = self._state["state"]["counter"]

    def at(self, step: int) -> np.random.Generator:
        """Return the generator placed at the start of ``step``'s numbers.

        The next call moves the same generator on: draw what is needed before asking for another step.
        """
        self._counter[:] = (0, step, 0, 0)
        self._bits.state = self._state
        return self._generator


def derived_seed(seed: int, name: str, step: int) -> int:
    """Return a 31-bit seed for libraries that keep generators of their own, such as Gymnasium's ``reset``."""
    return int(Stream(seed, name).at(step).integers(2**31))
