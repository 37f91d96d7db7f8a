"""Weights & Biases as a view of the record.

W&B runs in a process of its own (:mod:`offline_rl.tracking.wandb_process`), which reads ``metrics.jsonl`` as it grows.
So whatever W&B does, block, crash or fill a disk, training neither waits for it nor fails with it.
"""

import contextlib
import json
import os
import secrets
import subprocess
import time
from pathlib import Path
from typing import Any

from offline_rl.errors import RunError
from offline_rl.files import write_json
from offline_rl.processes.interpreter import child_environment, python_module
from offline_rl.tracking.record import Row

CLOSE_SECONDS = 60.0
"""How long the end of a run waits for W&B to write or upload what is left."""
DEFAULT_PROJECT = "offline_rl"
SWEEP_VARIABLES = ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID")
"""What a W&B agent sets for the one run of a trial; the second names a file that would replace the run's config."""


class WandbView:
    """One W&B run for each seed, grouped; see the README for what they show.

    Args:
        out: The run's folder, which holds ``metrics.jsonl``.
        seeds: The run's seeds.
        config: What ``config.json`` holds.
        project: Project of the W&B runs; by default WANDB_PROJECT, else "offline_rl".
        entity: User or team that they belong to; by default W&B's.
        group: Their group; by default WANDB_RUN_GROUP, else the run folder's name.
        tags: Their tags.
        artifact: Also store each trained agent, as an artifact of its run.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(
        self,
        out: Path,
        seeds: list[int],
        config: dict[str, Any],
        *,
        project: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        artifact: bool = False,
    ) -> None:
        if not installed("wandb"):
            raise ImportError("wandb")
        environment = child_environment()
        sweep, _, trial = (environment.pop(name, None) for name in SWEEP_VARIABLES)
        request = {
            "out": str(out),
            "seeds": seeds,
            "project": project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
            "entity": entity,
            "group": group or os.environ.get("WANDB_RUN_GROUP") or out.name,
            "tags": tags or [],
            "artifact": artifact,
            "config": flat_config(config),
            "id": _run_id(out),
            "sweep": {"id": sweep, "run": trial} if sweep else None,
        }
        self._process = subprocess.Popen(
            python_module("offline_rl.tracking.wandb_process"),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C in the terminal is for the trainer, which closes its views.
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._answers.fileno(), False)
        # Far below what a pipe holds, so it cannot block.
        self._tell(json.dumps(request))
        self._unread = b""
        self._failure = ""

    def log(self, row: Row) -> None:
        """See that W&B is well; it reads the row from the file by itself.

        Raises:
            RunError: It is not.
        """
        self._listen()
        if self._process.poll() is not None:
            raise self._ended()

    def close(self) -> None:
        """Let W&B finish, for so long at most.

        Raises:
            RunError: It did not.
        """
        self._tell("end")
        deadline = time.monotonic() + CLOSE_SECONDS
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                self._process.kill()
                self._release()
                raise RunError(f"W&B has not finished within {CLOSE_SECONDS:.0f} s")
            self._listen()
            time.sleep(0.02)
        if self._process.returncode:
            raise self._ended()
        self._release()

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._requests.write(line.encode() + b"\n")
            self._requests.flush()

    def _listen(self) -> None:
        """Print what W&B has to say, and remember why it gave up."""
        self._unread += self._answers.read() or b""
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            answer = json.loads(line)
            self._failure = answer.get("failure", self._failure)
            if "say" in answer:
                print(answer["say"], flush=True)

    def _release(self) -> None:
        """Hear the last words of the process, which has ended, and close the pipes."""
        self._process.wait()
        self._listen()
        for pipe in (self._requests, self._answers):
            with contextlib.suppress(OSError):
                pipe.close()

    def _ended(self) -> RunError:
        self._release()
        code = self._process.returncode
        return RunError(
            self._failure or f"its process ended with {f'signal {-code}' if code < 0 else f'status {code}'}"
        )


def installed(package: str) -> bool:
    """Say whether a package can be imported, without importing it."""
    import importlib.util

    return importlib.util.find_spec(package) is not None


def flat_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return what ``config.json`` holds with the options under the names that a sweep file gives them."""
    rest = {name: value for name, value in config.items() if name not in ("config", "options", "dataset")}
    data = config["dataset"]
    dataset = {"dataset": data["source"] or data["name"], "data_mode": data["mode"], "data": data}
    return {**config["config"], **config["options"], **dataset, **rest}


def _run_id(out: Path) -> str:
    """Return what the ids of the folder's W&B runs begin with, so that a resumed run goes on in the same ones."""
    path = out / "wandb.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError):
        name = secrets.token_hex(5)
        write_json(path, {"id": name})
        return name
