"""The multilayer perceptron (MLP) as one operation, with a backward pass derived by hand.

Autograd on separate layers keeps books for every layer and computes the weight gradients of networks that are only
passed through. One operation for the whole network avoids both, and is the one place where a faster kernel can be
put in without touching an algorithm.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from offline_rl.kernels import native
from offline_rl.networks.dropout import Dropout
from offline_rl.networks.initializers import Initializer, uniform

LayerNorm = Literal["none", "before", "after"]
"""Whether hidden layers are normalised, before or after their activation, with a scale and a shift that are learned."""
Activation = Literal["relu", "gelu"]
"""What stands between layers; GELU in its approximation by tanh, as Flax has it."""
LAYER_NORM_EPSILON = 1e-6
"""Added to the variance in a layer normalisation; Flax's default."""


class _MLPFunction(torch.autograd.Function):
    """``count`` MLPs that read the same input; each layer is a weight ``(count, out, in)`` and a bias."""

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


class _Together(torch.autograd.Function):
    """N MLPs with an input each; every layer is a weight ``(N, out, in)`` and a bias ``(N, out)``.

    For a GPU, where kernels cost by their number: one serves all networks.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *layers: Tensor) -> Tensor:
        """Map ``(N, B, in)`` to ``(N, B, out)``; ReLU between layers."""
        weights, biases = layers[0::2], layers[1::2]
        inputs = [x]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            inputs.append(torch.baddbmm(bias[:, None], inputs[-1], weight.mT).relu_())
        ctx.save_for_backward(*weights, *inputs)
        return torch.baddbmm(biases[-1][:, None], inputs[-1], weights[-1].mT)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input and of the layers, each only if it is asked for."""
        needs_input, needs_layers = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        count = len(ctx.saved_tensors) // 2
        weights, inputs = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        delta = grads[0]
        layer_grads: list[Tensor] = []
        for index in range(count - 1, -1, -1):
            if needs_layers:
                layer_grads[:0] = torch.bmm(delta.mT, inputs[index]), delta.sum(1)
            if index > 0:
                delta = torch.ops.aten.threshold_backward(torch.bmm(delta, weights[index]), inputs[index], 0)
        input_grad = torch.bmm(delta, weights[0]) if needs_input else None
        return (input_grad, *(layer_grads if needs_layers else (None,) * 2 * count))


class _Mapped(torch.autograd.Function):
    """``count`` MLPs on one input, under ``torch.vmap`` over seeds that each have such networks.

    Only its batching rule is ever used: networks of all seeds are one batch of networks.
    """

    @staticmethod
    def forward(*tensors: Tensor) -> Tensor:
        """Never called."""
        raise NotImplementedError

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Never called."""
        raise NotImplementedError

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Tensor, int]:
        """Map ``(M, B, in)`` to ``(M, count, B, out)``."""
        x, *layers = (
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(tensors, in_dims, strict=True)
        )
        networks = layers[0].shape[:2]
        inputs = x[:, None].expand(*networks, *x.shape[1:]).flatten(0, 1)
        output = _Together.apply(inputs, *(layer.flatten(0, 1) for layer in layers))  # type: ignore[no-untyped-call]
        return output.unflatten(0, networks), 0


class MLP(nn.Module):
    """``count`` independent MLPs on one input: linear layers with ReLU, or another activation, between them.

    Parameters are left uninitialised; whoever owns the network calls :meth:`initialize` with a generator of its own.

    Args:
        input_size: Size of the input vector.
        output_size: Size of each output vector.
        hidden_dims: Widths of the hidden layers; an empty list makes a linear map.
        count: How many networks, for instance two critics.
        initializer: How weights and biases start.
        layer_norm: Whether each hidden layer is normalised, before or after its activation.
        activation: What follows each hidden layer.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        input_size: int,
        output_size: int,
        hidden_dims: Sequence[int],
        count: int = 1,
        *,
        initializer: Initializer = uniform,
        layer_norm: LayerNorm = "none",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self._initializer, self._layer_norm, self._activation = initializer, layer_norm, activation
        sizes = [input_size, *hidden_dims, output_size]
        self.layers, self.norms = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(sizes):
            self.layers.append(nn.Parameter(torch.empty(count, fan_out, fan_in)))
            self.layers.append(nn.Parameter(torch.empty(count, fan_out)))
        for width in hidden_dims if layer_norm != "none" else ():
            self.norms.extend([nn.Parameter(torch.empty(count, width)) for _ in ("scale", "shift")])

    def initialize(self, generator: np.random.Generator) -> None:
        """Draw weights and biases from ``generator``; normalisations start with scale 1 and shift 0."""
        for index in range(0, len(self.layers), 2):
            weight, bias = self.layers[index : index + 2]
            values = self._initializer(generator, tuple(weight.shape), index == len(self.layers) - 2)
            for parameter, start in zip((weight, bias), values, strict=True):
                parameter.data.copy_(torch.from_numpy(start))
        for scale, shift in zip(self.norms[0::2], self.norms[1::2], strict=True):
            scale.data.fill_(1.0)
            shift.data.zero_()

    def forward(self, x: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Map ``(B, input_size)`` to ``(count, B, output_size)``, with ``dropout`` on each hidden layer if given."""
        return self._applied(x, _tensors(self.layers), _tensors(self.norms), dropout)

    def frozen(self, x: Tensor, count: int | None = None) -> Tensor:
        """Like calling the network, but its parameters are constants: only the input's gradient is computed.

        For -Q(s, π(s)): the gradient runs through the critic to the action; none is computed for the critic's weights.

        Args:
            x: Input ``(B, input_size)``.
            count: Evaluate only the first ``count`` networks.
        """
        layers, norms = ([own.detach()[:count] for own in _tensors(group)] for group in (self.layers, self.norms))
        return self._applied(x, layers, norms)

    def _applied(self, x: Tensor, layers: list[Tensor], norms: list[Tensor], dropout: Dropout | None = None) -> Tensor:
        if not norms and self._activation == "relu" and dropout is None:
            return _mlps(x, layers)
        if dropout is None and (x.is_cuda or _is_mapped(x, layers[0])):  # kernels cost by their number
            return self._layer_by_layer(x.expand(len(layers[0]), *x.shape), layers, norms, None)
        return torch.stack(
            [
                self._layer_by_layer(x, [own[member] for own in layers], [own[member] for own in norms], dropout)
                for member in range(len(layers[0]))
            ]
        )

    def _layer_by_layer(self, x: Tensor, layers: list[Tensor], norms: list[Tensor], dropout: Dropout | None) -> Tensor:
        """Apply one network ``(B, in)`` → ``(B, out)``, or N that have an input each, ``(N, B, in)`` → ``(N, B, out)``.

        Few algorithms need it, so autograd may keep books.
        """
        h = x
        for index in range(0, len(layers) - 2, 2):
            h, own = _linear(h, *layers[index : index + 2]), norms[index : index + 2]
            h = _normalized(h, *own) if self._layer_norm == "before" else h
            h = h.relu_() if self._activation == "relu" else nn.functional.gelu(h, approximate="tanh")
            h = _normalized(h, *own) if self._layer_norm == "after" else h
            h = h if dropout is None else dropout(h)
        return _linear(h, *layers[-2:])

    def input_gradient(self, x: Tensor) -> Tensor:
        """Return the gradient ``(count, B, input_size)`` of each network's output, if several their sum, by its input.

        The result can be differentiated in the parameters, which the gradients of :meth:`forward` cannot. A plain MLP
        is linear between the kinks of its ReLUs, so its slope is the product of the weights of the units that are on.
        Written out it takes less time than autograd's way, which would differentiate the forward pass in vain.

        Args:
            x: Input ``(B, input_size)``; no gradient for it is computed.

        Raises:
            NotImplementedError: The networks are normalised, or have another activation than ReLU.
        """
        if self._layer_norm != "none" or self._activation != "relu":
            raise NotImplementedError("the gradient by the input is written out for MLPs with ReLU only")
        layers, on = _tensors(self.layers), list[Tensor]()
        with torch.no_grad():
            h = x.expand(len(layers[0]), *x.shape)
            for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
                h = torch.baddbmm(bias[:, None], h, weight.mT).relu_()
                on.append(h)
        gradient = layers[-2].sum(1, keepdim=True).expand(-1, len(x), -1)
        for h, weight in zip(reversed(on), layers[-4::-2], strict=True):
            gradient = torch.bmm(torch.ops.aten.threshold_backward(gradient, h, 0), weight)
        return gradient  # type: ignore[no-any-return]


def _tensors(group: nn.ParameterList) -> list[Any]:
    # Looping over the list itself takes as long as a small layer, ten times as long as this.
    return list(group._parameters.values())


def _is_mapped(x: Tensor, layer: Tensor) -> bool:
    """Return whether the update of several agents is made as one, by ``torch.vmap``."""
    return any(torch.func.debug_unwrap(tensor, recurse=False) is not tensor for tensor in (x, layer))


def _mlps(x: Tensor, layers: list[Tensor]) -> Tensor:
    """Apply plain networks with ReLU, by the way that is fastest here."""
    if _is_mapped(x, layers[0]):
        return _Mapped.apply(x, *layers)  # type: ignore[no-any-return, no-untyped-call]
    if native.serves(x, layers):
        return native.MLPFunction.apply(x, *layers)  # type: ignore[no-any-return, no-untyped-call]
    if x.is_cuda:
        return _Together.apply(x.expand(len(layers[0]), *x.shape), *layers)  # type: ignore[no-any-return, no-untyped-call]
    return _MLPFunction.apply(x, *layers)  # type: ignore[no-any-return, no-untyped-call]


def _linear(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if weight.ndim == 2:
        return nn.functional.linear(h, weight, bias)
    return torch.bmm(h, weight.mT) + bias[:, None]  # under vmap, baddbmm would be four kernels


def _normalized(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    if scale.ndim == 1:
        return nn.functional.layer_norm(h, h.shape[-1:], scale, shift, LAYER_NORM_EPSILON)
    return nn.functional.layer_norm(h, h.shape[-1:], eps=LAYER_NORM_EPSILON) * scale[:, None] + shift[:, None]
