r"""O-PARL: policy alignment as a bilevel problem, offline.

Paper: Souradip Chakraborty, Amrit Singh Bedi, Alec Koppel, Huazheng Wang, Dinesh Manocha, Mengdi Wang, Furong Huang.
PARL: A Unified Framework for Policy Alignment in Reinforcement Learning from Human Feedback. ICLR 2024, arXiv
2308.02585. No code of the authors was found.

The paper's [S]: rewards are learned from preferences (upper level) *knowing* that the policy, the optimum for these
rewards (lower level), decides which comparisons count; so ν's gradient has a direct and a distribution term. The paper
is online. **This whole algorithm is our offline extension [X]**: the policy's distribution is that of recorded
segments, re-weighted; the lower level is IQL or TD3+BC; and how the policy moves with the rewards is, for IQL, a closed
form that holds for a KL-regularised lower level [D], here with learned successor features.

Ours, too [X]: the excess log-likelihood as upper loss (raw cross-entropy draws the policy to what is easy to predict),
the effective size that tempers the weights, the anchor to the warm-up's rewards, all numbers. The reward models' two
presets are from public code [C]: Uni-RLHF and Preference Transformer. The weights correct actions, not the
states in which segments start.

Not verified: everything about the paper but its abstract, for its body was not at hand [R]; no score is claimed. No
number of any PARL on D4RL exists, and in several of its tasks a constant reward does well: run the baselines
(``rewards``).
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from offline_rl.agent import About, Agent, AgentConfig, Batch, Draw, Loss, Metrics
from offline_rl.algos.parl.lower import LowerIQL, OnIQL, OnTD3BC, lower_level
from offline_rl.algos.parl.reward_learning import PRESETS, SHIFTS, Comparisons, table_without_learning
from offline_rl.algos.parl.upper import Networks, Upper
from offline_rl.data.packed import PackedRows
from offline_rl.errors import AgentError
from offline_rl.networks import MLP
from offline_rl.networks.reward import LinearHead, RewardModel
from offline_rl.preferences.pairs import Pairs, read_pairs, scripted_pairs
from offline_rl.preferences.segments import Segments
from offline_rl.preferences.teacher import standard_teacher
from offline_rl.settings import AtLeast, AtMost, Count, Fraction, NonNegative, Positive

SEGMENT_LENGTH = 64
"""Steps of the segments that the scripted teacher sees, by default."""
LEAST_LABELS = 10
"""Of fewer pairs none can be held out."""
HELD_OUT = 0.1
"""Share of the pairs that the rewards are not fitted to."""
SUCCESSOR_EVERY = 2
"""Updates of the lower level for each one of the successor features."""
MODES: Mapping[str, tuple[str, ...]] = {
    "iql": ("sf", "none", "reweight", "onestep", "cg"),
    "td3_bc": ("unroll", "none", "reweight"),
}
"""What can be differentiated on each lower level, the default first."""


@dataclass(frozen=True)
class Config(AgentConfig):
    """Settings of O-PARL; the defaults of a lower level are its authors', those of the upper level are ours."""

    labels: str = "scripted"
    """Where preferences come from: "scripted", or the path of published labels of this dataset."""
    num_labels: Annotated[int, AtLeast(LEAST_LABELS)] = 500
    """Pairs that the scripted teacher labels, a tenth of which is held out."""
    segment_length: Annotated[int | None, AtLeast(1)] = None
    """Steps of a segment; None is 64 for the scripted teacher, and what the files say for published labels."""
    teacher: str = "oracle"
    """Who labels: oracle, mistake, noisy, skip, myopic-0.9, myopic-0.99 or equal."""
    shuffle_labels: bool = False
    """Baseline: give the pairs each other's labels."""
    rewards: Literal["learned", "oracle", "zero", "average"] = "learned"
    """Rewards of the lower level; all but "learned" are baselines: the dataset's, none, or the dataset's mean."""
    scale_rewards: bool = True
    """Multiply rewards by 1000 / (best - worst episode return), found once, under the warm-up's rewards if learned."""
    shift: Literal["none", "pt"] = "none"
    """Added to every reward after scaling, also of baselines: 0, or the Preference Transformer's 0.5, for survival."""
    lower: OnIQL | OnTD3BC = field(default_factory=OnIQL)
    """The lower level: "iql" or "td3_bc", whose settings are ``lower.beta`` and so on."""
    hyper_mode: Literal["auto", "none", "reweight", "onestep", "sf", "unroll", "cg"] = "auto"
    """What rewards know of the policy: "none" is the decoupled baseline; "auto" is sf on iql and unroll on td3_bc."""
    upper_loss: Literal["excess", "ce"] = "excess"
    """Log-likelihood in excess of what is possible, or raw cross-entropy, which can be gamed."""
    reward_model: Literal["unirlhf", "pt_mr"] = "unirlhf"
    """Uni-RLHF's ensemble of three, or the Preference Transformer's single MLP with means for returns."""
    reward_hidden_dims: Annotated[list[int], AtLeast(1)] = field(default_factory=list)
    """Widths of the reward model's hidden layers; none for the preset's."""
    reward_epochs: Annotated[int | None, AtLeast(1)] = None
    """Most passes over the pairs in the warm-up; None for the preset's, 50 or 10,000."""
    mixture: Fraction = 0.5
    """Weight m of pairs re-weighted by the policy, against all pairs alike."""
    ramp_rounds: Annotated[int, AtLeast(0)] = 10
    """Rounds in which m grows from 0."""
    ess_share: Fraction = 0.25
    """Least effective share of the pairs; κ, which tempers their weights, is as large as this allows."""
    kappa: Annotated[float | None, AtLeast(0), AtMost(1)] = None
    """A fixed κ; None to choose it each round."""
    distribution_limit: NonNegative = 1.0
    """Longest distribution term χ, in lengths of the direct one."""
    anchor_weight: NonNegative = 0.1
    """Weight λ_a of the squared distance from the warm-up's rewards."""
    parameter_weight: NonNegative = 1e-4
    """Weight λ_w of the squared length of ν."""
    warmup_share: Fraction = 0.2
    """Share of the run before the first round begins."""
    frozen_share: Fraction = 0.1
    """Share of the run after the last round."""
    rounds: Annotated[int, AtLeast(0)] = 140
    """Rounds of the upper level between these, at equal distances."""
    round_steps: Count = 50
    """Least updates for each round; a run too short for that has fewer rounds."""
    upper_steps: Annotated[int, AtLeast(0)] = 20
    """Steps of the rewards in a round."""
    upper_batch: Count = 64
    """Pairs drawn for a step, once uniformly and once by weight."""
    upper_learning_rate: Positive = 3e-5
    """Adam's learning rate for the reward model after the warm-up."""
    patience: Count = 10
    """The rewards stop moving when the held-out loss has risen in so many rounds in a row."""
    head_size: Count = 32
    """Mode sf: features of the linear head."""
    head_learning_rate: Positive = 3e-4
    """Mode sf: Adam's learning rate for the linear head."""
    successor_learning_rate: Positive = 3e-4
    """Mode sf: Adam's learning rate for the successor features."""
    unroll_steps: Count = 1
    """Mode unroll: steps of critic and actor that are differentiated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_share + self.frozen_share > 1:
            raise AgentError("warmup_share and frozen_share are together more than 1; lower one of them")
        if self.hyper_mode not in ("auto", *MODES[self.lower.kind]):
            possible = ", ".join(MODES[self.lower.kind])
            raise AgentError(f"hyper_mode {self.hyper_mode} does not work on {self.lower.kind}; take one of {possible}")
        if self.rewards != "learned" and (self.hyper_mode not in ("auto", "none") or self.shuffle_labels):
            raise AgentError(f"rewards {self.rewards} uses no labels; leave out hyper_mode and shuffle_labels")
        if self.hyper_mode == "cg" and isinstance(self.lower, OnIQL) and self.lower.deterministic:
            raise AgentError(
                "hyper_mode cg needs a policy with noise; leave out lower.deterministic, or take another mode"
            )

    @property
    def mode(self) -> str:
        """The hyper mode, "auto" resolved."""
        if self.rewards != "learned":
            return "none"
        return MODES[self.lower.kind][0] if self.hyper_mode == "auto" else self.hyper_mode


@dataclass(frozen=True)
class Schedule:
    """Rounds at equal distances between a warm-up of the lower level and an end with frozen rewards.

    A run of 1,000,000 updates with shares 0.2 and 0.1 and 140 rounds has one every 5,000 updates. A shorter one has
    fewer updates for each round, and where that would be less than ``least``, fewer rounds; a run with less than
    ``least`` updates between warm-up and end has none.

    Attributes:
        first: Updates before the first round's own.
        last: The last round ends here.
        rounds: How many there are.
    """

    first: int
    last: int
    rounds: int

    @classmethod
    def of(cls, steps: int, warmup: float, frozen: float, rounds: int, least: int) -> "Schedule":
        """Lay out the rounds of a run of ``steps`` updates."""
        first, last = round(warmup * steps), steps - round(frozen * steps)
        return cls(first, last, min(rounds, max(last - first, 0) // least))

    def ending_at(self, step: int) -> int | None:
        """Return the round, counted from 1, that ends with update ``step``; None if none does."""
        if not (self.rounds and self.first < step <= self.last):
            return None
        # Round j ends at first + ⌊j (last - first) / rounds⌋.
        number = -(-(step - self.first) * self.rounds // (self.last - self.first))
        return number if self.end(number) == step else None

    def end(self, number: int) -> int:
        """Return the update with which round ``number`` ends."""
        return self.first + number * (self.last - self.first) // self.rounds


class PARL(Agent):
    """max_ν  (1 - m) mean_i e_i + m Σ_i ω_i(θ*(ν)) e_i + Z(ν),   θ*(ν) = what the lower level learns for r_ν.

    e_i is the excess log-likelihood of the preference for one of two segments under their returns by r_ν, and ω_i the
    tempered likelihood of both segments under the policy. The lower level sees a table of rewards, rewritten in
    each round; the dataset's own rewards coverage nothing but the scripted teacher, two baselines, and a metric.
    """

    name = "parl"
    about = About(
        method="learns rewards from preferences, where the policy goes; our offline form",
        use_when="if there are no rewards, but preferences between pairs of segments",
        needs="preferences",
        paper="Chakraborty et al. 2024, arXiv 2308.02585",
    )
    config_class = Config
    config: Config

    def build_policy(self) -> None:
        """Make the lower level's policy."""
        options = {"seed": self.seed, "steps": self.length.offline, "preprocessing": self.preprocessing}
        options |= {"device": self.device, "dtype": self.dtype, "learning": False}
        self.lower = lower_level(self.config.lower, self.observation_size, self.action_size, **options)
        self.actor = self.lower.actor

    def build_learner(self) -> None:
        """Make the rest of the lower level, and what learns its rewards."""
        c = self.config
        self.lower.build_learner()
        self.cycle = self.lower.cycle and math.lcm(self.lower.cycle, SUCCESSOR_EVERY)
        self.groups |= self.lower.groups
        self.schedule = Schedule.of(self.steps, c.warmup_share, c.frozen_share, c.rounds, c.round_steps)
        preset, raw = PRESETS[c.reward_model], (self.preprocessing.observation_mean, self.preprocessing.observation_std)
        hidden = c.reward_hidden_dims or preset.hidden_dims
        model = RewardModel(*raw, self.action_size, hidden, preset.count, preset.slope, squashed=preset.squashed)
        self.optimizer("reward", model, c.upper_learning_rate, gradient_clip=1.0)
        self.networks = self.with_successor(model) if c.mode == "sf" else Networks(model)
        self.upper = Upper(c, c.mode, self.networks, self.lower, self.groups, self.seed)

    def with_successor(self, model: RewardModel) -> Networks:
        """Make the linear head beside ``model``, and the successor features of what it multiplies."""
        c, head = self.config, LinearHead(self.config.head_size)
        self.successor = MLP(self.observation_size + self.action_size, c.head_size, c.hidden_dims)
        self.successor_value = MLP(self.observation_size, c.head_size, c.hidden_dims)
        self.optimizer("head", head, c.head_learning_rate, gradient_clip=1.0)
        self.optimizer("successor", self.successor, c.successor_learning_rate)
        self.optimizer("successor_value", self.successor_value, c.successor_learning_rate)
        self.target_successor_value = self.target_of("successor_value")
        return Networks(model, head, self.successor, self.successor_value)

    def draws(self) -> Mapping[str, Draw]:
        """Ask for what the lower level needs; the upper level draws for itself."""
        return self.lower.draws()

    def prepare(self, rows: PackedRows) -> None:
        """Ask for the preferences, or make the table of a baseline; the rewards are fitted in the first update."""
        c = self.config
        if c.scale_rewards and len(rows.episode_returns) < 2:
            raise AgentError("scale_rewards compares episodes, but there is only one; give --scale_rewards False")
        if c.rewards != "learned":
            shift = SHIFTS[c.shift]
            table = table_without_learning(c.rewards, rows, self.dtype, scaled=c.scale_rewards, shift=shift)
            self.upper.rewards = table
            return
        pairs = self.pairs(rows)
        coverage = Segments.of(rows.episode_bounds, pairs.action.shape[2]).share
        training, held_out = (Comparisons.of(p, self.device, self.dtype) for p in pairs.split(HELD_OUT, self.seed))
        self.upper.prepare(rows, training, held_out, coverage)

    def pairs(self, rows: PackedRows) -> Pairs:
        """Return the labelled pairs of segments."""
        c = self.config
        if c.labels == "scripted":
            length = c.segment_length or SEGMENT_LENGTH
            pairs = scripted_pairs(rows, standard_teacher(c.teacher), c.num_labels, length, self.seed)
        else:
            pairs = read_pairs(c.labels, rows, self.preprocessing, c.segment_length)
            if len(pairs) < LEAST_LABELS:
                raise AgentError(
                    f"{c.labels} has {len(pairs)} labels; at least {LEAST_LABELS} are needed to hold some out"
                )
        return pairs.shuffled(self.seed) if c.shuffle_labels else pairs

    def successor_loss(self, batch: Batch, successor: Tensor) -> tuple[Tensor, Metrics]:
        """Return E[‖ψ(s, a) - f - γ (1 - d) ψ̄_V(s')‖²] for ψ(s, a) ``(B, F)``."""
        with torch.no_grad():
            later = self.target_successor_value(batch.next_observation)[0]
        target = self.upper.features[batch.index] + self.config.lower.discount * (1 - batch.terminated)[:, None] * later
        return (successor - target).square().sum(1).mean(), {}

    def successor_value_loss(self, batch: Batch, successor: Tensor) -> tuple[Tensor, Metrics]:
        """Return E[w ‖ψ_V(s) - ψ(s, a)‖²] for constant ψ(s, a), with the weights w of the policy's last update."""
        assert isinstance(self.lower, LowerIQL)
        error = (self.successor_value(batch.observation)[0] - successor).square().sum(1)
        return (self.lower.weight * error).mean(), {}

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """Return the losses of the successor features."""
        successor = self.successor(torch.cat((batch.observation, batch.action), 1))[0]
        return {
            "successor": partial(self.successor_loss, successor=successor),
            "successor_value": partial(self.successor_value_loss, successor=successor.detach()),
        }

    def update(self, batch: Batch, step: int) -> Metrics:
        """Update the lower level; the first update fits the rewards before, the last of a round moves them after."""
        metrics: Metrics = {} if self.upper.fitted else self.upper.begin()
        batch = dataclasses.replace(batch, reward=self.upper.rewards[batch.index])
        metrics |= self.lower.update(batch, step)
        if self.config.mode == "sf" and step % SUCCESSOR_EVERY == 0:
            metrics |= self.minimize(batch, **self.losses(batch))
            self.track_targets(self.config.lower.target_rate)
        if self.config.rewards == "learned" and (number := self.schedule.ending_at(step)):
            metrics |= self.upper.round(number)
        return metrics

    def repeats(self, step: int) -> bool:
        """Say that it does, but for the fit before the first update and the rounds of the upper level."""
        return self.upper.fitted and not (self.config.rewards == "learned" and self.schedule.ending_at(step))

    def policy(self, observation: Tensor) -> Tensor:
        """Return what the lower level's policy does."""
        return self.lower.policy(observation)

    def training_state(self) -> dict[str, Tensor]:
        """Return what both levels need."""
        return super().training_state() | self.lower.training_state() | self.upper.state()

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Put it back; the tables of rewards and features are recomputed."""
        super().load_training_state(state)
        self.lower.load_training_state(state)
        self.upper.load_state(state)

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """One setting for all tasks."""
