"""Going on with a run beyond the end that it was planned with, as if it had been planned longer.

That can be done where nothing so far depends on the end: an algorithm that has asked how long the run is, for a
learning rate that falls to 0 at its last update, would have trained otherwise from the first update on.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offline_rl.errors import RunError
from offline_rl.training.checkpoint import Checkpoint, check_metrics
from offline_rl.training.plan import Plan

LENGTHS = ("steps", "online_steps")
"""The options that say how long a run is."""


def lengths_of(plan: Plan) -> dict[str, int]:
    """Return how long a plan's phases are."""
    return {name: getattr(plan.options, name) for name in LENGTHS}


def changed_lengths(config: Mapping[str, Any], plan: Plan) -> list[str]:
    """Return those lengths of a stored ``config.json`` that a plan does not share."""
    return [name for name, length in lengths_of(plan).items() if config["options"].get(name, 0) != length]


def made_longer(checkpoint: Checkpoint, config: Mapping[str, Any], plan: Plan, out: Path) -> Checkpoint | None:
    """Return the checkpoint from which a longer run goes on; None if the run is as long as it was.

    What stands for the old end alone is taken out of the record: its final evaluation, and the metrics of the last
    updates if they fill no interval. Its agents stay until those of
    the new end take their place.

    Args:
        checkpoint: The run's.
        config: Its ``config.json``.
        plan: What it is to be.
        out: Its folder.

    Raises:
        RunError: It cannot be made longer, or would be shorter than it was planned.
    """
    changed, total = changed_lengths(config, plan), plan.options.total_steps
    if checkpoint.total is not None and total < checkpoint.total:
        raise RunError(
            f"{out} is to have {checkpoint.total:,} updates, of which {checkpoint.step:,} are made, and cannot be"
            f" shortened to {total:,}; choose another --out"
        )
    if not changed:
        return None
    if checkpoint.total != total:
        _check(checkpoint, config, plan, out, changed)
    longer = dataclasses.replace(checkpoint, total=total, finished=False)
    if checkpoint.step != checkpoint.total:
        return longer
    kept = _before_end(out, checkpoint, plan.options.log_every)
    files = {**checkpoint.files, "metrics.jsonl": hashlib.sha256(kept).hexdigest()}
    due = plan.options.final_episodes > 0
    return dataclasses.replace(longer, metrics_bytes=len(kept), files=files, due=due)


def _check(checkpoint: Checkpoint, config: Mapping[str, Any], plan: Plan, out: Path, changed: list[str]) -> None:
    """Refuse a length that would have made another run of it from the beginning."""
    options, name = config["options"], changed[0]
    if checkpoint.total is None or checkpoint.lengths is None:
        raise RunError(
            f"{name} was {options.get(name, 0)}, now {getattr(plan.options, name)}, but {out} is of an older version,"
            " whose checkpoints do not say whether that can be; choose another --out"
        )
    if "steps" in changed and (options.get("online_steps") or plan.options.online_steps):
        raise RunError(
            f"steps was {options['steps']}, now {plan.options.steps}, but {out} has an online phase, which begins after"
            " these; choose another --out"
        )
    if not options.get("online_steps") and plan.options.online_steps:
        raise RunError(f"{out} has no online phase; begin one by offline-rl finetune {out}")
    if name in checkpoint.lengths:
        raise RunError(
            f"{name} was {options[name]}, now {getattr(plan.options, name)}, but {plan.algorithm.name} has a schedule"
            f" over all {name} with these settings, so that a longer run differs from its first update on; choose"
            " another --out"
        )


def _before_end(out: Path, checkpoint: Checkpoint, log_every: int) -> bytes:
    """Return the record before what a run adds at its end, the checkpoint's step; that comes last."""
    added = ("final", "train") if checkpoint.step % log_every else ("final",)
    path, length = out / "metrics.jsonl", 0
    try:
        content = path.read_bytes()[: checkpoint.metrics_bytes]
        check_metrics(out, content)
        for line in content.splitlines(keepends=True):
            row = json.loads(line)
            if row["step"] == checkpoint.step and row["kind"] in added:
                break
            length += len(line)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read ({error}); it was changed, start the run over elsewhere") from None
    return content[:length]
