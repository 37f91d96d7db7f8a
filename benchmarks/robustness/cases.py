"""An input, what is meant by it, and the verdict on what became of it."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_rl.errors import OfflineRLError

OUTCOMES = ("refused", "accepted", "wrong", "unclear", "traceback", "slow", "memory")
"""Refused in one sentence that names the place; taken for what was meant; taken for something else, or refused though
nothing is wrong with it; refused in a bad sentence; any other exception; over `SECONDS`; over `memory_limit`."""
RIGHT = ("refused", "accepted")
SECONDS = 10
LENGTH = 500
"""Characters that a sentence may have, besides the folder's."""

Judge = Callable[[Any], str | None]
"""Says what is wrong about a value that was loaded; None if it is what was meant."""


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        kind: What was done to it, in a few words; the name of a group, not of one input.
        load: What a user would do with it.
        size: Its bytes.
        must: "refuse", "accept", or "either" where a refusal and the right value are as good.
        names: Patterns of which a refusal must match each: the file, and the field and row where there is one of each.
        judge: What is asked of a value that was loaded.
        why: What is wrong with it, for reports.
    """

    kind: str
    load: Callable[[], Any]
    size: int
    must: str
    names: tuple[str, ...] = ()
    judge: Judge = lambda _: None
    why: str = ""


@dataclass(frozen=True)
class Verdict:
    """What became of a case: one of :data:`OUTCOMES`, and the words for a bad one."""

    outcome: str
    said: str = ""


Generator = Callable[[random.Random, Path], Case]
"""Makes a case in an empty folder; the same from the same numbers."""


def memory_limit(size: int) -> int:
    """Return the bytes that reading an input of so many may take."""
    return 4 * size + (500 << 20)


def verdict_of(case: Case, place: str) -> Verdict:
    """Load a case and judge what becomes of it; time and memory are judged elsewhere.

    Args:
        case: The input.
        place: The folder's name, which does not count in a sentence's length.
    """
    try:
        value = case.load()
    except OfflineRLError as error:
        return _of_refusal(case, str(error).replace(place, "."))
    except Exception as error:
        return Verdict("memory" if isinstance(error, MemoryError) else "traceback", _traced(error))
    if case.must == "refuse":
        return Verdict("wrong", f"accepted, but {case.why}")
    try:
        problem = case.judge(value)
    except Exception as error:
        return Verdict("traceback", f"after loading: {_traced(error)}")
    return Verdict("wrong", f"accepted: {problem}") if problem else Verdict("accepted")


def _of_refusal(case: Case, said: str) -> Verdict:
    if case.must == "accept":
        return Verdict("wrong", f"refused, but is valid: {said[:300]}")
    if "\n" in said or "\r" in said:
        return Verdict("unclear", f"several lines: {said[:300]!r}")
    if len(said) > LENGTH:
        return Verdict("unclear", f"{len(said)} characters: {said[:150]}...")
    if lacking := [name for name in case.names if not re.search(name, said)]:
        return Verdict("unclear", f"does not name {lacking[0]!r}: {said[:300]}")
    return Verdict("refused", said[:300])


def _traced(error: Exception) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    code = trace.tb_frame.f_code if trace else None
    where = f"{Path(code.co_filename).name}:{code.co_name}" if code else "?"
    return f"{type(error).__name__} in {where}: {' '.join(str(error).split())[:200]}"


def row_pattern(row: int) -> str:
    """Match a sentence that names a row, counted from 0 or 1, or as the line of a file with a header."""
    return rf"(?:row|line)s? (?:{row}|{row + 1}|{row + 2})\b"
