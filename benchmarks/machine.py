"""What a measurement says of where it was made, and on which cores it runs."""

import contextlib
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from offline_rl.origin import processor


def today() -> str:
    """Return the date, in ISO's way."""
    return datetime.now(UTC).date().isoformat()


def versions() -> dict[str, str]:
    """Return the versions that matter to speed."""
    import torch

    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


def about() -> dict[str, Any]:
    """Return when and where a measurement is made, as its file says it."""
    return {"date": today(), "hardware": processor(), "versions": versions()}


def pin(cores: set[int]) -> None:
    """Let all threads of this process, and what it starts from now on, run on these cores alone."""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has ended just now
            os.sched_setaffinity(int(task.name), cores)
