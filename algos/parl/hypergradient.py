"""How the policy of the lower level moves with the rewards: the modes that differentiate through the reward model.

Each function returns a number whose gradient with respect to the reward model, everything else constant, is

    Σ_i c_i ∇_ν z_i(θ*(ν))

for pairs i with constant coefficients c ``(B,)``; z is the log-ratio of a pair's two segments. All three are our
approximations [X]; the paper inverts the Hessian of the policy's whole objective [R].
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from offline_rl.agent import Agent
from offline_rl.algos.parl.lower import LowerIQL, LowerTD3BC
from offline_rl.algos.parl.reward_learning import Comparisons
from offline_rl.data.packed import Columns

Reward = Callable[[Tensor, Tensor], Tensor]
DAMPING = 1e-3
"""Of the last layer's Hessian, as a share of its mean diagonal entry."""


def onestep(  # noqa: PLR0917
    lower: LowerIQL, coefficients: Tensor, comparisons: Comparisons, reward: Reward, recorded: Tensor, noise: Tensor
) -> Tensor:
    """∇_ν (Q - V) is taken for ∇_ν r̂(s, a) - ∇_ν r̂(s, a'), one a' ~ π(s): what follows later is not seen.

    ``recorded`` ``(B, 2, L)`` are the scaled rewards of the recorded actions, ``noise`` ``(2 B L, A)`` from N(0, 1).
    """
    observation, _ = comparisons.rows()
    own = comparisons.per_pair(reward(observation, lower.sampled(observation, noise)))
    return lower.config.beta * (coefficients * (recorded - own).sum((1, 2))).sum()


def last_layer(  # noqa: PLR0917
    lower: LowerIQL, coefficients: Tensor, comparisons: Comparisons, reward: Reward, rows: Columns, noise: Tensor
) -> Tensor:
    """Implicit differentiation of the weighted likelihood in the policy's last layer, the other layers frozen.

    With q = Σ_i c_i ∇_θ z_i, z_i = Σ log π(a | s) over the pair's steps, and the Hessian H of the policy's loss over
    ``rows``, in its Gauss-Newton form because a tanh follows the layer, v = (H + δ)⁻¹ q is solved for exactly, action
    entry by action entry; then the mixed derivative is Σ_b (vᵀ ∇_θ log π(a_b | s_b)) ∇_ν w_b / B, where the weights
    w = min(exp(β A), limit) depend on ν as in :func:`onestep`.
    """
    c = lower.config
    observation, action = comparisons.rows()
    with torch.no_grad():
        hidden, score, _ = _last_layer(lower, observation, action)
        per_row = coefficients.repeat_interleave(2 * comparisons.length)
        q = (per_row[:, None] * score).T @ hidden
        hidden, score, curvature = _last_layer(lower, rows.observation, rows.action)
        advantage = lower.advantage(rows.observation, rows.action)
        weight = (c.beta * advantage).exp().clamp(max=c.weight_limit)
        v = torch.stack([_solved(hidden, weight * curvature[:, j], q[j]) for j in range(q.shape[0])])
        slope = (score * (hidden @ v.T)).sum(1) * c.beta * weight * (weight < c.weight_limit)
        other = lower.sampled(rows.observation, noise)
    moved = reward(rows.observation, rows.action) - reward(rows.observation, other)
    return (slope * moved).mean()


def _last_layer(lower: LowerIQL, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the last layer's input with a one ``(B, H + 1)``, and ∂ log π / ∂ output and its curvature ``(B, A)``."""
    layers = [layer[0] for layer in lower.actor.mlp.layers]
    hidden = observation
    for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        hidden = torch.addmm(bias, hidden, weight.T).relu()
    mean = torch.addmm(layers[-1], hidden, layers[-2].T).tanh()
    slope = 1 - mean.square()
    variance = (2 * lower.actor.log_std()).exp()  # type: ignore[operator]
    score = (action - mean) * slope / variance
    return torch.cat((hidden, torch.ones_like(hidden[:, :1])), 1), score, slope.square() / variance


def _solved(hidden: Tensor, weight: Tensor, right: Tensor) -> Tensor:
    """Solve (mean of weight h hᵀ + δ I) v = right, in float64."""
    h = hidden.double()
    matrix = (weight.double()[:, None] * h).T @ h / len(h)
    diagonal = matrix.diagonal()
    diagonal += DAMPING * diagonal.mean() + 1e-12
    factor = torch.linalg.cholesky_ex(matrix).L
    return torch.cholesky_solve(right.double()[:, None], factor)[:, 0].to(right.dtype)


def unrolled(
    lower: LowerTD3BC,
    coefficients: Tensor,
    comparisons: Comparisons,
    reward: Reward,
    batches: Sequence[tuple[Columns, Tensor]],
) -> Tensor:
    """Differentiate through a critic's and an actor's step on each of ``batches``, from where both are now.

    A step is Adam's without momentum, θ - α g / (√v̂ + ε) with the present v̂ a constant, so that its length is
    realistic. Targets come from the frozen target networks: no gradient runs through these.
    """
    c = lower.config
    critic, actor = (_Unrolled(lower, name) for name in ("critic", "actor"))
    for rows, noise in batches:
        with torch.no_grad():
            cut = (noise * c.policy_noise).clamp(-c.noise_clip, c.noise_clip)
            next_action = (lower.target_actor(rows.next_observation) + cut).clamp(-1, 1)
            later = lower.target_critic(rows.next_observation, next_action).amin(0)
        target = reward(rows.observation, rows.action) + c.discount * (1 - rows.terminated) * later
        q = critic(torch.cat((rows.observation, rows.action), 1))[..., 0]
        critic.step((q - target).square().mean(1).sum(), c.critic_learning_rate)
        action = actor(rows.observation)[0].tanh()
        q = critic(torch.cat((rows.observation, action), 1))[0, :, 0]
        weight = c.alpha / q.detach().abs().mean()
        actor.step((action - rows.action).square().mean() - weight * q.mean(), c.actor_learning_rate)
    observation, action = comparisons.rows()
    residual = (actor(observation)[0].tanh() - action).square().mean(1)
    log_ratio = comparisons.per_pair(-residual / (2 * lower.spread)).sum((1, 2))
    return (coefficients * log_ratio).sum()


class _Unrolled:
    """The MLPs of an optimiser's network as functions of tensors that later tensors can be differentiated by."""

    def __init__(self, agent: Agent, name: str) -> None:
        state = agent.groups[name].state()
        parameters = agent.groups[name].parameters
        self._layers = [parameter.detach().requires_grad_() for parameter in parameters]
        corrected = state["square"] / (1 - 0.999 ** state["count"].clamp_min(1).to(state["square"].dtype))
        # Before its first step an optimiser has no moments: then the step is plain gradient descent.
        scale = torch.where(state["count"] > 0, corrected.sqrt() + 1e-8, 1)
        sizes = [parameter.numel() for parameter in parameters]
        self._scales = [part.view_as(own) for part, own in zip(torch.split(scale, sizes), parameters, strict=True)]

    def __call__(self, x: Tensor) -> Tensor:
        hidden = x.expand(len(self._layers[0]), *x.shape)
        for place in range(0, len(self._layers), 2):
            weight, bias = self._layers[place : place + 2]
            hidden = torch.baddbmm(bias[:, None], hidden, weight.transpose(1, 2))
            hidden = hidden.relu() if place < len(self._layers) - 2 else hidden
        return hidden

    def step(self, loss: Tensor, learning_rate: float) -> None:
        gradients = torch.autograd.grad(loss, self._layers, create_graph=True)
        moved = zip(self._layers, gradients, self._scales, strict=True)
        self._layers = [layer - learning_rate * gradient / scale for layer, gradient, scale in moved]
