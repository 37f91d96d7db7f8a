"""Makes the dataset `hopper-demo` that comes with the package: the first rows of a recorded file.

    python benchmarks/make_demo.py hopper_medium.hdf5 offline_rl/data/assets/hopper-demo.hdf5

Like its source, the demo stores each block of states next to the block of their successors, where gzip sees that they
repeat each other, and shows both as virtual datasets. The same source gives the same bytes.
"""

import argparse
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from offline_rl.data import Dataset
from offline_rl.data.hdf5 import load
from offline_rl.envs import normalized_score

BLOCK = 1536


def write_demo(source: Path, destination: Path, rows: int) -> None:
    """Write the first rows of a file in D4RL's layout, cut there if an episode is under way.

    Args:
        source: A file with `next_observations`.
        destination: Where to write.
        rows: How many rows to keep.
    """
    with h5py.File(source) as file:
        arrays = {key: file[key][:rows] for key in ("actions", "rewards", "terminals", "timeouts")}
        pairs = np.stack([file[key][:rows] for key in ("observations", "next_observations")])
        attributes = dict(file.attrs)
    attributes["last_episode_cut"] = not (arrays["terminals"][-1] or arrays["timeouts"][-1])
    arrays["timeouts"][-1] |= attributes["last_episode_cut"]
    partial = destination.with_name(f"{destination.name}.part")
    _write(partial, arrays, pairs, attributes)
    _write(partial, arrays, pairs, {**attributes, **_statistics(load(partial))})
    partial.replace(destination)


def _write(path: Path, arrays: dict[str, np.ndarray], pairs: np.ndarray, attributes: dict[str, Any]) -> None:
    stored = {"compression": "gzip", "compression_opts": 9, "shuffle": True, "track_times": False}
    with h5py.File(path, "w", libver="latest") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array, chunks=(min(16384, len(array)), *array.shape[1:]), **stored)
        blocks = _in_blocks(pairs)
        file.create_dataset("storage/pairs", data=blocks, chunks=(1, *blocks.shape[1:]), **stored)
        for which, key in enumerate(("observations", "next_observations")):
            _create_view(file, key, which, rows=pairs.shape[1])
        for key in sorted(attributes):
            file.attrs[key] = attributes[key]


def _in_blocks(pairs: np.ndarray) -> np.ndarray:
    """Turn `(2, N, O)` into `(blocks, 2, BLOCK, O)`, the last block filled up with zeros."""
    _, rows, size = pairs.shape
    blocks = -(-rows // BLOCK)
    padded = np.zeros((2, blocks * BLOCK, size), pairs.dtype)
    padded[:, :rows] = pairs
    return padded.reshape(2, blocks, BLOCK, size).swapaxes(0, 1)


def _create_view(file: h5py.File, key: str, which: int, rows: int) -> None:
    """Create one half of the stored pairs as a virtual dataset `(rows, O)`.

    Done with h5py's low-level calls, because `create_virtual_dataset` always writes the time into the file.
    """
    stored = file["storage/pairs"]
    size = stored.shape[-1]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    for block, start in enumerate(range(0, rows, BLOCK)):
        length = min(BLOCK, rows - start)
        target = h5py.h5s.create_simple((rows, size))
        target.select_hyperslab((start, 0), (length, size))
        source = h5py.h5s.create_simple(stored.shape)
        source.select_hyperslab((block, which, 0, 0), (1, 1, length, size))
        properties.set_virtual(target, b".", b"storage/pairs", source)
    space = h5py.h5s.create_simple((rows, size))
    h5py.h5d.create(file.id, key.encode(), stored.id.get_type(), space, dcpl=properties)


def _statistics(dataset: Dataset) -> dict[str, float]:
    """Return what the file says of its rows and of its complete episodes."""
    complete = dataset.episode_complete
    returns = dataset.episode_returns[complete]
    return {
        "episodes": len(complete),
        "transitions": len(dataset),
        "length_mean": dataset.episode_lengths[complete].mean(),
        "return_mean": returns.mean(),
        "return_std": returns.std(),
        "normalized_score": normalized_score("hopper", dataset.mean_return),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("--rows", type=int, default=75_000)
    options = parser.parse_args()
    write_demo(options.source, options.destination, options.rows)
