"""Learning curves of many results as one picture."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_rl.analysis.groups import Group, grouped
from offline_rl.analysis.results import Result, phase_ends
from offline_rl.analysis.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which differ to colour-blind eyes, too; yellow is left out, because it fades on white."""


def draw_comparison(results: Sequence[Result], path: Path) -> None:
    """Draw score over steps in a panel for each dataset: the mean over seeds, and its 95 % interval as a band.

    A single seed has no band. A dashed line is the mean score of the data, a dotted one the step at which a run goes
    online. A curve has gaps where a seed has diverged.

    Args:
        results: What to draw.
        path: Where the PNG or SVG goes.

    Raises:
        RunError: A seed is there twice.
    """
    # The object interface: it needs no display and leaves the caller's own figures alone.
    from matplotlib.figure import Figure

    groups = grouped(results)
    datasets = list(dict.fromkeys(group.dataset for group in groups))
    labels = list(dict.fromkeys(group.label for group in groups))
    colours = {label: COLOURS[number % len(COLOURS)] for number, label in enumerate(labels)}
    figure = Figure(figsize=(5.5 * len(datasets), 4), layout="constrained")
    panels = figure.subplots(1, len(datasets), squeeze=False)[0]
    for dataset, axes in zip(datasets, panels, strict=True):
        shown = [group for group in groups if group.dataset == dataset]
        for group in shown:
            _draw_group(axes, group, colours[group.label])
        if (mean := shown[0].results[0]["dataset"]["mean_score"]) is not None:
            axes.axhline(mean, color="gray", ls="--", lw=1, label="mean of the data")
        for step in {phase_ends(group.results[0]["options"])[0] for group in shown if group.online}:
            axes.axvline(step, color="gray", ls=":", lw=1)
        axes.set_title(dataset, fontsize=10)
        axes.set_xlabel("steps")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    panels[0].set_ylabel("normalised score: mean, 95 % interval")
    save(figure, path)


def draw_profiles(profiles: Mapping[str, Sequence[Sequence[float]]], thresholds: Sequence[float], path: Path) -> None:
    """Draw the share of runs above each score, for each method its lower end, value and upper end.

    Ends that are NaN are no interval, and the legend says so.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, (label, (low, share, high)) in enumerate(profiles.items()):
        colour = COLOURS[number % len(COLOURS)]
        unknown = " (single runs: no interval)" if any(map(math.isnan, low)) else ""
        axes.plot(thresholds, share, color=colour, lw=2, label=f"{label}{unknown}")
        axes.fill_between(thresholds, low, high, color=colour, alpha=0.15, lw=0)
    axes.set_xlabel("normalised score τ")
    axes.set_ylabel("share of runs above τ, 95 % interval")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG or SVG, the same bytes each time: without a date, a version or names drawn by chance."""
    import matplotlib as mpl

    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "offline-rl"}):
        figure.savefig(path, dpi=120, metadata=metadata)


def _draw_group(axes: "Axes", group: Group, colour: str) -> None:
    steps, low, mean, high = band(group.results)
    axes.plot(steps, mean, color=colour, lw=2, label=f"{group.label} (n = {len(group.results)})")
    axes.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)


def band(results: Sequence[Result]) -> tuple[list[int], Any, Any, Any]:
    """Return the steps at which every seed was evaluated, and there the interval's lower end, the mean, the upper end.

    They are NaN where a seed has diverged; of a single seed the ends of the interval are.
    """
    curves = [{step: score for step, _, score in result["curve"]} for result in results]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    rows = []
    for step in steps:
        estimate = Estimate.of([float("nan") if curve[step] is None else curve[step] for curve in curves])
        half = math.nan if estimate.half_width is None else estimate.half_width
        rows.append((estimate.mean - half, estimate.mean, estimate.mean + half))
    low, mean, high = zip(*rows, strict=True)
    return steps, low, mean, high
