"""Pairs of processes that begin the same run, or the same collection, at the same moment: one wins, nothing is lost."""

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.robustness.pool import ROOT

KINDS = ("run", "collection", "unnamed run")
"""Two runs with one ``--out``, two collections with one, two runs without: there, each gets a folder of its own."""
LEAD = 0.03
"""Seconds from the word until both begin."""
JITTER = (0.0, 0.0, 0.001, 0.003, 0.01, 0.05)
"""Seconds by which one of two may be late."""


@dataclass
class Races:
    """What became of pairs.

    Attributes:
        pairs: How many were started.
        failures: What went wrong, with the pair's number.
        met: In how many the loser found the winner at work, and did not only come later.
    """

    pairs: int = 0
    met: int = 0
    failures: list[str] = field(default_factory=list)


def race(pairs: int, seed: int, *, say: Callable[[str], None] = lambda _: None) -> dict[str, Races]:
    """Start pairs, one after the other; which kind and how far apart is decided by the seed."""
    found = {kind: Races() for kind in KINDS}
    with tempfile.TemporaryDirectory(prefix="robustness-races-") as scratch, _two(Path(scratch)) as children:
        for number in range(pairs):
            rng = random.Random(f"race/{seed}/{number}")
            kind = rng.choices(KINDS, [5, 3, 1])[0]
            place = Path(scratch) / str(number)
            place.mkdir()
            late = [0.0, rng.choice(JITTER)]
            rng.shuffle(late)
            for child in children:
                _send(child, {"kind": kind, "place": str(place)})
            for child in children:
                _answer(child)  # it stands at the start
            at = time.monotonic() + LEAD
            for child, seconds in zip(children, late, strict=True):
                _send(child, {"at": at + seconds})
            answers = [_answer(child) for child in children]
            races = found[kind]
            races.pairs += 1
            races.met += any("in use" in str(answer.get("error")) for answer in answers)
            races.failures += [
                f"pair {number} of seed {seed} ({kind}): {fault}" for fault in _faults(kind, place, answers)
            ]
            say(f"{number + 1} of {pairs} pairs, {sum(len(races.failures) for races in found.values())} failures")
    return found


def _faults(kind: str, place: Path, answers: list[dict[str, Any]]) -> list[str]:
    """Say what is wrong with the end of a race."""
    if any("trace" in answer for answer in answers):
        return [answer["trace"] for answer in answers if "trace" in answer]
    winners = [answer["out"] for answer in answers if "out" in answer]
    losers = [answer["error"] for answer in answers if "error" in answer]
    if kind == "unnamed run":
        faults = [] if len(set(winners)) == 2 else [f"{len(set(winners))} folders instead of 2: {winners + losers}"]
    else:
        faults = [] if len(winners) == 1 else [f"{len(winners)} winners instead of 1: {losers}"]
    faults += [f"a bad sentence: {said!r}" for said in losers if "\n" in said or len(said) > 500 or not said.strip()]
    return faults + [fault for out in winners for fault in _incomplete(kind, place / out)]


def _incomplete(kind: str, out: Path) -> list[str]:
    """Say what a winner's folder or file lacks."""
    import offline_rl as orl

    try:
        if kind == "collection":
            partial = out.with_name(f"{out.name}.partial")
            return ["it is not whole"] * (len(orl.load_dataset(out)) < STEPS - 1) + [
                f"{partial.name} is left"
            ] * partial.exists()
        run = orl.Run(out)
        return [] if len(run.agents) == 1 and run.config else ["it has no agent"]
    except Exception as error:
        return [f"what the winner made cannot be read: {type(error).__name__}: {error}"]


@contextlib.contextmanager
def _two(scratch: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.robustness.races"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    children = [subprocess.Popen(command, cwd=scratch, env=environment, **pipes) for _ in range(2)]
    try:
        for child in children:
            _answer(child)  # it has loaded everything
        yield children
    finally:
        for child in children:
            assert child.stdin
            child.stdin.close()
            try:
                child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _send(child: subprocess.Popen[bytes], job: dict[str, Any]) -> None:
    assert child.stdin
    child.stdin.write(f"{json.dumps(job)}\n".encode())
    child.stdin.flush()


def _answer(child: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert child.stdout
    line = child.stdout.readline()
    return json.loads(line) if line else {"trace": f"its process ended with {child.wait()}"}


# The children.

STEPS = 30


def _racer() -> None:
    """Begin what is asked for at the moment that is asked for."""
    import numpy as np

    import offline_rl as orl
    from offline_rl.collection.collect import Collection
    from offline_rl.collection.options import CollectOptions
    from offline_rl.training.options import TrainOptions
    from offline_rl.training.plan import Plan
    from offline_rl.training.run import carry_out
    from offline_rl.training.workers import WorkerPool

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    generator = np.random.default_rng(0)
    ends = np.arange(60) % 20 == 19
    dataset = orl.Dataset.from_arrays(
        generator.normal(size=(60, 3)), generator.uniform(-1, 1, (60, 1)), np.ones(60), ends, name="mine"
    )
    settings = {"steps": STEPS, "eval_every": 0, "final_episodes": 0, "quiet": True, "workers": 0}
    small = {"hidden_dims": [4], "batch_size": 4}
    pool = WorkerPool()
    with contextlib.closing(pool):

        def begin(job: dict[str, Any]) -> Callable[[], Path]:
            """Prepare all that comes before the folder is looked at."""
            place = Path(job["place"])
            if job["kind"] == "collection":
                options = CollectOptions(task="hopper", steps=STEPS, out=str(place / "mine.hdf5"), quiet=True)
                return Collection("random", options).run
            if job["kind"] == "unnamed run":
                os.chdir(place)
                return lambda: orl.train("bc", dataset, **settings, **small).path
            plan = Plan.make("bc", dataset, TrainOptions(**settings, out=str(place / "run")), small)
            return lambda: carry_out(plan, place / "run", pool, say=lambda _: None).path

        carry_out(
            Plan.make("bc", dataset, TrainOptions(**settings, out="first"), small),
            Path(f"first-{os.getpid()}"),
            pool,
            say=lambda _: None,
        )
        print(json.dumps({"ready": True}), file=answers)
        for line in sys.stdin:
            begun = begin(json.loads(line))
            print(json.dumps({"ready": True}), file=answers)
            print(json.dumps(_raced(begun, json.loads(next(sys.stdin))["at"])), file=answers)


def _raced(run: Callable[[], Path], at: float) -> dict[str, Any]:
    import offline_rl as orl

    while time.monotonic() < at:
        pass
    try:
        return {"out": str(run())}
    except orl.OfflineRLError as error:
        return {"error": str(error)}
    except BaseException as error:
        return {"trace": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    _racer()
