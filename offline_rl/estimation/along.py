"""Estimates while an agent trains: numbers for the record of a run, quick rather than precise."""

import math

from offline_rl.agent import Agent
from offline_rl.data.packed import PackedRows
from offline_rl.errors import DivergedError
from offline_rl.estimation.estimate import Estimation
from offline_rl.estimation.log import Log
from offline_rl.estimation.options import EstimateOptions
from offline_rl.estimation.result import Interval


def estimate_now(agent: Agent, rows: PackedRows, updates: int) -> dict[str, float]:
    """Return an agent's discounted value, its difference to the data's own policy, and the ends of 90 % intervals.

    A function of the agent's weights and of the rows; it changes neither. NaN for an agent that has diverged, and for
    an end that nobody knows.

    Args:
        agent: The agent, in training.
        rows: The dataset.
        updates: Gradient steps of the critics.
    """
    names = "value", "difference"
    try:
        estimation = Estimation(Log(rows), agent, EstimateOptions(updates=updates), undiscounted=False)
        while estimation.advance():
            pass
        value = estimation.comparisons()[0]
        return _numbers(names[0], value.agent) | _numbers(names[1], value.difference)
    except DivergedError:
        return {name: own for part in names for name, own in _numbers(part, Interval(math.nan, None, None)).items()}


def _numbers(name: str, interval: Interval) -> dict[str, float]:
    low, high = (math.nan if end is None else end for end in (interval.low, interval.high))
    return {name: interval.mean, f"{name}_low": low, f"{name}_high": high}
