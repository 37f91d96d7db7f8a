"""The numbers of both levels: those of the lower one under its own names, those of the upper one ours."""

from dataclasses import dataclass

from offline_rl.agent import AgentConfig
from offline_rl.errors import AgentError


@dataclass(frozen=True)
class AlignmentConfig(AgentConfig):
    """Settings of the two levels; the lower levels' defaults are their authors', the upper level's are ours."""

    mixture: float = 0.5
    """Weight m of pairs re-weighted by the policy, against all pairs alike."""
    ramp_rounds: int = 10
    """Rounds in which m grows from 0."""
    ess_share: float = 0.25
    """Least effective share of the pairs; κ, which tempers their weights, is as large as this allows."""
    kappa: float | None = None
    """A fixed κ; None to choose it each round."""
    distribution_limit: float = 1.0
    """Longest distribution term χ, in lengths of the direct one."""
    anchor_weight: float = 0.1
    """Weight λ_a of the squared distance from the warm-up's rewards."""
    parameter_weight: float = 1e-4
    """Weight λ_w of the squared length of ν."""
    warmup_share: float = 0.2
    """Share of the run before the first round begins."""
    frozen_share: float = 0.1
    """Share of the run after the last round."""
    rounds: int = 140
    """Rounds of the upper level between these, at equal distances."""
    round_steps: int = 50
    """Least updates for each round; a run too short for that has fewer rounds."""
    upper_steps: int = 20
    """Steps of the rewards in a round."""
    upper_batch: int = 64
    """Pairs drawn for a step, once uniformly and once by weight."""
    upper_learning_rate: float = 3e-5
    """Adam's learning rate for the reward model after the warm-up."""
    patience: int = 10
    """The rewards stop moving when the held-out loss has risen in so many rounds in a row."""
    head_size: int = 32
    """Mode sf: features of the linear head."""
    head_learning_rate: float = 3e-4
    """Mode sf: Adam's learning rate for the linear head."""
    successor_learning_rate: float = 3e-4
    """Mode sf: Adam's learning rate for the successor features."""
    unroll_steps: int = 1
    """Mode unroll: steps of critic and actor that are differentiated."""
    discount: float = 0.99
    """Discount factor γ."""
    target_rate: float = 0.005
    """Rate at which targets follow."""
    actor_learning_rate: float = 3e-4
    """Adam's learning rate for the policy; on iql it falls to 0 along half a cosine."""
    critic_learning_rate: float = 3e-4
    """Adam's learning rate for both critics."""
    value_learning_rate: float = 3e-4
    """Only on iql: Adam's learning rate for V."""
    expectile: float = 0.7
    """Only on iql: expectile τ of Q that V learns."""
    beta: float = 3.0
    """Only on iql: inverse temperature β of the weights exp(β A)."""
    weight_limit: float = 100.0
    """Only on iql: where the weights are capped."""
    deterministic: bool = False
    """Only on iql: learn a policy without noise."""
    alpha: float = 2.5
    """Only on td3_bc: weight of the Q term against the behaviour-cloning term."""
    policy_noise: float = 0.2
    """Only on td3_bc: standard deviation of the noise on the target's actions."""
    noise_clip: float = 0.5
    """Only on td3_bc: bound of that noise."""
    policy_delay: int = 2
    """Only on td3_bc: critic updates for each update of the actor and the targets."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("round_steps", "upper_batch", "patience", "unroll_steps", "policy_delay", "head_size", at_least=1)
        self.require("rounds", "ramp_rounds", "upper_steps", "beta", "alpha", "policy_noise", "noise_clip", at_least=0)
        self.require("mixture", "kappa", "ess_share", "warmup_share", "frozen_share", at_least=0, at_most=1)
        self.require("discount", "target_rate", "expectile", at_least=0, at_most=1)
        self.require("anchor_weight", "parameter_weight", "distribution_limit", at_least=0)
        self.require("weight_limit", *(name for name in vars(self) if name.endswith("learning_rate")), above=0)
        if self.warmup_share + self.frozen_share > 1:
            raise AgentError("warmup_share and frozen_share are together more than 1; lower one of them")
