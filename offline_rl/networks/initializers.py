"""How weights start: functions of a generator, the shape ``(count, out, in)`` of a layer, and whether it is the last.

Each returns the weights ``(count, out, in)`` and the biases ``(count, out)``, for ``count`` networks at once.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

Shape = tuple[int, int, int]
Start = tuple[NDArray[np.float64], NDArray[np.float64]]
Initializer = Callable[[np.random.Generator, Shape, bool], Start]

HIDDEN_BIAS = 0.1
"""Every hidden bias of :func:`small_output`."""
TRUNCATION = 2.0
"""Where the truncated normal distribution of :func:`lecun` is cut, in standard deviations."""


def uniform(generator: np.random.Generator, shape: Shape, last: bool) -> Start:
    """Draw weights and biases from U(-1/√in, 1/√in), the default of PyTorch's linear layer."""
    bound = 1 / math.sqrt(shape[2])
    return generator.uniform(-bound, bound, size=shape), generator.uniform(-bound, bound, size=shape[:2])


def orthogonal(generator: np.random.Generator, shape: Shape, last: bool) -> Start:
    """Draw orthogonal weights times √2, the last layer's too, with biases 0, as IQL's authors do."""
    count, out, fan_in = shape
    tall = generator.standard_normal((count, max(out, fan_in), min(out, fan_in)))
    basis, triangle = np.linalg.qr(tall)
    # The signs make the basis a uniform draw; which ones a factorisation returns is its own choice.
    basis *= np.sign(np.diagonal(triangle, axis1=1, axis2=2))[:, None, :]
    return math.sqrt(2) * (basis if out >= fan_in else basis.swapaxes(1, 2)), np.zeros((count, out))


def lecun(generator: np.random.Generator, shape: Shape, last: bool) -> Start:
    """Draw weights of variance 1/in from a truncated normal distribution, biases 0: the default of JAX's Flax.

    The last layer's weights are uniform and of variance 0.01/in, as in the CQL of github.com/young-geng/JaxCQL.
    """
    if last:
        bound = math.sqrt(3 * 0.01 / shape[2])
        return generator.uniform(-bound, bound, size=shape), np.zeros(shape[:2])
    inside = math.erf(TRUNCATION / math.sqrt(2))
    cut_off = 2 * TRUNCATION * math.exp(-(TRUNCATION**2) / 2) / math.sqrt(2 * math.pi)
    quantiles = torch.from_numpy(generator.uniform(-inside, inside, size=shape))
    normal = math.sqrt(2) * torch.special.erfinv(quantiles).numpy()
    return normal / math.sqrt((1 - cut_off / inside) * shape[2]), np.zeros(shape[:2])


def small_output(generator: np.random.Generator, shape: Shape, last: bool, *, bound: float) -> Start:
    """Draw weights from U(-1/√in, 1/√in), with biases 0.1; the last layer's weights and biases from U(-bound, bound).

    So start the networks of SAC-N and EDAC (github.com/snu-mllab/EDAC), whose outputs are near 0 at first.
    """
    width = bound if last else 1 / math.sqrt(shape[2])
    weight = generator.uniform(-width, width, size=shape)
    bias = generator.uniform(-bound, bound, size=shape[:2]) if last else np.full(shape[:2], HIDDEN_BIAS)
    return weight, bias
