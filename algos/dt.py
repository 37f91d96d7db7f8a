r"""Decision Transformer: imitation of actions, given the return that was still to come.

Paper: Lili Chen, Kevin Lu, Aravind Rajeswaran, Kimin Lee, Aditya Grover, Michael Laskin, Pieter Abbeel, Aravind
Srinivas, Igor Mordatch. Decision Transformer: Reinforcement Learning via Sequence Modeling. NeurIPS 2021, arXiv
2106.01345. Authors' code: github.com/kzl/decision-transformer. Where CORL (github.com/tinkoff-ai/CORL) differs from
it, this follows CORL.

``--encoder mlp`` makes it the MLP of one state and a return of RvS (Scott Emmons et al., ICLR 2022, arXiv
2112.10751): enough where the state says all, and quick.

Deviations from the authors' code, the first two CORL's: GELU instead of ReLU; the loss is a mean over all steps of the
windows, padded ones too, instead of the valid ones, so shorter windows count less; all weights begin at N(0, 0.02²),
where theirs leaves embeddings and heads at PyTorch's own start (and CORL's leaves the attention there); observations
are normalised as for every algorithm here, on D4RL's tasks by the standard deviation + 1e-3 instead of 1e-6.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from offline_rl.agent import About, Metrics, SequenceAgent, SequenceConfig, Uniform, WindowBatch
from offline_rl.agent.sequence import LONGEST
from offline_rl.data.history import History
from offline_rl.data.packed import PackedRows
from offline_rl.data.windows import Steps, Windows, complete_rows
from offline_rl.networks import MLP
from offline_rl.networks.dropout import KEY_SIZE, Dropout
from offline_rl.networks.transformer import TrajectoryTransformer, draw_weights
from offline_rl.settings import Above, AtLeast, AtMost

LARGEST = 10**12
"""Return, or factor on returns, up to which single precision computes; as for observations."""


@dataclass(frozen=True)
class Config(SequenceConfig):
    """Settings of the Decision Transformer: the authors', who train 100,000 steps. CORL: batches of 4096, rate 8e-4."""

    length: Annotated[int, AtLeast(1), AtMost(LONGEST)] = 20
    """Steps in a window, and steps that the acting agent remembers; the MLP has 1."""
    return_scale: Annotated[float, Above(0), AtMost(LARGEST)] = 0.001
    """Factor on returns before they enter the network."""
    target_returns: Annotated[list[float], AtLeast(-LARGEST), AtMost(LARGEST)] = field(default_factory=list)
    """Returns to ask for, the first one by default; an evaluation plays them all. None given: the best in the data."""


class ActionModel(nn.Module):
    """Maps steps and the returns still to come to actions; holds the best return of the data as well."""

    best_return: Tensor

    def __init__(self, observation_size: int, action_size: int, config: Config) -> None:
        super().__init__()
        self.register_buffer("best_return", torch.zeros(()))
        self.scale = config.return_scale
        self.transformer: TrajectoryTransformer | None = None
        if config.encoder == "transformer":
            sizes = 1, observation_size, action_size
            self.transformer = TrajectoryTransformer(sizes, **config.transformer)
            self.head = nn.Linear(config.width, action_size)
        else:
            self.mlp = MLP(observation_size + 1, action_size, config.hidden_dims)

    def initialize(self, generator: np.random.Generator) -> None:
        """Draw all parameters from ``generator``."""
        if self.transformer is None:
            self.mlp.initialize(generator)
        else:
            draw_weights(self, generator)

    def forward(self, steps: Steps, return_to_go: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Return an action ``(B, T, A)`` in (-1, 1) for each step, which knows nothing of later ones.

        Args:
            steps: ``(B, T, ...)``.
            return_to_go: ``(B, T)``, what is asked for, or what came.
            dropout: None for acting.
        """
        wanted = self.scale * return_to_go[:, :, None]
        if self.transformer is None:
            inputs = torch.cat((steps.observation, wanted), 2)
            action = self.mlp(inputs.flatten(0, 1))[0].tanh()
            return action.view(*inputs.shape[:2], action.shape[1])
        tokens = wanted, steps.observation, steps.action
        features = self.transformer(tokens, steps.time, steps.mask, dropout)
        return self.head(features[:, :, 1]).tanh()  # type: ignore[no-any-return]


class DT(SequenceAgent):
    r"""min_π  E[1/K Σ_i m_i (π(R̂_1, s_1, a_1, …, R̂_i, s_i) - a_i)²] over windows of K steps.

    R̂_i is the return still to come at step i, undiscounted; m_i is 0 for padded steps, else 1; the square is a mean
    over action entries. To act, R̂ begins at the return that is asked for, and every reward received is taken off it.
    """

    name = "dt"
    about = About(
        method="Decision Transformer: imitation, given the return still to come",
        use_when="if a policy must reach a return that is asked for",
        paper="Chen et al. 2021, arXiv 2106.01345",
    )
    config_class = Config
    cycle = 1
    stackable = True
    stackable_settings = ("learning_rate",)
    config: Config
    acting_networks = ("model",)
    window_fields = ("observation", "action", "return_to_go", "time", "mask")

    def build_policy(self) -> None:
        """Make the model and the memory of the episodes in play."""
        c = self.config
        length = c.length if c.encoder == "transformer" else 1
        self.history = History(length, self.action_size)
        self.model = ActionModel(self.observation_size, self.action_size, c)

    def build_learner(self) -> None:
        """Ask for windows as long as the memory, and give the model its optimiser."""
        self.windows = Windows(history=1, future=self.history.length)
        self.optimizer("model", self.model, self.config.learning_rate, **self.config.adamw)

    def draws(self) -> dict[str, Uniform]:
        """Ask for the keys of dropout."""
        return {"dropout": Uniform(KEY_SIZE)}

    def prepare(self, rows: PackedRows) -> None:
        """Leave out an episode that the recording cut, for its return is not known; note the best return."""
        self.rows = complete_rows(rows)
        known = rows.episode_returns[rows.episode_complete]
        self.model.best_return.fill_((known if len(known) else rows.episode_returns).max())

    def model_loss(self, batch: WindowBatch) -> tuple[Tensor, Metrics]:
        """Return the mean of m (π - a)² over all steps, padded or not, and action entries."""
        steps = batch.future
        dropout = Dropout(self.config.dropout, batch.draws["dropout"])
        error = (self.model(steps, steps.return_to_go, dropout) - steps.action).square()
        mask = steps.mask.to(self.dtype)
        return (error * mask[:, :, None]).mean(), {"padded": 1 - mask.mean()}

    def update(self, batch: WindowBatch, step: int) -> Metrics:
        """Update the model."""
        return self.minimize(batch, model=self.model_loss)

    def policy(self, observation: Tensor) -> Tensor:
        """Return the newest action, and remember both."""
        steps = self.history.append_observation(observation)
        asked = dataclasses.replace(steps, return_to_go=self.target_return() + steps.return_to_go)
        action, _ = self.on_window(asked, observation[:, :0])
        self.history.set_action(action)
        return action

    def on_window(self, steps: Steps, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the newest action; there is nothing else to remember."""
        return self.model(steps, steps.return_to_go)[:, -1], memory

    def target_return(self) -> Tensor:
        """Return what is asked for, ``(1, 1)`` or one for each environment ``(E, 1)``."""
        known = torch.tensor(self.config.target_returns, dtype=self.dtype, device=self.device)
        known = known if len(known) else self.model.best_return[None]
        return known[torch.from_numpy(self.target).to(self.device)].reshape(-1, 1)

    @classmethod
    def target_labels(cls, config: Config) -> Sequence[str]:
        """Label the returns that can be asked for."""
        return [f"{target:g}" for target in config.target_returns] or [""]

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # CORL's settings.
        "halfcheetah-*": {"target_returns": [12000.0, 6000.0]},
        "hopper-*": {"target_returns": [3600.0, 1800.0]},
        "walker2d-*": {"target_returns": [5000.0, 2500.0]},
    }
    """Published scores are the better target's; here the first one's is the score, and the others stand beside it."""
