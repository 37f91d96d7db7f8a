r"""A-PARL: rewards learned from comparisons of the policy's own segments, while the policy learns from the rewards.

Paper: Souradip Chakraborty, Amrit Singh Bedi, Alec Koppel, Huazheng Wang, Dinesh Manocha, Mengdi Wang, Furong Huang.
PARL: A Unified Framework for Policy Alignment in Reinforcement Learning from Human Feedback. ICLR 2024, arXiv
2308.02585. No code of the authors was found, and none of anybody else.

The paper's setting [S]: no dataset; segments of what the agent does are compared, rewards are learned from the
answers (upper level) and a policy from the rewards (lower level), and the gradient of the rewards knows that the policy
decides what is compared. Its experiments build on PEBBLE: here, too, the lower level is soft actor-critic, the rewards
are an ensemble of three, and the run begins with a search for new states, with the settings of B-Pref's code [C]. With
``mixture 0`` or ``hyper_mode none`` this is PEBBLE's alternation, the *decoupled* baseline.

Ours [X]: how the hypergradient is taken for networks (``hypergradient.py``), when (``feedback.py``), the excess
log-likelihood; segments of 25 steps out of the last 20 episodes, because hopper and walker fall early and the newest
comparisons should be the present policy's; 1 is added to learned rewards, for comparisons of equally long segments do
not say whether to stay alive pays. Networks and rates are this suite's SAC's, not B-Pref's. The search for new states
measures distances to at most NEIGHBORS_AMONG states. Rewards are computed for each batch anew, which is the same as to
rewrite those of all that was collected after each round.

[R] The paper's body was not at hand: its K, step sizes, solver and label budgets are not known, and its claim of up to
63 % fewer samples has not been reproduced. Not verified: any return, and that the distribution
term helps in a task; ``python -m benchmarks.parl_online`` is the comparison that would tell.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from offline_rl.agent import About, AgentConfig, Batch, Metrics
from offline_rl.algos import sac
from offline_rl.algos.parl.reward_learning import PRESETS as REWARD_MODELS
from offline_rl.algos.parl.reward_learning import Comparisons
from offline_rl.algos.parl_online.feedback import Feedback
from offline_rl.data.packed import PackedRows
from offline_rl.data.replay import Replay
from offline_rl.draws import Stream
from offline_rl.errors import AgentError
from offline_rl.networks import SquashedGaussian
from offline_rl.networks.reward import RewardModel
from offline_rl.preferences.experience import Experience
from offline_rl.preferences.pairs import read_pairs
from offline_rl.preferences.teacher import standard_teacher
from offline_rl.settings import AtLeast, Count, Fraction, NonNegative, Positive

NEAREST = 5
"""k: a state is as new as the distance to the k-th nearest of the others says."""
NEIGHBORS_AMONG = 2000
"""States at most, at equal distances in time, among which neighbours are looked for."""


@dataclass(frozen=True)
class Config(sac.Config):
    """Settings of A-PARL; those of the lower level are this suite's SAC's."""

    labels: str = "scripted"
    """Who compares: "scripted" for a teacher who sees the true rewards, or an .npz of pairs that a person labelled."""
    teacher: str = "oracle"
    """Which scripted teacher: oracle, mistake, noisy, skip, myopic-0.9, myopic-0.99 or equal."""
    rewards: Literal["learned", "oracle", "zero"] = "learned"
    """What the policy learns from: learned rewards, or for comparison the task's own, or none but ``reward_shift``."""
    hyper_mode: Literal["cg", "onestep", "none"] = "cg"
    """How rewards follow the policy: conjugate gradients along segments, a single step, or not at all (decoupled)."""
    mixture: Fraction = 0.5
    """Weight m of the distribution term; 0 is the decoupled alternation."""
    num_labels: Annotated[int, AtLeast(2)] = 400
    """Comparisons in all."""
    labels_per_round: Annotated[int, AtLeast(2)] = 20
    """Comparisons asked in a round."""
    feedback_every: Count = 4000
    """Environment steps between rounds."""
    queries: Literal["disagreement", "uniform"] = "disagreement"
    """Which pairs are asked: those on which the reward networks disagree most, of ten times as many, or any."""
    segment_length: Count = 25
    """Steps of a compared segment."""
    pool_episodes: Count = 20
    """Last complete episodes of which segments are taken."""
    random_steps: Annotated[int, AtLeast(0)] = 1000
    """Environment steps with uniform random actions at the beginning."""
    search_steps: Annotated[int, AtLeast(0)] = 9000
    """Environment steps after these in which the policy searches for new states; then the first round comes."""
    reset_updates: Annotated[int, AtLeast(0)] = 100
    """Updates at once when rewards begin and the critics are made anew."""
    reward_shift: float = 1.0
    """Added to every learned reward, which lies in [-1, 1], and to those of "zero": to stay alive pays."""
    reward_hidden_dims: Annotated[list[int], AtLeast(1)] = dataclasses.field(default_factory=lambda: [256, 256, 256])
    """Widths of the reward networks' hidden layers."""
    reward_learning_rate: Positive = 3e-4
    """Adam's learning rate for the reward networks."""
    reward_epochs: Count = 50
    """Most passes over all comparisons in a round."""
    reward_batch: Count = 128
    """Comparisons in a batch of the fit, and of an upper step."""
    reward_accuracy: Fraction = 0.97
    """A round's fit ends after a pass in which this share of the comparisons was predicted correctly."""
    upper_steps: Annotated[int, AtLeast(0)] = 20
    """Steps along the hypergradient after each round's fit but the first."""
    distribution_limit: NonNegative = 1.0
    """Longest distribution term χ, in lengths of the direct one."""
    cg_iterations: Count = 10
    """Mode cg: iterations of conjugate gradients."""
    cg_damping: Positive = 0.1
    """Mode cg: what is added to the Hessian's diagonal, in means of it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        standard_teacher(self.teacher)
        if self.rewards != "learned" and self.labels != "scripted":
            raise AgentError(f"rewards {self.rewards} uses no labels; leave one of the two out")
        if self.labels != "scripted" and self.mixture and self.hyper_mode != "none":
            raise AgentError(
                "pairs of a file are not the policy's own, so rewards cannot follow it; add --hyper_mode none"
            )


class PARLOnline(sac.SAC):
    """max_ν E[e_ν(σ0, σ1)],  σ0, σ1 ~ θ*(ν),   θ*(ν) = the policy of soft actor-critic for r_ν.

    e_ν is the excess log-likelihood of the answer to a comparison of two segments, and the expectation is over the
    segments of the policy itself, so that its gradient has a part for how they change with ν.
    """

    name = "parl_online"
    about = About(
        method="learns rewards from comparisons of what it does, knowing that these follow the rewards",
        use_when="if an environment can be played, but only comparisons of segments say what is good",
        needs="an environment",
        paper="Chakraborty et al. 2024, arXiv 2308.02585",
    )
    config_class: ClassVar[type[AgentConfig]] = Config
    stackable = False
    stackable_settings: ClassVar[tuple[str, ...]] = ()
    starts_empty = True
    config: Config

    def build_learner(self) -> None:
        """Make the lower level, and the rewards with what was asked so far."""
        super().build_learner()
        c, preset = self.config, REWARD_MODELS["unirlhf"]
        self.random_steps = self.length.offline + c.random_steps
        raw = self.preprocessing.observation_mean, self.preprocessing.observation_std
        hidden, squashed = c.reward_hidden_dims, preset.squashed
        self.reward = RewardModel(*raw, self.action_size, hidden, preset.count, preset.slope, squashed=squashed)
        self.optimizer("reward", self.reward, c.reward_learning_rate)
        self.feedback = Feedback(c, self.reward, self.groups["reward"], self.seed)
        # How many distances were seen, their mean, and the sum of their squared distances from it.
        self._distances = torch.zeros(3, dtype=torch.float64, device=self.device)

    def prepare(self, rows: PackedRows) -> None:
        """Keep the dataset, if there is one, as states to search among; read the labels of a file."""
        self._replay = Replay(rows, 0)
        self._among = self.states_among()
        if self.config.labels != "scripted":
            pairs = read_pairs(self.config.labels, rows, self.preprocessing, None)
            self.feedback.given = Comparisons.of(pairs, self.device, self.dtype)

    def go_online(self, replay: Replay) -> None:
        """Begin to collect."""
        super().go_online(replay)
        self._replay = replay

    @property
    def searching(self) -> bool:
        """Whether new states are all that pays, because there are no rewards yet."""
        c = self.config
        return c.rewards != "oracle" and not self.feedback.fitted

    def reward_of(self, batch: Batch) -> Tensor:
        """Return what a batch pays ``(B,)``: never the task's own rewards, but for "oracle"."""
        c = self.config
        if c.rewards == "oracle":
            return batch.reward
        if self.searching:
            return self.novelty(batch.observation)
        if c.rewards == "zero":
            return torch.full_like(batch.reward, c.reward_shift)
        with torch.no_grad():
            return self.feedback.reward(batch.observation, batch.action) * c.reward_scale + c.reward_shift

    @torch.no_grad()
    def novelty(self, observation: Tensor) -> Tensor:
        """Return distances ``(B,)`` to the NEAREST-th neighbour, in standard deviations of all distances so far."""
        if self.phase == "online":
            self._among = self.states_among()
        count = min(NEAREST + 1, len(self._among))
        distance = torch.cdist(observation, self._among).topk(count, largest=False).values[:, -1]
        seen = self._distances
        total = seen[0] + len(distance)
        mean = seen[1] + (distance.double() - seen[1]).sum() / total
        squares = seen[2] + ((distance - seen[1]) * (distance - mean)).sum()
        self._distances.copy_(torch.stack((total, mean, squares)))
        return distance / (squares / total).sqrt().clamp_min(1e-8).to(self.dtype)

    def states_among(self) -> Tensor:
        """Return the states ``(M, O)`` among which neighbours are looked for, at equal distances in time."""
        count = len(self._replay)
        places = np.unique(np.linspace(0, max(count - 1, 0), min(count, NEIGHBORS_AMONG)).astype(np.int64))
        return self._replay.columns(torch.from_numpy(places).to(self.device)).observation.to(self.dtype)

    def transformed(self, batch: Batch) -> Batch:
        """Return the batch with the rewards that the policy learns from, and actions in [-1, 1]."""
        return dataclasses.replace(batch, action=batch.action.clamp(-1, 1), reward=self.reward_of(batch))

    def distribution(self, observation: Tensor) -> SquashedGaussian:
        """Return π in states ``(B, O)``, which can be differentiated twice."""
        policy: SquashedGaussian = self.actor.plain(observation)
        return policy

    def temperature(self) -> Tensor:
        """Return η."""
        temperature: Tensor = self.log_temperature().exp()
        return temperature

    @property
    def parameters(self) -> list[Tensor]:
        """The policy's."""
        return list(self.groups["actor"].parameters)

    def update(self, batch: Batch, step: int) -> Metrics:
        """Update the policy; where a round is due, ask and fit the rewards before."""
        metrics = self.round() if self.phase == "online" and self.round_due(step) else {}
        return metrics | super().update(batch, step)

    def round_due(self, step: int) -> bool:
        """Say whether a round comes before update ``step`` of the online phase."""
        c = self.config
        since = step - self.length.offline - c.random_steps - c.search_steps
        return c.rewards != "oracle" and since > 0 and (since - 1) % c.feedback_every == 0

    def round(self) -> Metrics:
        """Make a round of feedback, if there is something to ask; after the first one the critics begin anew."""
        first = self.searching
        if self.config.rewards == "zero":
            self.feedback.fitted = True
            metrics: Metrics = {}
        else:
            asked = self.feedback.round(Experience.of(self._replay), self) if self.feedback.asks else None
            metrics = asked or {}
        if first and self.feedback.fitted:
            self.begin_anew()
        return metrics

    def begin_anew(self) -> None:
        """Draw new critics, which know nothing of novelty, and make some updates at once."""
        group = self.groups["critic"]
        group.network.initialize(Stream(self.seed, "init/critic").at(1))  # type: ignore[operator]
        for name, tensor in group.state().items():
            if name != "parameters":
                tensor.zero_()
        self.targets["critic"].flat.copy_(group.flat)
        for number in range(self.config.reset_updates):
            super().update(self.batch_of(number), 0)

    def batch_of(self, number: int) -> Batch:
        """Return a batch of the updates made at once; those of the loop have numbers of their own."""
        size = self.config.batch_size
        index = (Stream(self.seed, "reset/index").at(number).random(size) * len(self._replay)).astype(np.int64)
        rows = torch.from_numpy(index).to(self.device)
        columns = {name: column.to(self.dtype) for name, column in self._replay.columns(rows)._asdict().items()}
        draws = {name: Stream(self.seed, f"reset/{name}").at(number) for name in self.draws()}
        noise = {name: luck.standard_normal((size, self.action_size), np.float32) for name, luck in draws.items()}
        given = {name: torch.from_numpy(values).to(self.device, self.dtype) for name, values in noise.items()}
        return Batch(**columns, index=rows, draws=given)

    def training_state(self) -> dict[str, Tensor]:
        """Return what both levels need, and what was asked."""
        return super().training_state() | self.feedback.state() | {"distances": self._distances}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Put it back."""
        super().load_training_state(state)
        self.feedback.load_state(state)
        self._distances.copy_(state["distances"])

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """One setting for all tasks."""
