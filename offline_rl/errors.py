"""What can go wrong in a way the user can mend.

Every message is one sentence that says what is wrong, where, and what to do. The command line prints it without a
traceback and exits with status 2.
"""

import difflib
import shlex
from collections.abc import Iterable


class OfflineRLError(Exception):
    """Base of all errors whose message is meant for the user."""


class DatasetError(OfflineRLError):
    """A dataset cannot be found, read or used: names the file, the field, the row and the remedy."""


class TaskError(OfflineRLError):
    """A task is unknown, ambiguous, or not supported."""


class AgentError(OfflineRLError):
    """An agent cannot be built, loaded or asked to act."""


class DivergedError(AgentError):
    """An agent's weights or actions are no finite numbers, because its training has diverged."""


class RunError(OfflineRLError):
    """A run cannot be started, resumed or read."""


class RunInUseError(RunError):
    """Another process works in a run's folder."""


class SweepError(OfflineRLError):
    """A sweep's file or folder cannot be read, or asks for something that is not supported."""


class VideoError(OfflineRLError):
    """A video cannot be drawn or written: names what is missing and how to get it."""


class Interrupted(Exception):  # noqa: N818 (it is no error)
    """The run was asked to stop, and did so at a checkpoint, or before there was anything to keep.

    Attributes:
        signal: The signal's number.
    """

    remedy = "offline-rl resume {out}"
    """What goes on from there."""

    def __init__(self, step: int, number: int, out: object) -> None:
        if step:
            said = f"stopped at step {step}; {self.remedy.format(out=shlex.quote(str(out)))} goes on from there"
        else:
            said = "stopped before the first step was saved; the same command starts over"
        super().__init__(said)
        self.signal = number


def brief(said: object, length: int = 300) -> str:
    """Return the beginning of what an error says on one line; it may quote a file at any length."""
    said = " ".join(str(said).split()) or type(said).__name__
    return said if len(said) <= length else f"{said[:length]}..."


def quoted(value: object) -> str:
    """Return a value from somewhere else as Python writes it, cut short."""
    try:
        return brief(repr(value), 100)
    except (ValueError, RecursionError):  # of a number with thousands of digits, or lists within lists
        return f"something too large to show ({type(value).__name__})"


def named_inside(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return what to write for a setting that lies inside another, as a half sentence; else :func:`suggestion`."""
    inside = [other for other in known if other.endswith(f".{name}")]
    return f"; write {prefix}{inside[0]}" if inside else suggestion(name, known, prefix)


def suggestion(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return "; did you mean ...?" for the nearest known name, in lower or upper case, or nothing."""
    spellings = {other.lower(): other for other in sorted(known)}
    near = difflib.get_close_matches(name.lower(), spellings, n=1)
    return f"; did you mean {prefix}{spellings[near[0]]}?" if near else ""
