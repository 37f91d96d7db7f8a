"""Workers on other machines: copies of one command that share a folder, each of which takes what nobody else is doing.

What a worker does is idempotent, and goes on from what is there. So a launcher need not know it: it starts copies,
starts those again that were lost with their machine, and looks whether all is done. The machines share the disk.
"""

import contextlib
import dataclasses
import logging
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from offline_rl.documents import parse_yaml
from offline_rl.errors import RunError, quoted
from offline_rl.processes.interpreter import python_module, start_attached

logger = logging.getLogger(__name__)
Launcher = Literal["local", "slurm", "ray"]
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Command:
    """One worker: ``offline-rl`` with these arguments, in this folder; called on the machine where it runs.

    Attributes:
        arguments: What follows ``offline-rl``.
        folder: The working directory, which relative paths among the arguments refer to.
        log: File that its output is added to; without it, it goes where the caller's goes.
    """

    arguments: list[str]
    folder: str
    log: Path | None = None

    def start(self) -> "subprocess.Popen[bytes]":
        """Start it; it does not outlive the caller."""
        with self.log.open("ab") if self.log else contextlib.nullcontext() as log:
            return start_attached([*python_module("offline_rl"), *self.arguments], self.folder, log)

    def __call__(self) -> int:
        """Run it to its end; return its exit status."""
        return self.start().wait()

    def checkpoint(self) -> Any:
        """Let submitit queue the same command again when its time is over."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def read_options(text: str) -> dict[str, Any]:
    """Read ``name=value name=value``; values are numbers, truth values or texts, as YAML reads them."""
    options = {}
    try:
        pairs = shlex.split(text)
    except ValueError as error:
        raise RunError(f"launcher options are {quoted(text)} ({error}); write name=value name=value") from None
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise RunError(f"launcher option {pair!r} has no value; write {pair}=VALUE")
        try:
            options[name] = parse_yaml(value)
        except ValueError as error:
            raise RunError(f"launcher option {name} is {quoted(value)} ({error}); write a number or a text") from None
    return options


def launch(
    arguments: Sequence[str],
    *,
    launcher: Launcher,
    workers: int,
    folder: Path,
    options: Mapping[str, Any],
    done: Callable[[], bool],
) -> None:
    """Keep ``workers`` copies of ``offline-rl`` with these arguments at work until all is done.

    Args:
        arguments: Of each copy; it must end by itself when nothing is left to do.
        launcher: ``"local"`` for processes here, ``"slurm"`` for jobs by submitit, ``"ray"`` for tasks of a cluster.
        workers: How many copies.
        folder: Where logs of the workers go; seen from all machines.
        options: For ``"slurm"`` parameters of submitit's executor (``timeout_min=600``, ``slurm_partition=gpu``), for
            ``"ray"`` the ``address`` of a cluster (without it one is started here), ``num_cpus`` and ``num_gpus``.
        done: Whether nothing is left to do; workers that are still there are then asked to stop.

    Raises:
        RunError: The launcher is not installed or cannot be used, or every worker has ended and work is left.
    """
    command = Command(list(arguments), str(Path.cwd()))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        pool = _POOLS[launcher](command, workers, folder, options)
    except ImportError:
        raise RunError(f"{launcher} is not installed; pip install 'offline-rl-suite[{launcher}]'") from None
    try:
        while not done():
            if (statuses := pool.ended()) is not None:
                if done():
                    break
                raise RunError(
                    f"all {workers} workers have ended, with {', '.join(map(str, statuses))}, and work is left;"
                    f" their messages are in {folder}"
                )
            time.sleep(POLL_SECONDS)
    finally:
        pool.close()


class _Pool(Protocol):
    """Copies of a command at work somewhere."""

    def __init__(self, command: Command, workers: int, folder: Path, options: Mapping[str, Any]) -> None: ...

    def ended(self) -> Sequence[int | str] | None:
        """Return how they ended once all have, else None."""

    def close(self) -> None:
        """Stop those that are still there."""


class _Processes:
    """Workers as processes of this machine, which write to ``worker-N.log``."""

    def __init__(self, command: Command, workers: int, folder: Path, options: Mapping[str, Any]) -> None:
        if options:
            raise RunError(f"the local launcher has no option {sorted(options)[0]!r}")
        self._processes = [each.start() for each in _with_logs(command, workers, folder)]

    def ended(self) -> list[int] | None:
        """Return the exit statuses once all have ended, else None."""
        statuses = [process.poll() for process in self._processes]
        return None if None in statuses else [status for status in statuses if status is not None]

    def close(self) -> None:
        """Let go of the leashes, and wait until all have stopped."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            process.wait()


class _SlurmJobs:
    """Workers as Slurm jobs; one whose node fails is queued again by Slurm, one whose time is over queues itself."""

    def __init__(self, command: Command, workers: int, folder: Path, options: Mapping[str, Any]) -> None:
        import submitit

        parameters = {"name": "offline-rl", "timeout_min": 24 * 60, "slurm_additional_parameters": {"requeue": True}}
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=1000)
            executor.update_parameters(**{**parameters, **options})
            self._jobs = [executor.submit(command) for _ in range(workers)]
        except (RuntimeError, TypeError, NameError, submitit.core.utils.FailedJobError) as error:
            raise RunError(f"Slurm takes no jobs: {' '.join(str(error).split())}") from None
        logger.info("submitted %s", ", ".join(job.job_id for job in self._jobs))

    def ended(self) -> list[str] | None:
        """Return how the jobs ended once all have, else None."""
        return [job.state for job in self._jobs] if all(job.done() for job in self._jobs) else None

    def close(self) -> None:
        """Cancel what is still there."""
        for job in self._jobs:
            if not job.done():
                job.cancel(check=False)


class _RayTasks:
    """Workers as Ray tasks; one whose node is lost is started again on another."""

    def __init__(self, command: Command, workers: int, folder: Path, options: Mapping[str, Any]) -> None:
        import ray

        wanted = {"num_cpus": 1, **options}
        try:
            ray.init(address=wanted.pop("address", None), ignore_reinit_error=True, log_to_driver=False)
            task = ray.remote(**wanted, max_retries=-1)(_call)
            self._tasks = [task.remote(each) for each in _with_logs(command, workers, folder)]
        except (ConnectionError, ValueError, TypeError, RuntimeError) as error:
            raise RunError(f"Ray takes no tasks: {' '.join(str(error).split())}") from None

    def ended(self) -> list[str] | None:
        """Return how the tasks ended once all have, else None."""
        import ray

        ready, waiting = ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
        return None if waiting else [_outcome(task) for task in ready]

    def close(self) -> None:
        """Cancel what is still there, and leave the cluster."""
        import ray

        for task in self._tasks:
            ray.cancel(task, force=True)
        ray.shutdown()


def _with_logs(command: Command, workers: int, folder: Path) -> list[Command]:
    return [dataclasses.replace(command, log=(folder / f"worker-{n}.log").absolute()) for n in range(workers)]


def _call(command: Command) -> int:
    return command()


def _outcome(task: Any) -> str:
    import ray

    try:
        return f"status {ray.get(task)}"
    except ray.exceptions.RayError as error:
        return type(error).__name__


_POOLS: dict[Launcher, type[_Pool]] = {"local": _Processes, "slurm": _SlurmJobs, "ray": _RayTasks}
