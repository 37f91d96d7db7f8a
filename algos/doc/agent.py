r"""DoC: Dichotomy of Control, imitation of what is behind a return, as far as the agent could control it.

Paper: Sherry Yang, Dale Schuurmans, Pieter Abbeel, Ofir Nachum. Dichotomy of Control: Separating What You Can Control
from What You Cannot. ICLR 2023, arXiv 2210.13435. Authors' code: folder ``dichotomy_of_control`` of
github.com/google-research/google-research; its neural program cannot be imported, and covers FrozenLake only.

A latent z of the future must say nothing about rewards and next states beyond what history, state and action say. Then
the return V(z) that the data shows is what acting on z earns.

Deviations from the authors' code, each towards the paper: the encoder *descends* E_f, which only f ascends; E_f
compares outcomes instead of recognising contexts; the prior learns from a constant posterior; candidates of z are
ranked by their own values; the token before an action is the last reward, not its own; the actions that z explains
begin where the future does. Our choices, where the paper was not at hand: a normal or categorical likelihood, an
outcome that includes the end of the episode, κ, three value heads, f's own optimiser, z chosen again every F steps (the
authors' code draws it at every step by default). The transformer is DT's: GELU, theirs ReLU; LayerNorm with ε 1e-5,
theirs 1e-3. Two of their numbers mean less here: AdamW multiplies the weight decay by the learning rate, theirs does
not, so its 1e-4 is 10,000 times stronger; the clip of 0.25 is of all gradients together, theirs of each tensor.

Not verified: the paper's own displays, its settings for continuous control, and whether its V may shape q.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from offline_rl.agent import About, Draw, Metrics, Normal, SequenceAgent, SequenceConfig, Uniform, WindowBatch
from offline_rl.agent.sequence import LONGEST
from offline_rl.algos.doc.energy import Energy, pairs_of
from offline_rl.algos.doc.latent import LatentPolicy, MLPEncoder, TransformerEncoder, View, at_places, chosen
from offline_rl.data.history import History
from offline_rl.data.packed import PackedRows
from offline_rl.data.windows import Steps, Windows, complete_rows
from offline_rl.draws import Stream
from offline_rl.errors import AgentError
from offline_rl.networks.dropout import KEY_SIZE, Dropout
from offline_rl.settings import AtLeast, AtMost, Count, Fraction, NonNegative, Positive

LARGEST_CHOICE = 10_000_000
"""Numbers that all candidates of z together may need in a layer, for each environment."""


@dataclass(frozen=True)
class Config(SequenceConfig):
    """Settings of DoC; those of the authors' program for FrozenLake where they carry over, else ours."""

    discrete: bool = False
    """Actions are one-hot vectors: the policy is categorical, and acts by giving the probabilities."""
    past: Annotated[int, AtLeast(1), AtMost(LONGEST)] = 20
    """K, steps up to the present that the transformers read, and that the agent remembers when it acts."""
    future: Annotated[int, AtLeast(1), AtMost(LONGEST)] = 20
    """F, steps from the present on that z stands for."""
    latent_size: Annotated[int, AtLeast(1), AtMost(LONGEST)] = 32
    """Entries of z."""
    beta: float = 1.0
    """Weight β of the constraint; a negative one is the authors' code's mistake, and collects luck in z."""
    beta_ramp: Fraction = 0.1
    """Share of the run in which β grows to its value, so that f is not asked before it knows anything."""
    standard_weight: NonNegative = 0.02
    """Weight κ of KL(q ‖ N(0, 1)), which keeps the clusters of z together."""
    value_heads: Count = 3
    """Values that are learned of z; candidates are ranked by the smallest."""
    candidates: Count = 100
    """Samples of the prior from which z is chosen."""
    negatives: Count = 63
    """Outcomes of other steps that each true one is compared with."""
    energy_places: Count = 4
    """Steps of each future whose outcomes are compared."""
    energy_steps: Count = 1
    """Steps of f for each step of everything else."""
    energy_learning_rate: Positive = 3e-4
    """Adam's learning rate for f."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden_dims:
            raise AgentError("hidden_dims is []; doc needs at least one hidden layer")
        if self.candidates * max(self.latent_size, *self.hidden_dims) > LARGEST_CHOICE:
            raise AgentError(f"candidates is {self.candidates}; times the widest layer at most {LARGEST_CHOICE}")


class DoC(SequenceAgent):
    r"""min_{q,π} max_f  E[-log π(a_i | h_i, s_i, z)] + β E_f,   z ~ q(z | future),  plus what rides on z as a constant.

    E_f = E[f(o_i, x_i, z) - log mean_õ exp f(õ, x_i, z)], where o_i is the outcome (r_i, s_{i+1}, d_i) of the situation
    x_i (features of history and state, s_i, a_i), and õ are o_i and M random ones. V minimises
    E[(V(h_t, s_t, z) - R̂_t)²] and the prior KL(q ‖ p(z | h_t, s_t)), neither of which moves q; κ KL(q ‖ N(0, 1)) does.
    Means run over steps that are not padded. To act, z* is the sample of the prior with the highest V, for F steps.
    """

    name = "doc"
    about = About(
        method="Dichotomy of Control: imitation, given a future without luck",
        use_when="if returns depend on luck",
        paper="Yang et al. 2023, arXiv 2210.13435",
    )
    config_class = Config
    cycle = 1
    stackable = True
    stackable_settings = ("beta", "standard_weight", "learning_rate", "energy_learning_rate")
    config: Config
    acting_networks = ("model",)
    window_fields = ("observation", "action", "previous_reward", "time", "mask")

    def build_policy(self) -> None:
        """Make encoders, policy and values; fix the noise of the prior's samples."""
        c, sizes = self.config, (self.observation_size, self.action_size, self.config.latent_size)
        encoder: TransformerEncoder | MLPEncoder
        if c.encoder == "transformer":
            encoder = TransformerEncoder(*sizes, **c.transformer)
        else:
            encoder = MLPEncoder(*sizes, c.hidden_dims)
        self.history = History(c.past if c.encoder == "transformer" else 1, self.action_size)
        self.model = LatentPolicy(encoder, *sizes[1:], c.hidden_dims, value_count=c.value_heads, discrete=c.discrete)
        noise = Stream(self.seed, "candidates").at(0).standard_normal((c.candidates, c.latent_size))
        candidate_noise = torch.from_numpy(noise).to(self.device, self.dtype)
        self.model.register_buffer("candidate_noise", candidate_noise, persistent=False)
        self.latent = self.promise = torch.zeros(0)
        self.memory_size = c.latent_size

    def build_learner(self) -> None:
        """Make the energy, apart from everything else; ask for windows."""
        c = self.config
        self.windows = Windows(self.history.length, c.future)
        inputs = self.model.encoder.feature_size + self.observation_size + self.action_size + c.latent_size
        self.energy = Energy(inputs, self.observation_size + 2, c.hidden_dims)
        self.optimizer("model", self.model, c.learning_rate, **c.adamw)
        self.optimizer("energy", self.energy, c.energy_learning_rate)

    def draws(self) -> dict[str, Draw]:
        """Ask for the latents, the steps whose outcomes are compared, the outcomes beside them, and dropout's keys."""
        places = self.config.energy_places
        return {
            "latent": Normal(self.config.latent_size),
            "place": Uniform(places),
            "negative": Uniform(places * self.config.negatives),
            "dropout": Uniform(KEY_SIZE),
        }

    def prepare(self, rows: PackedRows) -> None:
        """Leave out an episode that the recording cut, for its return is not known; note the scales."""
        self.rows = complete_rows(rows)
        reward = rows.columns().reward.to(self.dtype)
        self.model.reward_mean.copy_(reward.mean())
        unit = reward.abs().max().clamp(1e-12, 1)  # small rewards have a scale of their own
        self.model.reward_std.copy_(reward.std(correction=0) + 1e-3 * unit)
        self.model.return_scale.fill_(float(np.abs(rows.episode_returns).max()) or 1.0)

    def view(self, batch: WindowBatch) -> View:
        """Read the windows; only ``features``, ``posterior``, ``prior`` and ``latent`` bring gradients."""
        steps, encoder = self.model.scaled(batch.steps), self.model.encoder
        future = steps.part(batch.place)
        dropout = Dropout(self.config.dropout, batch.draws["dropout"])
        before, after = (part[:, batch.place :] for part in encoder.features(steps, dropout))
        posterior = encoder.posterior(future, dropout)
        prior = encoder.prior(steps.part(0, batch.place + 1), dropout)
        places = (batch.draws["place"] * future.mask.sum(1, keepdim=True)).long()
        ongoing = 1 - future.terminated[:, :, None]
        outcome = torch.cat((future.reward[:, :, None], ongoing * future.next_observation, ongoing), 2)
        situation = torch.cat((after.detach(), future.observation, future.action), 2)
        return View(
            future,
            before,
            posterior,
            prior,
            posterior.at(batch.draws["latent"]),
            at_places(situation, places).flatten(0, 1),
            at_places(outcome, places).flatten(0, 1),
            pairs_of(places.numel(), batch.draws["negative"].view(places.numel(), -1)),
        )

    def information(self, view: View, latent: Tensor, *, frozen: bool) -> Tensor:
        """Return E_f in nats, at most log (1 + M), of latents ``(B, L)``; ``frozen`` makes f a constant.

        The true outcome is one of those that the mean runs over. Without it E_f has no bound where outcomes never
        repeat: f then raises it without end, and q thinks of nothing but lowering it.
        """
        repeated = latent.repeat_interleave(self.config.energy_places, 0)
        f: Tensor = self.energy(torch.cat((view.situation, repeated), 1), view.outcome, view.pairs, frozen=frozen)
        return (f[:, 0] - f.logsumexp(1)).mean() + math.log(f.shape[1])

    def energy_loss(self, batch: WindowBatch, view: View) -> tuple[Tensor, Metrics]:
        """Return -E_f, with z a constant."""
        return -self.information(view, view.latent.detach(), frozen=False), {}

    def policy_loss(self, view: View) -> Tensor:
        """Return E[-log π(a | h, s, z)] in nats."""
        likelihood = self.model.log_likelihood(view.features, view.latent, view.future.action)
        return -(likelihood * view.future.mask).sum() / view.future.mask.sum()

    def value_loss(self, view: View) -> Tensor:
        """Return Σ_j E[(V_j(h_t, s_t, z) - R̂_t)²], with z a constant, in units of the largest return."""
        values = self.model.values(view.features[:, 0], view.latent.detach())
        return (values - view.future.return_to_go[:, 0] / self.model.return_scale).square().mean(1).sum()

    def prior_loss(self, view: View) -> Tensor:
        """Return E[KL(q ‖ p)] in nats, with q a constant."""
        return view.posterior.detach().divergence(view.prior).mean()

    def model_loss(self, batch: WindowBatch, view: View) -> tuple[Tensor, Metrics]:
        """Return the sum of the losses of everything but f."""
        c = self.config
        terms = {
            "policy_loss": self.policy_loss(view),
            "information": self.information(view, view.latent, frozen=True),
            "value_loss": self.value_loss(view),
            "prior_loss": self.prior_loss(view),
            "standard_divergence": view.posterior.divergence(view.posterior.standard()).mean(),
        }
        count = self.groups["model"].count.double() + 1
        beta = (c.beta * (count / max(c.beta_ramp * self.steps, 1)).clamp(max=1)).to(self.dtype)
        weights: dict[str, Tensor | float] = {"information": beta, "standard_divergence": c.standard_weight}
        loss = torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()
        return loss, {name: term.detach() for name, term in terms.items()}

    def update(self, batch: WindowBatch, step: int) -> Metrics:
        """Update f on constant latents, then everything else against the new f."""
        view = self.view(batch)
        metrics: Metrics = {}
        for _ in range(self.config.energy_steps):
            metrics = self.minimize(batch, energy=partial(self.energy_loss, view=view))
        return metrics | self.minimize(batch, model=partial(self.model_loss, view=view))

    def policy(self, observation: Tensor) -> Tensor:
        """Return the newest action for z*, which is chosen again every F steps of an episode; remember all."""
        steps = self.model.scaled(self.history.append_observation(observation))
        features = self.model.encoder.features(steps)[0][:, -1:]
        self.choose(steps, features[:, 0])
        action = self.model.action(features, self.latent)[:, 0]
        self.history.set_action(action)
        return action

    def choose(self, steps: Steps, features: Tensor) -> None:
        """Choose z* in the environments where its F steps are over; at an episode's start, note the promise V(z*)."""
        time = self.history.time
        due, first = time % self.config.future == 0, time == 0
        if due.any():
            latent, value = self.model.best(self.model.encoder.prior(steps), features, self.model.candidate_noise)
            self.latent = chosen(due, latent, self.latent)
            self.promise = chosen(first, value * self.model.return_scale, self.promise)

    def on_window(self, steps: Steps, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the newest action for z*, and z*, which is ``memory`` unless its F steps are over."""
        steps = self.model.scaled(steps)
        features = self.model.encoder.features(steps)[0][:, -1:]
        prior, noise = self.model.encoder.prior(steps), self.model.candidate_noise
        latent, _ = self.model.best(prior, features[:, 0], noise)
        latent = torch.where(steps.time[:, -1:] % self.config.future == 0, latent, memory)
        return self.model.action(features, latent)[:, 0], latent

    def memory(self) -> Tensor:
        """Return z* as it was chosen last."""
        return self.latent

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """The paper's settings for continuous control are not known; one setting serves all tasks."""
