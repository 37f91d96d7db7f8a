"""Learning curves and performance profiles of many results as one picture each."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from offline_rl.analysis.groups import Group, grouped, labels
from offline_rl.analysis.results import Result, phase_ends
from offline_rl.analysis.statistics import Estimate
from offline_rl.files import MAKE_ROOM, write_bytes, writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8B6FD6")
"""Okabe and Ito's, which differ to colour-blind eyes, too. A violet stands for their yellow and black, because each of
them fades on one of a white and a dark page."""
DASHES = ("-", "--", "-.", ":")
"""Of the first seven methods, of the next seven, and so on."""
COLUMNS = 3
"""Most panels in a row."""
BAND_ALPHA, EDGE_ALPHA = 0.1, 0.55
"""Bands are light, so that several can lie over each other, and their edges are drawn, so that each can be followed."""


class Style(NamedTuple):
    """How a method is drawn, in every figure and on the page."""

    color: str
    ls: str


def styles(names: Sequence[str]) -> dict[str, Style]:
    """Return a style for each method, by its place in the order."""
    count = len(COLOURS)
    return {
        name: Style(COLOURS[place % count], DASHES[place // count % len(DASHES)]) for place, name in enumerate(names)
    }


def draw_comparison(results: Sequence[Result], path: Path, methods: Sequence[str] = ()) -> None:
    """Draw score over steps in a panel for each dataset: the mean over seeds, and a band around it; see :func:`spread`.

    A dashed line is the mean score of the data, a dotted one the step at which a run goes
    online. A curve has gaps where a seed has diverged.

    Args:
        results: What to draw.
        path: Where the PNG or SVG goes.
        methods: The methods' order, by which they get their colours; see :func:`~offline_rl.analysis.groups.grouped`.

    Raises:
        RunError: A seed is there twice.
    """
    # The object interface: it needs no display and leaves the caller's own figures alone.
    from matplotlib.figure import Figure

    groups = grouped(results, methods)
    datasets = list(dict.fromkeys(group.dataset for group in groups))
    style = styles(labels(groups, methods))
    columns, rows = min(COLUMNS, len(datasets)), math.ceil(len(datasets) / COLUMNS)
    size = (7.5, 4.6) if len(datasets) == 1 else (4.3 * columns, 3.1 * rows + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for dataset, axes in zip(datasets, panels, strict=False):
        _draw_panel(axes, [group for group in groups if group.dataset == dataset], style)
    for axes in panels[len(datasets) :]:
        axes.remove()
    pairs = " (of two seeds: lower to higher)" if any(len(group.results) == 2 for group in groups) else ""
    figure.suptitle(f"Learning curves: mean over seeds, 95 % t interval{pairs}", fontsize=11)
    _legend_below(figure, panels[: len(datasets)], {label: _with_seeds(label, groups) for label in style})
    save(figure, path, dpi=100)  # many panels, of which repositories keep pictures


def draw_profiles(
    profiles: Mapping[str, Sequence[Sequence[float]]],
    thresholds: Sequence[float],
    path: Path,
    style: Mapping[str, Style] | None = None,
) -> None:
    """Draw the share of runs above each score, for each method its lower end, value and upper end.

    Ends that are NaN are no interval, and the legend says so.

    Args:
        profiles: Lower ends, values and upper ends by method.
        thresholds: Where they hold.
        path: Where the PNG or SVG goes.
        style: Of each method, as in the other figures; by default by its place in ``profiles``.
    """
    from matplotlib.figure import Figure

    style = style or styles(list(profiles))
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for label, (low, share, high) in profiles.items():
        unknown = " (no interval: single runs)" if any(map(math.isnan, low)) else ""
        _draw_line(axes, thresholds, (low, share, high), style[label], f"{label}{unknown}")
    axes.set_xlabel("normalised score τ")
    axes.set_ylabel("share of runs above τ")
    axes.set_title("Performance profiles: share of runs, 95 % bootstrap interval", fontsize=11)
    axes.grid(alpha=0.3)
    _legend_below(figure, [axes], {})
    save(figure, path)


def draw_bands(
    panels: Mapping[str, Mapping[str, Sequence[Mapping[int, float | None]]]], path: Path, across: str, up: str
) -> None:
    """Draw curves of several seeds in panels, the mean over seeds and a band around it; see :func:`spread`.

    Args:
        panels: By panel and by method, the curve of each seed: its score by step.
        path: Where the PNG or SVG goes.
        across: What the horizontal axis is.
        up: What the vertical axis is.
    """
    from matplotlib.figure import Figure

    style = styles(list(dict.fromkeys(method for methods in panels.values() for method in methods)))
    rows = math.ceil(len(panels) / COLUMNS)
    columns = min(COLUMNS, len(panels))
    figure = Figure(figsize=(max(5.5, 4.3 * columns), 3.6 * rows + 0.5), layout="constrained")
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    for (title, methods), axes in zip(panels.items(), every, strict=False):
        for method, curves in methods.items():
            steps = sorted(set.intersection(*map(set, curves)))
            ends = list(zip(*(spread([curve[step] for curve in curves]) for step in steps), strict=True))
            _draw_line(axes, steps, ends, style[method], f"{method} (n = {len(curves)})")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(across, fontsize=9)
        axes.set_ylabel(up, fontsize=9)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.grid(alpha=0.3)
    for axes in every[len(panels) :]:
        axes.remove()
    _legend_below(figure, every[: len(panels)], {})
    save(figure, path)


def save(figure: "Figure", path: Path | BinaryIO, dpi: int = 120) -> None:
    """Write a figure as PNG or SVG, the same bytes each time: without a date, a version or names drawn by chance.

    What is no path, but takes bytes, gets a PNG.
    """
    import matplotlib as mpl

    metadata = {"Date": None} if isinstance(path, Path) and path.suffix == ".svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "offline-rl"}):
        figure.savefig(path, dpi=dpi, metadata=metadata)


def save_with_legend(figure: "Figure", path: Path) -> None:
    """Put the legend below a figure of curves, and write it as a PNG that is whole or not there.

    Raises:
        OfflineRLError: There is no room for it.
    """
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    picture = io.BytesIO()
    save(figure, picture)
    with writing(path, MAKE_ROOM):
        write_bytes(path, picture.getvalue())


def score_name(result: Mapping[str, Any]) -> str:
    """Return what a result's or a run's scores are called, by its dataset."""
    return str((result["dataset"].get("reference") or {}).get("score_name", "normalised score"))


def _draw_panel(axes: "Axes", groups: Sequence[Group], style: Mapping[str, Style]) -> None:
    from matplotlib.ticker import MaxNLocator

    first = groups[0].results[0]
    for group in groups:
        steps, *ends = band(group.results)
        _draw_line(axes, steps, ends, style[group.label], group.label)
    if (mean := first["dataset"]["mean_score"]) is not None:
        axes.axhline(mean, color="gray", ls="--", lw=1, label="mean of the data")
    online = {
        phase_ends(group.results[0]["options"])[0]
        for group in groups
        if group.online and group.results[0]["options"]["steps"]
    }
    for step in sorted(online):
        axes.axvline(step, color="gray", ls=":", lw=1, label="online from here")
    axes.set_title(groups[0].dataset, fontsize=10)
    axes.set_xlabel("steps" if online else "updates", fontsize=9)
    axes.set_ylabel(score_name(first), fontsize=9)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(alpha=0.3)


def _draw_line(axes: "Axes", x: Sequence[float], ends: Sequence[Any], style: Style, label: str) -> None:
    low, mean, high = ends
    axes.plot(x, mean, color=style.color, ls=style.ls, lw=1.8, label=label)
    axes.fill_between(x, low, high, color=style.color, alpha=BAND_ALPHA, lw=0)
    for edge in (low, high):
        axes.plot(x, edge, color=style.color, ls=style.ls, alpha=EDGE_ALPHA, lw=0.6)


def _legend_below(figure: "Figure", panels: Sequence["Axes"], texts: Mapping[str, str]) -> None:
    """Put one legend of all panels below them, in the order of ``texts``, what is not in it last."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    names = [*(name for name in texts if name in handles), *(name for name in handles if name not in texts)]
    shown = [texts.get(name, name) for name in names]
    columns = max(1, min(4, int(figure.get_figwidth() * 13) // (max(map(len, shown)) + 5)))
    figure.legend(
        [handles[name] for name in names], shown, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )


def _with_seeds(label: str, groups: Sequence[Group]) -> str:
    counts = {len(group.results) for group in groups if group.label == label}
    return f"{label} (n = {' to '.join(map(str, sorted({min(counts), max(counts)})))})"


def band(results: Sequence[Result]) -> tuple[list[int], Any, Any, Any]:
    """Return the steps at which every seed was evaluated, and there the band's lower end, the mean, the upper end.

    See :func:`spread` for what they are.
    """
    curves = [{step: score for step, _, score in result["curve"]} for result in results]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    low, mean, high = zip(*(spread([curve[step] for curve in curves]) for step in steps), strict=True)
    return steps, low, mean, high


def spread(scores: Sequence[float | None]) -> tuple[float, float, float]:
    """Return the lower end of a band over seeds, their mean, and the upper end.

    The band is the mean's 95 % Student-t interval. Of two seeds it reaches from the lower to the higher one, because
    their t interval, nine times as wide on either side, would hide every other curve; of a single seed its ends are
    NaN. All three are NaN where a seed has diverged.
    """
    values = [math.nan if score is None else score for score in scores]
    estimate = Estimate.of(values)
    half = math.nan if estimate.half_width is None else estimate.half_width
    if len(values) == 2:
        half = abs(values[0] - values[1]) / 2
    return estimate.mean - half, estimate.mean, estimate.mean + half
