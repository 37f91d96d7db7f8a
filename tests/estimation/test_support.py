"""Support: actions against recorded ones in like states."""

import numpy as np
import pytest
import torch

from offline_rl.data import Dataset
from offline_rl.data.packed import PackedRows
from offline_rl.estimation.log import Log, Policy
from offline_rl.estimation.support import support
from offline_rl.neighbors.states import nearest_states
from tests.helpers.logged import BOUND, agent_of, chain


def found(problem, mean, std, *, noise, episodes=60):
    data = problem.dataset(episodes, 0)
    agent = agent_of(data, mean, std)
    return support(Log(PackedRows.of(data, agent.preprocessing)), Policy(agent, noise=noise), 0), data


def test_nearest_states_are_those_of_a_full_comparison():
    generator = np.random.default_rng(0)
    states, queries = (torch.from_numpy(generator.normal(50, 1, (n, 3)).astype(np.float32)) for n in (700, 30))
    every = (states.double()[None] - queries.double()[:, None]).square().sum(2)
    assert torch.equal(nearest_states(states, queries, 4), every.argsort(dim=1)[:, :4])


def test_an_agent_that_acts_as_the_data_did_leaves_it_no_more_often_than_the_data():
    problem = chain()
    own, _ = found(problem, problem.behavior, problem.std, noise=True)
    assert own.share == pytest.approx(0.05, abs=0.03)
    assert own.agent_distance == pytest.approx(own.data_distance, rel=0.3)


def test_an_agent_that_acts_elsewhere_leaves_it_and_rows_and_columns_are_named():
    problem = chain()
    mean = problem.behavior.copy()
    mean[2] = 3.5  # nobody has done that in state 2
    own, data = found(problem, mean, 0.0, noise=False)
    state = data.observations.argmax(1)
    assert own.share == pytest.approx((state == 2).mean(), abs=0.05)
    assert set(state[list(own.rows)]) == {2}
    assert next(iter(own.observation_columns)) == "observation_2"
    assert list(own.action_columns) == ["action_0"]
    nearest = np.sort(data.actions[state == 2, 0])
    # Of ten neighbours in each state, not of all: so at least as far as the farthest action there.
    assert min(own.distances) >= (3.5 - nearest[-1]) / 4 - 1e-6


def test_the_unit_of_a_column_does_not_hide_that_an_agent_leaves_the_data():
    """Broken by comparing raw units: noise in a small unit would decide which states are alike."""
    problem = chain()
    columns = problem.collect(60, 0)
    noise = np.random.default_rng(0).normal(0, 1e6, (len(columns["rewards"]), 1))
    for name in ("observations", "next_observations"):
        columns[name] = np.hstack([columns[name], noise])
    # This agent does in all states what was recorded in state 0 alone.
    spread = {
        **columns,
        "actions": np.clip(0.1 * columns["actions"] + 3 * (columns["observations"][:, :1] - 0.5), -4, 4),
    }
    data = Dataset.from_arrays(**spread, action_bounds=(-BOUND, BOUND))
    agent = agent_of(data, [1.5, 1.5, 1.5, 1.5, 0.0], 0.0)
    own = support(Log(PackedRows.of(data, agent.preprocessing)), Policy(agent), 0)
    elsewhere = (data.observations[:, 0] == 0).mean()
    assert own.share == pytest.approx(elsewhere, abs=0.1)


def test_one_episode_is_parted_in_time():
    own, data = found(chain(), [0.0] * 4, 0.0, noise=False, episodes=1)
    assert 0 < own.states <= len(data)
