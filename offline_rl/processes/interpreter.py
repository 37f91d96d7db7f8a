"""How this interpreter is started once more, so that the child imports what the parent does."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

ATTACHED = "OFFLINE_RL_ATTACHED"


def python_module(module: str) -> list[str]:
    """Return the command that runs a module; the working directory cannot shadow one of its imports."""
    return [sys.executable, "-P", "-m", module]


def child_environment(**more: str) -> dict[str, str]:
    """Return this process's environment with its import path, and ``more``."""
    import_path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": import_path, **more}


def start_attached(command: list[str], folder: str, log: IO[bytes] | None = None) -> "subprocess.Popen[bytes]":
    """Start a command that calls :func:`stop_with_parent`, so that it is asked to stop when this process ends.

    Args:
        command: What to run.
        folder: Its working directory.
        log: Where its output goes; by default where this process's goes.
    """
    return subprocess.Popen(
        command,
        cwd=folder,
        env=child_environment(**{ATTACHED: "1"}),
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def stop_with_parent() -> None:
    """Send SIGTERM to this process when its parent ends, if :func:`start_attached` started it.

    The parent holds the other end of standard input, which closes however the parent ends.
    """
    if os.environ.pop(ATTACHED, None) is None:
        return

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
