"""The record of a run, ``metrics.jsonl``.

A row is one JSON object with ``kind`` (``train``, ``evaluation``, ``final`` or ``estimate``), ``step`` and ``seed``.
Rows are written in the order of their steps, though evaluations end long after they begin.
"""

import json
import math
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offline_rl.documents import Least, check, parse_json, said
from offline_rl.errors import RunError
from offline_rl.files import MAKE_ROOM, Growing, writing
from offline_rl.tracking.callbacks import Callback, Row, close_callbacks

ROW = {"kind": str, "step": Least(int, 0), "seed": Least(int, 0), "seconds": float, str: (float, None)}
"""The shape of a row; one of an evaluation is one of :data:`PLAYED`, too."""
PLAYED = dict.fromkeys(("return", "return_std", "score", "length"), (float, None)) | {"episodes": Least(int, 1)}
UNPLAYED = "train", "estimate"
"""Kinds of rows for which no episode is played."""


@dataclass
class _Slot:
    """Rows at their place in the order; None until the evaluation that makes them has ended."""

    rows: list[Row] | None
    evaluation: dict[str, Any] | None = field(default=None)


class Record:
    """Writes ``metrics.jsonl`` in order, and calls callbacks with each written row.

    Args:
        path: The file.
        callbacks: What is called with each row.
        keep_bytes: How much of an existing file is kept.
        checksum: SHA-256 of what is kept, if it is known.

    Raises:
        RunError: There is less, or it was changed.
    """

    def __init__(
        self, path: Path, callbacks: Sequence[Callback] = (), keep_bytes: int = 0, checksum: str | None = None
    ) -> None:
        self._path = path
        with writing(path, MAKE_ROOM):
            self._file = path.open("ab")
        self._checksum = Growing(path, keep_bytes, checksum)
        self._file.truncate(keep_bytes)
        self._file.seek(keep_bytes)  # cut off or not, it still stood at the old end, which ``sync`` would report
        self._callbacks = callbacks
        self._slots: deque[_Slot] = deque()

    def add(self, rows: list[Row]) -> None:
        """Append rows; they are written once everything before them is."""
        self._slots.append(_Slot(rows))
        self._write()

    def announce(self, row: Row) -> None:
        """Call the callbacks with a row that is not written."""
        for callback in self._callbacks:
            callback(dict(row))

    def reserve(self, evaluation: dict[str, Any]) -> None:
        """Keep a place for the rows of an evaluation that has begun."""
        self._slots.append(_Slot(None, evaluation))

    def fill(self, evaluation: dict[str, Any], rows: list[Row]) -> None:
        """Put in the rows of an evaluation that has ended."""
        slot = next(slot for slot in self._slots if slot.evaluation == evaluation)
        slot.rows = rows
        self._write()

    def pending(self) -> list[dict[str, Any]]:
        """Return what is not written yet, as JSON values that :meth:`restore` takes."""
        return [{"rows": slot.rows, "evaluation": slot.evaluation} for slot in self._slots]

    def restore(self, pending: list[dict[str, Any]]) -> None:
        """Put back what :meth:`pending` returned."""
        self._slots.extend(_Slot(slot["rows"], slot["evaluation"]) for slot in pending)
        self._write()

    def sync(self) -> int:
        """Make what is written durable; return its length in bytes."""
        with writing(self._path, MAKE_ROOM):
            self._file.flush()
            os.fsync(self._file.fileno())
        return self._file.tell()

    def checksum(self) -> dict[str, str]:
        """Return the SHA-256 of what is written, by the file's name, for the checkpoint that counts it."""
        return {self._path.name: self._checksum.hexdigest()}

    def close(self) -> None:
        """Close the file and the callbacks."""
        try:
            with writing(self._path, MAKE_ROOM):
                self._file.close()
        finally:
            close_callbacks(self._callbacks)

    def _write(self) -> None:
        while self._slots and self._slots[0].rows is not None:
            for row in self._slots.popleft().rows or []:
                line = (json.dumps(_strict(row), allow_nan=False) + "\n").encode()
                self._checksum.add(line)
                with writing(self._path, MAKE_ROOM):
                    self._file.write(line)
                self.announce(row)
        with writing(self._path, MAKE_ROOM):
            self._file.flush()


def _strict(row: Row) -> Row:
    """Return the row with NaN and infinity, which JSON does not know, as null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def read_rows(path: Path) -> list[Row]:
    """Read a ``metrics.jsonl``; a last line that is cut off is left out.

    Raises:
        RunError: It cannot be read, or a line is no row; names the line.
    """
    return rows_in(path, read_metrics(path))


def read_metrics(path: Path) -> bytes:
    """Return the bytes of a ``metrics.jsonl``.

    Raises:
        RunError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read ({said(error)}); copy the whole run folder") from None


def rows_in(path: Path, content: bytes) -> list[Row]:
    """Return the rows of a ``metrics.jsonl`` of this content; see :func:`read_rows`."""
    rows = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            row = parse_json(line)
            check(row, ROW)
            if row["kind"] not in UNPLAYED:
                check(row, PLAYED)
        except ValueError as error:
            remedy = "copy the run again, or train it again"
            raise RunError(f"{path} is damaged in line {number} ({error}); {remedy}") from None
        rows.append(row)
    return rows
