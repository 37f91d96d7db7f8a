"""The learning curve of a run, and an episode of an agent, as pictures."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_rl.files import MAKE_ROOM, write_bytes, writing


def draw_curve(rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any], path: Path) -> None:
    """Draw score over updates, one thin line for each seed and their mean, next to the data's own mean.

    There is no mean over seeds that differ in settings.

    Args:
        rows: The rows of ``metrics.jsonl``.
        config: The run's ``config.json``.
        path: Where the PNG goes; nothing is written if there is no score.

    Raises:
        RunError: The disk is full, or does not let us write.
    """
    played = [row for row in rows if row["kind"] in ("evaluation", "final") and row["score"] is not None]
    if not played:
        return
    # The object interface: it needs no display and leaves the caller's own figures alone.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    seeds = sorted({row["seed"] for row in played})
    options = config["options"]
    each = options.get("each", {})
    for seed in seeds:
        points = [(row["step"], row["score"]) for row in played if row["seed"] == seed]
        own = (f", {name} {values[options['seeds'].index(seed)]:g}" for name, values in each.items())
        label = f"seed {seed}{''.join(own)}" if len(seeds) <= 5 else None
        axes.plot(*zip(*points, strict=True), lw=1, alpha=0.6, marker="o", ms=3, label=label)
    if len(seeds) > 1 and not each:
        steps = sorted({row["step"] for row in played})
        means = [_mean([row["score"] for row in played if row["step"] == step]) for step in steps]
        axes.plot(steps, means, lw=2.5, color="black", label="mean")
    if options.get("online_steps"):
        axes.axvline(options["steps"], color="gray", lw=1, label="online from here")
    axes.axhline(config["dataset"]["mean_score"], color="gray", ls="--", lw=1, label="mean of the data")
    axes.set_xlabel("updates")
    axes.set_ylabel((config["dataset"].get("reference") or {}).get("score_name", "normalised score"))
    axes.set_title(f"{config['algorithm']} on {config['dataset']['name']}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    with writing(path, MAKE_ROOM):
        write_bytes(path, picture.getvalue())


def draw_signals(signals: Mapping[str, Sequence[float]], title: str, path: Path) -> None:
    """Draw what a policy decided during an episode, one panel for each signal, and write the picture to ``path``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1 + 2.5 * len(signals)), layout="constrained")
    for number, (name, values) in enumerate(signals.items(), start=1):
        axes = figure.add_subplot(len(signals), 1, number)
        axes.plot(values, lw=1)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    axes.set_xlabel("step of the episode")
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
