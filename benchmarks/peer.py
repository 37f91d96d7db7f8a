"""Programs in a Python of their own, because d3rlpy's pins exclude ours; they answer line by line."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
"""Where ``make bench`` puts it."""


class Peer:
    """A program that runs in the competitors' environment and speaks JSON, a line each.

    Args:
        script: Its name in this folder.
        python: Of the environment.

    Raises:
        SystemExit: There is no such Python.
    """

    def __init__(self, script: str, python: Path = PYTHON) -> None:
        if not python.exists():
            raise SystemExit(
                f"there is no {python}; run python3 -m venv .venv-peers and .venv-peers/bin/pip install -r"
                " benchmarks/peers.txt, or name the Python of another environment with --peers"
            )
        command = [str(python), "-W", "ignore", str(Path(__file__).with_name(script))]
        self._name = script
        # A program finds its neighbours as benchmarks.NAME, as here.
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, request: Any) -> Any:
        """Return the answer to a request.

        Raises:
            SystemExit: The program ended instead.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it ended before, and said why
            pass
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name} ended; see above, or set up the competitors' environment anew")
        return json.loads(line)

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
