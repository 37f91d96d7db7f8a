"""A run's state in one file that appears whole or not at all: safetensors, with one JSON value as metadata."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offline_rl.errors import RunError
from offline_rl.files import MAKE_ROOM, write_bytes, writing

FORMAT = 2
PLACE = "checkpoint/checkpoint.safetensors"
"""Where a run's folder has its checkpoint."""


@dataclass
class Checkpoint:
    """Everything that continuing a run exactly needs.

    Attributes:
        step: Updates that every member has made.
        metrics_bytes: Length of ``metrics.jsonl`` at that moment; what comes after it will be written again.
        pending: Rows that are not in ``metrics.jsonl`` yet, because an evaluation before them has not ended.
        seconds: Wall time of training and evaluation so far.
        waited: Of these, while nothing was trained because episodes were played.
        finished: Whether nothing is left to do.
        total: Updates of the whole run, of both phases; None in an older version's.
        lengths: Of ``steps`` and ``online_steps`` those that the algorithm has asked for; None in an older version's.
        due: Whether the evaluation of this very step is still to begin, because it was the end when it was made.
        tensors: Members' states as ``members/seed-N/...``, weights of pending evaluations as ``evaluation/...``.
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
    format: int = FORMAT
    tensors: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def save(self, folder: Path) -> None:
        """Write the checkpoint of the run in ``folder`` over the previous one."""
        from safetensors.torch import save

        # One metadata key only: safetensors writes several in random order.
        values = {name: value for name, value in vars(self).items() if name != "tensors"} | {"format": FORMAT}
        content = save({k: t.contiguous() for k, t in self.tensors.items()}, {"checkpoint": json.dumps(values)})
        path = _path(folder)
        with writing(path, MAKE_ROOM):
            path.parent.mkdir(exist_ok=True)
            write_bytes(path, content)

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
                values = json.loads(file.metadata()["checkpoint"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged ({error}); delete it to start the run anew") from None
        if values.get("format", 0) > FORMAT:
            raise RunError(f"{path} has format {values['format']}, this version reads up to {FORMAT}; upgrade")
        return cls(**values, tensors=tensors)


class ReplayFile:
    """The rows that one member collected online, as little-endian float32; only ever appended to.

    Rows come before the checkpoint that counts them, so what a killed run has left beyond that is cut off.

    Args:
        folder: The run's.
        member: Whose rows.
        width: Numbers in a row.
        count: Rows to keep.

    Raises:
        RunError: There are fewer.
    """

    def __init__(self, folder: Path, member: str, width: int, count: int) -> None:
        self.count = count
        self._path = _path(folder).with_name(f"replay-{member}.f32")
        self._width = width
        with writing(self._path, MAKE_ROOM):
            self._path.parent.mkdir(exist_ok=True)
            self._path.touch()
        if self._path.stat().st_size < self._bytes:
            raise RunError(f"{self._path} holds fewer than {count} rows; it was changed, start the run anew elsewhere")
        os.truncate(self._path, self._bytes)

    def append(self, rows: Tensor) -> None:
        """Add rows ``(N, width)`` and make them durable."""
        if len(rows):
            with writing(self._path, MAKE_ROOM), self._path.open("ab") as file:
                file.write(rows.numpy().astype("<f4").tobytes())
                file.flush()
                os.fsync(file.fileno())
            self.count += len(rows)

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
