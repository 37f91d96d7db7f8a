"""Where a number comes from: the versions, the commit and the processor that made it, and by which command."""

import contextlib
import contextvars
import datetime
import functools
import importlib.metadata
import platform
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

_command: contextvars.ContextVar[str | None] = contextvars.ContextVar("command", default=None)


def versions() -> dict[str, str]:
    """Return the versions that can change a number."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    # Each agent, checkpoint and evaluation asks, and the metadata of five packages are long texts.
    found = {"python": platform.python_version()}
    for package in ("offline-rl-suite", "torch", "numpy", "gymnasium", "mujoco"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


@contextlib.contextmanager
def run_by(arguments: Sequence[str]) -> Iterator[None]:
    """Remember the command line while the command runs: what stands after ``offline-rl``."""
    token = _command.set(shlex.join(["offline-rl", *arguments]))
    try:
        yield
    finally:
        _command.reset(token)


def begun() -> dict[str, str | None]:
    """Return when a run that begins now was started, in UTC, and by which command; None if by no command of ours."""
    now = datetime.datetime.now(datetime.UTC)
    return {"started": now.isoformat(timespec="seconds"), "command": _command.get()}


@functools.cache
def commit() -> str | None:
    """Return the commit of the clone that this code runs from, with ``+`` where files differ from it; None elsewhere.

    Read once, when the first run of a process begins, so that it is the code that runs.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        head, changed = (_git(root, *command) for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno")))
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


def _git(root: Path, *command: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, timeout=10, check=True)
    return done.stdout.decode().strip()


@functools.cache
def processor() -> str:
    """Return the processor's name, with its family where the name says little."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if path.exists() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    return f"{facts['model name']} (family {facts.get('cpu family')}, model {facts.get('model')})"
