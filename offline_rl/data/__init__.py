"""Datasets: D4RL's, Minari's, your own files and arrays.

* `dataset`: transitions and their episodes.
* `rules`: what every dataset must keep, whoever brings it.
* `rows`: recorded rows, checked, and which of them become transitions.
* `kinds`: what a file is, by its first bytes.
* `hdf5`: files in D4RL's layout, read safely.
* `d4rl`: D4RL's ids, and their download.
* `minari`: Minari's datasets.
* `tables`: CSV and Parquet files, pandas frames.
* `segments`, `teacher`, `labels`: pieces of episodes, who compares them, and published comparisons.
* `preferences`: labelled pairs of segments, made of these.
* `unpickle`: numbers out of pickles, without running anything.

Importing this package loads nothing but NumPy.
"""

import difflib
import os
from functools import reduce
from operator import add
from pathlib import Path

from offline_rl.data import kinds
from offline_rl.data.dataset import Dataset
from offline_rl.data.rows import check_mode
from offline_rl.errors import DatasetError

__all__ = ["Dataset", "dataset_names", "load_dataset"]

DEMO = "hopper-demo"
DEMO_FILE = Path(__file__).with_name("assets") / "hopper-demo.hdf5"


def dataset_names() -> list[str]:
    """Return the names that `load_dataset` knows, besides paths of files: the demo, D4RL's ids, local Minari ids."""
    from offline_rl.data.d4rl import DATASETS
    from offline_rl.data.minari import local_ids

    return [DEMO, *DATASETS, *local_ids()]


def load_dataset(name: str | os.PathLike[str], mode: str | None = None) -> Dataset:
    """Load a dataset by its name, downloading it if need be.

    Args:
        name: A D4RL id ("hopper-medium-v2", in any spelling), a Minari id ("mujoco/hopper/medium-v0"; one without a
            namespace must be local), "hopper-demo" (comes with the package), the path of an HDF5 file in D4RL's layout
            or of a CSV or Parquet file (see `offline_rl.data.tables`), or several of these joined by "+", whose rows
            then follow one another.
        mode: "d4rl" for row for row what D4RL's `qlearning_dataset` yields, "exact" for every transition whose
            successor is known. By default "d4rl" for D4RL's data and for files without `next_observations`, else
            "exact", the only one for Minari's.

    Returns:
        The dataset.

    Raises:
        DatasetError: The name or the mode is unknown, or the file cannot be downloaded, read or used.
    """
    check_mode(mode)
    name = os.fspath(name)
    names = [name] if _is_file(Path(name)) else name.split("+")
    return reduce(add, (_load_one(part, mode) for part in names))


def _load_one(name: str, mode: str | None) -> Dataset:
    from offline_rl.data import d4rl, hdf5, minari

    known = d4rl.find_id(name)
    if known and (name == known or not _is_file(Path(name))):
        return hdf5.load(d4rl.download(known), mode or "d4rl", name=known, task=known, d4rl_id=known)
    if name == DEMO:
        return hdf5.load(DEMO_FILE, mode or "exact", name=DEMO)
    path = Path(name).expanduser()
    if _is_file(path):
        return _load_file(path, mode)
    if minari.is_id(name) and ("/" in name or minari.is_local(name)):
        return minari.load(name, mode)
    raise DatasetError(_why_not(name, path))


def _load_file(path: Path, mode: str | None) -> Dataset:
    from offline_rl.data import d4rl, hdf5, tables

    if kinds.kind_of(path) == "hdf5":
        return hdf5.load(path, mode, d4rl_id=d4rl.id_of_file(path))
    return tables.load(path, mode)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # many names joined are too long for a file's
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _within(folder: Path) -> str:
    """Return an example of a dataset's file in a folder, as the end of a sentence."""
    try:
        found = sorted(file for file in folder.iterdir() if file.suffix.lower() in kinds.FILE_SUFFIXES)
    except OSError:
        return " in it"
    return f" in it, such as '{found[0]}'" if found else "; it holds none with a suffix such as .hdf5 or .csv"


def _why_not(name: str, path: Path) -> str:
    """Return the sentence for a name that is neither a dataset's nor a file's."""
    from offline_rl.envs.tasks import UNSUPPORTED_FAMILIES

    if name.partition("-")[0] in UNSUPPORTED_FAMILIES:
        return f"dataset '{name}' is not supported yet; supported are the datasets of offline-rl datasets, and files"
    if name and _exists(path):
        if not path.is_dir():
            return f"'{name}' is no regular file but a pipe, a socket or a device; give the path of a file"
        return f"'{name}' is a folder; give the path of a file{_within(path)}"
    if path.suffix.lower() in kinds.FILE_SUFFIXES or path.parent != Path():
        beside = [file.name for file in path.parent.glob("*") if file.suffix.lower() in kinds.FILE_SUFFIXES]
        nearest = difflib.get_close_matches(path.name, beside, n=1)
        hint = f"did you mean '{path.with_name(nearest[0])}'?" if nearest else "check the path"
        return f"there is no file '{name}'; {hint}"
    nearest = difflib.get_close_matches(name, dataset_names(), n=1)
    if nearest:
        return f"unknown dataset '{name}'; did you mean '{nearest[0]}'?"
    return (
        f"unknown dataset '{name}'; give a D4RL id such as 'hopper-medium-v2', a Minari id such as "
        f"'mujoco/hopper/medium-v0', '{DEMO}', or the path of a file"
    )
