"""Whatever is done to a file, reading it ends in a dataset or in one line, and in time."""

import time

import h5py
import numpy as np
import pytest

from offline_rl.data import hdf5
from offline_rl.errors import DatasetError

ROWS = 40
PATIENCE = 20


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """A file on which HDF5 hangs must not take the usual minute."""
    read = hdf5.read
    monkeypatch.setattr(hdf5, "read", lambda path, keys: read(path, keys, seconds=10))


def test_reader_survives_for_five_seconds(tmp_path):
    fuzz(tmp_path, seconds=5, seed=0)


@pytest.mark.slow
def test_reader_survives_for_half_a_minute(tmp_path):
    outcomes = fuzz(tmp_path, seconds=30, seed=1)
    assert min(outcomes.values()) > 10, outcomes


def fuzz(folder, seconds, seed):
    """Loads one damaged file after the other; returns how many could be loaded and how many were refused."""
    outcomes = {"loaded": 0, "refused": 0}
    began = time.monotonic()
    number = 0
    while time.monotonic() - began < seconds:
        rng = np.random.default_rng([seed, number])
        path = folder / f"{number}.hdf5"
        write(path, rng)
        damage(path, rng)
        outcomes[load(path, rng, f"seed {seed}, file {number}")] += 1
        path.unlink()
        number += 1
    return outcomes


def load(path, rng, what):
    began = time.monotonic()
    try:
        dataset = hdf5.load(path, rng.choice(["d4rl", "exact", None]))
    except DatasetError as error:
        assert "\n" not in str(error), what
        outcome = "refused"
    else:
        assert all(np.isfinite(getattr(dataset, field)).all() for field in ("observations", "actions", "rewards")), what
        assert dataset.episode_bounds[-1] == len(dataset) > 0, what
        outcome = "loaded"
    assert time.monotonic() - began < PATIENCE, what
    return outcome


def write(path, rng):
    """Writes a file in D4RL's layout, about half the time with something wrong in it."""
    arrays = {
        "observations": rng.normal(size=(ROWS, 3)),
        "actions": rng.uniform(-1, 1, (ROWS, 2)),
        "rewards": rng.normal(size=ROWS),
        "terminals": rng.random(ROWS) < 0.1,
        "timeouts": rng.random(ROWS) < 0.1,
        "next_observations": rng.normal(size=(ROWS, 3)),
    }
    arrays = {key: spoiled(array, rng) if rng.random() < 0.1 else array for key, array in arrays.items()}
    options = {} if rng.random() < 0.5 else {"compression": "gzip", "chunks": True, "shuffle": True}
    with h5py.File(path, "w", libver=rng.choice(["earliest", "latest"])) as file:
        for key, array in arrays.items():
            if array is not None:
                file.create_dataset(key, data=array, **(options if np.ndim(array) else {}))
        if rng.random() < 0.3:
            add_view(file, rng)
        file.attrs.update(env_id="Hopper-v4", number=1.5, flag=True)


def spoiled(array, rng):
    """Gives an array another shape or type, or a value that does not belong there."""
    rows = int(rng.integers(0, ROWS))
    choices = [
        None,
        array[:rows],
        array[..., None],
        array.ravel(),
        array.T,
        array.astype(rng.choice(["f2", "f8", ">f4", "i1", "u8", "bool", "c8", "S3"])),
        np.float64(0),
        np.array([b"text"] * ROWS),
        np.zeros(ROWS, [("field", "f4")]),
        np.where(np.arange(array.size).reshape(array.shape) == rows, rng.choice([np.nan, np.inf, 1e300, 7]), array),
        h5py.Empty("f4"),
    ]
    return choices[rng.integers(len(choices))]


def add_view(file, rng):
    """Puts a virtual dataset, of this or another file, in the place of an array."""
    source = rng.choice(["observations", "actions", "nowhere"])
    layout = h5py.VirtualLayout((ROWS,), "f8")
    layout[:] = h5py.VirtualSource(rng.choice([".", "/dev/zero", "other.hdf5"]), source, (ROWS, 3))[:, 0]
    file.pop("rewards", None)
    file.create_virtual_dataset("rewards", layout)


def damage(path, rng):
    """Flips bits, overwrites stretches, or cuts the file, two times out of three."""
    content = bytearray(path.read_bytes())
    kind = rng.integers(6)
    if kind in {0, 1}:
        for position in rng.integers(0, len(content), rng.integers(1, 40)):
            content[position] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        start = int(rng.integers(len(content)))
        content[start : start + 16] = rng.bytes(16)
    elif kind == 3:
        content = content[: int(rng.integers(len(content)))]
    path.write_bytes(content)
