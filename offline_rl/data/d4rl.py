"""D4RL's datasets: their ids, and their files, downloaded once into D4RL's own cache folder."""

import contextlib
import hashlib
import os
from pathlib import Path

from offline_rl.data import hdf5
from offline_rl.envs.registry import FILES
from offline_rl.errors import DatasetError
from offline_rl.files import write_bytes

BASE_URL = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"
URL_VARIABLE = "OFFLINE_RL_D4RL_URL"
"""Environment variable that names a mirror of `BASE_URL`."""

FOLDER_VARIABLE = "D4RL_DATASET_DIR"
"""Environment variable that names the cache folder, D4RL's own."""

DATASETS = FILES
"""All ids, each with the path of its file below the base URL."""

IDS = {Path(file).name: dataset_id for dataset_id, file in DATASETS.items()}
"""Ids by the name of their file."""


def find_id(name: str) -> str | None:
    """Return the id that a name in any spelling stands for: case, hyphens and underscores do not matter."""
    return _SPELLINGS.get(_plain(name))


def id_of_file(path: Path) -> str | None:
    """Return the id of the dataset that a file is named as, in any spelling; None for other files."""
    return _FILES.get(_plain(path.stem)) if path.suffix.lower() in (".hdf5", ".h5") else None


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


_SPELLINGS = {_plain(dataset_id): dataset_id for dataset_id in DATASETS}
_FILES = _SPELLINGS | {_plain(Path(file).stem): dataset_id for file, dataset_id in IDS.items()}


def cache_folder() -> Path:
    """Return the folder in which D4RL, and we, keep downloaded files."""
    return Path(os.environ.get(FOLDER_VARIABLE) or "~/.d4rl/datasets").expanduser()


def url_of(dataset_id: str) -> str:
    """Return the address of a dataset's file, on the mirror if one is set."""
    return f"{(os.environ.get(URL_VARIABLE) or BASE_URL).rstrip('/')}/{DATASETS[dataset_id]}"


def download(dataset_id: str) -> Path:
    """Return the file of a dataset, downloaded unless it is in the cache folder already.

    The file appears there whole or not at all, whatever else downloads it meanwhile. Its SHA-256 is recorded beside
    it when it is first used, because D4RL publishes none, and verified from then on.

    Args:
        dataset_id: A key of `DATASETS`.

    Returns:
        The file's path.

    Raises:
        DatasetError: The file cannot be downloaded or stored, is not HDF5, or is no longer what it was at first use.
    """
    import filelock

    path = cache_folder() / Path(DATASETS[dataset_id]).name
    if path.exists() and not os.access(path.parent, os.W_OK):
        return path  # a read-only cache that a group shares: nothing can be recorded there
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{path}.lock"):
            if path.exists():
                _verify(path)
            else:
                _fetch(dataset_id, path)
    except OSError as error:
        reason = f"cannot store {dataset_id} in {path.parent} ({error.strerror or error})"
        raise DatasetError(f"{reason}; set {FOLDER_VARIABLE} to a folder with room that you can write to") from error
    return path


def _fetch(dataset_id: str, path: Path) -> None:
    import pooch

    url = url_of(dataset_id)
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as file, contextlib.closing(_DownloadBar(dataset_id)) as bar:
            pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 20)(url, file, None)
        hdf5.check(partial)
        _record(partial, path)
        partial.replace(path)
    except DatasetError as error:
        raise DatasetError(_cannot_download(dataset_id, url, path, "what arrived is no whole HDF5 file")) from error
    except (OSError, ValueError) as error:
        raise DatasetError(_cannot_download(dataset_id, url, path, _reason(error))) from error
    finally:
        partial.unlink(missing_ok=True)


class _DownloadBar:
    """A progress bar on a terminal, with the attribute and methods that pooch uses."""

    def __init__(self, name: str) -> None:
        from rich import console, progress

        columns = progress.BarColumn(), progress.DownloadColumn(), progress.TransferSpeedColumn()
        screen = console.Console(stderr=True)
        left = progress.TimeRemainingColumn()
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"), *columns, left, console=screen, disable=not screen.is_terminal
        )
        self._task = self._progress.add_task(name, total=None)
        self._progress.start()
        self.total = 0

    def update(self, size: int) -> None:
        self._progress.update(self._task, total=self.total or None, advance=size)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop()


def _cannot_download(dataset_id: str, url: str, path: Path, reason: str) -> str:
    return (
        f"cannot download {dataset_id} from {url}: {reason}; put the file at {path} yourself, set {URL_VARIABLE} to a "
        "mirror, give the path of a local file, or try the dataset 'hopper-demo', which needs no download"
    )


def _reason(error: Exception) -> str:
    """Says what a failed request came to, in a few words instead of urllib3's many."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    if isinstance(error, requests.Timeout):
        return "the server does not answer"
    if isinstance(error, requests.ConnectionError):
        return "the server cannot be reached"
    return " ".join(str(error).split())


def _verify(path: Path) -> None:
    """Make sure that a file is what it was at its first use; a file without a record is taken and recorded."""
    record = _record_of(path)
    if not record.exists():
        try:
            hdf5.check(path)  # D4RL itself leaves what came of an interrupted download
        except DatasetError as error:
            raise DatasetError(f"{path} is no whole HDF5 file; delete it to download it again") from error
        _record(path, path)
    elif record.read_text(encoding="utf-8", errors="replace").split()[:1] != [_sha256(path)]:
        raise DatasetError(
            f"{path} has changed since its first use; delete it to download it again, or delete {record.name} to "
            "accept it as it is"
        )


def _record(file: Path, path: Path) -> None:
    """Record the checksum of a file that is at, or will be moved to, a path; in the form of `sha256sum`."""
    write_bytes(_record_of(path), f"{_sha256(file)}  {path.name}\n".encode())


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
