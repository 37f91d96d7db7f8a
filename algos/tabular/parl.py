r"""PARL on tables: the exact gradient of the alignment, from all trajectories of a small problem.

Paper: Souradip Chakraborty, Amrit Singh Bedi, Alec Koppel, Huazheng Wang, Dinesh Manocha, Mengdi Wang, Furong Huang.
PARL: A Unified Framework for Policy Alignment in Reinforcement Learning from Human Feedback. ICLR 2024, arXiv
2308.02585. No code of the authors is known.

A reward r_ν is learned from comparisons of trajectories, and a policy π_θ from the reward. The trajectories that are
compared are the policy's, so the comparisons that ν is judged by depend on ν. The *lower level* is the policy,

    θ*(ν) = argmax_θ V(ν, θ),    V(ν, θ) = E_τ[Σ_h γ^h r_ν(s_h, a_h)] - λ/2 ‖θ‖²,

the *upper level* the reward: two trajectories of that policy, compared by a teacher,

    max_ν G(ν, θ*(ν)),    G(ν, θ) = E_{τ0, τ1}[y log σ(D) + (1 - y) log σ(-D) + H(y)] - λ_ν ‖ν‖²,

y being the probability that the teacher prefers τ1 and D = R_ν(τ1) - R_ν(τ0), undiscounted. With S(τ) = ∇_θ log ρ(τ; θ)
and ℓ what stands in the brackets, the gradient of G(ν, θ*(ν)) is

    E[∇_ν ℓ] - 2 λ_ν ν                  (direct: what is left if the trajectories are held fixed)
    + (∇²_θν V)ᵀ (-∇²_θθ V)⁻¹ q,        q = E[ℓ (S(τ0) + S(τ1))]  (how the trajectories follow ν).

What is the paper's: the two levels, the parts of the gradient, K inner steps to each outer one (from its abstract and
from summaries; its body was not available, so no display of it could be compared). Derived here, and checked against
finite differences: all closed forms below. Ours: the term -λ/2 ‖θ‖², without which a softmax policy has a singular
Hessian and no optimum; H(y), without which the policy gains by visiting what is easy to predict instead of what pays
(``excess=False`` shows it); the teacher's probability in place of a drawn label.

Mistakes that the tests name: to leave out the whole last line, and to leave out the outer product in ∇²_θθ V. The
printed estimator is recalled to leave out the latter, which could not be verified.

One problem or a stack of them: all shapes may have leading dimensions, written ``...``. An example:

    >>> problem = random_problem(seed=0)
    >>> alignment = Alignment(problem)
    >>> nu = torch.full((4,), 0.5, dtype=torch.float64)
    >>> theta = alignment.solve_inner(nu)
    >>> better = nu + 0.1 * alignment.hypergradient_exact(nu, theta)
    >>> bool(alignment.objective(better, alignment.solve_inner(better)) > alignment.objective(nu, theta))
    True
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from offline_rl.draws import Stream
from offline_rl.errors import OfflineRLError


@dataclass(frozen=True)
class Config:
    """Settings of the two levels."""

    horizon: int = 3
    """Steps of a trajectory; (states × actions) to this power of them are enumerated."""
    discount: float = 0.9
    """γ of the lower level; the upper level does not discount."""
    decay: float = 0.3
    """λ, weight of -‖θ‖²/2 in the lower level, above 0."""
    reward_decay: float = 0.025
    """λ_ν, weight of -‖ν‖² in the upper level."""
    rationality: float = 2.0
    """β of the teacher, who prefers τ1 with probability σ(β (R*(τ1) - R*(τ0)))."""
    excess: bool = True
    """Add the teacher's entropy H(y) to the log-likelihood, so that no comparison can earn more than 0."""
    bounded: bool = True
    """Whether r_ν is tanh(φ·ν) or φ·ν."""


@dataclass(frozen=True)
class Problem:
    """A finite decision problem, all in float64.

    Attributes:
        start: ``(..., S)``, probability of each first state.
        transition: ``(..., S, A, S)``, of each next state.
        true_reward: ``(..., S, A)``, which only the teacher sees.
        features: ``(..., S, A, D)``, φ of the reward model.
    """

    start: Tensor
    transition: Tensor
    true_reward: Tensor
    features: Tensor


def random_problem(seed: int, features: int = 4) -> Problem:
    """Return a problem of 3 states and 2 actions, with rewards and features of N(0, 1).

    Args:
        seed: Decides the transitions, in proportion to the squares of U[0, 1), the rewards and the features.
        features: D; fewer than 6 make a reward model that cannot say everything.
    """
    luck = Stream(seed, "parl/problem").at(0)
    transition = torch.from_numpy(luck.random((3, 2, 3)) ** 2)
    true_reward = torch.from_numpy(luck.standard_normal((3, 2)))
    table = torch.from_numpy(luck.standard_normal((3, 2, features)))
    start = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return Problem(start, transition / transition.sum(-1, keepdim=True), true_reward, table)


def stacked(problems: Sequence[Problem]) -> Problem:
    """Return several problems of one size as one with a leading dimension."""
    columns = zip(*(vars(problem).values() for problem in problems), strict=True)
    return Problem(*(torch.stack(column) for column in columns))


class Alignment:
    """Both levels of a problem, over all its N trajectories; P is S × A, the number of pairs of state and action.

    In all methods ``nu`` is ``(..., D)``, the reward's parameters, and ``theta`` ``(..., S, A)``, the policy's logits.

    Args:
        problem: What is to be solved.
        config: The settings.
    """

    def __init__(self, problem: Problem, config: Config | None = None) -> None:
        self.problem, self.config = problem, config or Config()
        states, actions, features = problem.features.shape[-3:]
        horizon = self.config.horizon
        pair = torch.cartesian_prod(*[torch.arange(states * actions)] * horizon).view(-1, horizon)
        self._visits = one_hot(pair, states * actions).double()  # (N, H, P)
        self._states = self._visits.view(-1, horizon, states, actions).sum(-1)  # (N, H, S)
        self._counts = self._visits.sum(1)
        self._discount = self.config.discount ** torch.arange(horizon, dtype=torch.float64)
        self._discounted = (self._visits * self._discount[:, None]).sum(1)
        self._features = problem.features.reshape(*problem.features.shape[:-3], states * actions, features)
        state, moves = pair // actions, problem.transition.flatten(-3, -2)
        self._luck = problem.start[..., state[:, 0]] * moves[..., pair[:, :-1], state[:, 1:]].prod(-1)
        returns = problem.true_reward.flatten(-2) @ self._counts.T
        margin = self.config.rationality * _differences(returns)
        self.label = margin.sigmoid()  # y, (..., N, N)
        self._entropy = -(self.label * logsigmoid(margin) + (1 - self.label) * logsigmoid(-margin))

    # What a policy and a reward are

    def probability(self, theta: Tensor) -> Tensor:
        """Return ρ(τ; θ) ``(..., N)``."""
        return self._luck * (theta.log_softmax(-1).flatten(-2) @ self._counts.T).exp()

    def reward(self, nu: Tensor) -> Tensor:
        """Return r_ν ``(..., P)``."""
        linear = (self._features @ nu[..., None]).squeeze(-1)
        return linear.tanh() if self.config.bounded else linear

    def reward_gradient(self, nu: Tensor) -> Tensor:
        """Return ∇_ν r_ν ``(..., P, D)``."""
        return self._features * (1 - self.reward(nu)[..., None] ** 2) if self.config.bounded else self._features

    def scores(self, theta: Tensor) -> Tensor:
        """Return S_h = ∇_θ Σ_{j ≤ h} log π(a_j | s_j) ``(..., N, H, P)``."""
        expected = self._states[..., None] * theta.softmax(-1)[..., None, None, :, :]
        scores: Tensor = (self._visits - expected.flatten(-2)).cumsum(-2)
        return scores

    def true_return(self, theta: Tensor) -> Tensor:
        """Return the undiscounted true return ``(...)``, in the teacher's units."""
        return (self.probability(theta) * (self.problem.true_reward.flatten(-2) @ self._counts.T)).sum(-1)

    # The two levels

    def value(self, nu: Tensor, theta: Tensor) -> Tensor:
        """Return V(ν, θ) ``(...)``, the decay included."""
        expected = (self.probability(theta) * (self.reward(nu) @ self._discounted.T)).sum(-1)
        return expected - self.config.decay / 2 * theta.square().sum((-2, -1))

    def loss(self, nu: Tensor) -> Tensor:
        """Return ℓ_ν ``(..., N, N)`` of each pair (first, second): a log-likelihood, better when higher."""
        preferred = self.label * logsigmoid(self._differences_of_returns(nu))
        likelihood = preferred + preferred.mT  # the other way round, D is -D and y is 1 - y
        return likelihood + self._entropy if self.config.excess else likelihood

    def objective(self, nu: Tensor, theta: Tensor) -> Tensor:
        """Return G(ν, θ) ``(...)`` in nats."""
        probability = self.probability(theta)
        expected = (probability * (self.loss(nu) @ probability[..., None]).squeeze(-1)).sum(-1)
        return expected - self.config.reward_decay * nu.square().sum(-1)

    # Gradients of the lower level (derived)

    def value_gradient(self, nu: Tensor, theta: Tensor) -> Tensor:
        """Return ∇_θ V ``(..., S, A)``, of which autograd may take further gradients."""
        weighted = (self.probability(theta) * (self.reward(nu) @ self._discounted.T)) @ self._counts
        weighted = weighted.reshape(theta.shape)
        gradient: Tensor = weighted - weighted.sum(-1, keepdim=True) * theta.softmax(-1) - self.config.decay * theta
        return gradient

    def outer_product(self, nu: Tensor, theta: Tensor, frequency: Tensor | None = None) -> Tensor:
        """Return E[Σ_h γ^h r_h S_h S_hᵀ] ``(..., P, P)``, the part of the Hessian that is easily forgotten.

        Args:
            nu: ν.
            theta: θ.
            frequency: ``(..., N)``, of each trajectory in a sample; None for ρ(τ; θ).
        """
        scores = self.scores(theta)
        return torch.einsum("...nh,...nhp,...nhq->...pq", self._paid(nu, theta, frequency), scores, scores)

    def curvature(self, nu: Tensor, theta: Tensor, frequency: Tensor | None = None) -> Tensor:
        """Return E[Σ_h γ^h r_h Σ_{j ≤ h} ∇² log π(a_j | s_j)] ``(..., P, P)``; arguments as in `outer_product`."""
        paid = self._paid(nu, theta, frequency)
        visits = torch.einsum("...nh,nhs->...s", paid, self._states.cumsum(1))
        policy = theta.softmax(-1)
        blocks = policy[..., :, None] * policy[..., None, :] - torch.diag_embed(policy)
        same = torch.eye(theta.shape[-2], dtype=theta.dtype)
        whole = torch.einsum("...s,...sab,st->...satb", visits, blocks, same)
        return whole.flatten(-4, -3).flatten(-2)

    def hessian(self, nu: Tensor, theta: Tensor, frequency: Tensor | None = None) -> Tensor:
        """Return ∇²_θθ V ``(..., P, P)``: both terms and -λ I; arguments as in `outer_product`."""
        both = self.outer_product(nu, theta, frequency) + self.curvature(nu, theta, frequency)
        return both - self.config.decay * torch.eye(both.shape[-1], dtype=both.dtype)

    def cross_derivative(self, nu: Tensor, theta: Tensor, frequency: Tensor | None = None) -> Tensor:
        """Return ∇²_θν V = E[Σ_h γ^h S_h ∇_ν r_hᵀ] ``(..., P, D)``; arguments as in `outer_product`."""
        weight = self.probability(theta) if frequency is None else frequency
        earned = torch.einsum("...n,h,...nhp,nhx->...px", weight, self._discount, self.scores(theta), self._visits)
        return earned @ self.reward_gradient(nu)

    def climb(self, nu: Tensor, theta: Tensor, steps: int, rate: float) -> Tensor:
        """Return θ after some steps of gradient ascent on V; differentiable in ``nu`` and in ``theta``."""
        for _ in range(steps):
            theta = theta + rate * self.value_gradient(nu, theta)
        return theta

    def solve_inner(self, nu: Tensor, theta: Tensor | None = None) -> Tensor:
        """Return θ*(ν) by Newton's method, at most 60 steps, to a gradient below 1e-12.

        Args:
            nu: ν.
            theta: Where to begin; None for 0, the uniform policy.

        Raises:
            OfflineRLError: If 60 steps do not suffice.
        """
        theta = torch.zeros_like(self.problem.true_reward) if theta is None else theta
        for _ in range(60):
            gradient = self.value_gradient(nu, theta)
            if gradient.abs().max() < 1e-12:
                return theta
            theta = self._newton_step(nu, theta, gradient)
        raise OfflineRLError(
            "The policy was not found in 60 of Newton's steps; raise decay, or lower the reward's scale."
        )

    def _newton_step(self, nu: Tensor, theta: Tensor, gradient: Tensor) -> Tensor:
        """Where V is not concave, each eigenvector still goes uphill; steps that lead down are halved."""
        eigenvalues, vectors = torch.linalg.eigh(-self.hessian(nu, theta))
        along = (vectors.mT @ gradient.flatten(-2)[..., None]) / eigenvalues.abs().clamp_min(1e-3)[..., None]
        step: Tensor = (vectors @ along).view_as(theta)
        before = self.value(nu, theta) - 1e-14
        for _ in range(30):
            worse = self.value(nu, theta + step) < before
            if not worse.any():
                break
            step = torch.where(worse[..., None, None], step / 2, step)
        return theta + step

    # Gradients of the upper level (derived)

    def direct(self, nu: Tensor, theta: Tensor) -> Tensor:
        """Return ∇_ν G ``(..., D)`` with the trajectories held fixed: alternating updates follow this alone."""
        probability = self.probability(theta)
        return self._direct(nu, probability[..., :, None] * probability[..., None, :])

    def distribution(self, nu: Tensor, theta: Tensor) -> Tensor:
        """Return q = ∇_θ G ``(..., P)``, which comes from the trajectories' probabilities alone."""
        probability = self.probability(theta)
        # ℓ of (τ0, τ1) is that of (τ1, τ0): the two scores of a pair have the same mean.
        mean = 2 * probability * (self.loss(nu) @ probability[..., None]).squeeze(-1)
        return (mean[..., None, :] @ self.scores(theta)[..., -1, :]).squeeze(-2)

    def hypergradient_exact(self, nu: Tensor, theta: Tensor) -> Tensor:
        """Return dG(ν, θ*(ν))/dν ``(..., D)``, by one solve; ``theta`` in place of θ*(ν), or near it."""
        adjoint = torch.linalg.solve(-self.hessian(nu, theta), self.distribution(nu, theta))
        return self._hypergradient(nu, theta, adjoint)

    def hypergradient_cg(self, nu: Tensor, theta: Tensor, iterations: int) -> Tensor:
        """Return the same with so many iterations of conjugate gradients, one product with the Hessian each."""
        matrix, residual = -self.hessian(nu, theta), self.distribution(nu, theta)
        adjoint, direction = torch.zeros_like(residual), residual
        for _ in range(iterations):
            product = (matrix @ direction[..., None]).squeeze(-1)
            norm = residual.square().sum(-1, keepdim=True)
            # Once it is solved, everything is 0, and 0 / 0 has to be 0.
            step = norm / (direction * product).sum(-1, keepdim=True).clamp_min(1e-300)
            adjoint, residual = adjoint + step * direction, residual - step * product
            direction = residual + direction * residual.square().sum(-1, keepdim=True) / norm.clamp_min(1e-300)
        return self._hypergradient(nu, theta, adjoint)

    def hypergradient_neumann(self, nu: Tensor, theta: Tensor, terms: int, rate: float) -> Tensor:
        """Return the same with the series (-∇²V)⁻¹ ≈ rate Σ_{k < terms} (I + rate ∇²V)^k."""
        matrix, term = self.hessian(nu, theta), rate * self.distribution(nu, theta)
        adjoint = torch.zeros_like(term)
        for _ in range(terms):
            adjoint = adjoint + term
            term = term + rate * (matrix @ term[..., None]).squeeze(-1)
        return self._hypergradient(nu, theta, adjoint)

    def hypergradient_unrolled(self, nu: Tensor, theta: Tensor, steps: int, rate: float) -> Tensor:
        """Return the gradient of G(ν, θ^K(ν)) ``(..., D)``, θ^K being `climb` from ``theta``: nothing is inverted."""
        nu = nu.detach().requires_grad_()
        objective = self.objective(nu, self.climb(nu, theta, steps, rate))
        return torch.autograd.grad(objective.sum(), nu)[0]

    def hypergradient_mc(self, nu: Tensor, theta: Tensor, uniform: Tensor, damping: float = 0.0) -> Tensor:
        """Return an estimate ``(D,)`` from drawn trajectories, for one problem without leading dimensions.

        Pairs, Hessian and cross-derivative have trajectories of their own, so that nothing but the Hessian's inverse
        makes it biased.

        Args:
            nu: ν.
            theta: θ.
            uniform: ``(4, B)`` numbers from U[0, 1): they draw the first and the second of each pair, the trajectories
                of the Hessian and those of the cross-derivative.
            damping: Added to the diagonal of -∇²V, which a small sample may leave singular.
        """
        count, (first, second, bent, crossed) = len(self._counts), self.draw(theta, uniform)
        weight = torch.zeros(count, count, dtype=nu.dtype)
        weight.index_put_((first, second), torch.full((), 1 / len(first), dtype=nu.dtype), accumulate=True)
        matrix = -self.hessian(nu, theta, bent.bincount(minlength=count) / len(bent))
        matrix = matrix + damping * torch.eye(len(matrix), dtype=nu.dtype)
        adjoint = torch.linalg.solve(matrix, self.score_estimate(nu, theta, first, second))
        cross = self.cross_derivative(nu, theta, crossed.bincount(minlength=count).double() / len(crossed))
        estimate: Tensor = self._direct(nu, weight) + cross.mT @ adjoint
        return estimate

    def draw(self, theta: Tensor, uniform: Tensor) -> Tensor:
        """Return numbers of trajectories in the shape of ``uniform``, of ρ(τ; θ), for one problem."""
        index = torch.searchsorted(self.probability(theta).cumsum(-1), uniform, right=True)
        return index.clamp_max(len(self._counts) - 1)

    def score_estimate(self, nu: Tensor, theta: Tensor, first: Tensor, second: Tensor, baseline: bool = True) -> Tensor:
        """Return estimates of q ``(..., P)`` from pairs of trajectories ``(..., B)``, for one problem.

        Args:
            nu: ν.
            theta: θ.
            first: Numbers of the first trajectories.
            second: Numbers of the second ones.
            baseline: Take off each pair's loss the mean of the others': the same mean, less noise.
        """
        loss, scores = self.loss(nu)[first, second], self.scores(theta)[:, -1]
        if baseline:
            loss = loss - (loss.sum(-1, keepdim=True) - loss) / (loss.shape[-1] - 1)
        return (loss[..., None] * (scores[first] + scores[second])).mean(-2)

    def ascend(
        self,
        nu: Tensor,
        *,
        steps: int = 150,
        rate: float = 0.3,
        climbs: int = 15,
        climb_rate: float = 1.0,
        implicit: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Return ν and θ after A-PARL's alternation, with exact expectations: some steps of θ to each step of ν.

        Args:
            nu: Where to begin; the policy begins uniform.
            steps: T, of ν.
            rate: Of ν's steps.
            climbs: K, steps of θ to each of ν.
            climb_rate: Of θ's steps.
            implicit: False for the direct term alone, as is usual.
        """
        theta = torch.zeros_like(self.problem.true_reward)
        gradient = self.hypergradient_exact if implicit else self.direct
        for _ in range(steps):
            theta = self.climb(nu, theta, climbs, climb_rate)
            nu = nu + rate * gradient(nu, theta)
        return nu, theta

    def _hypergradient(self, nu: Tensor, theta: Tensor, adjoint: Tensor) -> Tensor:
        """Return the direct term and (∇²_θν V)ᵀ v."""
        return self.direct(nu, theta) + (self.cross_derivative(nu, theta).mT @ adjoint[..., None]).squeeze(-1)

    def _direct(self, nu: Tensor, weight: Tensor) -> Tensor:
        """Return the direct term for pairs of some weights ``(..., N, N)``."""
        surprise = weight * (self.label - self._differences_of_returns(nu).sigmoid())
        returns = (surprise.sum(-2) - surprise.sum(-1)) @ self._counts
        gradient = (returns[..., None, :] @ self.reward_gradient(nu)).squeeze(-2)
        return gradient - 2 * self.config.reward_decay * nu

    def _differences_of_returns(self, nu: Tensor) -> Tensor:
        return _differences(self.reward(nu) @ self._counts.T)

    def _paid(self, nu: Tensor, theta: Tensor, frequency: Tensor | None) -> Tensor:
        """Return each trajectory's weight times γ^h r_h ``(..., N, H)``."""
        weight = self.probability(theta) if frequency is None else frequency
        reward = torch.einsum("nhp,...p->...nh", self._visits, self.reward(nu))
        return weight[..., None] * self._discount * reward


def _differences(returns: Tensor) -> Tensor:
    """Return what the second has more than the first ``(..., N, N)``."""
    return returns[..., None, :] - returns[..., :, None]
