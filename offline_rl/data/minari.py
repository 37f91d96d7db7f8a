"""Minari's datasets: found in Minari's own folder or downloaded by it, and kept flat beside themselves once read.

Minari stores one group for each episode, so reading takes time for each episode, not for each row. What was read is
therefore written next to the dataset, as flat arrays with a description of the files they came from; as long as that
still fits, later loads need neither Minari nor Gymnasium.

Minari opens its files in this process, without the precautions that `hdf5` takes with D4RL's: load what you trust.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_rl.data.dataset import Dataset
from offline_rl.data.names import key_of
from offline_rl.data.rows import Recording, checked, exact_rows
from offline_rl.documents import parse_json, read_bytes, said
from offline_rl.envs.layout import Layout, flattened
from offline_rl.errors import DatasetError
from offline_rl.files import TEMPORARY

FOLDER_VARIABLE = "MINARI_DATASETS_PATH"
"""Environment variable that names the folder of local datasets, Minari's own."""

REMOTE_VARIABLE = "MINARI_REMOTE"
"""Environment variable that names where Minari downloads from, Minari's own; by default the Hugging Face Hub."""

HUB = "https://huggingface.co"
HOST_SECONDS = 10.0
"""How long the Hub may take for its first answer."""

CACHE = ".offline_rl.npz"
CACHE_FORMAT = 2
INSTALL = 'pip install "offline-rl-suite[minari]"'
ID = re.compile(r"(?:[-\w]+/)*[-\w]+-v\d+")
OWN_KEY = "offline_rl"
"""Under which `export` puts into Minari's metadata what Minari has no word for."""

LABELS = {"terminated": "terminations", "truncated": "truncations", "episode": "episode in Minari's order"}
"""Minari's words for our fields."""

_ENVIRONMENT = threading.Lock()

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class _Contents:
    """What a dataset holds: arrays of N rows and `ended`, whether an episode's last row has a flag; and JSON values."""

    arrays: Arrays
    description: dict[str, Any]


def is_id(name: str) -> bool:
    """Say whether a name has the form of Minari's ids, ``(namespace/)name-vN``."""
    return ID.fullmatch(name) is not None


def folder_of(dataset_id: str = "") -> Path:
    """Return where Minari keeps a dataset, or all of them."""
    return Path(os.environ.get(FOLDER_VARIABLE) or Path.home() / ".minari" / "datasets") / dataset_id


def is_local(dataset_id: str) -> bool:
    """Say whether a dataset is in Minari's folder."""
    return is_id(dataset_id) and (folder_of(dataset_id) / "data" / "metadata.json").is_file()


def local_ids() -> list[str]:
    """Return the ids of the datasets in Minari's folder."""
    root = folder_of()
    found = root.glob("**/data/metadata.json") if root.is_dir() else ()
    return sorted(name for path in found if is_id(name := path.parent.parent.relative_to(root).as_posix()))


def load(dataset_id: str, mode: str | None = None) -> Dataset:
    """Load a dataset of Minari's, downloading it if it is not in Minari's folder.

    Every recorded step is a transition: Minari also stores what was seen after the last one. Where an episode's last
    step has neither flag the recording broke off: the step counts as truncated, the episode as a fragment. Dictionaries
    and tuples become vectors, see `offline_rl.envs.layout`.

    Args:
        dataset_id: Such as "mujoco/hopper/medium-v0".
        mode: None or "exact".

    Returns:
        The dataset. `metadata["environment"]` says what it was recorded in.

    Raises:
        DatasetError: Minari is not installed, the dataset cannot be downloaded or read, or its observations hold
            something else than vectors of numbers, or its actions are no vector.
    """
    if mode == "d4rl":
        raise DatasetError(f"mode 'd4rl' is for files in D4RL's layout, not for '{dataset_id}'; use 'exact'")
    if not is_local(dataset_id):
        download(dataset_id)
    cache, signature = folder_of(dataset_id) / CACHE, _signature(folder_of(dataset_id) / "data")
    contents = _read_cache(cache, signature)
    if contents is None:
        contents = _read(dataset_id)
        _write_cache(cache, signature, contents)
    return _dataset(dataset_id, contents)


def download(dataset_id: str) -> Path:
    """Return the folder of a dataset, which Minari downloads unless it is there.

    The folder appears there whole or not at all, whoever else downloads it meanwhile.

    Raises:
        DatasetError: It cannot be downloaded or stored, or what arrived cannot be read.
    """
    import filelock

    if is_local(dataset_id):
        return folder_of(dataset_id)
    minari = library(dataset_id)
    name = dataset_id.replace("/", "--")
    try:
        folder_of().mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder_of(f".{name}.lock")):
            for left in folder_of().glob(f".{name}.*.part"):  # of a process that was killed
                shutil.rmtree(left)
            if not is_local(dataset_id):
                _fetch(minari, dataset_id, folder_of(f".{name}.{os.getpid()}.part"))
    except OSError as error:
        reason = f"cannot store '{dataset_id}' in {folder_of()} ({error.strerror or error})"
        raise DatasetError(f"{reason}; set {FOLDER_VARIABLE} to a folder with room that you can write to") from error
    return folder_of(dataset_id)


def _fetch(minari: Any, dataset_id: str, partial: Path) -> None:
    """Have Minari download a dataset into a root of its own, and move it to its place."""
    place = folder_of(dataset_id)
    if place.exists():
        raise DatasetError(f"{place} holds no whole dataset; delete it to download it again")
    try:
        partial.mkdir()
        try:
            _reach_host()
            with rooted(partial), contextlib.redirect_stdout(io.StringIO()):
                minari.download_dataset(dataset_id)
                next(iter(minari.load_dataset(dataset_id).iterate_episodes()), None)
        except Exception as error:  # Minari lets through whatever the host's own library raises
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise DatasetError(
                f"cannot download '{dataset_id}' ({reason}); check the name and the network, or put the dataset into "
                f"{folder_of()} ({FOLDER_VARIABLE} names another folder)"
            ) from error
        place.parent.mkdir(parents=True, exist_ok=True)
        (partial / dataset_id).rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    name_space(dataset_id.rpartition("/")[0])


@contextlib.contextmanager
def rooted(folder: Path) -> Iterator[None]:
    """Have Minari use another folder, which it knows by an environment variable alone."""
    with _ENVIRONMENT:
        before = os.environ.get(FOLDER_VARIABLE)
        os.environ[FOLDER_VARIABLE] = str(folder)
        try:
            yield
        finally:
            del os.environ[FOLDER_VARIABLE]
            if before is not None:
                os.environ[FOLDER_VARIABLE] = before


def name_space(name: str) -> None:
    """Have Minari list the namespace of a dataset."""
    from minari.namespace import create_namespace, list_local_namespaces

    if name and name not in list_local_namespaces():
        create_namespace(name)


def _reach_host() -> None:
    """Ask the Hugging Face Hub for an answer; its own library tries for half a minute before it gives up.

    Raises:
        ConnectionError: It does not answer.
    """
    import requests

    remote, offline = os.environ.get(REMOTE_VARIABLE, "hf://"), os.environ.get("HF_HUB_OFFLINE", "")
    if not remote.startswith("hf://") or offline.upper() in ("1", "ON", "YES", "TRUE"):
        return
    address = os.environ.get("HF_ENDPOINT") or HUB
    try:
        requests.head(address, timeout=HOST_SECONDS)
    except requests.exceptions.SSLError:
        return  # it is there; which certificates to trust is for its own library to say
    except (requests.ConnectionError, requests.Timeout):
        raise ConnectionError(f"{address} cannot be reached") from None


def library(dataset_id: str) -> Any:
    """Return Minari itself; a DatasetError says what to do where it is not installed."""
    try:
        import minari
    except ImportError:
        raise DatasetError(f"'{dataset_id}' needs minari, which is not installed; {INSTALL}") from None
    return minari


def _signature(data: Path) -> str:
    """Return what changes with the files of a dataset: their names, sizes and times, and all of the metadata."""
    digest = hashlib.sha256((data / "metadata.json").read_bytes())
    for path in sorted(data.rglob("*")):
        status = path.stat()
        digest.update(f"{path.relative_to(data)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _read_cache(path: Path, signature: str) -> _Contents | None:
    """Return what was kept of files with this signature; None if nothing was, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        kept = json.loads(arrays.pop("about").tobytes())
    except Exception:  # whatever is wrong with it, it can be made again
        return None
    return _Contents(arrays, kept["description"]) if kept.get("signature") == [CACHE_FORMAT, signature] else None


def _write_cache(path: Path, signature: str, contents: _Contents) -> None:
    about = json.dumps({"signature": [CACHE_FORMAT, signature], "description": contents.description}).encode()
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    with contextlib.suppress(OSError):  # a folder that a group shares read-only, or a full disk: read again next time
        try:
            with temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, about=np.frombuffer(about, np.uint8), **contents.arrays)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _read(dataset_id: str) -> _Contents:
    """Read a dataset through Minari."""
    minari = library(dataset_id)
    metadata = _metadata(dataset_id)
    try:
        opened = minari.load_dataset(dataset_id)
        layout = _layout(dataset_id, opened.observation_space)
        low, high = _bounds(dataset_id, opened.action_space)
        arrays = _flat(dataset_id, opened.iterate_episodes(), layout)
    except DatasetError:
        raise
    except Exception as error:  # what h5py and Minari raise at damaged or foreign files
        raise DatasetError(
            f"Minari cannot read '{dataset_id}' ({' '.join(str(error).split())[:200]}); delete "
            f"{folder_of(dataset_id)} and download it again, or try another version of minari"
        ) from error
    named = {key_of("observation"): list(layout.names)} if layout else {}
    return _Contents(arrays, _described(metadata) | {"action_bounds": [low, high]} | named)


def _metadata(dataset_id: str) -> dict[str, Any]:
    path = folder_of(dataset_id) / "data" / "metadata.json"
    try:
        metadata = parse_json(read_bytes(path))
        # Without its spaces Minari would import whatever module the environment's description names.
        if not {"observation_space", "action_space", "data_format"} <= set(metadata):
            raise ValueError("it does not say what observations and actions are")
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read ({said(error)}); delete the dataset and download it again") from None
    return dict(metadata)


def _layout(dataset_id: str, observations: Any) -> Layout | None:
    """Return the layout of observations; None for those that are vectors already."""
    try:
        return Layout.of_space(observations)
    except ValueError as error:
        raise DatasetError(
            f"'{dataset_id}' has observations with {error}; only vectors of numbers (Box with one dimension), also in "
            "dictionaries and tuples, can be used, so bring them into that form and use Dataset.from_arrays"
        ) from None


def _bounds(dataset_id: str, actions: Any) -> tuple[list[float], list[float]]:
    """Return the lowest and highest actions; refuse spaces that are not vectors of numbers."""
    if type(actions).__name__ != "Box" or len(actions.shape) != 1:
        form = " ".join(str(actions).split())[:100]
        discrete = ", discrete ones cannot" if "Discrete" in type(actions).__name__ else ""
        raise DatasetError(
            f"'{dataset_id}' has actions of the form {form}; only vectors of numbers (Box with one dimension) can be"
            f" used{discrete}"
        )
    if not (np.isfinite(actions.low).all() and np.isfinite(actions.high).all()):
        raise DatasetError(f"'{dataset_id}' has actions without bounds; give them to Dataset.from_arrays yourself")
    return actions.low.astype(np.float64).tolist(), actions.high.astype(np.float64).tolist()


def _flat(dataset_id: str, episodes: Iterable[Any], layout: Layout | None) -> Arrays:
    """Put the episodes one after the other."""
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    lengths = []
    for episode in episodes:
        observations = flattened(layout, episode.observations)
        if layout:
            # Agents see single precision; what lies still moves by less, and that is no fault of the data.
            with np.errstate(over="ignore"):
                observations = observations.astype(np.float32)
        if len(observations) != len(episode.rewards) + 1:
            raise DatasetError(
                f"episode {episode.id} of '{dataset_id}' has {len(episode.rewards)} steps but "
                f"{len(observations)} observations; one more than steps is needed"
            )
        if len(episode.rewards):
            lengths.append(len(episode.rewards))
            parts.setdefault("observations", []).append(observations)
            for name in ("actions", "rewards", "terminations", "truncations"):
                parts.setdefault(name, []).append(getattr(episode, name))
    if not lengths:
        raise DatasetError(f"'{dataset_id}' has no steps; record or download another version")
    seen = np.concatenate(parts["observations"])
    ends = np.cumsum(lengths)
    # One observation more than steps in each episode: the last one, which only follows.
    is_last = np.zeros(len(seen), bool)
    is_last[ends + np.arange(len(ends))] = True
    terminated, truncated = (np.concatenate(parts[name]) for name in ("terminations", "truncations"))
    ended = ((terminated != 0) | (truncated != 0))[ends - 1]
    return {
        "observations": seen[~is_last],
        "next_observations": seen[np.flatnonzero(~is_last) + 1],
        "actions": np.concatenate(parts["actions"]),
        "rewards": np.concatenate(parts["rewards"]),
        "terminated": terminated,
        "truncated": truncated,
        "episode": np.repeat(np.arange(len(lengths)), lengths),
        "cut_rows": (ends - 1)[~ended],
    }


def _described(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of Minari's metadata."""
    kept = ("algorithm_name", "author", "code_permalink", "description", "minari_version", "data_format")
    own = metadata.get(OWN_KEY)
    described = {name: metadata[name] for name in kept if name in metadata}
    return described | (own if isinstance(own, dict) else {}) | {"environment": _environment(metadata)}


def _environment(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the data was recorded in, or is meant to be evaluated in, for `envs.recovered`; None if unsaid."""
    try:
        spec = parse_json(metadata.get("eval_env_spec") or metadata["env_spec"])
        limit = spec.get("max_episode_steps")
        kwargs = {name: value for name, value in spec["kwargs"].items() if name != "render_mode"}
        wrappers = [str(wrapper["name"]) for wrapper in spec.get("additional_wrappers") or ()]
        references = [metadata[name] for name in ("ref_min_score", "ref_max_score") if metadata.get(name) is not None]
        return {
            "id": str(spec["id"]),
            "kwargs": kwargs,
            "max_episode_steps": None if limit is None else int(limit),
            "wrappers": wrappers,
            "references": [float(value) for value in references] if len(references) == 2 else None,
        }
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def _dataset(dataset_id: str, contents: _Contents) -> Dataset:
    arrays = dict(contents.arrays)
    cut_rows = arrays.pop("cut_rows")
    bounds = contents.description["action_bounds"]
    recording: Recording = checked(f"'{dataset_id}'", arrays, labels=LABELS, action_bounds=tuple(bounds))
    metadata = {**contents.description, "minari_id": dataset_id, "mode": "exact"}
    dataset = Dataset.assemble(recording, exact_rows(recording), name=dataset_id, metadata=metadata)
    # No row is dropped, so rows of the recording are the dataset's.
    cut = np.isin(dataset.episode_bounds[1:] - 1, cut_rows)
    return replace(dataset, episode_complete=dataset.episode_complete & ~cut)
