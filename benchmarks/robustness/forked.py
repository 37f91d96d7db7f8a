"""A second opinion on a damaged file in a process of its own, because a library may crash on it."""

import os
import pickle
import resource
import select
import signal
from collections.abc import Callable
from typing import Any

SECONDS = 8
MEMORY = 2 << 30


def second_opinion(function: Callable[[], Any], *, whole: bool) -> Any:
    """Return what a function makes of a file, in a process of its own unless the file is whole; else why it fails."""
    if not whole:
        return forked(function)
    try:
        return function()
    except Exception as error:  # whatever a library says of a file that is not as it should be
        return f"{type(error).__name__}: {str(error)[:200]}"


def forked(function: Callable[[], Any]) -> Any:
    """Return what a function returns in a forked child, or in words why it returned nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(function, reading, writing)
    os.close(writing)
    content = bytearray()
    with os.fdopen(reading, "rb", buffering=0) as stream:
        while select.select([stream], [], [], SECONDS)[0] and (part := stream.read(1 << 20)):
            content += part
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        return pickle.loads(bytes(content))  # of our own child
    except (EOFError, pickle.UnpicklingError):
        return "its own library crashes on it, or hangs"


def _answer(function: Callable[[], Any], reading: int, writing: int) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    os.close(reading)
    resource.setrlimit(
        resource.RLIMIT_AS, (resource.getrlimit(resource.RLIMIT_AS)[1], resource.getrlimit(resource.RLIMIT_AS)[1])
    )
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        answer = function()
    except BaseException as error:  # whatever damaged bytes lead to
        answer = f"{type(error).__name__}: {str(error)[:200]}"
    with os.fdopen(writing, "wb") as stream:
        try:
            stream.write(pickle.dumps(answer))
        except Exception as error:
            stream.write(pickle.dumps(f"{type(error).__name__}: {str(error)[:200]}"))
    os._exit(0)
