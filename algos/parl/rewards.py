"""Rewards that the lower level learns from: a table with one entry for each row of the dataset, never the rows' own.

All of them, learned or not, pass through one affine map r̂ = s₀ r + b whose constants are found once. Equal-length
segments do not tell a constant added to every reward, which matters where episodes end early: b is therefore a choice
with a name. No mean is subtracted, for then a constant reward and none would be the same.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from offline_rl.algos.iql import RETURN_RANGE
from offline_rl.data.packed import PackedRows
from offline_rl.errors import AgentError

Source = Literal["learned", "oracle", "zero", "average"]
SHIFTS = {"none": 0.0, "pt": 0.5}
"""b by name; "pt" is what the code of the Preference Transformer adds on locomotion, a bonus for staying alive."""


def episode_returns(rows: PackedRows, rewards: Tensor) -> np.ndarray:
    """Return the sums ``(E,)`` of ``rewards`` ``(N,)`` over the rows of each episode, float64."""
    before = np.concatenate([[0.0], np.cumsum(rewards.double().cpu().numpy())])
    return np.diff(before[rows.episode_bounds])


def scale_of(returns: np.ndarray) -> float:
    """Return s₀ = 1000 / (largest - smallest return).

    Raises:
        AgentError: All returns are equal.
    """
    spread = float(returns.max() - returns.min())
    if not spread > 0:
        raise AgentError(
            f"scale_rewards divides by the range of episode returns, but all {len(returns)} are equal;"
            " give --scale_rewards False"
        )
    return RETURN_RANGE / spread


def without_learning(source: Source, rows: PackedRows, dtype: torch.dtype, *, scaled: bool, shift: float) -> Tensor:
    """Return the table ``(N,)`` of a baseline: the dataset's rewards (IQL's own preset), their mean, or zeros."""
    reward = rows.columns().reward.to(dtype)
    if source == "zero":
        reward = torch.zeros_like(reward)
    elif source == "average":
        reward = torch.full_like(reward, float(reward.double().mean()))
    scale = scale_of(rows.episode_returns) if scaled and source != "zero" else 1.0
    return reward * scale + shift


def correlation(rewards: Tensor, rows: PackedRows) -> Tensor:
    """Return Pearson's correlation of ``rewards`` ``(N,)`` with the dataset's; 0 where these are not known."""
    true = rows.columns().reward.double()
    known = true.isfinite()
    ours, true = (torch.where(known, values, 0) for values in (rewards.double(), true))
    count = known.sum().clamp_min(1)
    ours, true = (torch.where(known, values - values.sum() / count, 0) for values in (ours, true))
    return (ours * true).sum() / (ours.square().sum() * true.square().sum()).sqrt().clamp_min(1e-300)
