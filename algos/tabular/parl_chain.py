r"""A-PARL on a chain: fresh trajectories of an entropy-regularised policy, its exact hypergradient, and a trap.

The two levels are those of ``algos/tabular/parl.py``, with another regulariser. The *lower level* is what soft
actor-critic solves, so that the policy has a closed form and its Hessian needs no trajectories [D]:

    π*_ν = argmax_π E[Σ_t γ^t (r_ν - η log π)],    π* = e^{(Q - V)/η},    ∇_ν log π* = (ψ - ψ_V)/η,

with the successor features ψ of r_ν = ν·f. The *upper level* compares pairs of trajectories of L steps of that policy:

    G(ν) = E_{τ0, τ1 ~ π*_ν}[e(τ0, τ1)] - λ_ν ‖ν‖²,    e = y log σ(D) + (1 - y) log σ(-D) + H(y),
    ∇G = E[∇_ν e] - 2 λ_ν ν  (direct)  +  E[e (∇_ν log π*(τ0) + ∇_ν log π*(τ1))]  (distribution).

**The trap** (`chain`): four places in a row; right pays at both ends and costs in the middle, left the opposite. The
reward model knows one number, how much to like going right, so no ν is right everywhere. The usual alternation fits ν
to the comparisons of the present policy and then the policy to ν. Its only resting point is where a policy that mostly
strolls makes as many steps where right pays as where it costs: the direct term is positive left of it and negative
right of it. The comparisons there contradict each other, so G is low. The full gradient sees that a policy that goes to
the right end is compared there alone, where liking right explains everything, and moves on. ``tests/properties/
test_parl_chain.py`` checks both statements over the whole line, by exact numbers.

The chain is constructed, and ours [X]. It shows that the two methods differ and why; it shows nothing about tasks in
which the reward model is well specified, and there are problems in which the full gradient climbs to a worse policy.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from offline_rl.algos.parl_online.hypergradient import adjoint, along, centred, trajectory_surrogate
from offline_rl.algos.tabular.parl_offline import Config as ControlConfig
from offline_rl.algos.tabular.parl_offline import Control

Mode = Literal["none", "onestep", "cg", "exact"]
"""What ν's steps know of the policy: nothing, the usual alternation; rewards as far as their own step; conjugate
gradients along trajectories; everything."""

RIGHT_PAYS = 1.0, -0.5, -0.5, 1.0
"""What a step to the right pays at each place; a step to the left pays the negative."""


@dataclass(frozen=True)
class Config:
    """Settings of the two levels."""

    discount: float = 0.9
    """γ of the lower level."""
    temperature: float = 0.5
    """η, weight of the policy's entropy."""
    length: int = 5
    """L, steps of a compared trajectory; 2 to this power of them are enumerated."""
    rationality: float = 1.0
    """β of the teacher, who prefers τ1 with probability σ(β (R*(τ1) - R*(τ0)))."""
    reward_decay: float = 5e-3
    """λ_ν, weight of -‖ν‖²."""


@dataclass(frozen=True)
class Chain:
    """S places in a row with two actions, left and right; the ends hold.

    Attributes:
        pays: ``(S, 2)``, true rewards, which only the teacher sees.
        features: ``(S, 2, D)``, f of the reward model.
    """

    pays: Tensor
    features: Tensor

    @property
    def next_state(self) -> Tensor:
        """The place ``(S, 2)`` that each action leads to."""
        place = torch.arange(len(self.pays))
        return torch.stack((place - 1, place + 1), 1).clamp(0, len(self.pays) - 1)


def chain(right_pays: tuple[float, ...] = RIGHT_PAYS) -> Chain:
    """Return the chain on which the alternation is trapped; the reward model's only feature is the direction."""
    direction = torch.tensor([-1.0, 1.0], dtype=torch.float64).expand(len(right_pays), 2)
    return Chain(torch.tensor(right_pays, dtype=torch.float64)[:, None] * direction, direction[..., None])


class ChainAlignment:
    """Both levels of a chain, over all its 2^L trajectories; ν is ``(D,)``, or ``(..., D)`` where that is said.

    Args:
        problem: What is to be solved; trajectories begin at place 0.
        config: The settings.
    """

    def __init__(self, problem: Chain, config: Config | None = None) -> None:
        self.problem, self.config = problem, config or Config()
        states, actions = problem.pays.shape
        transition = one_hot(problem.next_state, states).double()
        even = torch.full((states, actions), 1 / actions, dtype=torch.float64)
        c = self.config
        self.control = Control(transition, even, problem.features, ControlConfig(c.discount, c.temperature))
        self.state, self.action = _trajectories(problem.next_state, c.length)
        self._visits = one_hot(self.state * actions + self.action, states * actions).double()  # (N, L, P)
        self._counts = self._visits.sum(1)
        margin = c.rationality * _differences(self._counts @ problem.pays.flatten())
        self.label = margin.sigmoid()  # y, (N, N)
        self._entropy = -(self.label * logsigmoid(margin) + (1 - self.label) * logsigmoid(-margin))

    def log_policy(self, nu: Tensor) -> Tensor:
        """Return log π*_ν ``(..., S, 2)``."""
        return self.control.reference.log() + self.control.solve(nu).log_ratio

    def log_probability(self, log_policy: Tensor) -> Tensor:
        """Return the logarithms ``(..., N)`` of trajectories' probabilities."""
        return log_policy.flatten(-2) @ self._counts.T

    def differences(self, nu: Tensor) -> Tensor:
        """Return D ``(..., N, N)`` of each pair (first, second)."""
        return _differences((self._counts @ self.control.features.flatten(0, 1) @ nu[..., None]).squeeze(-1))

    def excess(self, nu: Tensor) -> Tensor:
        """Return e ``(..., N, N)``, at most 0."""
        d = self.differences(nu)
        return self.label * logsigmoid(d) + (1 - self.label) * logsigmoid(-d) + self._entropy

    def objective(self, nu: Tensor) -> Tensor:
        """Return G(ν) ``(...)`` in nats, with the policy that is best for ν."""
        p = self.log_probability(self.log_policy(nu)).exp()
        expected = torch.einsum("...i,...ij,...j->...", p, self.excess(nu), p)
        return expected - self.config.reward_decay * nu.square().sum(-1)

    def true_return(self, nu: Tensor) -> Tensor:
        """Return the true return ``(...)`` of L steps of the policy that is best for ν."""
        return self.log_probability(self.log_policy(nu)).exp() @ (self._counts @ self.problem.pays.flatten())

    def direct(self, nu: Tensor) -> Tensor:
        """Return the direct term ``(..., D)``: what is left if the trajectories are held fixed."""
        p = self.log_probability(self.log_policy(nu)).exp()
        surprise = p[..., :, None] * (self.label - self.differences(nu).sigmoid()) * p[..., None, :]
        returns = (surprise.sum(-2) - surprise.sum(-1)) @ self._counts @ self.control.features.flatten(0, 1)
        return returns - 2 * self.config.reward_decay * nu

    def gradient(self, nu: Tensor, mode: Mode = "exact", horizon: int = 400) -> Tensor:
        """Return ∇G ``(..., D)``, exactly or as far as a mode goes, with exact expectations.

        Args:
            nu: ν; one alone, ``(D,)``, in mode cg.
            mode: What is known of the policy.
            horizon: Mode cg: steps after which rewards are not followed.
        """
        if mode == "none":
            return self.direct(nu)
        if mode == "cg":
            return self.direct(nu) + self._by_hessian(nu, horizon)
        solution = self.control.solve(nu)
        known = solution.log_policy_gradient(one_step=mode == "onestep").flatten(-3, -2)
        visits = self._pull(nu) @ self._counts
        return self.direct(nu) + (visits[..., None, :] @ known).squeeze(-2)

    def estimate(self, nu: Tensor, mode: Mode, uniform: Tensor) -> Tensor:
        """Return an estimate ``(D,)`` of ∇G from B drawn pairs, whose labels the teacher draws, too.

        It is made as the networks' is (`algos/parl_online`): the score function with the leave-one-out baseline, and
        for "cg" conjugate gradients with what the segments themselves show.

        Args:
            nu: ν.
            mode: What is known of the policy; "exact" takes the closed form of the policy's gradient.
            uniform: ``(3, B)`` from U[0, 1): they draw first and second trajectories, and labels.
        """
        log_policy = self.log_policy(nu)
        bounds = self.log_probability(log_policy).exp().cumsum(-1)
        drawn = torch.searchsorted(bounds, uniform[:2].contiguous(), right=True).clamp_max(len(bounds) - 1)
        first, second = drawn
        p, d = self.label[first, second], self.differences(nu)[first, second]
        label = (uniform[2] < p).double()
        margin = (self._counts[second] - self._counts[first]) @ self.control.features.flatten(0, 1)
        direct = ((label - d.sigmoid())[:, None] * margin).mean(0) - 2 * self.config.reward_decay * nu
        if mode == "none":
            return direct
        likelihood = label * logsigmoid(d) + (1 - label) * logsigmoid(-d)
        pull = centred(likelihood + self._entropy[first, second]) / len(first)
        if mode == "cg":
            return direct + self._by_segments(nu, log_policy, drawn, pull)
        known = self.control.solve(nu).log_policy_gradient(one_step=mode == "onestep").flatten(0, 1)
        return direct + (pull @ (self._counts[first] + self._counts[second])) @ known

    def ascend(
        self, nu: Tensor, mode: Mode, *, steps: int = 300, rate: float = 0.2, uniform: Tensor | None = None
    ) -> Tensor:
        """Return ν after steps of gradient ascent, each with the policy that is best for it.

        Args:
            nu: Where to begin, ``(D,)``; ``(..., D)`` with exact expectations, but for mode cg.
            mode: What the steps know of the policy; "none" is the usual alternation.
            steps: How many.
            rate: Of each.
            uniform: ``(steps, 3, B)`` from U[0, 1) for gradients from samples; None for exact expectations.
        """
        for step in range(steps):
            nu = nu + rate * (self.gradient(nu, mode) if uniform is None else self.estimate(nu, mode, uniform[step]))
        return nu

    def _pull(self, nu: Tensor) -> Tensor:
        """Return 2 ρ(τ) E_{τ'}[e(τ, τ')] ``(..., N)``: e is symmetric, so both of a pair have the same mean."""
        p = self.log_probability(self.log_policy(nu)).exp()
        mean: Tensor = 2 * p * (self.excess(nu) @ p[..., None]).squeeze(-1)
        return mean

    def _by_hessian(self, nu: Tensor, horizon: int) -> Tensor:
        """Return (∇²_θν V)ᵀ (η F)⁻¹ q ``(D,)``, θ being the policy's logits and V the sum over ``horizon`` steps."""
        log_policy = self.log_policy(nu)
        states, actions = log_policy.shape
        policy, identity = log_policy.exp(), torch.eye(states, dtype=nu.dtype)
        score = (self._pull(nu) @ self._counts).view(states, actions)
        q = score - score.sum(1, keepdim=True) * policy
        # Both F and the cross-derivative are sums over steps; F(s) = diag(π) - π πᵀ, V's policy gradient is d π A.
        visits, reach = torch.zeros_like(policy[:, 0]), identity[0]
        moves = torch.einsum("sa,sat->st", policy, self.control.transition)
        gain = torch.zeros(states, nu.shape[-1], dtype=nu.dtype)
        cross = torch.zeros(states, actions, nu.shape[-1], dtype=nu.dtype)
        gains = []
        for _ in range(horizon):  # gains[k]: the discounted sum of f over k + 1 steps, by state and action
            every = self.control.features + self.control.discount * self.control.transition @ gain
            gain = (policy[..., None] * every).sum(1)
            gains.append(every - gain[:, None])
        for left in reversed(gains):
            visits = visits + reach
            cross = cross + (reach[:, None] * policy)[..., None] * left
            reach = self.control.discount * reach @ moves
        block = torch.diag_embed(policy) - policy[:, :, None] * policy[:, None, :]
        curvature = self.control.temperature * visits[:, None, None] * block
        v = torch.linalg.pinv(curvature, rtol=1e-9, hermitian=True) @ q[..., None]
        whole: Tensor = (v * cross).sum((0, 1))
        return whole

    def _by_segments(self, nu: Tensor, log_policy: Tensor, drawn: Tensor, pull: Tensor) -> Tensor:
        """Return the distribution term ``(D,)`` from segments alone; the policy's parameters are its logits."""
        theta = log_policy.detach().clone().requires_grad_()
        state, action = self.state[drawn], self.action[drawn]  # (2, B, L)
        log_pi = theta.log_softmax(-1)
        taken = log_pi[state, action]
        weight = self.config.discount ** torch.arange(self.config.length, dtype=nu.dtype)
        kl = (log_policy.exp() * (log_policy - log_pi)).sum(-1)[state]
        divergence = (weight * kl).sum(-1).mean()
        score = (pull * taken.sum(-1)).sum()
        v = adjoint(score, divergence, [theta], self.control.temperature, 1e-3, theta.numel())
        slope = along(taken, [theta], v)
        knob = nu.detach().clone().requires_grad_()
        reward = self.control.features[state, action] @ knob
        surrogate = trajectory_surrogate(reward.flatten(0, 1), slope.flatten(0, 1), self.config.discount)
        return torch.autograd.grad(surrogate, knob)[0]


def _trajectories(next_state: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return states and actions ``(2^L, L)`` of all trajectories from place 0."""
    action = torch.cartesian_prod(*[torch.arange(next_state.shape[1])] * length).view(-1, length)
    state = torch.zeros_like(action)
    for step in range(1, length):
        state[:, step] = next_state[state[:, step - 1], action[:, step - 1]]
    return state, action


def _differences(returns: Tensor) -> Tensor:
    """Return what the second has more than the first ``(..., N, N)``."""
    return returns[..., None, :] - returns[..., :, None]
