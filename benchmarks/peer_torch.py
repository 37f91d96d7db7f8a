"""Runs in the competitors' environment: TD3+BC and IQL as a plain PyTorch program, one operation after the other.

This is what most implementations look like: ``nn.Sequential``, ``torch.optim.Adam`` as it comes, a loop over parameters
for the targets, and a batch by indexing tensors with random numbers. It was written from the papers' formulas for this
comparison. One update from equal weights and rows is ours to rounding (tests/test_peer_programs.py). Rewards are taken
as they are.
"""

import copy
import functools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import peer_serving as given

Rows = Sequence[Tensor]
"""Observation ``(B, O)``, action ``(B, A)``, reward ``(B,)``, terminated ``(B,)``, next observation ``(B, O)``."""


def mlp(inputs: int, outputs: int, widths: Iterable[int]) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def track(targets: nn.Module, networks: nn.Module) -> None:
    """Move targets a little towards the networks."""
    for target, parameter in zip(targets.parameters(), networks.parameters(), strict=True):
        target.data.copy_(given.TARGET_RATE * parameter.data + (1 - given.TARGET_RATE) * target.data)


class TD3BC:
    """TD3+BC (arXiv 2106.06860, equations 4 and 5)."""

    def __init__(self, observation_size: int, action_size: int, widths: Sequence[int]) -> None:
        self.actor = mlp(observation_size, action_size, widths)
        self.critics = nn.ModuleList(mlp(observation_size + action_size, 1, widths) for _ in range(2))
        self.target_actor, self.target_critics = copy.deepcopy(self.actor), copy.deepcopy(self.critics)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=given.LEARNING_RATE)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=given.LEARNING_RATE)
        self.updates = 0

    def update(self, rows: Rows) -> None:
        """Update the critics, and every second time the actor and the targets."""
        observation, action, reward, terminated, following = rows
        with torch.no_grad():
            noise = (torch.randn_like(action) * given.POLICY_NOISE).clamp(-given.NOISE_CLIP, given.NOISE_CLIP)
            pair = torch.cat([following, (self.target_actor(following).tanh() + noise).clamp(-1, 1)], 1)
            best = torch.min(*(critic(pair).squeeze(1) for critic in self.target_critics))
            target = reward + given.DISCOUNT * (1 - terminated) * best
        pair = torch.cat([observation, action], 1)
        loss = sum(functional.mse_loss(critic(pair).squeeze(1), target) for critic in self.critics)
        step(self.critic_optimizer, loss)
        self.updates += 1
        if self.updates % given.POLICY_DELAY:
            return
        chosen = self.actor(observation).tanh()
        q = self.critics[0](torch.cat([observation, chosen], 1))
        weight = given.ALPHA / q.abs().mean().detach()
        step(self.actor_optimizer, -weight * q.mean() + functional.mse_loss(chosen, action))
        track(self.target_critics, self.critics)
        track(self.target_actor, self.actor)


class IQL:
    """IQL (arXiv 2110.06169, equations 5 to 7), in the order of its authors: V, actor, critics, targets."""

    def __init__(self, observation_size: int, action_size: int, widths: Sequence[int]) -> None:
        self.actor, self.log_std = mlp(observation_size, action_size, widths), nn.Parameter(torch.zeros(action_size))
        self.value = mlp(observation_size, 1, widths)
        self.critics = nn.ModuleList(mlp(observation_size + action_size, 1, widths) for _ in range(2))
        self.target_critics = copy.deepcopy(self.critics)
        self.actor_optimizer = torch.optim.Adam([*self.actor.parameters(), self.log_std], lr=given.LEARNING_RATE)
        self.value_optimizer = torch.optim.Adam(self.value.parameters(), lr=given.LEARNING_RATE)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=given.LEARNING_RATE)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.actor_optimizer, given.STEPS)

    def update(self, rows: Rows) -> None:
        """Update V, then actor and critics with the new V, then the targets."""
        observation, action, reward, terminated, following = rows
        pair = torch.cat([observation, action], 1)
        with torch.no_grad():
            q = torch.min(*(critic(pair).squeeze(1) for critic in self.target_critics))
        error = q - self.value(observation).squeeze(1)
        step(self.value_optimizer, ((given.EXPECTILE - (error < 0).to(q.dtype)).abs() * error**2).mean())
        with torch.no_grad():
            advantage = q - self.value(observation).squeeze(1)
            target = reward + given.DISCOUNT * (1 - terminated) * self.value(following).squeeze(1)
        std = self.log_std.clamp(*given.LOG_STD_BOUNDS).exp()
        policy = torch.distributions.Normal(self.actor(observation).tanh(), std)
        weight = (given.BETA * advantage).exp().clamp(max=given.WEIGHT_LIMIT)
        step(self.actor_optimizer, -(weight * policy.log_prob(action).sum(1)).mean())
        self.schedule.step()
        loss = sum(functional.mse_loss(critic(pair).squeeze(1), target) for critic in self.critics)
        step(self.critic_optimizer, loss)
        track(self.target_critics, self.critics)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one optimiser step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


LEARNERS = {"td3_bc": TD3BC, "iql": IQL}


def build(algorithm: str, data: str, batch_size: int, hidden_dims: Sequence[int]) -> given.Window:
    """Make a learner, and return what makes its updates."""
    columns = [torch.from_numpy(column) for column in given.rows_of(data)]
    learner = LEARNERS[algorithm](columns[0].shape[1], columns[1].shape[1], hidden_dims)

    def make() -> int:
        index = torch.randint(len(columns[0]), (batch_size,))
        learner.update([column[index] for column in columns])
        return 1

    return functools.partial(given.timed, make)


if __name__ == "__main__":
    torch.set_num_threads(1)
    given.serve(build, torch.__version__)
