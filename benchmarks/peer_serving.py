"""What programs in the competitors' environment share: how they answer the benchmark, their rows, and their settings.

They speak JSON, a line each. First the algorithms with their data and sizes come in. Then each line asks either for the
``"version"`` or for updates: an algorithm, the seconds that it is to make updates for, and how many at most.
"""

import json
import sys
import time
from collections.abc import Callable

import numpy as np

Window = Callable[[float, int | None], dict[str, float]]
"""Makes updates for so many seconds, so many at most, at least one; returns how many, and the seconds they took."""

DISCOUNT, TARGET_RATE, LEARNING_RATE = 0.99, 0.005, 3e-4
"""Settings of TD3+BC and of IQL in the papers; both have them."""
ALPHA, POLICY_NOISE, NOISE_CLIP, POLICY_DELAY = 2.5, 0.2, 0.5, 2
"""Settings of TD3+BC."""
EXPECTILE, BETA, WEIGHT_LIMIT, LOG_STD_BOUNDS, STEPS = 0.7, 3.0, 100.0, (-5.0, 2.0), 1_000_000
"""Settings of IQL; its actor's learning rate falls to 0 along half a cosine in so many steps."""


def serve(build: Callable[..., Window], version: str) -> None:
    """Answer the benchmark until it closes the pipe.

    Args:
        build: Makes a learner of an algorithm from its data and sizes, which makes updates when it is called.
        version: Of the library.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    windows = {name: build(name, **given) for name, given in json.loads(sys.stdin.readline()).items()}
    print(json.dumps(sorted(windows)), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = version if asked == "version" else windows[asked["algorithm"]](asked["seconds"], asked["most"])
        print(json.dumps(answer), file=answers, flush=True)


def timed(make: Callable[[], int], seconds: float, most: int | None = None) -> dict[str, float]:
    """Make updates for so many seconds, so many at most, at least one.

    Args:
        make: Makes one update or several; returns how many.
        seconds: How long.
        most: How many at most; None for any number.
    """
    updates, begin = 0, time.perf_counter()
    while not updates or (time.perf_counter() - begin < seconds and (most is None or updates < most)):
        updates += make()
    return {"updates": updates, "seconds": time.perf_counter() - begin}


def rows_of(path: str) -> list[np.ndarray]:
    """Read a file of episodes as float32 columns: observation, action, reward, terminated and next observation.

    A row whose episode is cut there knows no next observation and is left out. Observations are normalised.
    """
    with np.load(path) as arrays:
        columns = {name: np.asarray(arrays[name], np.float32) for name in arrays.files}
    observations = columns["observations"]
    observations = (observations - observations.mean(0)) / (observations.std(0) + 1e-3)
    following = np.append(observations[1:], observations[-1:], axis=0)
    known = columns["timeouts"] == 0
    known[-1] &= columns["terminals"][-1] == 1
    rows = observations, columns["actions"], columns["rewards"], columns["terminals"], following
    return [np.ascontiguousarray(column[known]) for column in rows]
