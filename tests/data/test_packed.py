"""Rows laid out for training, at once and block by block."""

import dataclasses
import tempfile
import tracemalloc

import numpy as np
import pytest
from helpers.datasets import episodic_dataset
from safetensors.numpy import load_file

from offline_rl.data import packed
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing, _moments


@pytest.mark.parametrize("block", [1, 7, 23, 24, 1000])
def test_a_file_written_block_by_block_holds_what_is_packed_at_once(tmp_path, monkeypatch, block):
    """And both are the formula; broken by a block's rows in another place, or an offset that is wrong."""
    data = episodic_dataset([5, 7, 12], action_limit=2)
    data = dataclasses.replace(data, episode_complete=np.array([True, True, False]))
    preprocessing = Preprocessing.fit(data, normalize=True)
    monkeypatch.setattr(packed, "BLOCK", block)
    with (tmp_path / "rows").open("wb") as file:
        PackedRows.write(data, preprocessing, file)
    written, whole = load_file(tmp_path / "rows"), PackedRows.pack(data, preprocessing)
    assert set(written) == set(whole)
    for name in whole:
        assert written[name].dtype == whole[name].dtype
        assert np.array_equal(written[name], whole[name])
    mean, spread = preprocessing.observation_mean.astype(float), preprocessing.observation_std.astype(float)
    expected = np.column_stack(
        [
            (data.observations - mean) / spread,
            data.actions.astype(float) / 2,
            data.rewards,
            data.terminated,
            (data.next_observations - mean) / spread,
        ]
    )
    assert written["matrix"] == pytest.approx(expected, abs=1e-6)
    assert PackedRows.size_of(data) == written["matrix"].nbytes


def test_a_dataset_keeps_the_arrays_of_a_file_and_copies_those_of_others(tmp_path):
    """A file's arrays are nobody else's; a second copy of many rows is memory for nothing."""
    from offline_rl.data.rows import checked, exact_rows

    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.normal(size=(6, 2)).astype(np.float32),
        "actions": np.zeros((6, 1), np.float32),
        "rewards": np.ones(6, np.float32),
        "terminated": np.arange(6) % 3 == 2,
        "next_observations": rng.normal(size=(6, 2)).astype(np.float32),
    }
    for owned in (True, False):
        recording = checked("made", arrays, owned=owned)
        made = packed.Dataset.assemble(recording, exact_rows(recording), name="made", metadata={})
        for name in ("observations", "actions", "rewards", "next_observations"):
            assert np.shares_memory(getattr(made, name), arrays[name]) == owned


def test_laying_out_takes_little_memory_beside_the_data():
    """One copy in double precision of the observations at most, and one block of rows."""
    rng, rows = np.random.default_rng(0), 100_000
    columns = {"observations": rng.normal(size=(rows, 8)), "next_observations": rng.normal(size=(rows, 8))}
    flags = {"terminated": np.zeros(rows, bool), "truncated": np.arange(rows) % 100 == 99}
    data = packed.Dataset.from_arrays(actions=np.zeros((rows, 1)), rewards=np.ones(rows), **columns, **flags)
    tracemalloc.start()
    try:
        preprocessing = Preprocessing.fit(data, normalize=True)
        fitting = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        with tempfile.TemporaryFile() as file:
            PackedRows.write(data, preprocessing, file)
        writing = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fitting < 1.2 * 8 * data.observations.size
    assert writing < 3 * 4 * packed.BLOCK * 19


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (8193, 1), (1000, 17), (4099, 9)])
def test_mean_and_deviation_are_numpys_to_the_bit(shape):
    """Agents of all versions are normalised alike."""
    values = (np.random.default_rng(1).normal(3, 10, shape)).astype(np.float32)
    mean, spread = _moments(values)
    assert np.array_equal(mean, values.astype(np.float64).mean(0))
    assert np.array_equal(spread, values.astype(np.float64).std(0))
