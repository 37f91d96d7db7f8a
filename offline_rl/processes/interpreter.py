"""How this interpreter is started once more, so that the child imports what the parent does."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

LEASH = "OFFLINE_RL_LEASH"


def python_module(module: str) -> list[str]:
    """Return the command that runs a module; the working directory cannot shadow one of its imports."""
    return [sys.executable, "-P", "-m", module]


def child_environment(**more: str) -> dict[str, str]:
    """Return this process's environment with its import path, and ``more``."""
    import_path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": import_path, **more}


def start_leashed(command: list[str], folder: str, log: IO[bytes] | None = None) -> "subprocess.Popen[bytes]":
    """Start a command that calls :func:`obey_leash`: it is asked to stop when this process ends, however that happens.

    Args:
        command: What to run.
        folder: Its working directory.
        log: Where its output goes; by default where this process's goes.
    """
    return subprocess.Popen(
        command,
        cwd=folder,
        env=child_environment(**{LEASH: "1"}),
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def obey_leash() -> None:
    """If :func:`start_leashed` started this process, ask it to stop, by SIGTERM, as soon as standard input closes."""
    if os.environ.pop(LEASH, None) is None:
        return

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
