"""One page about a dataset: the findings of the checks, and pictures of what is in it."""

import base64
import html
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from offline_rl.analysis.figures import COLOURS, save
from offline_rl.checks.finding import Finding
from offline_rl.checks.view import View
from offline_rl.data import Dataset
from offline_rl.errors import DatasetError
from offline_rl.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = Path(__file__).parent / "page.html"
PANELS = 60
"""Columns that are drawn at most."""
ACROSS = 4
"""Panels in a row."""
BINS = 50


def write_page(dataset: Dataset, findings: Sequence[Finding], path: Path) -> None:
    """Write one HTML file that needs nothing else; the same data gives the same bytes.

    Raises:
        DatasetError: The file cannot be written.
    """
    view = View(dataset)
    about = (
        f"{len(dataset):,} rows in {len(dataset.episode_returns):,} episodes, {dataset.observation_size} observation "
        f"entries, {dataset.action_size} action entries; columns are drawn from {len(view.sample):,} rows."
    )
    parts = {
        "title": html.escape(f"Dataset {dataset.name}"),
        "about": html.escape(about),
        "findings": "\n".join(map(_finding, findings)) or "<p>No check found anything.</p>",
        "figures": "\n".join(_figures(view)),
    }
    text = PAGE.read_text(encoding="utf-8")
    before, *rest = text.split("{{")  # one pass: what is put in is not looked at again
    filled = before + "".join(parts[name] + after for name, _, after in (each.partition("}}") for each in rest))
    try:
        with replace_file(path) as temporary:
            temporary.write_text(filled, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise DatasetError(f"{path} cannot be written ({error}); choose another --page") from None


def _finding(finding: Finding) -> str:
    rows = (("Seen", finding.evidence), ("Effect", finding.consequence), ("Remedy", finding.remedy))
    listed = "".join(f"<dt>{label}</dt><dd>{html.escape(text)}</dd>" for label, text in rows)
    title = html.escape(f"{finding.severity}: {finding.check}")
    return f'<section class="{finding.severity}"><h3>{title}</h3><dl>{listed}</dl></section>'


def _figures(view: View) -> Iterator[str]:
    """Yield each picture with its heading and a sentence."""
    data = view.data
    yield _picture(
        "Observations",
        _histograms(data.observations[view.sample], view.names),
        "How often each value is there.",
    )
    yield _picture(
        "Actions",
        _histograms(data.actions[view.sample], view.action_names, data.action_bounds),
        "How often each value is there; dashed lines are the bounds.",
    )
    yield _picture("Returns", _returns(data), "The return of each episode, in the order of the data.")
    yield _picture("Actions and observations", _correlations(view), "Correlation of each action with each observation.")


def _picture(title: str, figure: "Figure", text: str) -> str:
    file = io.BytesIO()
    save(figure, file, dpi=80)
    source = base64.b64encode(file.getvalue()).decode()
    return f'<h2>{title}</h2>\n<p>{text}</p>\n<img alt="{title}" src="data:image/png;base64,{source}">'


def _plain(name: str, length: int = 28) -> str:
    """Return a name as text that is not read as a formula, cut short."""
    return (name if len(name) <= length else f"{name[: length - 1]}…").replace("$", r"\$")


def _histograms(values: npt.NDArray[np.float32], names: Sequence[str], bounds: Any = None) -> "Figure":
    from matplotlib.figure import Figure

    count = min(PANELS, len(names))
    rows = math.ceil(count / ACROSS)
    figure = Figure(figsize=(11, 1.9 * rows + 0.3), layout="constrained")
    every = list(figure.subplots(rows, ACROSS, squeeze=False).flat)
    for entry, axes in enumerate(every):
        if entry >= count:
            axes.remove()
            continue
        column = values[:, entry].astype(np.float64)
        axes.hist(column, bins=BINS if np.ptp(column) > 1e-6 * np.abs(column).max() else 1, color=COLOURS[0])
        for bound in bounds or ():
            axes.axvline(float(bound[entry]), color="gray", ls="--", lw=1)
        axes.set_title(_plain(names[entry]), fontsize=8)
        axes.tick_params(labelsize=7)
    if count < len(names):
        figure.suptitle(f"the first {count} of {len(names)}", fontsize=8)
    return figure


def _returns(data: Dataset) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.8), layout="constrained")
    axes = figure.add_subplot()
    number = np.arange(len(data.episode_returns))
    for kept, label, colour in ((data.episode_complete, "complete", 0), (~data.episode_complete, "cut by the end", 1)):
        if kept.any():
            axes.plot(number[kept], data.episode_returns[kept], ".", ms=3, color=COLOURS[colour], label=label)
    axes.set_xlabel("episode", fontsize=9)
    axes.set_ylabel("return", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _correlations(view: View) -> "Figure":
    from matplotlib.figure import Figure

    found = np.zeros((view.data.action_size, view.data.observation_size))
    spread = view.states.std(0)
    related = view.actions.T @ (view.states / np.where(spread > 0, spread, 1)) / max(1, len(view.sample))
    found[:, view.varying] = related
    found = found[:PANELS, :PANELS]
    figure = Figure(figsize=(11, 1.2 + 0.3 * len(found)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(found, vmin=-1, vmax=1, cmap="RdBu_r", aspect="auto")
    axes.set_yticks(range(found.shape[0]), [_plain(name) for name in view.action_names[: found.shape[0]]], fontsize=7)
    names = [_plain(name, 18) for name in view.names[: found.shape[1]]]
    axes.set_xticks(range(found.shape[1]), names, fontsize=7, rotation=60, ha="right")
    figure.colorbar(image, ax=axes)
    return figure
