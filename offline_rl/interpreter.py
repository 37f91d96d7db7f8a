"""How this interpreter is started once more, so that the child imports what the parent does."""

import os
import sys
from pathlib import Path


def python_module(module: str) -> list[str]:
    """Return the command that runs a module; the working directory cannot shadow one of its imports."""
    return [sys.executable, "-P", "-m", module]


def child_environment(**more: str) -> dict[str, str]:
    """Return this process's environment with its import path, and ``more``."""
    import_path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": import_path, **more}
