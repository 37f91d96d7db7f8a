r"""PARL without interaction, on tables: weighted pairs of recorded segments, and no Hessian.

The paper (see ``algos/tabular/parl.py``) compares fresh trajectories of the policy. Offline there are none. **All that
is here is our extension of it**; what survives is the idea that the comparisons which count are the learned policy's.

*Lower level* (derived; the known form of KL-regularised control). For max_π E[Σ_t γ^t (r_ν - τ KL(π‖μ))] with the
reference policy μ, the behaviour's, and r_ν = ν·f,

    V(s) = τ log Σ_a μ e^{Q/τ},    π*(a|s) = μ(a|s) e^{(Q - V)/τ},    ∇_ν log π* = (ψ - ψ_V) / τ,

ψ(s, a) being the expected discounted sum of f under π* after (s, a), its *successor features*, and ψ_V their mean over
π*. So a segment σ is e^{u(σ)} times as likely under π* as under μ, with u = Σ_h (Q - V)/τ: μ need not be known.

*Upper level*. N pairs of segments of one length, y_i the probability that the second is preferred:

    G(ν) = (1 - m) Σ_i e_i / N + m Σ_i ω_i e_i - λ_ν ‖ν‖²,    ω = softmax(κ z),  z_i = u(σ0_i) + u(σ1_i),
    e_i = y_i log σ(D_i) + (1 - y_i) log σ(-D_i) + H(y_i),    D_i = R_ν(σ1_i) - R_ν(σ0_i), undiscounted.

κ tempers the weights, of which at κ = 1 a single pair would have nearly all. It is a constant in the gradient:

    Σ_i ((1 - m)/N + m ω_i) (y_i - σ(D_i)) ∇D_i + m κ Σ_i ω_i (e_i - ē) ∇z_i - 2 λ_ν ν,    ē = Σ_i ω_i e_i.

Segments keep the states that they were recorded from: the weights correct actions inside a segment, not its start.

What it does not do: G rises with weight on comparisons that are labelled as the reward says, wherever they are. If some
labels are wrong, its maximum may lie among few of them in a poor region, and the full gradient finds it where the
weights alone (``mode="reweight"``) do not; H(y) of a drawn label, 0, does not tell a wrong one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, one_hot

from offline_rl.agent import ParameterGroup
from offline_rl.draws import Stream
from offline_rl.envs.finite import Episodes, FiniteProblem
from offline_rl.errors import OfflineRLError

Mode = Literal["none", "reweight", "onestep", "sf"]
"""What ν's steps know of the policy: nothing (all pairs count alike); the weights of the pairs, held fixed; also how
the weights change, if a reward had no effect but on its own step; also that, with all effects (successor features)."""


@dataclass(frozen=True)
class Config:
    """Settings of both levels."""

    discount: float = 0.9
    """γ of the lower level."""
    temperature: float = 0.3
    """τ, weight of the divergence from the behaviour."""
    mixture: float = 1.0
    """m, share of the weighted pairs in the upper level; the rest counts all pairs alike."""
    reward_decay: float = 1e-3
    """λ_ν, weight of -‖ν‖²."""
    excess: bool = True
    """Add the labels' entropy H(y) to the log-likelihood; without, the policy gains by visiting easy comparisons."""
    learning_rate: float = 0.05
    """Adam's."""
    steps: int = 400
    """Steps of ν, each with the policy that is best for it."""


@dataclass(frozen=True, eq=False)
class Solution:
    """The policy that is best for a reward; P is S × A.

    Attributes:
        control: Whose.
        q: ``(..., S, A)``, soft values.
        v: ``(..., S)``.
    """

    control: "Control"
    q: Tensor
    v: Tensor

    @cached_property
    def log_ratio(self) -> Tensor:
        """The logarithm of π*/μ, = (Q - V)/τ ``(..., S, A)``."""
        return (self.q - self.v[..., None]) / self.control.temperature

    @cached_property
    def policy(self) -> Tensor:
        """π* ``(..., S, A)``."""
        return self.control.reference * self.log_ratio.exp()

    @cached_property
    def successor_features(self) -> tuple[Tensor, Tensor]:
        """ψ ``(..., S, A, D)`` and ψ_V ``(..., S, D)``; ψ is also ∇_ν Q."""
        mean = self.control.expected_sum(self.policy, self.control.features)
        onward = torch.einsum("sat,...td->...sad", self.control.transition, mean)
        return self.control.features + self.control.discount * onward, mean

    def log_policy_gradient(self, one_step: bool = False) -> Tensor:
        """Return ∇_ν log π* ``(..., S, A, D)``.

        Args:
            one_step: As if f were ψ: what becomes of the reward's effect on later steps is ignored.
        """
        feature, mean = self.successor_features
        if one_step:
            feature = self.control.features
            mean = (self.policy[..., None] * feature).sum(-2)
        return (feature - mean[..., None, :]) / self.control.temperature


class Control:
    """The lower level: control of a known finite problem, regularised towards the behaviour; all in float64.

    Args:
        transition: ``(S, A, S)``.
        reference: μ, ``(S, A)``.
        features: f of the reward r_ν = ν·f, ``(S, A, D)``.
        config: γ and τ.
    """

    def __init__(self, transition: Tensor, reference: Tensor, features: Tensor, config: Config | None = None) -> None:
        config = config or Config()
        self.transition, self.reference, self.features = transition, reference, features
        self.discount, self.temperature = config.discount, config.temperature

    @classmethod
    def of(cls, problem: FiniteProblem, features: Tensor, config: Config | None = None) -> "Control":
        """Return the control of a problem that never ends, its behaviour being the reference."""
        transition = torch.zeros(problem.state_count, problem.action_count, problem.state_count, dtype=torch.float64)
        transition.scatter_add_(2, torch.from_numpy(problem.next_state), torch.from_numpy(problem.probability))
        return cls(transition, torch.from_numpy(problem.behavior), features, config)

    def solve(self, nu: Tensor, v: Tensor | None = None) -> Solution:
        """Return the best policy for ν ``(..., D)``.

        The soft Bellman equation is solved by Newton's method, that is, by evaluating the policy that is best for the
        last values: a handful of steps where value iteration takes hundreds.

        Args:
            nu: ν.
            v: ``(..., S)``, values to begin with; None for 0.

        Raises:
            OfflineRLError: If 100 steps do not suffice.
        """
        reward = (self.features @ nu[..., None, :, None]).squeeze(-1)
        v = torch.zeros(reward.shape[:-1], dtype=nu.dtype) if v is None else v
        for _ in range(100):
            q = reward + self.discount * torch.einsum("sat,...t->...sa", self.transition, v)
            soft = self.temperature * (self.reference.log() + q / self.temperature).logsumexp(-1)
            if (soft - v).abs().max() <= 1e-13 * max(1.0, float(v.abs().max())):
                return Solution(self, q, soft)
            paid = reward - q + soft[..., None]  # r - τ log π/μ
            policy = self.reference * ((q - soft[..., None]) / self.temperature).exp()
            v = self.expected_sum(policy, paid[..., None]).squeeze(-1)
        raise OfflineRLError("The soft values were not found in 100 steps; raise the temperature or lower the reward.")

    def expected_sum(self, policy: Tensor, paid: Tensor) -> Tensor:
        """Return E[Σ_t γ^t paid] ``(..., S, X)`` from each state, for what ``(..., S, A, X)`` each step pays."""
        moves = torch.einsum("...sa,sat->...st", policy, self.transition)
        identity = torch.eye(moves.shape[-1], dtype=moves.dtype)
        total: Tensor = torch.linalg.solve(identity - self.discount * moves, (policy[..., None] * paid).sum(-2))
        return total


@dataclass(frozen=True, eq=False)
class Pairs:
    """N pairs of segments, as far as tables can tell them apart.

    Attributes:
        visits: ``(..., N, 2, P)``, how often each segment has each pair of state and action.
        label: ``(..., N)``, the probability that the second is preferred.
    """

    visits: Tensor
    label: Tensor

    @classmethod
    def of(cls, problem: FiniteProblem, episodes: Episodes, label: NDArray[np.float64]) -> "Pairs":
        """Return the first half of the episodes, each beside one of the second half; all of one length."""
        pair = torch.from_numpy(episodes.state * problem.action_count + episodes.action)
        visits = one_hot(pair, problem.state_count * problem.action_count).double().sum(1)
        return cls(visits.view(2, -1, visits.shape[-1]).movedim(0, 1), torch.from_numpy(label))

    @classmethod
    def stacked(cls, pairs: Sequence["Pairs"]) -> "Pairs":
        """Return several sets of one size as one with a leading dimension."""
        return cls(torch.stack([each.visits for each in pairs]), torch.stack([each.label for each in pairs]))


def collect(problem: FiniteProblem, pairs: int, seed: int, mistakes: float = 0.0) -> Pairs:
    """Return pairs of episodes of the data's policy, labelled by their true returns; ½ for equal ones.

    Args:
        problem: Whose.
        pairs: N.
        seed: Decides all draws.
        mistakes: Probability that a label is the wrong way round.
    """
    episodes = problem.collect(2 * pairs, seed)
    first, second = episodes.returns.round(9).reshape(2, pairs)
    wrong = Stream(seed, "parl/mistakes").at(0).random(pairs) < mistakes
    label = np.where(first == second, 0.5, (first < second) != wrong)
    return Pairs.of(problem, episodes, label.astype(np.float64))


class Alignment:
    """Both levels, for pairs of recorded segments; ν is ``(..., D)`` for pairs with the same leading dimensions.

    Args:
        control: The lower level.
        pairs: The data of the upper one.
        config: The settings.
    """

    def __init__(self, control: Control, pairs: Pairs, config: Config | None = None) -> None:
        self.control, self.pairs, self.config = control, pairs, config or Config()
        features = control.features.flatten(0, 1)
        self._both = pairs.visits.sum(-2)  # (..., N, P)
        self._margin = (pairs.visits[..., 1, :] - pairs.visits[..., 0, :]) @ features  # ∇D, (..., N, D)
        y = pairs.label
        self._entropy = -torch.xlogy(y, y) - torch.xlogy(1 - y, 1 - y)

    def log_ratios(self, solution: Solution) -> Tensor:
        """Return z ``(..., N)``, how much likelier each pair is under π* than in the data, in nats."""
        return (self._both @ solution.log_ratio.flatten(-2)[..., None]).squeeze(-1)

    def temper(self, z: Tensor, least_share: float) -> Tensor:
        """Return the largest κ ``(...)`` in [0, 1] with an effective sample of at least this share of the pairs."""
        low = torch.zeros(z.shape[:-1], dtype=z.dtype)
        high = torch.ones_like(low)
        enough = effective_share(weights(z, high)) >= least_share
        for _ in range(30):
            middle = (low + high) / 2
            fine = effective_share(weights(z, middle)) >= least_share
            low, high = torch.where(fine, middle, low), torch.where(fine, high, middle)
        return torch.where(enough, 1.0, low)

    def loss(self, nu: Tensor) -> Tensor:
        """Return e ``(..., N)``, the log-likelihood of each label, in excess of the best there is."""
        difference = self._differences(nu)
        likelihood = self.pairs.label * logsigmoid(difference) + (1 - self.pairs.label) * logsigmoid(-difference)
        return likelihood + self._entropy if self.config.excess else likelihood

    def objective(self, nu: Tensor, kappa: Tensor | float) -> Tensor:
        """Return G(ν) ``(...)`` with the policy that is best for ν."""
        weight = self._mixed(weights(self.log_ratios(self.control.solve(nu)), kappa))
        return (weight * self.loss(nu)).sum(-1) - self.config.reward_decay * nu.square().sum(-1)

    def gradient(
        self, nu: Tensor, kappa: Tensor | float, mode: Mode = "sf", solution: Solution | None = None
    ) -> Tensor:
        """Return ∇G ``(..., D)``, exactly or as far as a mode goes.

        Args:
            nu: ν.
            kappa: κ ``(...)``.
            mode: What is known of the policy.
            solution: The policy for ν, if known.
        """
        solution = solution or self.control.solve(nu)
        kappa = torch.as_tensor(kappa, dtype=nu.dtype)
        omega = weights(self.log_ratios(solution), kappa)
        even = torch.full_like(omega, 1 / omega.shape[-1])
        surprise = self.pairs.label - self._differences(nu).sigmoid()
        weight = (even if mode == "none" else self._mixed(omega)) * surprise
        gradient = (weight[..., None, :] @ self._margin).squeeze(-2) - 2 * self.config.reward_decay * nu
        if mode in ("none", "reweight"):
            return gradient
        loss = self.loss(nu)
        pull = omega * (loss - (omega * loss).sum(-1, keepdim=True))
        visits = (pull[..., None, :] @ self._both).squeeze(-2)
        known = solution.log_policy_gradient(one_step=mode == "onestep").flatten(-3, -2)
        return gradient + self.config.mixture * kappa[..., None] * (visits[..., None, :] @ known).squeeze(-2)

    def ascend(
        self, nu: Tensor, mode: Mode, kappa: float | None = None, least_share: float = 0.25
    ) -> tuple[Tensor, Solution]:
        """Return ν and its policy after ``config.steps`` steps of Adam.

        Args:
            nu: Where to begin.
            mode: What the steps know of the policy.
            kappa: κ; None for the largest that keeps the effective sample, found again before each step.
            least_share: Of the pairs, that the effective sample may not fall below.
        """
        table = nn.ParameterList([nu.clone()])
        group = ParameterGroup(table, self.config.learning_rate)
        solution = self.control.solve(nu)
        for _ in range(self.config.steps):
            fixed = self.temper(self.log_ratios(solution), least_share) if kappa is None else kappa
            group.step((-self.gradient(table[0].detach(), fixed, mode, solution),))
            solution = self.control.solve(table[0].detach(), solution.v)
        return table[0].detach().clone(), solution

    def _differences(self, nu: Tensor) -> Tensor:
        """Return D ``(..., N)``."""
        return (self._margin @ nu[..., None]).squeeze(-1)

    def _mixed(self, omega: Tensor) -> Tensor:
        return (1 - self.config.mixture) / omega.shape[-1] + self.config.mixture * omega


def weights(z: Tensor, kappa: Tensor | float) -> Tensor:
    """Return ω = softmax(κ z) ``(..., N)`` of κ ``(...)``."""
    return (torch.as_tensor(kappa, dtype=z.dtype)[..., None] * z).softmax(-1)


def effective_share(omega: Tensor) -> Tensor:
    """Return 1 / (N Σ ω²) ``(...)``: the effective sample as a share of all N, 1 for even weights."""
    return 1 / (omega.shape[-1] * omega.square().sum(-1))
