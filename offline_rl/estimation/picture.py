"""The learning curves of estimates, as a picture."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from offline_rl.analysis.figures import COLOURS, save_with_legend
from offline_rl.estimation.result import ValueEstimate


def picture_of(found: Mapping[str, ValueEstimate]) -> str:
    """Return the name of the picture of some estimates: others, such as those with other options, have another one."""
    content = json.dumps([[name, result.to_json()] for name, result in found.items()], sort_keys=True)
    return f"curve-{hashlib.sha256(content.encode()).hexdigest()[:12]}.png"


def draw_estimates(found: Mapping[str, ValueEstimate], path: Path) -> None:
    """Draw the discounted value of some agents over the critics' updates, and the data's own, and write a PNG.

    Args:
        found: Estimates on the same data, by what to call the agents.
        path: Where the picture goes.

    Raises:
        RunError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, result) in enumerate(found.items()):
        colour = COLOURS[place % len(COLOURS)]
        known = [point for point in result.curve if point.low is not None and point.high is not None]
        updates, low, high = ([getattr(point, field) for point in known] for field in ("update", "low", "high"))
        axes.plot([point.update for point in result.curve], [point.mean for point in result.curve], color=colour)
        axes.fill_between(updates, low, high, color=colour, alpha=0.15, lw=0, label=f"{name}, with its 90 % interval")
    first = next(iter(found.values()))
    mean = first.value.data.mean
    axes.axhline(mean, color="gray", ls="--", lw=1.2, label=f"the data's own policy, {mean:.4g}")
    axes.set(xlabel="updates of the critics", ylabel=f"estimated value, γ = {first.value.discount:g}")
    axes.set_title(f"Estimates on {first.dataset}", fontsize=11)
    axes.grid(alpha=0.3)
    save_with_legend(figure, path)
