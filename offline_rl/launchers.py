"""Where jobs run. A job is a command that can be repeated: what it has done already it does not do again.

So every launcher may start a lost job once more, here or on another machine, and nothing is lost but the time since its
last checkpoint.
"""

import os
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from offline_rl.errors import RunError
from offline_rl.interpreter import child_environment

ATTEMPTS = 5
"""How often a job is started before it is given up."""
STOP_SECONDS = 60.0
"""How long a job that is asked to stop may take for its checkpoints."""
LIFELINE = "OFFLINE_RL_LIFELINE"
"""Environment variable: the descriptor of a pipe that closes when whoever has started this process is gone."""


@dataclass(frozen=True)
class Job:
    """A command that can be repeated.

    Attributes:
        command: The program and its arguments; status 0 says that everything is done.
        log: File for what it prints.
    """

    command: tuple[str, ...]
    log: Path


class Launcher(Protocol):
    """Runs jobs somewhere."""

    def start(self, jobs: Sequence[Job]) -> None:
        """Start jobs."""

    def poll(self) -> int:
        """Start what was lost once more; return how many jobs are not done.

        Raises:
            RunError: A job fails again and again.
        """

    def stop(self) -> None:
        """Ask all jobs to stop at a checkpoint, and wait until they have."""


class Local:
    """Runs all jobs at once, as processes of this machine that do not outlive this one."""

    def __init__(self) -> None:
        self._processes: dict[Job, subprocess.Popen[bytes]] = {}
        self._attempts: dict[Job, int] = {}
        self._pipe = os.pipe()

    def start(self, jobs: Sequence[Job]) -> None:
        """Start jobs."""
        for job in jobs:
            self._attempts[job] = self._attempts.get(job, 0) + 1
            with job.log.open("ab") as log:
                self._processes[job] = subprocess.Popen(
                    job.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=child_environment(**{LIFELINE: str(self._pipe[0])}),
                    pass_fds=[self._pipe[0]],
                    # Ctrl-C in the terminal is for this process, which tells its jobs what to do.
                    start_new_session=True,
                )

    def poll(self) -> int:
        """Start what was lost once more; return how many jobs are not done."""
        for job, process in list(self._processes.items()):
            if process.poll() is None:
                continue
            del self._processes[job]
            if not process.returncode:
                self._attempts[job] = 0
            else:
                if self._attempts[job] >= ATTEMPTS:
                    raise RunError(f"a job has ended {ATTEMPTS} times before it was done; {job.log} says why")
                self.start([job])
        return len(self._processes)

    def stop(self) -> None:
        """Ask all jobs to stop at a checkpoint, and wait until they have."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


LAUNCHERS: dict[str, type[Launcher]] = {"local": Local}


def hold_lifeline() -> None:
    """End this process when whoever has started it is gone, if it was started so; call this first in a job's main."""
    if descriptor := os.environ.pop(LIFELINE, None):

        def listen() -> None:
            os.read(int(descriptor), 1)
            os._exit(1)

        threading.Thread(target=listen, daemon=True).start()
