"""The child in which inputs are tried: started once, given many, with a clock and a limit on memory for each."""

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.robustness.cases import SECONDS, Case, Verdict, memory_limit, verdict_of

ROOM = 2 << 30
"""Address space beyond the limit on memory: what is reserved without being used."""


class _TooLong(BaseException):
    """Not an Exception, so that nobody takes it for a damaged file."""


def tried(name: str, seed: int, number: int, scratch: Path) -> tuple[Case, Verdict, float]:
    """Make an input and try it.

    Args:
        name: The input's class.
        seed: With the number, decides the input.
        number: Its place.
        scratch: An empty folder, which is emptied again.

    Returns:
        The input, what became of it, and the seconds it took.
    """
    from benchmarks.robustness.classes import CLASSES

    rng = random.Random(f"{name}/{seed}/{number}")
    folder = scratch / "input"
    folder.mkdir()
    try:
        case = CLASSES[name].make(rng, folder)
        verdict, seconds = _limited(case, str(folder))
        if verdict.outcome == "slow":  # once more, for the machine may have been busy
            verdict, seconds = _limited(case, str(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return case, verdict, seconds


def _limited(case: Case, place: str) -> tuple[Verdict, float]:
    limit, before = memory_limit(case.size), _status("VmHWM", reset=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + limit + ROOM, hard))
    begin = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verdict = verdict_of(case, place)
    except _TooLong:
        verdict = Verdict("slow", f"over {SECONDS} s")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    taken = _status("VmHWM") - before
    if taken > limit:
        verdict = Verdict(
            "memory", f"{taken >> 20} MiB for {case.size} bytes; otherwise {verdict.outcome}: {verdict.said}"
        )
    return verdict, time.monotonic() - begin


def _status(name: str, *, reset: bool = False) -> int:
    """Return a line of this process's status in bytes; the peak can be reset to what is used now."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def _stop(*_: Any) -> None:
    raise _TooLong


def main() -> None:
    """Take jobs from standard input, a JSON value a line, and answer with a line for each input."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # what loaders print is not looked at
    signal.signal(signal.SIGALRM, _stop)
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="robustness-") as scratch:
        os.chdir(scratch)
        for line in sys.stdin:
            job = json.loads(line)
            for number in job["numbers"]:
                print(json.dumps({"begun": number}), file=answers)
                try:
                    case, verdict, seconds = tried(job["class"], job["seed"], number, Path(scratch))
                except Exception as error:  # ours, not that of what is tried; it must not end a long run
                    case = Case("an input that cannot be made", load=int, size=0, must="either")
                    verdict, seconds = Verdict("traceback", f"{type(error).__name__}: {error}"), 0.0
                answer = {"number": number, "kind": case.kind, "must": case.must, "outcome": verdict.outcome}
                print(json.dumps({**answer, "said": verdict.said, "seconds": round(seconds, 3)}), file=answers)
            print(json.dumps({"done": True}), file=answers)


if __name__ == "__main__":
    main()
