"""A sweep's folder: ``sweep.json``, the journal, ``runs/``; at the end ``summary.json`` and ``sweep.png``."""

import hashlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offline_rl.documents import read_json
from offline_rl.errors import SweepError
from offline_rl.files import write_json
from offline_rl.folders import owned_folder
from offline_rl.sweep.file import Sweep, make_sweep, read_file

FORMAT = 1
WAIT_SECONDS = 60.0
"""How long to wait for other processes that begin the same sweep; each needs a moment."""


def make_folder(path: Path, file: Path, overrides: dict[str, str], run_cap: int | None) -> Sweep:
    """Begin a sweep, or go on with the one that the folder holds; ``run_cap`` may have changed.

    Raises:
        OfflineRLError: The sweep cannot be run, or the folder holds another.
    """
    text = read_file(file)
    sweep = make_sweep(str(file), text, overrides, run_cap)
    record = {"format": FORMAT, "file": text, "overrides": overrides, "run_cap": run_cap}
    # Owned for a moment only: after that, any number of processes work in it.
    owned = owned_folder(
        path, keep="sweep.json", check=lambda path: _check(path, record), wait=WAIT_SECONDS, shared=True
    )
    with owned:
        try:
            write_json(path / "sweep.json", record)
        except (OSError, TypeError, ValueError) as error:
            raise SweepError(f"{path} cannot be written ({error}); choose another --out") from None
    return sweep


def _check(path: Path, record: dict[str, Any]) -> None:
    """Refuse a folder that holds something else than the sweep of ``record``."""
    if not (path / "sweep.json").is_file():
        raise SweepError(f"{path} exists and is no sweep's folder; choose another --out")
    if _fixed(_read(path)) != _fixed(record):
        raise SweepError(f"{path} holds a sweep made from another file or options; choose another --out")


def open_folder(path: Path) -> Sweep:
    """Return the sweep of a folder."""
    record = _read(path)
    return make_sweep(str(path / "sweep.json"), record["file"], record["overrides"], record["run_cap"])


def _read(path: Path) -> dict[str, Any]:
    shape = {"format": int, "file": {str: object}, "overrides": {str: str}, "run_cap": (int, None)}
    record: dict[str, Any] = read_json(path / "sweep.json", SweepError, "choose another --out", shape)
    if record["format"] != FORMAT:
        raise SweepError(f"{path / 'sweep.json'} is no sweep of format {FORMAT}; choose another --out")
    return record


def _fixed(record: dict[str, Any]) -> dict[str, Any]:
    """Return what may not change while a sweep goes on: all but how long it is, and what W&B alone reads."""
    changing = ("run_cap", "name", "description", "project", "entity")
    file = {name: value for name, value in record["file"].items() if name not in changing}
    return {"file": file, "overrides": record["overrides"]}


def run_folder(path: Path, sweep: Sweep, point: dict[str, Any]) -> Path:
    """Return the folder of a trial's run: a function of what is trained, so no two trials train the same."""
    text = json.dumps(sweep.identity(point), sort_keys=True)
    return path / "runs" / f"{sweep.algorithm}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def command(sweep: Sweep, point: dict[str, Any], seeds: Sequence[int], out: str) -> str:
    """Return the command that trains a trial's settings with these seeds."""
    algorithm, *options = sweep.arguments({name: value for name, value in point.items() if name != "seeds"})
    options = [option for option in options if not option.startswith("--seeds=")]
    return shlex.join(["offline-rl", "train", algorithm, *options, "--seeds", *map(str, seeds), f"--out={out}"])
