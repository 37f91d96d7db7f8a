"""Files that appear whole or not at all: written under a temporary name, flushed, then renamed."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp"
"""How names of unfinished files and folders end; they begin with a dot."""


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


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replace_file(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (no NaN), indented, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def cache_folder() -> Path:
    """Return the folder for what can be computed again: ``OFFLINE_RL_CACHE``, by default ``~/.cache/offline_rl``."""
    return Path(os.environ.get("OFFLINE_RL_CACHE") or Path.home() / ".cache" / "offline_rl")


@contextlib.contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it takes the place of ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder around both: its name is free whatever a killed process has left behind.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent) as place:
        new, old = Path(place) / "new", Path(place) / "old"
        new.mkdir()
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders that killed processes have left below ``folder``."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
