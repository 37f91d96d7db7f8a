"""Small recordings, as arrays under D4RL's keys and as files."""

from pathlib import Path

import h5py
import numpy as np
import pytest


@pytest.fixture
def arrays():
    return recorded(np.random.default_rng(0), 60)


@pytest.fixture
def make_arrays():
    return recorded


@pytest.fixture
def write(tmp_path):
    """Writes arrays (and attributes) to an HDF5 file, and returns its path."""

    def write_file(arrays, name="file.hdf5", **attributes) -> Path:
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for key, array in arrays.items():
                if array is not None:
                    file[key] = array
            file.attrs.update(attributes)
        return path

    return write_file


def recorded(rng, rows, *, ends=0.1, timeouts=True, next_observations=True, observation_size=3, action_size=2):
    """Rows of episodes that end at random, some with both flags set."""
    terminals = rng.random(rows) < ends
    cuts = rng.random(rows) < ends
    arrays = {
        "observations": rng.normal(size=(rows, observation_size)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (rows, action_size)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": terminals,
    }
    if timeouts:
        arrays["timeouts"] = cuts
    if next_observations:
        arrays["next_observations"] = rng.normal(size=(rows, observation_size)).astype(np.float32)
    return arrays
