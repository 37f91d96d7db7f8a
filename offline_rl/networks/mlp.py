"""The multilayer perceptron as one operation, with a backward pass derived by hand.

Autograd on separate layers keeps books for every layer and computes the weight gradients of networks that are only
passed through. One operation for the whole network avoids both, and is the one place where a faster kernel can be
put in without touching an algorithm.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class _Perceptron(torch.autograd.Function):
    """``count`` perceptrons that read the same input; each layer is a weight ``(count, out, in)`` and a bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *layers: Tensor) -> Tensor:
        """Map ``(B, in)`` to ``(count, B, out)``; ReLU between layers."""
        weights, biases = layers[0::2], layers[1::2]
        hidden: list[Tensor] = []
        outputs = []
        for member in range(weights[0].shape[0]):
            h = x
            for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                h = torch.addmm(bias[member], h, weight[member].t()).relu_()
                hidden.append(h)
            outputs.append(torch.addmm(biases[-1][member], h, weights[-1][member].t()))
        ctx.save_for_backward(x, *layers, *hidden)
        return torch.stack(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input and of the layers, each only if it is asked for."""
        needs_input, needs_layers = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        saved = ctx.saved_tensors
        layer_count = len(ctx.needs_input_grad) - 1
        x, layers, hidden = saved[0], saved[1 : 1 + layer_count], saved[1 + layer_count :]
        weights = layers[0::2]
        per_member = len(weights) - 1
        layer_grads = [torch.empty_like(layer) for layer in layers] if needs_layers else []
        input_grad = None
        for member in range(weights[0].shape[0]):
            inputs = (x, *hidden[member * per_member : (member + 1) * per_member])
            delta = grads[0][member]
            for index in range(len(weights) - 1, -1, -1):
                if needs_layers:
                    torch.mm(delta.t(), inputs[index], out=layer_grads[2 * index][member])
                    torch.sum(delta, 0, out=layer_grads[2 * index + 1][member])
                if index > 0:
                    # The mask is read off the ReLU's own output; five times as fast as comparing and multiplying.
                    delta = torch.ops.aten.threshold_backward(delta.mm(weights[index][member]), inputs[index], 0)
                elif needs_input:
                    first = delta.mm(weights[0][member])
                    input_grad = first if input_grad is None else input_grad + first
        return (input_grad, *(layer_grads if needs_layers else (None,) * layer_count))


class MLP(nn.Module):
    """``count`` independent perceptrons on one input: linear layers with ReLU between them.

    Parameters are left uninitialised; whoever owns the network calls :meth:`initialize` with a generator of its own.

    Args:
        input_size: Size of the input vector.
        output_size: Size of each output vector.
        hidden_dims: Widths of the hidden layers; an empty list makes a linear map.
        count: How many networks, for instance two critics.
    """

    def __init__(self, input_size: int, output_size: int, hidden_dims: Sequence[int], count: int = 1) -> None:
        super().__init__()
        sizes = [input_size, *hidden_dims, output_size]
        self.layers = nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(sizes):
            self.layers.append(nn.Parameter(torch.empty(count, fan_out, fan_in)))
            self.layers.append(nn.Parameter(torch.empty(count, fan_out)))

    def initialize(self, generator: np.random.Generator) -> None:
        """Draw weights and biases from U(-1/√fan_in, 1/√fan_in), the default of PyTorch's linear layer."""
        for weight, bias in zip(self.layers[0::2], self.layers[1::2], strict=True):
            bound = 1 / math.sqrt(weight.shape[-1])
            for parameter in (weight, bias):
                values = generator.uniform(-bound, bound, size=tuple(parameter.shape))
                parameter.data.copy_(torch.from_numpy(values))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, input_size)`` to ``(count, B, output_size)``."""
        return _apply(x, list(self.layers))

    def frozen(self, x: Tensor, count: int | None = None) -> Tensor:
        """Like calling the network, but its parameters are constants: only the input's gradient is computed.

        Args:
            x: Input ``(B, input_size)``.
            count: Evaluate only the first ``count`` networks.
        """
        return _apply(x, [layer.detach()[:count] for layer in self.layers])


def _apply(x: Tensor, layers: list[Tensor]) -> Tensor:
    return _Perceptron.apply(x, *layers)  # type: ignore[no-any-return, no-untyped-call]
