"""An estimate on disk: its state as long as it is under way, then its result."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from offline_rl.agent import Agent
from offline_rl.data import Dataset
from offline_rl.documents import Least, check, parse_json, read_bytes, said
from offline_rl.errors import RunError
from offline_rl.estimation.fqe import FittedQ
from offline_rl.estimation.options import EstimateOptions
from offline_rl.estimation.result import CurvePoint, ValueEstimate
from offline_rl.files import read_record, sealed, write_bytes, write_json, writing

FORMAT = 2
"""Of the result's file; the first that carries a checksum, as in a run's records."""
METHOD = 3
"""Of the computation: what another one has left is not continued. Since 2 critics see standardised observations,
since 3 intervals are widened for few episodes."""
MAKE_ROOM = "what was saved is intact; make room, then give the same command again"
POINT = {"update": Least(int, 1), "mean": (float, None), "low": (float, None), "high": (float, None)}
SHAPE = {"identity": str, "checksum": str, "update": Least(int, 1), "curve": [POINT]}
"""Of the state's metadata."""
RESULT = {"format": Least(int, 1), "estimate": {str: object}}
"""Of the result."""


@dataclass(frozen=True)
class Saved:
    """Where an estimate is kept.

    Attributes:
        path: The result's file; the state has the same name and another ending.
        identity: A digest of all that decides the result.
    """

    path: Path
    identity: str

    @classmethod
    def at(cls, folder: Path, agent: Agent, data: Dataset, options: EstimateOptions, kernel: str) -> "Saved":
        """Return the place for an estimate in a folder: other settings have another name."""
        description = {name: value for name, value in agent.description().items() if name != "provenance"}
        decides = [
            METHOD,
            description,
            _checksum(agent.acting_weights()),
            data.fingerprint,
            vars(options),
            kernel,
            agent.device.type,
        ]
        identity = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return cls(folder / f"seed-{agent.seed}-{identity[:12]}.json", identity)

    @property
    def _state(self) -> Path:
        return self.path.with_suffix(".safetensors")

    def result(self) -> ValueEstimate | None:
        """Return the result, if it is there."""
        return read_result(self.path) if self.path.exists() else None

    def state(self) -> tuple[int, dict[str, Tensor], list[CurvePoint]]:
        """Return what a stopped estimate has left: updates, critics, curve; nothing if there is none.

        Raises:
            RunError: It is damaged.
        """
        from safetensors import SafetensorError, safe_open

        if not self._state.is_file():
            return 0, {}, []
        try:
            with safe_open(self._state, framework="pt") as file:
                metadata = parse_json((file.metadata() or {})["estimate"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            check(metadata, SHAPE)
            content = _checksum(tensors, [metadata["update"], metadata["curve"]])
            if (metadata["identity"], metadata["checksum"]) != (self.identity, content):
                raise ValueError("its content does not fit its checksum")
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise RunError(f"{self._state} is damaged ({said(error)}); delete it to start the estimate over") from None
        return metadata["update"], tensors, [CurvePoint(**point) for point in metadata["curve"]]

    def keep(self, critics: FittedQ, curve: Sequence[CurvePoint]) -> None:
        """Write the state of an estimate under way."""
        from safetensors.torch import save

        tensors = {name: tensor.cpu().contiguous() for name, tensor in critics.state().items()}
        update, points = critics.update, [asdict(point) for point in curve]
        checksum = _checksum(tensors, [update, points])
        metadata = {"identity": self.identity, "checksum": checksum, "update": update, "curve": points}
        with writing(self._state, MAKE_ROOM):
            self._state.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self._state, save(tensors, {"estimate": json.dumps(metadata)}))

    def finish(self, result: ValueEstimate) -> None:
        """Write the result; the state goes."""
        with writing(self.path, MAKE_ROOM):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, sealed({"format": FORMAT, "estimate": result.to_json()}))
            self._state.unlink(missing_ok=True)


def check_place(folder: Path) -> None:
    """Refuse a folder in which nothing can be kept, before any work is done.

    Raises:
        RunError: It, or what it would lie in, is no folder or may not be written.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise RunError(f"{there} is no folder; choose another --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunError(f"{there} cannot be written; choose another --out")


def _checksum(tensors: Mapping[str, Tensor], values: Any = None) -> str:
    """Return a digest of tensors, and of JSON values beside them."""
    digest = hashlib.sha256(b"" if values is None else json.dumps(values).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_result(path: Path) -> ValueEstimate:
    """Read the result of an estimate.

    Raises:
        RunError: The file is damaged, of a newer format, or no such result.
    """
    remedy = "delete it, and make the estimate again"
    try:
        content = read_bytes(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({said(error)}); {remedy}") from None
    record: dict[str, Any] = read_record(path, content, FORMAT, RESULT, error=RunError, remedy=remedy)
    try:
        return ValueEstimate.from_json(record["estimate"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} holds no estimate ({said(error)}); {remedy}") from None


def results_in(folder: Path) -> dict[str, ValueEstimate]:
    """Return the results in a folder by the names of their files, without their endings."""
    return {path.stem: read_result(path) for path in sorted(folder.glob("seed-*.json"))}
