"""Files that appear whole or not at all: written under a temporary name, flushed, then renamed."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from offline_rl.documents import Least, check, parse_json, read_json
from offline_rl.errors import OfflineRLError, RunError, quoted

TEMPORARY = ".tmp"
"""How names of unfinished files and folders end; they begin with a dot."""
MAKE_ROOM = "what was saved is intact; make room, then continue with --resume"
"""The remedy where a run that is under way cannot write."""


@contextlib.contextmanager
def writing(path: Path, remedy: str) -> Iterator[None]:
    """Turn what the system says against writing ``path`` into a sentence; put nothing but the writing inside.

    Raises:
        RunError: Anything raised an ``OSError``: a full disk, a missing permission.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error}); {remedy}") from error


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; on success that file takes the place of ``path``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Like :func:`replace_file`, but what has come to be at ``path`` meanwhile stays.

    Raises:
        FileExistsError: Something has.
    """
    with replace_file(path) as temporary:
        yield temporary
        try:
            os.link(temporary, path)  # unlike renaming, it takes no other file's place
        except FileExistsError:
            raise FileExistsError(f"{path} exists") from None
        except OSError:  # a file system without links
            if path.exists():
                raise FileExistsError(f"{path} exists") from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replace_file(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (no NaN), indented, whole or not at all."""
    write_bytes(path, _as_json(value))


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON value with a checksum of everything else in it, so that a later edit by hand is noticed."""
    content = {name: part for name, part in value.items() if name != "checksum"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {**content, "checksum": hashlib.sha256(text.encode()).hexdigest()}


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a value that :func:`sealed` made.

    Raises:
        RunError: The file cannot be read, is no JSON, or was changed after it was made.
    """
    value = read_json(path, RunError, "it is damaged, or not one of ours: give a folder that holds results alone")
    if not isinstance(value, dict) or "checksum" not in value:
        raise RunError(
            f"{path} cannot be read (it has no checksum, so it is no result); give a folder that holds results alone"
        )
    if sealed(value)["checksum"] != value["checksum"]:
        raise RunError(
            f"{path} cannot be read (its content does not fit its checksum, so it was changed after it was made);"
            " restore it, or make it again from its run"
        )
    return value


def read_record(
    path: Path, content: bytes, newest: int, shape: Any, *, error: type[OfflineRLError], remedy: str
) -> dict[str, Any]:
    """Return the record in a file that :func:`write_json` wrote :func:`sealed`, without its checksum.

    Format 1 had no checksum. Since then each byte counts: the same value spelled otherwise is a change, too.

    Args:
        path: The file, for messages.
        content: What is in it.
        newest: The newest format that is known.
        shape: What it must be, see :func:`offline_rl.documents.check`.
        error: What to raise.
        remedy: What to do about a file that is no such record.

    Raises:
        OfflineRLError: It is no such record, of a newer format, or was changed after it was made.
    """
    try:
        value = parse_json(content)
        check(value, {"format": Least(int, 1)})
        if value["format"] <= newest:
            if value["format"] > 1 and _as_json(sealed(value)) != content:
                raise ValueError(
                    "it is damaged, or was changed after it was made: its content does not fit its checksum"
                )
            check(value, shape)
    except ValueError as problem:
        raise error(f"{path} cannot be read ({problem}); {remedy}") from None
    if value["format"] > newest:
        asked = quoted(value["format"])
        raise error(f"{path} has format {asked}, this version reads up to {newest}; upgrade offline-rl-suite")
    return {name: part for name, part in value.items() if name != "checksum"}


class Growing:
    """SHA-256 of a file that is only ever appended to.

    Args:
        path: The file.
        length: How many of its bytes count so far.
        expected: What their SHA-256 must be; None if that is not known.

    Raises:
        RunError: The file is shorter, or its bytes are others.
    """

    def __init__(self, path: Path, length: int, expected: str | None) -> None:
        self._digest = hashlib.sha256()
        remedy = "start the run over elsewhere"
        with path.open("rb") as file:
            while length and (block := file.read(min(length, 1 << 20))):
                self._digest.update(block)
                length -= len(block)
        if length:
            raise RunError(f"{path} is shorter than its checkpoint says; it was changed, {remedy}")
        if expected is not None and self.hexdigest() != expected:
            raise RunError(f"{path} is damaged (its content does not fit its checksum in the checkpoint); {remedy}")

    def add(self, content: bytes) -> None:
        """Take note of bytes that were appended."""
        self._digest.update(content)

    def hexdigest(self) -> str:
        """Return the SHA-256 of all bytes so far."""
        return self._digest.hexdigest()


def cache_folder() -> Path:
    """Return the folder for what can be computed again: ``OFFLINE_RL_CACHE``, by default ``~/.cache/offline_rl``."""
    return Path(os.environ.get("OFFLINE_RL_CACHE") or Path.home() / ".cache" / "offline_rl")


@contextlib.contextmanager
def replace_folder(path: Path, *, new: bool = False) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it takes the place of ``path``.

    Args:
        path: The folder.
        new: Whether ``path`` must still be free then.

    Raises:
        FileExistsError: It was to be new, and something has come to be at ``path`` meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder around both: its name is free whatever a killed process has left behind.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent) as place:
        filled, old = Path(place) / "new", Path(place) / "old"
        filled.mkdir()
        yield filled
        if new:
            _rename_to_new(filled, path)
            return
        if path.exists():
            path.rename(old)
        filled.rename(path)


def _rename_to_new(folder: Path, path: Path) -> None:
    """Rename a folder; the system refuses a name that is a file's, or another folder's with something in it."""
    try:
        folder.rename(path)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise FileExistsError(f"{path} exists") from None
        raise


@contextlib.contextmanager
def replace_files(folder: Path, names: Iterable[str] = ()) -> Iterator[Path]:
    """Give a temporary folder to fill; on success its files take their places in ``folder``, all of them or none.

    Args:
        folder: Where they belong; what else lies there stays.
        names: Files that go if this time there are none of these names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new.", suffix=TEMPORARY, dir=folder) as place:
        new, old = Path(place) / "new", Path(place) / "old"
        new.mkdir()
        old.mkdir()
        yield new
        for path in new.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        _exchange(new, old, folder, {path.name for path in new.iterdir()} | set(names))


def _exchange(new: Path, old: Path, folder: Path, names: Iterable[str]) -> None:
    """Move files in and those of the same names out; if one cannot be, put back what was there."""
    moved: list[str] = []
    try:
        for name in sorted(names):
            if (folder / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder has the name of a file", str(folder / name))
            if (folder / name).exists():
                (folder / name).rename(old / name)
            moved.append(name)
            if (new / name).exists():
                (new / name).rename(folder / name)
    except BaseException:
        for name in moved:
            (folder / name).unlink(missing_ok=True)
        for path in old.iterdir():
            path.rename(folder / path.name)
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders that killed processes have left below ``folder``."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
