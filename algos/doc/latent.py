"""Networks around a latent that stands for the future of an episode, as Dichotomy of Control uses them."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from offline_rl.data.windows import RecordedSteps, Steps
from offline_rl.networks.dropout import Dropout
from offline_rl.networks.mlp import MLP
from offline_rl.networks.transformer import TrajectoryTransformer, draw_weights

S = TypeVar("S", bound=Steps)

LOG_STD_BOUNDS = -5.0, 2.0
"""Where logarithms of standard deviations are cut."""


class Gaussian(NamedTuple):
    """A normal distribution of vectors ``(..., L)`` with independent entries."""

    mean: Tensor
    log_std: Tensor

    @classmethod
    def of(cls, heads: Tensor) -> "Gaussian":
        """Take the halves of ``(..., 2 L)`` as mean and log-std."""
        mean, log_std = heads.chunk(2, -1)
        return cls(mean, log_std.clamp(*LOG_STD_BOUNDS))

    def at(self, noise: Tensor) -> Tensor:
        """Return the vectors that lie ``noise`` standard deviations from the mean."""
        return self.mean + self.log_std.exp() * noise

    def detach(self) -> "Gaussian":
        """Return the same as constants."""
        return Gaussian(self.mean.detach(), self.log_std.detach())

    def divergence(self, other: "Gaussian") -> Tensor:
        """Return KL(self ‖ other) ``(...)`` in nats, summed over entries."""
        ratio = 2 * (self.log_std - other.log_std)
        distance = ((self.mean - other.mean) / other.log_std.exp()).square()
        return (ratio.exp() + distance - 1 - ratio).sum(-1) / 2

    def standard(self) -> "Gaussian":
        """Return N(0, 1) of the same shape."""
        return Gaussian(torch.zeros_like(self.mean), torch.zeros_like(self.log_std))


@dataclass(frozen=True)
class View:
    """What an update makes of a batch once, for all of its losses.

    Attributes:
        future: ``(B, F, ...)``, rewards scaled.
        features: ``(B, F, W)``, known when each action of the future is chosen.
        posterior: q(z | future).
        prior: p(z | past).
        latent: ``(B, L)``, z from the posterior.
        situation: ``(B P, ...)``, what outcomes follow from but for z, constants.
        outcome: ``(B P, O + 2)``, what followed.
        pairs: ``(B P, 1 + M)``, numbers of outcomes, the true one first.
    """

    future: RecordedSteps
    features: Tensor
    posterior: Gaussian
    prior: Gaussian
    latent: Tensor
    situation: Tensor
    outcome: Tensor
    pairs: Tensor


class TransformerEncoder(nn.Module):
    """Three transformers: of what came before, of what followed, and one more of what came before, for the prior.

    Args:
        observation_size: O.
        action_size: A.
        latent_size: L.
        width: W, size of features.
        layers: Blocks of each.
        heads: Attention heads of each block.
    """

    def __init__(
        self, observation_size: int, action_size: int, latent_size: int, *, width: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.feature_size = width

        def stack(*sizes: int) -> TrajectoryTransformer:
            return TrajectoryTransformer(sizes, width=width, layers=layers, heads=heads, activation=functional.relu)

        self.past = stack(1, observation_size, action_size)
        self.prior_past = stack(1, observation_size, action_size)
        self.future = stack(observation_size, action_size, 1)
        self.prior_head = nn.Linear(width, 2 * latent_size)
        self.posterior_head = nn.Linear(width, 2 * latent_size)

    def initialize(self, generator: np.random.Generator) -> None:
        """Draw all parameters from ``generator``."""
        draw_weights(self, generator)

    def features(self, steps: Steps, dropout: Dropout | None = None) -> tuple[Tensor, Tensor]:
        """Return what is known when each step's action is chosen, and just after that, ``(B, T, W)`` each."""
        features = self.past(_past_tokens(steps), steps.time, steps.mask, dropout)
        return features[:, :, 1], features[:, :, 2]

    def prior(self, steps: Steps, dropout: Dropout | None = None) -> Gaussian:
        """Return p(z | history up to and with the last state)."""
        features = self.prior_past(_past_tokens(steps), steps.time, steps.mask, dropout)
        return Gaussian.of(self.prior_head(features[:, -1, 1]))

    def posterior(self, steps: RecordedSteps, dropout: Dropout | None = None) -> Gaussian:
        """Return q(z | future), read where the last step that is not padded ends."""
        tokens = steps.observation, steps.action, steps.reward[:, :, None]
        ends = self.future(tokens, steps.time, steps.mask, dropout)[:, :, 2]
        return Gaussian.of(self.posterior_head(at_places(ends, steps.mask.sum(1, keepdim=True) - 1)[:, 0]))


class MLPEncoder(nn.Module):
    """The cheap encoder for data whose states say all: the past is the state, the future is a set of steps.

    Args:
        observation_size: O.
        action_size: A.
        latent_size: L.
        hidden_dims: Widths of the hidden layers of the prior, and of what every step of the future passes.
    """

    def __init__(self, observation_size: int, action_size: int, latent_size: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.feature_size = observation_size
        self.step = MLP(observation_size + action_size + 1, hidden_dims[-1], hidden_dims[:-1])
        self.posterior_head = MLP(hidden_dims[-1], 2 * latent_size, [])
        self.prior_head = MLP(observation_size, 2 * latent_size, hidden_dims)

    def initialize(self, generator: np.random.Generator) -> None:
        """Draw all parameters from ``generator``."""
        for network in (self.step, self.posterior_head, self.prior_head):
            network.initialize(generator)

    def features(self, steps: Steps, dropout: Dropout | None = None) -> tuple[Tensor, Tensor]:
        """Return the states twice: what is known before an action is chosen, and after."""
        return steps.observation, steps.observation

    def prior(self, steps: Steps, dropout: Dropout | None = None) -> Gaussian:
        """Return p(z | last state)."""
        return Gaussian.of(self.prior_head(steps.observation[:, -1])[0])

    def posterior(self, steps: RecordedSteps, dropout: Dropout | None = None) -> Gaussian:
        """Return q(z | future), of the mean over the steps that are not padded."""
        step = torch.cat((steps.observation, steps.action, steps.reward[:, :, None]), 2)
        passed = each(self.step, step).relu() * steps.mask[:, :, None]
        return Gaussian.of(self.posterior_head(passed.sum(1) / steps.mask.sum(1, keepdim=True))[0])


class LatentPolicy(nn.Module):
    """Encoders, a policy and values that read a latent; holds the scales of rewards and returns as well.

    Whoever makes it for acting registers ``candidate_noise`` ``(K, L)``, the noise of K samples of the prior.

    Args:
        encoder: Of past and future.
        action_size: A.
        latent_size: L.
        hidden_dims: Widths of the hidden layers of the policy and of each value.
        value_count: How many values.
        discrete: The policy is categorical, over one-hot actions; else normal, around a mean in (-1, 1).
    """

    reward_mean: Tensor
    reward_std: Tensor
    return_scale: Tensor
    candidate_noise: Tensor

    def __init__(
        self,
        encoder: TransformerEncoder | MLPEncoder,
        action_size: int,
        latent_size: int,
        hidden_dims: Sequence[int],
        *,
        value_count: int,
        discrete: bool,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        inputs = encoder.feature_size + latent_size
        self.policy = MLP(inputs, action_size, hidden_dims)
        self.value = MLP(inputs, 1, hidden_dims, count=value_count)
        self.log_std = None if discrete else nn.Parameter(torch.zeros(action_size))
        for name, value in (("reward_mean", 0.0), ("reward_std", 1.0), ("return_scale", 1.0)):
            self.register_buffer(name, torch.tensor(value))

    def initialize(self, generator: np.random.Generator) -> None:
        """Draw all parameters from ``generator``; the policy's standard deviation begins at 1."""
        for network in (self.encoder, self.policy, self.value):
            network.initialize(generator)

    def scaled(self, steps: S) -> S:
        """Return the steps with rewards of mean 0 and standard deviation 1 over the dataset."""
        names = [name for name in ("previous_reward", "reward") if hasattr(steps, name)]
        changed = {name: (vars(steps)[name] - self.reward_mean) / self.reward_std for name in names}
        return dataclasses.replace(steps, **changed)

    def action(self, features: Tensor, latent: Tensor) -> Tensor:
        """Return the mean action ``(B, T, A)``, probabilities if discrete, for ``(B, T, W)`` and ``(B, L)``."""
        output = self._policy_output(features, latent)
        return output.softmax(2) if self.log_std is None else output.tanh()

    def log_likelihood(self, features: Tensor, latent: Tensor, action: Tensor) -> Tensor:
        """Return log π(a | features, z) ``(B, T)`` in nats."""
        output = self._policy_output(features, latent)
        if self.log_std is None:
            return (output.log_softmax(2) * action).sum(2)
        log_std = self.log_std.clamp(*LOG_STD_BOUNDS)
        distance = (action.clamp(-1 + 1e-5, 1 - 1e-5) - output.tanh()) / log_std.exp()
        return (-distance.square() / 2 - log_std - math.log(2 * math.pi) / 2).sum(2)

    def values(self, features: Tensor, latent: Tensor) -> Tensor:
        """Return V of all heads ``(heads, B)`` for ``(B, W)`` and ``(B, L)``, as a share of ``return_scale``."""
        return self.value(torch.cat((features, latent), 1))[:, :, 0]

    def best(self, prior: Gaussian, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples ``(B, L)`` of the prior whose smallest value is highest, and that value ``(B,)``.

        Args:
            prior: Of ``(B, L)``.
            features: ``(B, W)``.
            noise: ``(K, L)``, which makes K samples for each row.
        """
        samples = Gaussian(prior.mean[:, None], prior.log_std[:, None]).at(noise)
        values = self.values(features.repeat_interleave(len(noise), 0), samples.flatten(0, 1)).amin(0)
        highest, place = values.view(-1, len(noise)).max(1)
        return at_places(samples, place[:, None])[:, 0], highest

    def _policy_output(self, features: Tensor, latent: Tensor) -> Tensor:
        return each(self.policy, torch.cat((features, latent[:, None].expand(-1, features.shape[1], -1)), 2))


def each(network: MLP, x: Tensor) -> Tensor:
    """Apply the first MLP of a stack to the last entry of ``(B, T, size)``."""
    output: Tensor = network(x.flatten(0, 1))[0]
    return output.view(*x.shape[:2], -1)


def chosen(mask: np.ndarray, new: Tensor, old: Tensor) -> Tensor:
    """Return the rows of ``new`` where the mask ``(B,)`` is True, else those of ``old``."""
    if mask.all():
        return new
    rows = torch.from_numpy(mask).to(new.device)
    return torch.where(rows.view(-1, *[1] * (new.ndim - 1)), new, old)


def at_places(x: Tensor, place: Tensor) -> Tensor:
    """Return the entries ``(B, P, ...)`` of ``(B, T, ...)`` at the places ``(B, P)``."""
    return x[torch.arange(x.shape[0], device=x.device)[:, None], place]


def _past_tokens(steps: Steps) -> tuple[Tensor, Tensor, Tensor]:
    # The reward of the step before, not the step's own, which is not known when its action is chosen.
    return steps.previous_reward[:, :, None], steps.observation, steps.action
