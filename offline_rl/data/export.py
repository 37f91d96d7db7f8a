"""Datasets for other programs: HDF5 files in D4RL's layout, and Minari's own format."""

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from offline_rl.data import minari
from offline_rl.data.dataset import Dataset
from offline_rl.data.rules import BoolArray
from offline_rl.envs.dynamics import make_env
from offline_rl.envs.layout import Layout
from offline_rl.errors import DatasetError
from offline_rl.files import new_file, replace_folder

Format = Literal["d4rl", "minari"]
OWN = {
    *("path", "mode", "parts", "minari_id", "minari_version", "data_format", "description"),
    *("task", "env_id", "environment", "last_episode_cut", "action_bounds"),
}
"""Metadata that say how this copy was read, or have a place of their own in each format."""

ATTRIBUTE_LENGTH = 10_000
"""Characters of JSON up to which a fact is written as an attribute of HDF5, which holds no long ones."""


def export_dataset(dataset: Dataset, path_or_id: str | os.PathLike[str], format: Format = "d4rl") -> Path:
    """Write a dataset for other programs, whole or not at all; :func:`offline_rl.load_dataset` reads it back.

    All transitions, their episodes and the task are kept. If an episode ends in a row without a flag, that row is
    marked as truncated, so that the next episode does not join it.

    Args:
        dataset: What to write.
        path_or_id: The HDF5 file, or the Minari id, such as "mine/hopper/medium-v0".
        format: "d4rl" for D4RL's layout with exact `next_observations`; "minari" for Minari's folder.

    Returns:
        The file, or the folder.

    Raises:
        DatasetError: Something is there already, cannot be written, or Minari cannot hold it: it stores what was seen
            in an episode as one sequence, so each row must begin where the one before has ended.
        TaskError: Minari's description of the data's environment cannot be made, because it is not installed.
    """
    name = os.fspath(path_or_id)
    if format not in get_args(Format):
        raise DatasetError(f"unknown format '{format}'; use 'd4rl' or 'minari'")
    try:
        return _write_d4rl(dataset, Path(name)) if format == "d4rl" else _write_minari(dataset, name)
    except OSError as error:
        raise DatasetError(f"{name} cannot be written ({error.strerror or error}); choose another place") from error


def _flags(dataset: Dataset) -> BoolArray:
    """Return `truncated` `(N,)`, set where an episode gives way to the next without a flag."""
    cuts = dataset.truncated.copy()
    ends = dataset.episode_bounds[1:-1] - 1
    cuts[ends] |= ~dataset.terminated[ends]
    return cuts


def _facts(dataset: Dataset) -> dict[str, Any]:
    """Return what is written beside the rows: the metadata that have no place of their own."""
    return {name: value for name, value in dataset.metadata.items() if name not in OWN}


def _write_d4rl(dataset: Dataset, path: Path) -> Path:
    import h5py

    if path.exists():
        raise DatasetError(f"{path} exists; choose another path, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        "observations": dataset.observations,
        "actions": dataset.actions,
        "rewards": dataset.rewards,
        "next_observations": dataset.next_observations,
        "terminals": dataset.terminated,
        "timeouts": _flags(dataset),
    }
    attributes = {
        **{name: value for name, value in _facts(dataset).items() if name not in dataset.names},
        "action_bounds": [bound.tolist() for bound in dataset.action_bounds],
        "last_episode_cut": not bool(dataset.episode_complete[-1]),
    }
    with new_file(path) as temporary, h5py.File(temporary, "w") as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array, compression="gzip", shuffle=True)
        if dataset.environment:
            file.attrs["environment"] = json.dumps(dataset.environment)
        elif dataset.task:
            file.attrs["env_id"] = dataset.task
        for name, value in attributes.items():
            with contextlib.suppress(TypeError, ValueError):  # nested facts are no attributes of HDF5
                if len(json.dumps(value)) <= ATTRIBUTE_LENGTH:
                    file.attrs[name] = value
        for name, names in dataset.names.items():
            file.attrs[name] = json.dumps(names)  # as one text, because a list of them has a limit
    return path


def _write_minari(dataset: Dataset, dataset_id: str) -> Path:
    if not minari.is_id(dataset_id):
        raise DatasetError(f"'{dataset_id}' is no Minari id; give one such as 'mine/hopper/medium-v0'")
    place = minari.folder_of(dataset_id)
    if place.exists():
        raise DatasetError(f"{place} exists; choose another name or version, or remove it")
    _check_sequence(dataset, dataset_id)
    library = minari.library(dataset_id)
    with replace_folder(place, new=True) as folder:
        # Minari makes a dataset where it is to stay, half-written for a while: so in a root of its own first.
        root = folder / "root"
        with minari.rooted(root), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of authors and links that are not given
            made = library.create_dataset_from_buffers(dataset_id, list(_episodes(dataset)), **_described(dataset))
            own = {**_facts(dataset), **({"task": dataset.task} if not dataset.environment else {})}
            made.storage.update_metadata({minari.OWN_KEY: own})
        (root / dataset_id / "data").rename(folder / "data")
        shutil.rmtree(root)
    minari.name_space(dataset_id.rpartition("/")[0])
    return place


def _check_sequence(dataset: Dataset, dataset_id: str) -> None:
    inside = np.ones(len(dataset), bool)
    inside[dataset.episode_bounds[1:] - 1] = False
    rows = np.flatnonzero(inside)
    same = (dataset.next_observations[rows] == dataset.observations[rows + 1]).all(axis=1)
    if not same.all():
        row = rows[np.argmin(same)]
        raise DatasetError(
            f"'{dataset.name}' cannot become '{dataset_id}': what follows row {row} is not row {row + 1}, though both "
            "are of one episode, and Minari has but one sequence for both; use the format 'd4rl'"
        )


def _episodes(dataset: Dataset) -> Iterator[Any]:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    cuts, layout = _flags(dataset), Layout.of_names(dataset.observation_names)
    for start, stop, complete in zip(
        dataset.episode_bounds[:-1], dataset.episode_bounds[1:], dataset.episode_complete, strict=True
    ):
        cut = cuts[start:stop].copy()
        cut[-1] &= bool(complete)  # a fragment has no flag in Minari, and so it is read back
        seen = np.concatenate([dataset.observations[start:stop], dataset.next_observations[stop - 1 : stop]])
        yield EpisodeBuffer(
            observations=layout.nested(seen) if layout else seen,
            actions=dataset.actions[start:stop],
            rewards=dataset.rewards[start:stop],
            terminations=dataset.terminated[start:stop],
            truncations=cut,
            infos={},
        )


def _described(dataset: Dataset) -> dict[str, Any]:
    """Return the spaces, and the environment if Gymnasium has it as the data was recorded: D4RL's it has not."""
    from gymnasium import spaces

    low, high = dataset.action_bounds
    layout = Layout.of_names(dataset.observation_names)
    flat = spaces.Box(-np.inf, np.inf, (dataset.observation_size,), np.float32)
    described: dict[str, Any] = {
        "observation_space": layout.space() if layout else flat,
        "action_space": spaces.Box(low, high, dtype=np.float32),
        "description": f"{dataset.name}, exported by offline-rl-suite",
    }
    if dataset.environment:
        task = dataset.find_task()
        assert task is not None
        environment = make_env(task)
        described["env"] = environment.spec
        environment.close()
        if references := dataset.environment["references"]:
            described["ref_min_score"], described["ref_max_score"] = references
    return described
