"""The process that shows a growing ``metrics.jsonl`` in W&B; :mod:`offline_rl.tracking.wandb` starts it.

The first line of its input says what to show, the line "end" that nothing more will be written. Input that ends without
it means that the trainer was killed. Its answers are lines, too: ``{"say": ...}`` for the user; ``{"failure": ...}``,
with ``"refused"`` where W&B does not take what it was asked for, so that trying again is no use.
"""

import json
import math
import os
import re
import statistics
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offline_rl.tracking.callbacks import Row
from offline_rl.tracking.record import UNPLAYED

LOOK_SECONDS = 0.2
"""How often the file is looked at."""


class SeedRun:
    """The W&B run of one seed.

    Args:
        run: The W&B run. Rows are numbered, so W&B leaves out those that it has when a resumed run logs them again.
        seeds: The seeds whose mean is its ``score``.
    """

    def __init__(self, run: Any, seeds: list[int]) -> None:
        self.run, self._seeds = run, seeds
        self._count = 0
        self._open: dict[tuple[str, int], list[float]] = {}
        self._last: deque[float] = deque(maxlen=10)
        run.define_metric("*", step_metric="step")

    def log(self, row: Row) -> None:
        """Log a row of this seed."""
        values = {f"{row['kind']}/{k}": v for k, v in row.items() if k not in ("kind", "step", "seed")}
        self._log({"step": row["step"], **values})

    def score(self, row: Row) -> None:
        """Take the score of an evaluation of any seed; log the mean once all have come."""
        if row["seed"] not in self._seeds:
            return
        scores = self._open.setdefault((row["kind"], row["step"]), [])
        scores.append(math.nan if row["score"] is None else row["score"])
        if len(scores) == len(self._seeds):
            del self._open[row["kind"], row["step"]]
            self._last.append(statistics.fmean(scores))
            means = {"score": self._last[-1], "score_mean_10": statistics.fmean(self._last)}
            self._log({"step": row["step"], **means})

    def _log(self, values: dict[str, Any]) -> None:
        self.run.log(values, step=self._count, commit=True)
        self._count += 1


def main() -> None:
    """Follow the file until the end, or until W&B fails."""
    # W&B's service inherits 1 and 2; nobody shall wait for it to close them.
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)

    def answer(**message: str) -> None:
        answers.write(json.dumps(message) + "\n")

    request = json.loads(sys.stdin.buffer.readline())
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    begun = False
    try:
        runs, message = _open_runs(request)
        begun = True
        answer(say=message)
        for row in _rows(Path(request["out"]) / "metrics.jsonl", ended):
            runs[row["seed"]].log(row)
            _check_folder(runs[row["seed"]].run)
            if row["kind"] not in UNPLAYED:
                for run in runs.values():
                    run.score(row)
        _finish(request, {seed: run.run for seed, run in runs.items()})
    except BaseException as error:
        refused = {} if begun or not _is_refusal(error) else {"refused": "yes"}
        answer(failure=" ".join(f"{type(error).__name__}: {error}".split())[:1000], **refused)
        os._exit(1)
    # Not by way of W&B's exit hooks, which wait for its service.
    os._exit(0)


def _is_refusal(error: BaseException) -> bool:
    """Say whether W&B does not take a setting, or has no key, rather than being out of reach."""
    import wandb

    return isinstance(error, (wandb.errors.UsageError, ValueError))


def _wait_for_end(ended: threading.Event) -> None:
    if not sys.stdin.buffer.readline():
        os._exit(1)
    ended.set()


def _rows(path: Path, ended: threading.Event) -> Iterator[Row]:
    """Yield the rows of a file that grows."""
    rest = b""
    with path.open("rb") as file:
        while True:
            last = ended.is_set()
            *lines, rest = (rest + file.read()).split(b"\n")
            yield from map(json.loads, lines)
            if last:
                return
            ended.wait(LOOK_SECONDS)


def _open_runs(request: dict[str, Any]) -> tuple[dict[int, SeedRun], str]:
    """Open a W&B run for each seed; also return what to tell the user."""
    import wandb

    note, mode = "", None
    try:
        first = _open_run(request, request["seeds"][0], mode)
    except wandb.errors.UsageError as error:
        if "WANDB_MODE" in os.environ or "api key" not in str(error).lower().replace("_", " "):
            raise
        note, mode = "no API key, ", "offline"
        first = _open_run(request, request["seeds"][0], mode)
    runs = [first, *(_open_run(request, seed, mode) for seed in request["seeds"][1:])]
    if first.offline:
        folders = " ".join(str(run.settings.sync_dir) for run in runs)
        message = f"W&B: {note}offline; upload later with: wandb sync {folders}"
    else:
        message = "W&B: " + (" ".join(str(run.url) for run in runs if run.url) or "disabled")
    # A trial of a sweep is judged by its first run alone.
    shown = {seed: [seed] for seed in request["seeds"]}
    if request["sweep"] and not request["config"].get("each"):
        shown[request["seeds"][0]] = request["seeds"]
    return {seed: SeedRun(run, shown[seed]) for seed, run in zip(request["seeds"], runs, strict=True)}, message


def _open_run(request: dict[str, Any], seed: int, mode: str | None) -> Any:
    import wandb

    settings: dict[str, Any] = {"silent": True, "console": "off"}
    name = f"{Path(request['out']).name}-seed-{seed}"
    offline = mode == "offline" or os.environ.get("WANDB_MODE") in ("offline", "dryrun")
    # Offline, a resumed run is rewritten from its first row, as a run of its own.
    identity = None if offline else f"{request['id']}-{seed}"
    place = request["seeds"].index(seed)
    own = {name: values[place] for name, values in request["config"].get("each", {}).items()}
    if request["sweep"] and seed == request["seeds"][0]:
        settings["sweep_id"] = request["sweep"]["id"]
        identity = request["sweep"]["run"] or identity
    return wandb.init(
        project=request["project"],
        entity=request["entity"],
        group=request["group"],
        tags=request["tags"] or None,
        name=name,
        id=identity,
        resume=None if offline else "allow",
        config={**request["config"], **own, "seed": seed},
        dir=os.environ.get("WANDB_DIR") or request["out"],
        mode=mode,  # type: ignore[arg-type]
        reinit="create_new",
        settings=wandb.Settings(**settings),
    )


def _check_folder(run: Any) -> None:
    """Write a little beside W&B, which does not say when its disk is full or its folder gone."""
    if not run.disabled:
        probe = Path(run.settings.sync_dir) / ".probe"
        probe.write_bytes(bytes(4096))
        probe.unlink()


def _finish(request: dict[str, Any], runs: dict[int, Any]) -> None:
    """Store the agents, finish all runs, and see that their folders still stand."""
    import wandb

    for seed, run in runs.items():
        agent = Path(request["out"]) / "agents" / f"seed-{seed}"
        if request["artifact"] and agent.is_dir():
            artifact = wandb.Artifact(re.sub(r"[^\w.-]", "_", run.name or agent.name), type="model")
            artifact.add_dir(str(agent))
            run.log_artifact(artifact)
        # A run without agents was stopped on its way.
        run.finish(exit_code=0 if agent.is_dir() else 1)
    # Finishing may come back before W&B's service has written its file; the end of the service does not.
    wandb.teardown()
    for run in runs.values():
        _check_folder(run)


if __name__ == "__main__":
    main()
