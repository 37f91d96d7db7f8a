"""The warm-up: a reward model fitted to the preferences by maximum likelihood, every pair counting the same."""

from dataclasses import dataclass

import torch
from torch import Tensor

from offline_rl.agent import ParameterGroup
from offline_rl.algos.parl.comparisons import Comparisons, accuracy, differences, log_likelihood
from offline_rl.draws import Stream
from offline_rl.networks.reward import RewardModel


@dataclass(frozen=True)
class Preset:
    """A published way to make and fit a reward model.

    Attributes:
        hidden_dims: Widths of its hidden layers.
        count: Networks; the prediction is their mean.
        slope: Of LeakyReLU, 0 for ReLU.
        squashed: Whether a tanh ends it.
        mean: Whether a segment's return is the mean over its steps, not the sum.
        batch: Pairs in a batch.
        epochs: At most so many.
        enough: Share of pairs told right after which an epoch is the last one; above 1 for never.
        keep_best: Keep the weights of the epoch with the best likelihood of the held-out pairs.
    """

    hidden_dims: tuple[int, ...]
    count: int
    slope: float
    squashed: bool
    mean: bool
    batch: int
    epochs: int
    enough: float
    keep_best: bool


PRESETS = {
    "unirlhf": Preset((256, 256, 256), 3, 0.01, True, False, 64, 50, 0.968, False),
    "pt_mr": Preset((256, 256), 1, 0.0, False, True, 256, 10_000, 2.0, True),
}
"""Uni-RLHF's ensemble, and the MLP baseline of the Preference Transformer's code [C], but for its held-out pairs.

That code looks for the best epoch on a tenth of the pairs that it trains on; here these are apart.
"""
LEARNING_RATE = 3e-4
"""Adam's, of both."""


def member_differences(model: RewardModel, comparisons: Comparisons, *, mean: bool) -> Tensor:
    """Return D ``(count, B)`` of each network; comparisons ``(count, B, ...)`` give each network pairs of its own."""
    observation, action = (column.flatten(-4, -2) for column in (comparisons.observation, comparisons.action))
    rewards = model(observation, action)
    return differences(rewards.view(-1, *comparisons.observation.shape[-4:-1]), mean=mean)


def fit(  # noqa: PLR0917
    model: RewardModel, training: Comparisons, held_out: Comparisons, preset: Preset, epochs: int, seed: int
) -> ParameterGroup:
    """Fit ``model`` by Adam; each network sees the pairs in an order of its own.

    Returns:
        The optimiser, whose ``flat`` holds the weights.
    """
    group, stream = ParameterGroup(model, LEARNING_RATE), Stream(seed, "fit")
    best, best_weights = group.flat.new_full((), -torch.inf), group.flat.clone()
    for epoch in range(epochs):
        order = torch.from_numpy(stream.at(epoch).random((model.count, len(training))).argsort(1))
        right = []
        for index in torch.split(order.to(group.flat.device), preset.batch, 1):
            part = training.part(index)
            difference = member_differences(model, part, mean=preset.mean)
            loss = -log_likelihood(difference, part.label).mean(1).sum()
            group.step(torch.autograd.grad(loss, group.parameters))
            right.append((difference.detach(), part.label))
        if preset.keep_best:
            quality = _held_out_likelihood(model, held_out, mean=preset.mean)
            better = quality > best
            best, best_weights = torch.where(better, quality, best), torch.where(better, group.flat, best_weights)
        if float(_accuracy(right)) > preset.enough:
            break
    if preset.keep_best:
        group.flat.copy_(best_weights)
    return group


def _accuracy(batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    difference, label = (torch.cat(columns, 1) for columns in zip(*batches, strict=True))
    return accuracy(difference.flatten(), label.flatten())


@torch.no_grad()
def _held_out_likelihood(model: RewardModel, held_out: Comparisons, *, mean: bool) -> Tensor:
    return log_likelihood(member_differences(model, held_out, mean=mean), held_out.label).mean()
