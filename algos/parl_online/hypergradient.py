r"""How comparisons of the policy's own segments move with the rewards: A-PARL's distribution term, by samples.

With B pairs of segments of the newest policy, their excess log-likelihoods e_i and the leave-one-out baseline b_i, the
mean of the others, the distribution term is

    (dθ*/dν)ᵀ q,    q = (1/B) Σ_i (e_i - b_i) Σ_{σ of pair i} Σ_h ∇_θ log π_θ(a_h | s_h).

The score function and both levels are the paper's [R: its body was not at hand]. The baseline leaves the mean as it is
and takes most of the noise [D]. For the factor dθ*/dν there are two estimators, both for an entropy-regularised policy
(temperature η), whose optimum for r_ν has a closed form [D]:

* ``onestep``: ∇_ν log π*(a | s) = (∇_ν Q - E_{a' ~ π} ∇_ν Q) / η with ∇_ν r_ν in place of ∇_ν Q: exact if rewards have
  no effect but on their own step, blind to what follows.
* ``cg``: at the optimum the Hessian of the policy's objective is -η F, F = E[Σ_h γ^h Fisher(s_h)], because the
  gradients of all later values vanish there. So (η F + δ I) v = q is solved by conjugate gradients, with products of F
  taken from the second derivatives of a divergence, and then (dθ*/dν)ᵀ q = E[Σ_h γ^h (S_hᵀ v) ∇_ν r_h], with
  S_h = Σ_{j ≤ h} ∇_θ log π(a_j | s_j). Rewards are followed to the segment's end and no further.

Away from the optimum -η F is not the Hessian: then both are approximations [X]. The functions know nothing of networks:
a policy is a function of its parameters that PyTorch can differentiate twice.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def centred(values: Tensor) -> Tensor:
    """Return values ``(..., B)`` less the mean of the others, for B of 2 or more."""
    count = values.shape[-1]
    return (values - values.mean(-1, keepdim=True)) * (count / (count - 1))


def conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor, iterations: int) -> Tensor:
    """Solve ``product(v) = right`` ``(P,)`` for a symmetric positive definite matrix, by so many products with it."""
    solution, residual = torch.zeros_like(right), right
    direction, norm = right, right @ right
    for _ in range(iterations):
        image = product(direction)
        # Once it is solved, everything is 0, and 0 / 0 has to be 0.
        step = norm / (direction @ image).clamp_min(torch.finfo(right.dtype).tiny)
        solution, residual = solution + step * direction, residual - step * image
        before, norm = norm, residual @ residual
        direction = residual + direction * (norm / before.clamp_min(torch.finfo(right.dtype).tiny))
    return solution


def flat_gradient(value: Tensor, parameters: Sequence[Tensor], *, keep: bool = False) -> Tensor:
    """Return the gradient ``(P,)`` of a number; with ``keep`` it can be differentiated again."""
    gradients = torch.autograd.grad(value, list(parameters), create_graph=keep, retain_graph=True)
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def adjoint(  # noqa: PLR0917
    score: Tensor, divergence: Tensor, parameters: Sequence[Tensor], temperature: float, damping: float, iterations: int
) -> Tensor:
    """Return v ``(P,)`` of (η F + δ I) v = q; δ is ``damping`` times the mean of F's diagonal times η.

    Args:
        score: A number whose gradient in the parameters is q.
        divergence: E[Σ_h γ^h KL(π_now(s_h) ‖ π_θ(s_h))], whose second derivatives at θ = now are F.
        parameters: θ.
        temperature: η.
        damping: In units of the mean diagonal, estimated from one product with a vector of signs.
        iterations: Of conjugate gradients.
    """
    q = flat_gradient(score, parameters)
    slope = flat_gradient(divergence, parameters, keep=True)

    def fisher(vector: Tensor) -> Tensor:
        return temperature * flat_gradient(slope @ vector, parameters)

    # Hutchinson's estimate of the trace, from signs that alternate: nothing is drawn.
    signs = torch.ones_like(q)
    signs[1::2] = -1
    shift = damping * (signs @ fisher(signs)).clamp_min(0) / len(q) + torch.finfo(q.dtype).tiny
    return conjugate_gradients(lambda vector: fisher(vector) + shift * vector, q, iterations)


def along(log_likelihood: Tensor, parameters: Sequence[Tensor], direction: Tensor) -> Tensor:
    """Return the derivatives of ``log_likelihood`` ``(...)`` when θ moves along ``direction`` ``(P,)``.

    The gradient of Σ u_k log π_k is linear in u: the answer is the derivative in u of its product with the direction.
    """
    weight = torch.ones_like(log_likelihood, requires_grad=True)
    slope = flat_gradient((weight * log_likelihood).sum(), parameters, keep=True)
    return torch.autograd.grad(slope @ direction, weight)[0]


def trajectory_surrogate(reward: Tensor, slope: Tensor, discount: float) -> Tensor:
    """Return E[Σ_h γ^h (S_hᵀ v) r_h], whose gradient in ν is (dθ*/dν)ᵀ q; rewards follow what was done before them.

    Args:
        reward: ``(N, L)``, r_ν of the segments' steps, with its graph.
        slope: ``(N, L)``, the derivatives of log π(a_h | s_h) along v.
        discount: γ.
    """
    weight = discount ** torch.arange(reward.shape[-1], dtype=reward.dtype, device=reward.device)
    return (weight * slope.detach().cumsum(-1) * reward).sum(-1).mean()
