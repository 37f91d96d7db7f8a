"""The learning curve of a run, and an episode of an agent, as pictures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_rl.analysis.figures import COLOURS, save_with_legend, score_name, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Curve = Mapping[int, Mapping[str, Any]]
"""A seed's evaluations by step."""


def draw_curve(rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any], path: Path) -> None:
    """Draw a run's score over updates: thin lines for its seeds, their mean with a band, and the mean of the data.

    Final evaluations have a mark of their own, because they have other episodes than those along the way. The band is
    that of :func:`~offline_rl.analysis.figures.spread`; it and the mean have gaps where a seed has diverged, and seeds
    that differ in settings have neither.

    Args:
        rows: The rows of ``metrics.jsonl``.
        config: The run's ``config.json``.
        path: Where the PNG goes; nothing is written if there is no score.

    Raises:
        RunError: The disk is full, or does not let us write.
    """
    played = [row for row in rows if row["kind"] in ("evaluation", "final")]
    if all(row["score"] is None for row in played):
        return
    # The object interface: it needs no display and leaves the caller's own figures alone.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    options = config["options"]
    # The final evaluation stands for the one along the way at the same step.
    curves = {
        seed: {row["step"]: row for kind in ("evaluation", "final") for row in played if _is(row, kind, seed)}
        for seed in sorted({row["seed"] for row in played})
    }
    _draw_seeds(axes, curves, options)
    if len(curves) > 1 and not options.get("each"):
        _draw_mean(axes, curves)
    _mark_finals(axes, curves, apart=bool(options.get("each")))
    if options.get("online_steps") and options["steps"]:
        axes.axvline(options["steps"], color="gray", ls=":", lw=1, label="online from here")
    if (mean := config["dataset"]["mean_score"]) is not None:
        axes.axhline(mean, color="gray", ls="--", lw=1.2, label=f"mean of the data, {mean:.1f}")
    axes.set_xlabel("updates, then steps in the environment" if options.get("online_steps") else "updates")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_ylabel(score_name(config))
    axes.set_title(f"{config['algorithm']} on {config['dataset']['name']}", fontsize=11)
    axes.grid(alpha=0.3)
    save_with_legend(figure, path)


def _is(row: Mapping[str, Any], kind: str, seed: int) -> bool:
    return bool(row["kind"] == kind and row["seed"] == seed)


def _scores(curve: _Curve) -> list[float]:
    return [math.nan if row["score"] is None else row["score"] for _, row in sorted(curve.items())]


def _episodes(curves: Mapping[int, _Curve], kind: str) -> str:
    """Return how many episodes evaluations of a kind had, of runs that record it."""
    found = {row["episodes"] for curve in curves.values() for row in curve.values() if row["kind"] == kind}
    return f", {' or '.join(f'{count:,}' for count in sorted(found))} episodes"


def _draw_seeds(axes: "Axes", curves: Mapping[int, _Curve], options: Mapping[str, Any]) -> None:
    """Draw a thin line for each seed: seeds that differ in settings by name, others alike."""
    each, alone = options.get("each", {}), len(curves) == 1
    for place, (seed, curve) in enumerate(curves.items()):
        own = "".join(f", {name} {values[options['seeds'].index(seed)]:g}" for name, values in each.items())
        text = f"seed {seed}{own}" if each or alone else f"seeds {', '.join(map(str, curves))}"
        # Of many settings no legend can tell the lines apart, of seeds that are alike one line stands for all.
        named = len(curves) <= len(COLOURS) if each else place == 0
        colour = COLOURS[place % len(COLOURS)] if each else COLOURS[0]
        alpha = 1.0 if alone else 0.9 if each else 0.5
        label = text if named else None
        axes.plot(sorted(curve), _scores(curve), color=colour, lw=1.8 if alone else 0.9, alpha=alpha, label=label)
        along = {step: row for step, row in curve.items() if row["kind"] == "evaluation"}
        axes.plot(sorted(along), _scores(along), ls="", marker="o", ms=2.5, color=colour, alpha=alpha)
    if any(row["kind"] == "evaluation" for curve in curves.values() for row in curve.values()):
        text = f"evaluation during training{_episodes(curves, 'evaluation')}"
        axes.plot([], [], ls="", marker="o", ms=2.5, color="dimgray", label=text)


def _draw_mean(axes: "Axes", curves: Mapping[int, _Curve]) -> None:
    """Draw the mean over seeds and the band around it, at the steps that all seeds have reached."""
    count, steps = len(curves), sorted(set.intersection(*map(set, curves.values())))
    ends = [spread([curve[step]["score"] for curve in curves.values()]) for step in steps]
    low, mean, high = zip(*ends, strict=True) if ends else ([], [], [])
    text = "lower to higher of 2 seeds" if count == 2 else f"95 % t interval of the mean, {count} seeds"
    axes.fill_between(steps, low, high, color=COLOURS[0], alpha=0.15, lw=0, label=text)
    axes.plot(steps, mean, lw=2.2, color=COLOURS[0], label="mean of seeds")


def _mark_finals(axes: "Axes", curves: Mapping[int, _Curve], apart: bool) -> None:
    """Mark the final evaluations, in their line's colour if each seed has one of its own."""
    look: dict[str, Any] = {"ls": "", "marker": "D", "ms": 6, "mfc": "white", "mew": 1.6}
    finals = [{step: row for step, row in curve.items() if row["kind"] == "final"} for curve in curves.values()]
    for place, final in enumerate(finals):
        axes.plot(sorted(final), _scores(final), mec=COLOURS[place % len(COLOURS) if apart else 1], **look)
    if any(finals):
        text = f"final evaluation{_episodes(curves, 'final')}"
        axes.plot([], [], mec="dimgray" if apart else COLOURS[1], label=text, **look)


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
