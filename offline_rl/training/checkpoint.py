"""A run's state in one file that appears whole or not at all: safetensors, with one JSON value as metadata."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from offline_rl.documents import Least, check, parse_json, said
from offline_rl.errors import RunError, brief
from offline_rl.files import MAKE_ROOM, Growing, replace_file, writing

FORMAT = 2
"""Since 2 a checkpoint holds a checksum of all its bytes, and those of the files that belong to it."""
PLACE = "checkpoint/checkpoint.safetensors"
"""Where a run's folder has its checkpoint."""
UNKNOWN = "0" * 64
"""What stands in place of the checksum while it is computed."""
REMEDY = "delete it to start the run over"
SHAPE = {
    "format": Least(int, 1),
    "step": Least(int, 0),
    "metrics_bytes": Least(int, 0),
    "pending": [
        {
            "rows": (None, [{"kind": str, "step": int, "seed": int}]),
            "evaluation": (None, {"kind": str, "step": int, "episodes": int}),
        }
    ],
    "seconds": float,
    "waited?": float,
    "finished?": bool,
    "total?": (None, Least(int, 0)),
    "lengths?": (None, [str]),
    "due?": bool,
    "files?": {str: str},
}
"""Of the metadata."""


@dataclass
class Checkpoint:
    """Everything that continuing a run exactly needs.

    Attributes:
        step: Updates that every replica has made.
        metrics_bytes: Length of ``metrics.jsonl`` at that moment; what comes after it will be written again.
        pending: Rows that are not in ``metrics.jsonl`` yet, because an evaluation before them has not ended.
        seconds: Wall time of training and evaluation so far.
        waited: Of these, while nothing was trained because episodes were played.
        finished: Whether nothing is left to do.
        total: Updates of the whole run, of both phases; None in an older version's.
        lengths: Of ``steps`` and ``online_steps`` those that the algorithm has asked for; None in an older version's.
        due: Whether the evaluation of this very step is still to begin, because it was the end when it was made.
        files: SHA-256 of what lay in other files of the run, by their names: so many bytes of them as the checkpoint
            counts. Those of format 1 do not say.
        tensors: Replicas' states as ``members/seed-N/...``, weights of pending evaluations as ``evaluation/...``.
    """

    step: int
    metrics_bytes: int
    pending: list[dict[str, Any]]
    seconds: float
    waited: float = 0.0
    finished: bool = False
    total: int | None = None
    lengths: list[str] | None = None
    due: bool = False
    files: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT
    tensors: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def save(self, folder: Path) -> None:
        """Write the checkpoint of the run in ``folder`` over the previous one."""
        from safetensors.torch import save

        values = {name: value for name, value in vars(self).items() if name not in ("tensors", "format")}
        # One metadata key only: safetensors writes several in random order.
        metadata = {"checkpoint": json.dumps({"format": FORMAT, "checksum": UNKNOWN, **values})}
        content = memoryview(save({name: tensor.contiguous() for name, tensor in self.tensors.items()}, metadata))
        place = _checksum_place(content)
        path = _path(folder)
        with writing(path, MAKE_ROOM):
            path.parent.mkdir(exist_ok=True)
            with replace_file(path) as temporary, temporary.open("wb") as file:
                digest = hashlib.sha256(content).hexdigest().encode()
                for part in (content[: place.start], digest, content[place.stop :]):
                    file.write(part)

    @classmethod
    def load(cls, folder: Path) -> "Checkpoint | None":
        """Read the checkpoint of the run in ``folder``; None if it has none.

        Raises:
            RunError: The file is damaged or of a newer format.
        """
        from safetensors import SafetensorError, safe_open

        path = _path(folder)
        if not path.is_file():
            return None
        try:
            # By its descriptor: safe_open opens a path twice, and a run that goes on may have put another file there.
            with path.open("rb") as opened, safe_open(f"/dev/fd/{opened.fileno()}", framework="pt") as file:
                values = _values(path, (file.metadata() or {})["checkpoint"])
                if values.pop("checksum", None) != (None if values["format"] == 1 else _checksum(opened)):
                    raise ValueError("its content does not fit its checksum")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise RunError(f"{path} is damaged ({said(error)}); {REMEDY}") from None
        return cls(**values, tensors=tensors)


def check_metrics(folder: Path, content: bytes) -> None:
    """See that a run's record begins as its last checkpoint says, if it has one that says it.

    Args:
        folder: The run's.
        content: What ``metrics.jsonl`` holds.

    Raises:
        RunError: The record was changed, or the checkpoint is damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = _path(folder)
    if not path.is_file():
        return
    try:
        with safe_open(path, framework="pt") as file:
            values = _values(path, (file.metadata() or {})["checkpoint"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise RunError(f"{path} is damaged ({said(error)}); {REMEDY}") from None
    expected = values.get("files", {}).get("metrics.jsonl")
    if expected not in (None, hashlib.sha256(content[: values["metrics_bytes"]]).hexdigest()):
        raise RunError(
            f"{folder / 'metrics.jsonl'} is damaged, or was changed (its content does not fit its checksum in the"
            " checkpoint); copy the run again, or train it again"
        )


def _values(path: Path, text: str) -> dict[str, Any]:
    """Return what the metadata of a checkpoint say; what they do not name must have a default.

    Raises:
        RunError: They are those of a newer version.
        ValueError: They are damaged.
    """
    values = parse_json(text)
    check(values, {"format": Least(int, 1)})
    known = {entry.name for entry in fields(Checkpoint)} | {"checksum"}
    if values["format"] > FORMAT or set(values) - known:
        strange = ", ".join(sorted(set(values) - known)) or f"format {values['format']}"
        raise RunError(f"{path} is of a newer version ({brief(strange)}); upgrade offline-rl-suite, or {REMEDY}")
    check(values, SHAPE)
    return dict(values)


def _checksum_place(content: bytes | memoryview) -> slice:
    """Return where the checksum stands in a checkpoint's bytes: before all else that the metadata name as one."""
    header = bytes(content[: 8 + int.from_bytes(content[:8], "little")])
    found = re.search(rb'\\"checksum\\": \\"([0-9a-f]{64})\\"', header)
    if found is None:
        raise ValueError("it has no checksum")
    return slice(*found.span(1))


def _checksum(file: BinaryIO) -> str:
    """Return the SHA-256 of a checkpoint, computed as if its own place were not filled yet."""
    file.seek(0)
    length = file.read(8)
    header = length + file.read(int.from_bytes(length, "little"))
    place = _checksum_place(header)
    digest = hashlib.sha256(header[: place.start] + UNKNOWN.encode() + header[place.stop :])
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


class ReplayFile:
    """The rows that one replica collected online, as little-endian float32; only ever appended to.

    Rows come before the checkpoint that counts them, so what a killed run has left beyond that is cut off.

    Args:
        folder: The run's.
        replica: Whose rows.
        width: Numbers in a row.
        count: Rows to keep.
        checkpoint: Whose rows these are, and which knows their checksum; None for a run that begins.

    Raises:
        RunError: There are fewer, or others.
    """

    def __init__(
        self, folder: Path, replica: str, width: int, count: int, checkpoint: Checkpoint | None = None
    ) -> None:
        self.count = count
        self._path = _path(folder).with_name(f"replay-{replica}.f32")
        self._width = width
        with writing(self._path, MAKE_ROOM):
            self._path.parent.mkdir(exist_ok=True)
            self._path.touch()
        expected = checkpoint.files.get(self._path.name) if checkpoint else None
        self._checksum = Growing(self._path, self._bytes, expected)
        os.truncate(self._path, self._bytes)

    def append(self, rows: Tensor) -> None:
        """Add rows ``(N, width)`` and make them durable."""
        if len(rows):
            content = rows.numpy().astype("<f4").tobytes()
            self._checksum.add(content)
            with writing(self._path, MAKE_ROOM), self._path.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self.count += len(rows)

    def checksum(self) -> dict[str, str]:
        """Return the SHA-256 of all rows, by the file's name, for the checkpoint that counts them."""
        return {self._path.name: self._checksum.hexdigest()}

    def read(self) -> Tensor:
        """Return all rows."""
        values = np.fromfile(self._path, "<f4", self.count * self._width).astype(np.float32)
        return torch.from_numpy(values).view(-1, self._width)

    @property
    def _bytes(self) -> int:
        return 4 * self.count * self._width


def _path(folder: Path) -> Path:
    return folder / PLACE


def select(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix``, under their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def prefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors under their names with ``prefix`` before them."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
