"""All checks of a dataset, one function each; one more costs a function and a line of :data:`CHECKS`."""

import os
from collections.abc import Callable, Iterator

from offline_rl.checks.actions import action_codes, ignored_observations, narrow_actions, saturated_actions
from offline_rl.checks.clock import hidden_clock
from offline_rl.checks.columns import (
    column_outliers,
    constant_column,
    nearly_constant_column,
    observation_codes,
    unused_column,
)
from offline_rl.checks.ends import end_as_cut, missed_border, no_ends, time_limit_as_end
from offline_rl.checks.finding import Finding
from offline_rl.checks.rewards import constant_reward, reward_outliers, reward_scale
from offline_rl.checks.rows import duplicated_rows, few_episodes, start_states
from offline_rl.checks.view import View
from offline_rl.data import Dataset, load_dataset

Check = Callable[[View], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    time_limit_as_end,
    end_as_cut,
    no_ends,
    missed_border,
    duplicated_rows,
    few_episodes,
    start_states,
    constant_column,
    nearly_constant_column,
    column_outliers,
    observation_codes,
    unused_column,
    saturated_actions,
    narrow_actions,
    action_codes,
    ignored_observations,
    constant_reward,
    reward_scale,
    reward_outliers,
    hidden_clock,
)


def check(dataset: Dataset | str | os.PathLike[str]) -> tuple[Finding, ...]:
    """Look for faults of a dataset that make learning from it hard, warnings first.

    What depends on what is measured on at most 10,000 rows, the same ones each time, so that a million rows take
    seconds. No finding is no proof: a check sees the fault it is for, and nothing else.

    Args:
        dataset: The data, or what :func:`offline_rl.load_dataset` takes.

    Returns:
        The findings; none if nothing was found.

    Raises:
        DatasetError: The data cannot be loaded.
    """
    view = View(dataset if isinstance(dataset, Dataset) else load_dataset(dataset))
    found = [finding for each in CHECKS for finding in each(view)]
    return tuple(sorted(found, key=lambda finding: finding.severity == "note"))
