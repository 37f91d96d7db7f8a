"""Files that appear whole or not at all: written under a temporary name, flushed, then renamed."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offline_rl.errors import RunError

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
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


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
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict) or "checksum" not in value:
            raise ValueError("it has no checksum")
        if sealed(value)["checksum"] != value["checksum"]:
            raise ValueError("its content does not fit its checksum, so it was changed after it was made")
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); remove it, or make it anew from its run") from None
    return value


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


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders that killed processes have left below ``folder``."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
