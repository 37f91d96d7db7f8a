r"""FQL: flow Q-learning.

Paper: Seohong Park, Qiyang Li, Sergey Levine. Flow Q-Learning. ICML 2025, arXiv 2502.02538. Authors' code:
github.com/seohongpark/fql, in JAX.

A flow learns to make the data's actions out of noise, in several steps. The policy makes an action out of noise in one
step: it is pulled to what the flow makes of the same noise, and increases Q.

Deviations from the authors' code: it cuts recorded actions to ±(1 - 1e-5), which is not done here. As there, all losses
see the weights from before the update, targets follow the critics from before their step, the flow's action is cut to
[-1, 1] after its last step alone, and the distillation sees the policy's action before its cut.

Acting draws noise. Episodes are scored with it, as the authors score theirs; :meth:`FQL.policy`, which must not draw,
takes noise 0, a reading of ours.

Known fault: a compiled update moves the targets after the critics' step, not before. The check of repeated updates sees
it, so ``--mode compile`` is refused.

Not verified: no score of the paper has been reproduced, and none could be on locomotion, for which the authors publish
neither scores nor settings. Code, README and commands were read in copies of their repository that others keep.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from offline_rl.agent import About, Agent, AgentConfig, Batch, Draw, Metrics, Normal, Uniform
from offline_rl.networks import MLP, Critic
from offline_rl.networks.initializers import glorot
from offline_rl.settings import AtLeast, Count, Fraction, NonNegative, Positive


@dataclass(frozen=True)
class Config(AgentConfig):
    """Settings of FQL; the defaults are those of the authors' code, who tune alpha for each task."""

    hidden_dims: Annotated[list[int], AtLeast(1)] = field(default_factory=lambda: [512, 512, 512, 512])
    """Widths of the hidden layers of every network."""
    normalize: bool = False
    """Normalise observations by the dataset's mean and standard deviation."""
    alpha: NonNegative = 10.0
    """Weight α of the pull to the flow's actions against Q; the authors tune it for each task."""
    normalize_q_loss: bool = False
    """Divide Q in the policy's loss by its mean size, so that α means the same whatever the rewards' unit."""
    q_aggregation: Literal["mean", "min"] = "mean"
    """Which of both target critics' values a target is made of: their mean, or the smaller one."""
    flow_steps: Count = 10
    """Euler steps in which the flow makes an action."""
    layer_norm: bool = True
    """Normalise the critics' hidden layers after their activation."""
    discount: Fraction = 0.99
    """Discount factor γ."""
    target_rate: Fraction = 0.005
    """Rate τ at which targets follow the critics."""
    learning_rate: Positive = 3e-4
    """Adam's learning rate for every network."""
    reward_scale: float = 1.0
    """Factor on every reward."""
    reward_shift: float = 0.0
    """Added to every reward after scaling."""


class FQL(Agent):
    r"""min_μ  E[-w Q(s, μ(s, z)) + α (μ(s, z) - a_v(s, z))²],   z ~ N(0, 1),   Q = (Q₁ + Q₂) / 2.

    The flow v minimises E[(v(s, x_t, t) - (a - x_0))²] with x_t = (1 - t) x_0 + t a, x_0 ~ N(0, 1), t ~ U(0, 1), and
    a_v(s, z) is where it leads from z. w is 1, or 1 / E|Q|. The critics minimise the mean of (Q_i(s, a) - y)² with
    y = r + γ (1 - d) mean_i Q'_i(s', μ(s', z')). The policy's actions are cut to [-1, 1] where Q sees them.
    """

    name = "fql"
    about = About(
        method="a flow imitates the data, and a policy of one step learns from it and from values",
        use_when="if states have several good actions, and alpha can be tuned on a GPU",
        paper="Park et al. 2025, arXiv 2502.02538",
    )
    config_class = Config
    cycle = 1
    stochastic = True
    stackable = True
    stackable_settings = ("alpha", "discount", "target_rate", "learning_rate", "reward_scale", "reward_shift")
    config: Config

    def build_policy(self) -> None:
        """Make the policy, which reads a state and noise."""
        self.actor = self.network(self.observation_size + self.action_size)

    def build_learner(self) -> None:
        """Make the flow, which reads a time too, and two critics with a slowly moving copy."""
        c, sizes = self.config, (self.observation_size, self.action_size)
        self.flow = self.network(sum(sizes) + 1)
        norm: Literal["after", "none"] = "after" if c.layer_norm else "none"
        self.critic = Critic(*sizes, c.hidden_dims, initializer=glorot, layer_norm=norm, activation="gelu")
        self.optimizer("actor", self.actor, c.learning_rate)
        self.optimizer("flow", self.flow, c.learning_rate)
        self.optimizer("critic", self.critic, c.learning_rate)
        self.target_critic = self.target_of("critic")

    def network(self, input_size: int) -> MLP:
        """Return a network that gives a vector of an action's size."""
        return MLP(input_size, self.action_size, self.config.hidden_dims, initializer=glorot, activation="gelu")

    def draws(self) -> dict[str, Draw]:
        """Ask for the flow's start and time, and for the noise of the policy here and in the next states."""
        noise = Normal("action")
        return {"start": noise, "time": Uniform(1), "policy": noise, "target": noise}

    def one_step(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return μ(s, z) ``(B, A)``, which may lie outside of [-1, 1]."""
        action: Tensor = self.actor(torch.cat((observation, noise), 1))[0]
        return action

    @torch.no_grad()
    def flow_action(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return a_v(s, z) ``(B, A)``, where the flow leads from ``noise`` by Euler's method."""
        steps, x = self.config.flow_steps, noise
        for number in range(steps):
            time = torch.full_like(x[:, :1], number / steps)
            x = x + self.flow(torch.cat((observation, x, time), 1))[0] / steps
        return x.clamp(-1, 1)

    @torch.no_grad()
    def critic_target(self, batch: Batch) -> Tensor:
        """Return y ``(B,)``."""
        c = self.config
        action = self.one_step(batch.next_observation, batch.draws["target"]).clamp(-1, 1)
        q: Tensor = self.target_critic(batch.next_observation, action)
        value = q.amin(0) if c.q_aggregation == "min" else q.mean(0)
        return batch.reward * c.reward_scale + c.reward_shift + c.discount * (1 - batch.terminated) * value

    def critic_loss(self, batch: Batch, target: Tensor) -> tuple[Tensor, Metrics]:
        """Return E[(Q_i(s, a) - y)²], the mean over both critics."""
        q = self.critic(batch.observation, batch.action)
        return (q - target).square().mean(), {"q": q.detach().mean()}

    def flow_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return E[(v(s, x_t, t) - (a - x_0))²]; the mean runs over rows and action entries."""
        start, time = batch.draws["start"], batch.draws["time"]
        between = (1 - time) * start + time * batch.action
        velocity = self.flow(torch.cat((batch.observation, between, time), 1))[0]
        return (velocity - (batch.action - start)).square().mean(), {}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return α E[(μ(s, z) - a_v(s, z))²] - w E[Q(s, μ(s, z))]."""
        noise = batch.draws["policy"]
        action = self.one_step(batch.observation, noise)
        distillation = (action - self.flow_action(batch.observation, noise)).square().mean()
        q = self.critic.frozen(batch.observation, action.clamp(-1, 1)).mean(0)
        loss = -q.mean() / q.detach().abs().mean() if self.config.normalize_q_loss else -q.mean()
        metrics = {"distillation": distillation.detach(), "policy_q": q.detach().mean()}
        return self.config.alpha * distillation + loss, metrics

    def update(self, batch: Batch, step: int) -> Metrics:
        """Update everything at once; the targets follow the critics from before."""
        target = self.critic_target(batch)
        self.track_targets(self.config.target_rate)
        critic_loss = partial(self.critic_loss, target=target)
        return self.minimize(batch, critic=critic_loss, flow=self.flow_loss, actor=self.actor_loss)

    def policy(self, observation: Tensor) -> Tensor:
        """Return μ(s, 0), cut to [-1, 1]; the authors' policy has noise, see :meth:`explore`."""
        return self.explore(observation, torch.zeros_like(observation[:, :1]).expand(-1, self.action_size))

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return μ(s, z), cut to [-1, 1], a sample of the policy."""
        return self.one_step(observation, noise).clamp(-1, 1)

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """The authors publish settings for AntMaze, Adroit and OGBench alone, and none for locomotion."""
