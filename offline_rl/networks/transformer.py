"""A causal transformer over the steps of an episode, each of which brings several tokens.

Pre-norm blocks as in GPT-2, without a table of positions: a learned vector of the time within the episode is added to
the tokens of a step instead, as the Decision Transformer does (Chen et al. 2021, arXiv 2106.01345).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from offline_rl.networks.dropout import Dropout

INITIAL_STD = 0.02
"""Standard deviation of initial weights, GPT-2's."""

Activation = Callable[[Tensor], Tensor]


class TrajectoryTransformer(nn.Module):
    """Maps the steps of episodes, J tokens each, to features of every token that know no later token.

    Args:
        sizes: Size of each of a step's J tokens, in their order.
        width: W, of features.
        layers: How many blocks.
        heads: Attention heads; they share the width.
        longest: Times in an episode that have embeddings of their own; later ones count as the last of these.
        activation: Between the two linear maps of a block.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        width: int = 128,
        layers: int = 3,
        heads: int = 1,
        longest: int = 1000,
        activation: Activation = functional.gelu,
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        self.time = nn.Embedding(longest, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads, activation) for _ in range(layers))
        self.last_norm = nn.LayerNorm(width)

    def initialize(self, generator: np.random.Generator) -> None:
        """Draw all parameters from ``generator``."""
        draw_weights(self, generator)

    def forward(self, tokens: Sequence[Tensor], time: Tensor, mask: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Return the features ``(B, T, J, W)`` of all tokens; those of padded steps mean nothing.

        Args:
            tokens: J tensors ``(B, T, size)``.
            time: ``(B, T)`` int64, steps since the episode began.
            mask: ``(B, T)`` bool, False where padded; no other step's features depend on what stands there.
            dropout: None for acting.
        """
        dropped = dropout or _unchanged
        added = self.time(time.clamp(max=self.time.num_embeddings - 1))
        embedded = [embed(token) + added for embed, token in zip(self.embeddings, tokens, strict=True)]
        x = dropped(self.norm(torch.stack(embedded, 2).flatten(1, 2)))
        visible = _visible(mask.repeat_interleave(len(tokens), 1))
        for block in self.blocks:
            x = block(x, visible, dropped)
        return self.last_norm(x).unflatten(1, (mask.shape[1], len(tokens)))  # type: ignore[no-any-return]


def draw_weights(network: nn.Module, generator: np.random.Generator) -> None:
    """Draw the weights of linear maps and tables from N(0, 0.02²); biases are 0, norms change nothing at first."""
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            values = generator.standard_normal(tuple(module.weight.shape)) * INITIAL_STD
            module.weight.data.copy_(torch.from_numpy(values))
        elif isinstance(module, nn.LayerNorm):
            module.weight.data.fill_(1)
        if isinstance(module, (nn.Linear, nn.LayerNorm)):
            module.bias.data.zero_()


class Block(nn.Module):
    """Attention, then an MLP with one hidden layer of 4 W, each added to the stream it reads through a norm."""

    def __init__(self, width: int, heads: int, activation: Activation) -> None:
        super().__init__()
        self.heads = heads
        self.activation = activation
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden_in = nn.Linear(width, 4 * width)
        self.hidden_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, visible: Tensor, dropped: Activation) -> Tensor:
        """Map ``(B, L, W)`` to ``(B, L, W)``; token i reads token j where ``visible`` ``(B, 1, L, L)`` is True."""
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.attention_in(self.attention_norm(x)).chunk(3, 2)
        )
        # Written out, because the fused operation draws its dropout from a generator.
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        weights = dropped(scores.masked_fill(~visible, -torch.inf).softmax(3))
        x = x + dropped(self.attention_out((weights @ value).transpose(1, 2).flatten(2)))
        return x + dropped(self.hidden_out(self.activation(self.hidden_in(self.hidden_norm(x)))))


def _visible(mask: Tensor) -> Tensor:
    """Return what each token reads, ``(B, 1, L, L)``: itself, and earlier ones that are not padded.

    Itself even if it is padded: a row of nothing but -∞ would give NaN, and its gradient, too.
    """
    length = mask.shape[1]
    ones = torch.ones(length, length, dtype=torch.bool, device=mask.device)
    visible: Tensor = ones.tril() & mask[:, None, None, :] | ones.tril().triu()
    return visible


def _unchanged(x: Tensor) -> Tensor:
    return x
