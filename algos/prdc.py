r"""PRDC: policy regularisation with a dataset constraint.

Paper: Yuhang Ran, Yi-Chen Li, Fuxiang Zhang, Zongzhang Zhang, Yang Yu. Policy Regularization with Dataset Constraint
for Offline Reinforcement Learning. ICML 2023, arXiv 2306.06569. Authors' code: github.com/LAMDA-RL/PRDC.

PRDC is TD3+BC with another reference action: that of the row of the whole dataset which is nearest to (s, π(s)).

Deviations from the paper, all shared with the authors' code: the penalty is the mean squared error of the action part,
where the paper has the distance of the whole vector; λ is computed from Q₁(s, π(s)), not Q(s, a); ``neighbor_rank`` k
takes the k-th neighbour alone. Not verified: how the paper averages its scores, and its settings for mazes other than
antmaze-medium-play.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from offline_rl.agent import About, Batch, Metrics
from offline_rl.algos import td3_bc
from offline_rl.data.packed import Columns, PackedRows
from offline_rl.data.replay import Replay
from offline_rl.neighbors.search import NearestRows, Query
from offline_rl.settings import Count, NonNegative


@dataclass(frozen=True)
class Config(td3_bc.Config):
    """Settings of PRDC; the defaults are the authors' for hopper and walker2d."""

    beta: NonNegative = 2.0
    """Weight β of states against actions in the search: a large one keeps to actions recorded near the same state."""
    neighbor_rank: Count = 1
    """Which neighbour gives the reference action; 1 is the nearest."""
    neighbors: Literal["lists", "tree", "brute", "faiss_flat"] = "lists"
    """How neighbours are found; all ways are exact and give the same rows, "lists" is the fastest."""
    list_length: Count = 64
    """Candidates kept for each row by "lists", 8 bytes each."""
    search_online: bool = False
    """In an online phase, search among the rows collected there, too; by default only the dataset constrains."""


class PRDC(td3_bc.TD3BC):
    r"""min_π  -λ E[Q₁(s, π(s))] + E[(π(s) - â)²],   λ = α / E|Q₁(s, π(s))|.

    â is the action of argmin over dataset rows (ŝ, â) of ‖[β s ; π(s)] - [β ŝ ; â]‖, states normalised.
    """

    name = "prdc"
    about = About(
        method="TD3+BC, pulled to the nearest action of the whole dataset",
        use_when="if TD3+BC stays too close to bad actions of mixed data",
        paper="Ran et al. 2023, arXiv 2306.06569",
    )
    config_class = Config
    stackable_settings = td3_bc.TD3BC.stackable_settings
    config: Config

    def prepare(self, rows: PackedRows) -> None:
        """Build the search structure, or take the one that another seed has built for the same rows."""
        self._columns: Callable[[Tensor], Columns] = rows.columns
        self.nearest = NearestRows(rows, self.config.beta, self.config.neighbors, self.config.list_length)

    def go_online(self, replay: Replay) -> None:
        """Begin the online phase; the constraint keeps to the dataset unless the settings say otherwise."""
        super().go_online(replay)
        if self.config.search_online:
            self._columns = replay.columns
            self.nearest.include(replay)

    def reference_action(self, batch: Batch, action: Tensor) -> tuple[Tensor, Metrics]:
        """Return the actions ``(B, A)`` of the rows nearest to (s, π(s)), and what the search measured."""
        query = Query(batch.index, batch.observation, action)
        found = self.nearest.find(query, self.config.neighbor_rank, after=self.groups["critic"].count)
        metrics = {
            "cloning_constraint": (action.detach() - batch.action).square().mean(),
            "neighbor_distance": found.distance.mean(),
        }
        metrics |= {f"timing/{name}": value for name, value in found.metrics.items()}
        return self._columns(found.rows).action.to(self.dtype), metrics

    def update(self, batch: Batch, step: int) -> Metrics:
        """Update as TD3+BC does; π(s) does not depend on the critics, so the search runs beside their update."""
        if step % self.config.policy_delay == 0:
            with torch.no_grad():
                query = Query(batch.index, batch.observation, self.actor(batch.observation))
                self.nearest.begin(query, self.config.neighbor_rank)
        return super().update(batch, step)

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "halfcheetah-*": {"alpha": 40.0},
        # The README's command is for antmaze-medium-play-v2. Not verified: that it holds for the other mazes.
        "antmaze-*": {"alpha": 7.5, "beta": 7.5, "reward_scale": 10_000.0, "reward_shift": -1.0},
    }
    """The commands in the README of the authors' code; hopper and walker2d use the defaults there."""
