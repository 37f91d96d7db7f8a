"""Checks of the rewards."""

from collections.abc import Iterator

import numpy as np

from offline_rl.checks.finding import Finding
from offline_rl.checks.view import FloatArray, View, examples

HORIZON = 100
"""Steps over which rewards are added to know the size of values: 1 / (1 - discount) with the usual discount, 0.99."""
LARGE, SMALL = 1e4, 0.01
"""Sizes of values above and below which learning is slow: networks begin at about 1, and move by small steps."""
OUTLYING, GLITCH = 50, 1000
"""Distances from the median in usual spreads: of an outlier, and of one that no rule of a task gives."""
RARE = 2e-3
"""Share of rows that outliers may have at most; what is more frequent is no outlier."""


def constant_reward(view: View) -> Iterator[Finding]:
    """Find rewards that are all the same where no episode ends, so that nothing is better than anything else."""
    rewards = view.data.rewards
    if view.rows > 1 and np.ptp(rewards) == 0 and not view.data.terminated.any():
        yield Finding(
            "constant_reward",
            "warning",
            f"the reward is {rewards[0]:g} in all {view.rows:,} rows, and no episode ends for good",
            "everything is as good as everything else, so there is nothing to learn but what was done",
            "give the reward that the task is about; or train bc, which needs none",
        )


def reward_scale(view: View) -> Iterator[Finding]:
    """Find rewards so large or small that the values that are learned are far from what networks begin with."""
    values = _sums(view)
    largest, spread = float(np.abs(values).max()), float(values.std())
    if np.ptp(view.data.rewards) == 0:
        return
    usual = float(np.quantile(np.abs(values), 0.9))
    said = f"rewards of {HORIZON} steps add up to {values.min():.3g} to {values.max():.3g}"
    if usual > LARGE:
        yield Finding(
            "reward_scale",
            "warning",
            f"{said}, 10 % to more than {usual:.3g} in size",
            "critics begin near 0 and need very many updates to learn such values",
            f"give rewards in a larger unit: divide them by about {_unit(usual / 100):g}",
        )
    elif spread < SMALL and largest < 10 * SMALL:
        yield Finding(
            "reward_scale",
            "warning",
            f"{said} only, with a standard deviation of {spread:.3g}",
            "the errors of a new critic are larger than all differences that it has to learn",
            f"give rewards in a smaller unit: multiply them by about {_unit(1 / max(spread, 1e-30)):g}",
        )


def _sums(view: View) -> FloatArray:
    """Return the sum of the next rewards of each row of the sample, of its episode, `(K,)`."""
    total = np.concatenate([[0.0], np.cumsum(view.data.rewards, dtype=np.float64)])
    ends = np.minimum(view.sample + HORIZON, view.lasts[view.episode[view.sample]] + 1)
    found: FloatArray = total[ends] - total[view.sample]
    return found


def _unit(number: float) -> float:
    return float(10 ** np.round(np.log10(number)))


def reward_outliers(view: View) -> Iterator[Finding]:
    """Find a few rewards that outweigh all others and are no rule of the task: not at ends, not the same each time."""
    rewards = view.data.rewards.astype(np.float64)
    distance = np.abs(rewards - np.median(rewards))
    usual = float(rewards[distance <= np.quantile(distance, 1 - 2 * RARE)].std())
    if usual == 0:
        return
    rows = np.flatnonzero(distance > OUTLYING * usual)
    at_ends = float(view.data.terminated[rows].mean()) if len(rows) else 1.0
    if not 0 < len(rows) <= max(3, RARE * view.rows) or at_ends > 0.5:
        return
    farthest = float(distance[rows].max()) / usual
    if len(np.unique(rewards[rows])) < len(rows) / 2 and farthest < GLITCH:
        return
    worst = rows[np.argsort(-distance[rows], kind="stable")]
    yield Finding(
        "reward_outliers",
        "warning",
        f"{len(rows):,} of {view.rows:,} rewards are up to {farthest:,.0f} times as far from the median as usual, such "
        f"as {rewards[worst[0]]:.6g}; {examples(worst)}",
        "their errors outweigh those of all other rows in the critic's loss",
        "repair these rewards, or cut them to the range of the others",
    )
