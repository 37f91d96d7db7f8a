"""Datasets from HDF5 files in D4RL's layout, safely, whoever made the file.

HDF5 is a C library that damaged or hostile bytes can crash or hang, and a file may point into other files. So a file
is only ever opened in a short-lived child process with limits on memory and time. The child checks what the file
declares before it reads anything, and hands the arrays back as plain bytes through an unlinked temporary file, with a
JSON header on its standard output.
"""

import contextlib
import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from offline_rl.data import kinds
from offline_rl.data.dataset import Dataset
from offline_rl.data.rows import MODES, OPTIONAL, REQUIRED, Recording, check_mode, checked
from offline_rl.errors import DatasetError
from offline_rl.processes.interpreter import child_environment, python_module

KEYS = ("observations", "actions", "rewards", "terminals", "timeouts")
LABELS = {"terminated": "terminals", "truncated": "timeouts"}
"""D4RL's words for our fields."""

TIME_LIMIT = 1000
"""Steps of an episode in D4RL's gym-mujoco tasks, for files that name no task of D4RL's."""

MEMORY_LIMIT = 4 << 30
"""Address space of the child; the arrays do not count, they pass through it in blocks."""
PATIENCE = 5
"""How many seconds the child may take for each second of processor time that it may use."""

SIZE_LIMIT = 16 << 30
"""Bytes that the arrays of one file may have."""

COMPRESSION_LIMIT = 1200
"""Bytes of arrays that one byte of file can hold (deflate reaches 1032)."""

SIZE_ALLOWANCE = 64 << 20
BLOCK_SIZE = 64 << 20
ATTRIBUTE_LIMIT = 200
ATTRIBUTE_SIZE_LIMIT = 64 << 10


@dataclass(frozen=True, eq=False)
class Contents:
    """What was read from a file.

    Attributes:
        arrays: Arrays by key; keys that the file lacks are absent.
        attributes: The file's own attributes, as JSON values.
    """

    arrays: dict[str, npt.NDArray[np.generic]]
    attributes: dict[str, Any]


def load(
    path: Path,
    mode: str | None = None,
    *,
    name: str | None = None,
    task: str | None = None,
    d4rl_id: str | None = None,
) -> Dataset:
    """Load a dataset from an HDF5 file in D4RL's layout.

    The file has `observations` `(N, O)`, `actions` `(N, A)`, `rewards` and `terminals` `(N,)`, and optionally
    `timeouts` `(N,)` and `next_observations` `(N, O)`; numbers of any type. Episodes of a file without `timeouts` are
    taken to be cut after as many steps as its task has, if that is D4RL's, or after 1000 if the mode "d4rl" is asked
    for; a file of another task that has longer ones is refused. Actions are within [-1, 1], or what the attribute
    `action_bounds` says.

    Args:
        path: The file.
        mode: "d4rl" for the rows of D4RL's `qlearning_dataset`, "exact" for every transition that is known, None for
            "exact" if the file has `next_observations` and is not D4RL's own, else "d4rl".
        name: What to call the dataset; by default the name of the file without its suffix.
        task: What names the task, if not the file's own attributes.
        d4rl_id: The D4RL dataset that the file's name, or the user, means. It is the task, unless the file names its
            own in `env_id`: D4RL's files have no attributes, and other people's data may go by the same names.

    Returns:
        The dataset.

    Raises:
        DatasetError: The file cannot be read, or its arrays cannot be used.
    """
    check_mode(mode)
    limited = mode == "d4rl" or bool(d4rl_id)
    contents = read(path, KEYS if mode == "d4rl" else (*KEYS, "next_observations"))
    if d4rl_id and not {"env_id", "environment"} & set(contents.attributes):
        task, mode = d4rl_id, mode or "d4rl"
    elif d4rl_id:
        _check_own(path, d4rl_id, contents.attributes, loaded_by_id=task == d4rl_id, mode=mode)
    if mode is None:
        mode = "exact" if "next_observations" in contents.arrays else "d4rl"
    fields = {field: contents.arrays.get(LABELS.get(field, field)) for field in REQUIRED + OPTIONAL}
    bounds = contents.attributes.get("action_bounds", [-1.0, 1.0])
    metadata = {**contents.attributes, "path": str(path), "mode": mode, "action_bounds": bounds}
    if task:
        metadata["task"] = task
    limit = _time_limit(metadata) or (TIME_LIMIT if limited else None)
    recording = checked(str(path), fields, labels=LABELS, time_limit=limit, action_bounds=bounds, owned=True)
    if fields["truncated"] is None:
        _note_counted(recording, metadata, quiet=bool(task))
    return Dataset.assemble(
        recording,
        MODES[mode](recording),
        name=name or kinds.stem(path.name),
        metadata=metadata,
        last_episode_cut=contents.attributes.get("last_episode_cut") is True,
    )


def _check_own(path: Path, d4rl_id: str, attributes: dict[str, Any], *, loaded_by_id: bool, mode: str | None) -> None:
    """See what to make of a file that is named as D4RL's, but says itself where it was recorded, as D4RL's never do.

    By its path it is taken for what it says, with a warning where its name has a version, as no other's has. By D4RL's
    id it is taken for D4RL's, unless it was recorded on another robot.

    Raises:
        DatasetError: It was asked for by an id that it contradicts.
    """
    said = str(attributes.get("env_id", "an environment of its own"))
    if loaded_by_id:
        if "env_id" in attributes and re.split(r"[-_]", said.lower())[0] != d4rl_id.partition("-")[0]:
            raise DatasetError(
                f"{path} says that it was recorded in {said}, so it is not {d4rl_id}; put D4RL's file in its place, or"
                " give the file's path as the dataset"
            )
    elif re.search(r"-v\d+$", path.stem.lower()):
        warnings.warn(
            f"{path} has the name of D4RL's {d4rl_id}, but is not read as that: it states its environment, {said},"
            " which D4RL's own files do not"
            + ("" if mode else f"; --task {d4rl_id} --data_mode d4rl reads it like the id"),
            stacklevel=4,
        )


def _time_limit(metadata: dict[str, Any]) -> int | None:
    """Return the steps of an episode of a file's task, if that is one of D4RL's."""
    from offline_rl.envs.tasks import find_task, is_d4rls

    named = (metadata.get(key) for key in ("task", "env_id", "dataset"))
    return next((find_task(str(name)).robot.max_episode_steps for name in named if is_d4rls(name)), None)


def _note_counted(recording: Recording, metadata: dict[str, Any], *, quiet: bool) -> None:
    """Record, and warn unless the rule is that of D4RL's own data, that ends were counted.

    Raises:
        DatasetError: They were not, but there are stretches without an end that are as long.
    """
    if recording.counted_limit is not None:
        if recording.truncated.any():
            metadata["ends"] = f"counted, every {recording.counted_limit:,} steps"
            if not quiet:
                warnings.warn(
                    f"{recording.source} has no 'timeouts', so episodes are taken to be cut every "
                    f"{recording.counted_limit:,} steps as in D4RL's tasks; add 'timeouts' if that is not so",
                    stacklevel=3,
                )
        return
    bounds = np.concatenate([[-1], np.flatnonzero(recording.terminated), [len(recording) - 1]])
    lengths = np.diff(bounds)
    if lengths.max() >= TIME_LIMIT - 1:  # D4RL's own count finds a limit one row early
        row = int(bounds[lengths.argmax()] + 1)
        raise DatasetError(
            f"{recording.source} has no 'timeouts', and 'terminals' marks no end for {lengths.max():,} rows from row "
            f"{row} on, so nothing says where its episodes end; add 'timeouts' (1 where an episode was cut), or ask "
            f"for the mode 'd4rl', which cuts every {TIME_LIMIT:,} steps"
        )


def check(path: Path) -> None:
    """Make sure that a file is a whole HDF5 file.

    Args:
        path: The file.

    Raises:
        DatasetError: It is not, or cannot be opened.
    """
    read(path, ())


def read(path: Path, keys: Sequence[str], seconds: int | None = None) -> Contents:
    """Read arrays of an HDF5 file in a child process.

    Args:
        path: The file.
        keys: Names of the arrays in the file's root; those it lacks are left out.
        seconds: Processor time for the child, by default a minute and a second more for each MB of the file. On a busy
            machine that may take PATIENCE times as long.

    Returns:
        The arrays, and the attributes of the root.

    Raises:
        DatasetError: The file is missing, is not HDF5, is damaged or cut short, refers to other files, or needs more
            memory or time than it may have.
    """
    if not path.is_file():
        raise DatasetError(f"{path} is not a file; give the path of an HDF5 file")
    seconds = seconds or 60 + path.stat().st_size // 1_000_000
    with tempfile.TemporaryFile() as handover:
        header = _ask_child(path, keys, seconds, handover)
        if "fault" in header:
            raise DatasetError(f"{path} {header['fault']}")
        handover.seek(0)
        arrays = {
            key: np.fromfile(handover, dtype, math.prod(shape)).reshape(shape) for key, dtype, shape in header["arrays"]
        }
    return Contents(arrays, header["attributes"])


def _ask_child(path: Path, keys: Sequence[str], seconds: int, handover: BinaryIO) -> dict[str, Any]:
    """Run the child on a file; returns its header, or one that holds a fault."""
    descriptor = handover.fileno()
    command = [*python_module("offline_rl.data.hdf5"), str(path), str(descriptor), str(seconds), *keys]
    try:
        child = subprocess.run(
            command,
            env=_child_environment(),
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE * seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {
            "fault": f"was not read in {PATIENCE * seconds} s; try again when the disk and the machine are less busy"
        }
    if child.returncode == -signal.SIGXCPU:
        return {"fault": f"took more than {seconds} s to read; it is damaged or malicious, get it from a trusted place"}
    if child.returncode < 0:
        return {"fault": f"crashed the HDF5 library (signal {-child.returncode}); it is damaged, get it again"}
    if child.returncode > 0:
        last_line = child.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return {"fault": f"cannot be read, because the reader failed ({last_line}); check that h5py is installed"}
    header: dict[str, Any] = json.loads(child.stdout)
    return header


def _child_environment() -> dict[str, str]:
    """Return the parent's environment and import path, without HDF5's variables, plug-ins and threads."""
    environment = child_environment(OPENBLAS_NUM_THREADS="1")
    kept = {name: value for name, value in environment.items() if not name.startswith("HDF5_")}
    return {**kept, "HDF5_PLUGIN_PRELOAD": "::"}


# From here on: what happens in the child.


class _RefusalError(Exception):
    """What is wrong with the file, as the end of a sentence that begins with its path."""


def _serve(path: str, descriptor: int, seconds: int, keys: Sequence[str]) -> None:
    """Write the arrays to the descriptor and the header, or what is wrong with the file, to standard output."""
    _limit_resources(seconds)
    try:
        with os.fdopen(descriptor, "wb") as handover:
            header = _extract(path, keys, handover)
    except _RefusalError as refusal:
        header = {"fault": str(refusal)}
    except MemoryError:
        header = {"fault": f"needs more than {MEMORY_LIMIT >> 30} GiB of memory to read; store it in smaller chunks"}
    except ImportError:
        raise
    except Exception as error:  # h5py raises whatever damaged bytes lead it to
        header = {"fault": _damage(error)}
    json.dump(header, sys.stdout)


def _damage(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"cannot be unpacked, because {tempfile.gettempdir()} is full; make room there or set TMPDIR"
    return f"is damaged ({' '.join(str(error).split())[:200]}); copy or download it again"


def _limit_resources(seconds: int) -> None:
    import resource

    for kind, soft, hard in (
        (resource.RLIMIT_AS, MEMORY_LIMIT, MEMORY_LIMIT),
        (resource.RLIMIT_CPU, seconds, seconds + 1),  # at the soft one the signal says why, at the hard one it does not
        (resource.RLIMIT_CORE, 0, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # a lower limit may be in force already
            resource.setrlimit(kind, (soft, hard))


def _extract(path: str, keys: Sequence[str], handover: BinaryIO) -> dict[str, Any]:
    with _open(path) as file:
        found = {key: _local_dataset(file, key) for key in keys if file.get(key, getlink=True) is not None}
        for key, dataset in found.items():
            _check_type(key, dataset)
            _check_virtual_sources(file, key, dataset)
        _check_size(found.values(), Path(path).stat().st_size)
        for dataset in found.values():
            for block in _blocks(dataset):
                handover.write(np.ascontiguousarray(block).data)
        arrays = [(key, dataset.dtype.str, dataset.shape) for key, dataset in found.items()]
        return {"arrays": arrays, "attributes": _attributes(file)}


def _open(path: str) -> Any:
    import h5py

    try:
        return h5py.File(path, "r", locking=False)
    except PermissionError as error:
        raise _RefusalError("cannot be opened; ask for permission to read it") from error
    except OSError as error:
        if "signature not found" in str(error):
            raise _RefusalError("is not an HDF5 file; give a file in D4RL's layout") from error
        if "truncated file" in str(error):
            raise _RefusalError("is cut short; copy or download it again") from error
        raise


def _local_dataset(file: Any, name: str) -> Any:
    """Return a dataset that is stored in this very file, and to which no link leads out of it."""
    import h5py

    node = file
    for part in name.strip("/").split("/"):
        if not isinstance(node.get(part, getlink=True), h5py.HardLink):
            raise _RefusalError(f"has no '{name}' of its own; copy the data into the file itself")
        node = node[part]
    if not isinstance(node, h5py.Dataset) or not node.shape:
        raise _RefusalError(f"has a '{name}' that is not an array; give a file in D4RL's layout")
    if node.external:
        raise _RefusalError(f"keeps '{name}' in another file; copy the data into the file itself")
    return node


def _check_type(key: str, dataset: Any) -> None:
    if dataset.dtype.kind not in "biuf":
        raise _RefusalError(f"has a '{key}' of type {dataset.dtype}; only numbers and booleans can be used")


def _check_virtual_sources(file: Any, name: str, dataset: Any) -> None:
    """Refuses a virtual dataset with sources in other files, or with sources that are virtual themselves."""
    if not dataset.is_virtual:
        return
    for filename, source in {(source.file_name, source.dset_name) for source in dataset.virtual_sources()}:
        # HDF5 replaces "%b" in a source's name, so the name we check would not be the name it opens.
        if filename != "." or "%" in source:
            raise _RefusalError(f"keeps '{name}' in another file; copy the data into the file itself")
        if _local_dataset(file, source).is_virtual:
            raise _RefusalError(f"has a '{name}' that is virtual twice over; copy the data into the file itself")


def _check_size(datasets: Iterable[Any], file_size: int) -> None:
    declared = sum(dataset.dtype.itemsize * math.prod(dataset.shape) for dataset in datasets)
    if declared > min(SIZE_LIMIT, SIZE_ALLOWANCE + COMPRESSION_LIMIT * file_size):
        raise _RefusalError(
            f"declares {declared / 1e9:,.1f} GB of arrays in {file_size / 1e6:,.1f} MB, more than it can hold or than "
            f"the limit of {SIZE_LIMIT >> 30} GiB; split it, or get it from a trusted place"
        )


def _blocks(dataset: Any) -> Iterator[npt.NDArray[np.generic]]:
    row_size = dataset.dtype.itemsize * math.prod(dataset.shape[1:])
    step = max(1, BLOCK_SIZE // max(1, row_size))
    for start in range(0, dataset.shape[0], step):
        yield dataset[start : start + step]


def _attributes(file: Any) -> dict[str, Any]:
    """Return the root's attributes as far as they are short and have a JSON value; the others matter to nobody."""
    attributes = {}
    for name in islice(file.attrs, ATTRIBUTE_LIMIT):
        with contextlib.suppress(Exception):
            if file.attrs.get_id(name).get_storage_size() <= ATTRIBUTE_SIZE_LIMIT:
                value = _plain(file.attrs[name])
                json.dumps(value, allow_nan=False)
                attributes[name] = value
    return attributes


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return value.decode(errors="replace") if isinstance(value, bytes) else value


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
