"""Who owns a folder that several processes may ask for in the same moment.

``mkdir`` decides who makes it, a lock inside decides who works in it, and only who holds the lock clears anything away.
Nothing is decided by looking first: another process may act between the look and the deed.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from offline_rl.errors import RunError, RunInUseError
from offline_rl.files import TEMPORARY, remove_leftovers, writing

if TYPE_CHECKING:
    from filelock import FileLock

LOCK = ".lock"
"""The lock in a folder; it stays there, because who removes a lock may take it from somebody who waits for it."""


@dataclass(frozen=True)
class OwnedFolder:
    """A folder in which this process alone works.

    Attributes:
        path: Where it is.
        fresh: Whether nobody has begun anything in it: it holds nothing, or what a killed process had not yet used.
    """

    path: Path
    fresh: bool


@contextlib.contextmanager
def owned_folder(
    place: Path | Iterable[Path],
    *,
    keep: str,
    check: Callable[[Path], None],
    wait: float = 0.0,
    shared: bool = False,
) -> Iterator[OwnedFolder]:
    """Own a folder, which is made if it is not there; what was begun in a fresh one vanishes again after a failure.

    Args:
        place: The folder; or names of which the first that is free is taken.
        keep: A path in the folder; once it exists, a failure leaves everything as it is.
        check: Refuses, by raising, a folder that was there and is not fresh; asked before anything is touched in it.
        wait: Seconds to wait for another owner.
        shared: Others work in it without owning it, so temporary files below it may be theirs and stay.

    Raises:
        RunInUseError: Another process owns the folder.
        RunError: The folder cannot be made or locked; or what ``check`` raises.
    """
    path, made, lock = _taken(place, check, wait)
    try:
        fresh = _is_fresh(path)
        if not fresh:
            check(path)  # once more: its owner may have been at work until now
        if not shared:
            with writing(path, "choose another --out"):
                remove_leftovers(path)
        try:
            yield OwnedFolder(path, fresh)
        finally:
            if fresh and not (path / keep).exists():
                with contextlib.suppress(OSError):  # what happened before is what there is to tell
                    _clear(path, made)
    finally:
        lock.release()


def _taken(place: Path | Iterable[Path], check: Callable[[Path], None], wait: float) -> tuple[Path, bool, "FileLock"]:
    """Return a folder, whether it was made here, and its lock, which is held."""
    if not isinstance(place, Path):
        return next(taken for path in place if (taken := _taken_if_free(path)))
    while True:
        with writing(place, "choose another --out"):
            made = _make(place)
            _check(place, made, check)
            if (lock := _locked(place, wait)) is not None:
                return place, made, lock


def _taken_if_free(path: Path) -> "tuple[Path, bool, FileLock] | None":
    with writing(path, "choose another --out"), contextlib.suppress(RunInUseError):
        if _make(path) and (lock := _locked(path, 0.0)) is not None:
            return path, True, lock
    return None


def _make(path: Path) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _check(path: Path, made: bool, check: Callable[[Path], None]) -> None:
    if made:
        return
    if not path.is_dir() and (path.exists() or path.is_symlink()):
        raise RunError(f"{path} is no folder; choose another --out")
    with contextlib.suppress(FileNotFoundError):  # its owner has just removed it
        if not _is_fresh(path):
            check(path)


def _is_fresh(path: Path) -> bool:
    return all(
        entry.name == LOCK or (entry.name.startswith(".") and entry.name.endswith(TEMPORARY))
        for entry in path.iterdir()
    )


def _locked(path: Path, wait: float) -> "FileLock | None":
    """Lock a folder; None if it is no longer the one that was there, because its owner has removed that."""
    from filelock import FileLock, Timeout

    file = path / LOCK
    lock = FileLock(file, timeout=wait)
    try:
        file.touch()
        before = file.stat().st_ino
        lock.acquire()
        if file.stat().st_ino == before:
            return lock
    except FileNotFoundError:
        pass
    except Timeout:
        raise RunInUseError(f"{path} is in use by another process; wait for it, or choose another --out") from None
    lock.release()
    return None


def _clear(path: Path, made: bool) -> None:
    """Remove what was begun. The lock goes last: who takes a new one in its place finds a fresh folder, or none."""
    for entry in path.iterdir():
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    (path / LOCK).unlink(missing_ok=True)
    if made:
        with contextlib.suppress(OSError):  # somebody has begun in it
            path.rmdir()
