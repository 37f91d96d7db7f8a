"""Small made-up datasets."""

import dataclasses

import numpy as np

from offline_rl.data import Dataset


def random_dataset(rows=400, observation_size=5, action_size=2, seed=0, places=None):
    """Make rows of independent noise, a few of them terminal; all states distinct, around some places if so many."""
    generator = np.random.default_rng(seed)
    observations = generator.standard_normal((rows, observation_size)) * 2 + 1
    if places is not None:
        observations = observations[generator.integers(places, size=rows)] + 0.02 * observations
    return Dataset.from_arrays(
        observations=observations,
        actions=generator.uniform(-1, 1, (rows, action_size)),
        rewards=generator.standard_normal(rows),
        terminated=generator.random(rows) < 0.05,
        next_observations=generator.standard_normal((rows, observation_size)) * 2 + 1,
    )


def episodic_dataset(lengths, action_limit=1):
    """Make episodes of these lengths, each with a true end, of independent noise."""
    generator, rows = np.random.default_rng(0), sum(lengths)
    ends = np.zeros(rows, bool)
    ends[np.cumsum(lengths) - 1] = True
    return Dataset.from_arrays(
        observations=generator.normal(2, 3, (rows, 4)),
        actions=generator.uniform(-action_limit, action_limit, (rows, 2)),
        rewards=generator.normal(1, 2, rows),
        terminated=ends,
        next_observations=generator.normal(2, 3, (rows, 4)),
        action_bounds=(-action_limit, action_limit),
    )


def linked(dataset):
    """Let each row lead to the observation of the next one, as recorded rows do; the last one stays."""
    following = np.concatenate([dataset.observations[1:], dataset.next_observations[-1:]])
    return dataclasses.replace(dataset, next_observations=following)
