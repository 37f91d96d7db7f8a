"""Files in D4RL's layout, written so that the same data gives the same bytes."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_rl.files import new_file

CHUNK_ROWS = 16384
"""Rows that are packed, and read, together."""


def write_hdf5(path: Path, arrays: Mapping[str, npt.NDArray[Any]], attributes: Mapping[str, Any]) -> None:
    """Write a new HDF5 file whole or not at all: compressed, and without a time anywhere in it.

    Args:
        path: Where to write; what has come to be there stays.
        arrays: Arrays with one row per step, by key; a key such as `infos/qpos` makes the group.
        attributes: What the file says of itself: texts, numbers and truth values.

    Raises:
        FileExistsError: There is something at ``path``.
    """
    import h5py

    content = io.BytesIO()
    packing = {"compression": "gzip", "compression_opts": 9, "shuffle": True, "track_times": False}
    with h5py.File(content, "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array, chunks=(min(CHUNK_ROWS, len(array)), *array.shape[1:]), **packing)
        for name in sorted(attributes):
            value = attributes[name]
            file.attrs[name] = np.bool_(value) if isinstance(value, bool) else value
    with new_file(path) as temporary:
        temporary.write_bytes(content.getvalue())
