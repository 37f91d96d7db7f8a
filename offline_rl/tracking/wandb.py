"""Weights & Biases as a callback.

W&B runs in a process of its own (:mod:`offline_rl.tracking.wandb_process`), which reads ``metrics.jsonl`` as it grows.
So whatever W&B does, block, crash or fill a disk, training neither waits for it nor fails with it. A process that has
ended is started again; it reads the file from the beginning, and rows that W&B has already are not logged again.
"""

import contextlib
import json
import logging
import os
import secrets
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offline_rl.errors import RunError
from offline_rl.files import write_json
from offline_rl.processes.interpreter import child_environment, python_module
from offline_rl.tracking.callbacks import FAILURES, Row, TolerantCallback, require_package

logger = logging.getLogger(__name__)
CLOSE_SECONDS = 60.0
"""How long the end of a run waits for W&B to write or upload what is left."""
DEFAULT_PROJECT = "offline_rl"
SWEEP_VARIABLES = ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID")
"""What a W&B agent sets for the one run of a trial; the second names a file that would replace the run's config."""


class WandbError(RunError):
    """The W&B process has ended before its time."""


class WandbRefusedError(WandbError):
    """It would end the same way if it were started again."""


class WandbCallback(TolerantCallback):
    """Logs to Weights & Biases: one W&B run for each seed, grouped; see the README for what they show.

    Args:
        project: Project of the W&B runs; by default WANDB_PROJECT, else "offline_rl".
        entity: User or team that they belong to; by default W&B's.
        group: Their group; by default WANDB_RUN_GROUP, else the run folder's name.
        tags: Their tags.
        artifact: Also store each trained agent, as an artifact of its run.

    Raises:
        RunError: wandb is not installed.
    """

    fatal = (WandbRefusedError,)

    def __init__(
        self,
        *,
        project: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        artifact: bool = False,
    ) -> None:
        require_package("wandb")
        self._settings = {"project": project, "entity": entity, "group": group, "tags": [*tags], "artifact": artifact}
        self._run: Row | None = None
        self._process: _Process | None = None

    def log(self, row: Row) -> None:
        """Begin with the first row; at each other see that W&B is well: it reads the row from the file by itself.

        Raises:
            WandbError: It is not; by the next row it is started again.
        """
        if row["kind"] == "config":
            self._run, self._process = row, None
        assert self._run is not None, "the first row is that of the settings"
        self._process = self._process or _Process(self._request_for(self._run))
        try:
            self._process.check()
        except WandbError:
            self._process = None
            raise

    def finish(self) -> None:
        """Let W&B finish, for so long at most.

        Raises:
            WandbError: It did not.
        """
        deadline = time.monotonic() + CLOSE_SECONDS
        while self._run is not None:
            try:
                self._process = self._process or _Process(self._request_for(self._run))
                self._process.finish(deadline)
                return
            except WandbRefusedError:
                raise
            except WandbError as error:
                self._process = None
                self.failures += 1
                if self.failures >= FAILURES or time.monotonic() > deadline:
                    raise
                logger.info("W&B failed (%s) and is tried again", error)

    def _request_for(self, run: Row) -> dict[str, Any]:
        """Return the process's request for a run, whose first row is given."""
        own, out, config = self._settings, Path(run["path"]), run["config"]
        sweep = os.environ.get("WANDB_SWEEP_ID")
        return {
            **own,
            "out": str(out),
            "seeds": config["options"]["seeds"],
            "project": own["project"] or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
            "group": own["group"] or os.environ.get("WANDB_RUN_GROUP") or out.name,
            "config": flat_config(config),
            "id": _run_id(out),
            "sweep": {"id": sweep, "run": os.environ.get("WANDB_RUN_ID")} if sweep else None,
        }


class _Process:
    """A process that shows a run in W&B.

    Args:
        request: What to show; see :mod:`offline_rl.tracking.wandb_process`.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        environment = child_environment()
        for name in SWEEP_VARIABLES:
            environment.pop(name, None)
        self._process = subprocess.Popen(
            python_module("offline_rl.tracking.wandb_process"),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C in the terminal is for the trainer, which closes its callbacks.
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._answers.fileno(), False)
        # Far below what a pipe holds, so it cannot block.
        self._tell(json.dumps(request))
        self._unread = b""
        self._failure, self._refused = "", False

    def check(self) -> None:
        """Read what W&B's process reports.

        Raises:
            WandbError: The process has ended.
        """
        self._listen()
        if self._process.poll() is not None:
            raise self._ended()

    def finish(self, deadline: float) -> None:
        """Let the process end, until ``deadline`` by :func:`time.monotonic`.

        Raises:
            WandbError: It did not, or failed.
        """
        self._tell("end")
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                self._process.kill()
                self._release()
                raise WandbError(f"W&B has not finished within {CLOSE_SECONDS:.0f} s")
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
        """Pass on what W&B has to say, and remember why it gave up."""
        self._unread += self._answers.read() or b""
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            answer = json.loads(line)
            self._failure = answer.get("failure", self._failure)
            self._refused |= "refused" in answer
            if "say" in answer:
                logger.info("%s", answer["say"])

    def _release(self) -> None:
        """Read the last reports of the process, which has ended, and close the pipes."""
        self._process.wait()
        self._listen()
        for pipe in (self._requests, self._answers):
            with contextlib.suppress(OSError):
                pipe.close()

    def _ended(self) -> WandbError:
        self._release()
        code = self._process.returncode
        kind = WandbRefusedError if self._refused else WandbError
        return kind(self._failure or f"its process ended with {f'signal {-code}' if code < 0 else f'status {code}'}")


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
