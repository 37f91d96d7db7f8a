r"""The upper level: rewards that explain the preferences best where the policy that they lead to goes [X].

    G(ν) = (1 - m) mean_i e_i + m Σ_i ω_i(θ*(ν)) e_i - λ_a E_D[(r_ν - r_ν0)²] - λ_w ‖ν‖²

with e the excess log-likelihood of a pair, ω the weights of pairs under the lower level's policy, r_ν0 the warm-up's
rewards. A step follows the direct term, ∇e with the weights held, and the distribution term
m κ Σ ω_i (e_i - ē) ∇_ν z_i, shortened to χ times the direct one. All that is random is a function of the seed and the
number of the step.

In the mode "sf", ∇_c log π = β s₀ (ψ - ψ_V) for the head c: derived for a KL-regularised lower level [D], with s₀
because the policy sees scaled rewards; where a log-ratio is cut, the gradient is not.

The weights ω are a tempered, self-normalised likelihood ratio of a pair's two segments. It corrects the actions inside
segments, not the states in which segments start: a ratio of stationary densities would be needed for that, and is not
estimated. Ours [X]; that the ratio of a KL-regularised policy needs no density of the behaviour, log π/μ = (Q - V)/τ,
is derived [D].
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offline_rl.agent import Metrics, OptimizerGroup
from offline_rl.algos.parl import hypergradient as implicit
from offline_rl.algos.parl.lower import Lower, LowerIQL, LowerTD3BC
from offline_rl.algos.parl.reward_learning import (
    PART,
    PRESETS,
    SHIFTS,
    Comparisons,
    Features,
    accuracy,
    by_parts,
    correlation,
    differences,
    episode_returns,
    excess,
    fit,
    scale_of,
)
from offline_rl.data.packed import Columns, PackedRows
from offline_rl.draws import Stream
from offline_rl.networks import MLP
from offline_rl.networks.reward import LinearHead, RewardModel

SAMPLED_ROWS = 1024
"""Rows of the dataset on which a step holds the rewards near the warm-up's, or sees the policy's loss."""

BISECTIONS = 60
"""Steps of the search for κ; more than float64 can tell apart."""


def weights(z: Tensor, kappa: Tensor | float) -> Tensor:
    """Return ω = softmax(κ z) ``(N,)`` of the log-ratios z ``(N,)`` of pairs."""
    return torch.softmax(kappa * z, 0)


def effective_size(weight: Tensor) -> Tensor:
    """Return 1 / Σ ω²: as many pairs of equal weight would tell as much."""
    return 1 / weight.square().sum()


@torch.no_grad()
def choose_kappa(z: Tensor, share: float) -> Tensor:
    """Return the largest κ in [0, 1] with 1 / Σ ω² ≥ share · N, a number that is held constant for a round.

    The effective size falls as κ grows, so bisection finds it. Nothing waits for the device.
    """
    least = share * len(z)
    low, high = torch.zeros((), dtype=z.dtype, device=z.device), torch.ones((), dtype=z.dtype, device=z.device)
    low = torch.where(effective_size(weights(z, high)) >= least, high, low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = effective_size(weights(z, middle)) >= least
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return low


@dataclass(frozen=True)
class Networks:
    """What the upper level learns with; the last three are there in the mode "sf" only.

    Attributes:
        model: r_ν.
        head: c.
        successor: ψ(s, a), the discounted features f that follow.
        successor_value: ψ_V(s), their mean over the policy's actions.
    """

    model: RewardModel
    head: LinearHead | None = None
    successor: MLP | None = None
    successor_value: MLP | None = None


@dataclass(frozen=True)
class Weighted:
    """What a round holds constant: κ, ω ``(N,)`` of the training pairs, and in the mode "sf" a ``(N, F)``.

    Attributes:
        mixture: m.
        kappa: κ.
        weight: ω.
        feature_difference: a, the sum of ψ - ψ_V over a pair's steps.
    """

    mixture: float
    kappa: Tensor
    weight: Tensor
    feature_difference: Tensor | None


class Upper:
    """The upper level of one agent.

    Args:
        config: PARL's.
        mode: How the distribution term is found; "none" never moves the rewards after the warm-up.
        networks: Registered with the agent's optimisers ``reward`` and ``head``.
        lower: The lower level.
        groups: The agent's optimisers.
        seed: The agent's.

    Attributes:
        rewards: ``(N,)``, what the lower level learns from; empty before :meth:`begin`.
        features: ``(N, F)`` of the dataset's rows; empty before, and in other modes than "sf".
    """

    def __init__(  # noqa: PLR0917
        self,
        config: Any,
        mode: str,
        networks: Networks,
        lower: Lower,
        groups: Mapping[str, OptimizerGroup],
        seed: int,
    ) -> None:
        self._config, self._mode, self._networks, self._lower = config, mode, networks, lower
        self._groups, self._seed = groups, seed
        self._device, self._dtype = lower.device, lower.dtype
        self._preset, self._shift = PRESETS[config.reward_model], SHIFTS[config.shift]
        self.warm = copy.deepcopy(networks.model)
        self.rewards = self.features = torch.empty(0, device=self._device, dtype=self._dtype)
        self._numbers = {
            name: torch.zeros((), dtype=torch.float64, device=self._device)
            for name in ("fitted", "scale", "rises", "last_loss")
        }

    @property
    def fitted(self) -> bool:
        """Whether there are rewards."""
        return len(self.rewards) > 0

    @property
    def scale(self) -> float:
        """s₀."""
        return float(self._numbers["scale"])

    def prepare(self, rows: PackedRows, training: Comparisons, held_out: Comparisons, coverage: float) -> None:
        """Take the dataset and the pairs; ``coverage`` is the share of rows that segments can contain."""
        self._rows, self._columns = rows, rows.columns()
        self._training, self._held_out = training, held_out
        self._all = training.joined(held_out)
        self._coverage = coverage

    def begin(self) -> Metrics:
        """Fit the reward model to the preferences, find the affine map, and label the dataset."""
        epochs = self._config.reward_epochs or self._preset.epochs
        self.warm.requires_grad_(True)
        fitted = fit(self.warm, self._training, self._held_out, self._preset, epochs, self._seed)
        self._groups["reward"].flat.copy_(fitted.flat)
        self._evaluate_frozen()
        scale = 1.0
        if self._config.scale_rewards:
            scale = scale_of(episode_returns(self._rows, self._warm_rewards.mean(0)))
        self._numbers["scale"].fill_(scale)
        self._numbers["fitted"].fill_(1)
        self._relabel()
        difference, predicted = self._differences()
        count = len(self._training)
        self._numbers["last_loss"].copy_(-self._excess(difference, predicted)[count:].mean())
        return self._quality(difference, predicted) | {"reach": self._number(self._coverage)}

    def round(self, number: int) -> Metrics:
        """Make round ``number``, counted from 1: weigh the pairs, move the rewards, and label the dataset again."""
        c, count = self._config, len(self._training)
        if isinstance(self._lower, LowerTD3BC) and number == 1:
            self._lower.measure(*self._all.rows())
        ratios = self._by_pairs(lambda part: part.per_pair(self._lower.log_ratio(*part.rows())).sum((1, 2))).double()
        kappa = choose_kappa(ratios[:count], c.ess_share) if c.kappa is None else self._number(c.kappa)
        weight = weights(ratios[:count], kappa)
        mixture = c.mixture * min((number - 1) / c.ramp_rounds, 1) if c.ramp_rounds else c.mixture
        metrics = {"mixture": self._number(mixture)}
        if self._mode != "none" and not self.stopped:
            feature_difference = self._by_pairs(self._feature_difference) if self._mode == "sf" else None
            weighted = Weighted(mixture, kappa, weight, feature_difference)
            for step in range((number - 1) * c.upper_steps, number * c.upper_steps):
                metrics |= self.step(step, weighted)
            self._relabel()
        difference, predicted = self._differences()
        self._count_rises(-self._excess(difference, predicted)[count:].mean())
        metrics |= self._quality(difference, predicted, weight, weights(ratios[count:], kappa))
        metrics |= {"round": self._number(number), "kappa": kappa, "ess_share": effective_size(weight) / count}
        return metrics | {"stopped": self._number(self.stopped)}

    @property
    def stopped(self) -> bool:
        """Whether the held-out loss has risen for so many rounds in a row that the rewards no longer move."""
        return bool(self._numbers["rises"] >= self._config.patience)

    def step(self, number: int, weighted: Weighted) -> Metrics:
        """Make upper step ``number``, counted from 0 over all rounds."""
        c, networks = self._config, self._networks
        model = list(networks.model.parameters())
        head = [networks.head.weight] if networks.head else []
        index = self._sampled_pairs(number, weighted)
        part = self._training.part(index)
        rewards = part.per_pair(networks.model(*part.rows()))
        if networks.head:
            rewards = rewards + networks.head(self._pair_features[index])
        difference = differences(rewards, mean=self._preset.mean)
        likelihood = excess(difference, part, part.label, raw=True)
        size, m = c.upper_batch, weighted.mixture
        objective = (1 - m) * likelihood[:, :size].mean() + (m * likelihood[:, size:].mean() if m else 0)
        direct = torch.autograd.grad(objective, model + head, retain_graph=True)
        moved = head or model
        seen = direct[len(model) :] if head else direct
        implied = [torch.zeros_like(own) for own in moved]
        if m and self._mode != "reweight":
            coefficients = self._coefficients(difference[:, size:], part.part(slice(size, None)), weighted)
            if weighted.feature_difference is not None:
                assert isinstance(self._lower, LowerIQL)
                factor = self._lower.config.beta * self.scale
                implied = [factor * (coefficients[:, None] * weighted.feature_difference[index[size:]]).sum(0)]
            else:
                follow = self._surrogate(number, coefficients, part.part(slice(size, None)), rewards[:, size:])
                implied = list(torch.autograd.grad(follow, model))
        direct_norm, implied_norm = _norm(seen), _norm(implied)
        limit = (c.distribution_limit * direct_norm / implied_norm.clamp_min(1e-30)).clamp(max=1)
        penalty = torch.autograd.grad(self._penalty(number), model + head)
        gradients = [weight - own for weight, own in zip(penalty, direct, strict=True)]
        first = len(model) if head else 0
        for place, own in enumerate(implied, start=first):
            gradients[place] = gradients[place] - limit * own
        self._groups["reward"].step(tuple(gradients[: len(model)]))
        if head:
            self._groups["head"].step(tuple(gradients[len(model) :]))
        return {
            "direct_norm": direct_norm,
            "distribution_norm": implied_norm,
            "distribution_ratio": implied_norm / direct_norm.clamp_min(1e-30),
            "upper_likelihood": objective.detach(),
        }

    def _sampled_pairs(self, number: int, weighted: Weighted) -> Tensor:
        """Draw pairs uniformly, then as many in proportion to their weights if these count at all."""
        chances = Stream(self._seed, "upper/pairs").at(number).random((2, self._config.upper_batch))
        uniform, by_weight = torch.from_numpy(chances).to(self._device)
        count = len(self._training)
        index: Tensor = (uniform * count).long()
        if weighted.mixture:
            ends = weighted.weight.cumsum(0)
            index = torch.cat((index, torch.searchsorted(ends, by_weight * ends[-1]).clamp(max=count - 1)))
        return index

    def _coefficients(self, difference: Tensor, part: Comparisons, weighted: Weighted) -> Tensor:
        """Return m κ (e_i - ē) / B ``(B,)`` of pairs drawn by weight, with e of the networks' mean."""
        advantage = self._excess(difference.detach().mean(0), difference.detach().sigmoid().mean(0), part)
        advantage = advantage - advantage.mean()
        return (weighted.mixture * weighted.kappa / len(advantage)).to(self._dtype) * advantage

    def _surrogate(self, number: int, coefficients: Tensor, part: Comparisons, rewards: Tensor) -> Tensor:
        """Return a number whose gradient is the distribution term, in the modes that differentiate the rewards."""

        def reward(observation: Tensor, action: Tensor) -> Tensor:
            return self._networks.model(observation, action).mean(0) * self.scale + self._shift  # type: ignore[no-any-return]

        if isinstance(self._lower, LowerTD3BC):
            count, size = self._config.unroll_steps, self._config.batch_size
            batches = zip(self._sampled_rows(number, count, size), self._noise(number, count, size), strict=True)
            return implicit.unrolled(self._lower, coefficients, part, reward, list(batches))
        if self._mode == "onestep":
            noise = next(self._noise(number, 1, 2 * len(part) * part.length))
            recorded = rewards.mean(0) * self.scale + self._shift
            return implicit.onestep(self._lower, coefficients, part, reward, recorded, noise)
        rows, noise = next(self._sampled_rows(number, 1, SAMPLED_ROWS)), next(self._noise(number, 1, SAMPLED_ROWS))
        return implicit.last_layer(self._lower, coefficients, part, reward, rows, noise)

    def _penalty(self, number: int) -> Tensor:
        """Return λ_a E[(r_ν - r_ν0)²] + λ_w ‖ν‖², the mean over rows and networks."""
        c, networks = self._config, self._networks
        index = self._row_index("upper/anchor", number, (SAMPLED_ROWS,))
        rows = self._rows.columns(index)
        moved = networks.model(rows.observation.to(self._dtype), rows.action.to(self._dtype))
        squares = torch.stack([own.square().sum() for own in networks.model.parameters()]).sum()
        if networks.head:
            moved = moved + networks.head(self.features[index])
            squares = squares + networks.head.weight.square().sum()
        apart = (moved - self._warm_rewards[:, index]).square().mean()
        return c.anchor_weight * apart + c.parameter_weight * squares  # type: ignore[no-any-return]

    def _row_index(self, name: str, number: int, shape: tuple[int, ...]) -> Tensor:
        uniform = Stream(self._seed, name).at(number).random(shape)
        return torch.from_numpy((uniform * len(self._rows)).astype("int64")).to(self._device)

    def _sampled_rows(self, number: int, count: int, size: int) -> Iterator[Columns]:
        for index in self._row_index("upper/rows", number, (count, size)):
            yield Columns(*(column.to(self._dtype) for column in self._rows.columns(index)))

    def _noise(self, number: int, count: int, size: int) -> Iterator[Tensor]:
        noise = Stream(self._seed, "upper/noise").at(number).standard_normal((count, size, self._lower.action_size))
        return iter(torch.from_numpy(noise).to(self._device, self._dtype))

    def _evaluate_frozen(self) -> None:
        """Evaluate what is frozen, on the dataset and on the pairs."""
        self.warm.requires_grad_(False)
        observation, action = self._columns.observation, self._columns.action
        self._warm_rewards = by_parts(self.warm, observation, action, self._dtype, dim=1)
        if self._networks.head:
            features = Features.of(self.warm, observation, action, self._config.head_size, self._seed)
            self.features = by_parts(features, observation, action, self._dtype)
            shape = self._all.observation.shape[1:3]
            self._pair_features = self._by_pairs(
                lambda part: features(*part.rows()).view(-1, *shape, self._config.head_size)
            )

    @torch.no_grad()
    def _relabel(self) -> None:
        """Write the table of rewards r̂ = s₀ r + b."""
        columns, networks = self._columns, self._networks
        reward = by_parts(networks.model, columns.observation, columns.action, self._dtype, dim=1).mean(0)
        if networks.head:
            reward = reward + networks.head(self.features)
        labels = reward * self.scale + self._shift
        # In place from the second time on: updates that a GPU repeats by itself know where the table lies.
        self.rewards = self.rewards.copy_(labels) if self.fitted else labels

    @torch.no_grad()
    def _by_pairs(self, function: Callable[[Comparisons], Tensor], dim: int = 0) -> Tensor:
        """Return what ``function`` makes of all pairs, some at a time."""
        size = max(1, PART // (2 * self._all.length))
        firsts = range(0, len(self._all), size)
        return torch.cat([function(self._all.part(slice(first, first + size))) for first in firsts], dim)

    def _feature_difference(self, part: Comparisons) -> Tensor:
        """Return Σ (ψ(s, a) - ψ_V(s)) ``(n, F)`` over the steps of both segments."""
        successor, value = self._networks.successor, self._networks.successor_value
        assert successor is not None
        assert value is not None
        observation, action = part.rows()
        apart = successor(torch.cat((observation, action), 1))[0] - value(observation)[0]
        return apart.view(len(part), -1, apart.shape[1]).sum(1)

    def _differences(self) -> tuple[Tensor, Tensor]:
        """Return D ``(N,)`` of all pairs by the networks' mean, and P(second preferred) as their mean ``(N,)``."""
        rewards = self._by_pairs(lambda part: part.per_pair(self._networks.model(*part.rows())), dim=1)
        if self._networks.head:
            with torch.no_grad():
                rewards = rewards + self._networks.head(self._pair_features)
        by_member = differences(rewards, mean=self._preset.mean)
        return by_member.mean(0), by_member.sigmoid().mean(0)

    def _excess(self, difference: Tensor, predicted: Tensor, part: Comparisons | None = None) -> Tensor:
        return excess(difference, part or self._all, predicted, raw=self._config.upper_loss == "ce")

    def _quality(self, difference: Tensor, predicted: Tensor, *pair_weights: Tensor) -> Metrics:
        """Return how well the preferences are explained, and how near the rewards are to the dataset's own."""
        count, label = len(self._training), self._all.label
        loss = -self._excess(difference, predicted)
        parts = {"training": slice(count), "held_out": slice(count, None)}
        metrics = {"reward_correlation": correlation(self.rewards, self._rows), "held_out_loss": loss[count:].mean()}
        for place, (name, part) in enumerate(parts.items()):
            metrics[f"{name}_accuracy"] = accuracy(difference[part], label[part])
            if pair_weights:
                weight = pair_weights[place].to(self._dtype)
                metrics[f"{name}_weighted_accuracy"] = accuracy(difference[part], label[part], weight)
        return metrics

    def _count_rises(self, loss: Tensor) -> None:
        """Count in how many rounds in a row the held-out loss has risen."""
        rises, last = self._numbers["rises"], self._numbers["last_loss"]
        stopped = rises >= self._config.patience
        rises.copy_(torch.where(stopped | (loss > last), rises + 1, 0))
        last.copy_(loss)

    def _number(self, value: float) -> Tensor:
        return torch.tensor(float(value), device=self._device, dtype=torch.float64)

    def state(self) -> dict[str, Tensor]:
        """Return what continuing exactly needs beside the optimisers; tables are recomputed from it."""
        weights = {f"warm.{name}": own.detach() for name, own in self.warm.named_parameters()}
        return {f"upper.{name}": value for name, value in {**weights, **self._numbers}.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state` returned, after the optimisers were."""
        for name, value in self.state().items():
            value.copy_(state[name])
        if self._numbers["fitted"]:
            self._evaluate_frozen()
            self._relabel()


def _norm(parts: Sequence[Tensor]) -> Tensor:
    """Return the length of some tensors put into one vector."""
    length: Tensor = torch.cat([part.reshape(-1) for part in parts]).norm()
    return length
