"""Checks of single columns of the observations."""

from collections.abc import Iterator

import numpy as np

from offline_rl.checks.finding import Finding
from offline_rl.checks.view import FloatArray, View, draw, examples

STEPS = 32
"""Steps of single precision that a standard deviation must have."""
RARE = 0.01
"""Share of rows that may not set the scale of a column."""
SQUEEZED = 0.25
"""Spread of the usual rows, as a part of that of all, below which rare ones set the scale."""
FAR = 30.0
"""Standard deviations beyond which a number stands out of what networks are used to."""
LEVELS = 3, 30
"""How many different whole numbers may be codes."""


def constant_column(view: View) -> Iterator[Finding]:
    """Find observations that never change."""
    entries = np.flatnonzero(view.spread == 0)
    if len(entries) and view.rows > 1:
        yield Finding(
            "constant_column",
            "note",
            f"{view.named(entries)} {'is' if len(entries) == 1 else 'are'} the same in all {view.rows:,} rows",
            "nothing is learned from it; an agent that later sees another value there acts on a number it never saw",
            "leave the column out, or look whether the sensor was on",
        )


def nearly_constant_column(view: View) -> Iterator[Finding]:
    """Find observations that change less than single precision can tell, and those that rest but for a few rows."""
    size = np.abs(view.mean)
    steps = view.spread / np.spacing(np.maximum(size, 1e-30).astype(np.float32)).astype(np.float64)
    coarse = np.flatnonzero((view.spread > 0) & (steps < STEPS))
    if len(coarse):
        first = int(coarse[0])
        yield Finding(
            "nearly_constant_column",
            "warning",
            f"{view.named(coarse)} changes by {view.spread[first]:.3g} around {view.mean[first]:.6g} only, which is "
            f"{steps[first]:.0f} steps of single precision",
            "divided by so small a deviation, rounding becomes as large as any other observation",
            "subtract what all rows share, or leave the column out",
        )
    for entry in view.varying:
        column = view.data.observations[:, entry]
        usual = np.median(column[view.sample])
        rows = np.flatnonzero(column != usual)
        if 0 < len(rows) < RARE * view.rows and _farthest(view, entry) > FAR and entry not in coarse:
            yield Finding(
                "nearly_constant_column",
                "warning",
                f"'{view.names[entry]}' is {usual:.6g} but in {len(rows):,} of {view.rows:,} rows; {examples(rows)}",
                f"divided by so small a deviation, these rows are {_farthest(view, entry):.0f} deviations away, and "
                "the agent has hardly learned what to do there",
                "leave the column out, or record more rows in which it changes",
            )


def _farthest(view: View, entry: int) -> float:
    column = view.data.observations[:, entry].astype(np.float64)
    return float(np.abs(column - view.mean[entry]).max() / view.spread[entry])


def column_outliers(view: View) -> Iterator[Finding]:
    """Find observations whose scale is set by a few rows, such as a code for a missing value."""
    for entry in view.varying:
        column = view.data.observations[:, entry].astype(np.float64)
        distance = np.abs(column - np.median(column[view.sample]))
        limit = float(np.quantile(distance, 1 - RARE))
        usual = float(column[distance <= limit].std())
        rows = np.flatnonzero(distance > max(limit, 10 * usual))
        if usual == 0 or usual > SQUEEZED * view.spread[entry] or not len(rows):
            continue
        worst = rows[np.argsort(-distance[rows], kind="stable")]
        yield Finding(
            "column_outliers",
            "warning",
            f"'{view.names[entry]}' has {len(rows):,} of {view.rows:,} rows far from all others, such as "
            f"{column[worst[0]]:.6g}; {examples(worst)}; without them its standard deviation is {usual:.3g}, with them "
            f"{view.spread[entry]:.3g}",
            "they set the scale: all other rows look nearly alike to the agent",
            "repair or remove these episodes; a code for a missing value, such as -999, is no number to learn from",
        )


def unused_column(view: View) -> Iterator[Finding]:
    """Find observations that look like noise: nothing that is measured depends on them, nor they on anything."""
    if len(view.varying) < 2 or view.rows < 200:
        return
    reward = view.effects[:, :1]
    noise = []
    for place, entry in enumerate(view.varying):
        others = np.delete(view.states, place, axis=1)
        if not _looks_like_noise(view, place):
            continue
        wanted = np.column_stack([reward, np.delete(view.effects[:, 1:], place, axis=1)])
        without = np.column_stack([others, view.actions])
        own = view.states[:, [place]]
        told = view.gain(without, own, wanted)
        asked = view.gain(others, own, view.actions)
        if not told.sure.any() and not asked.sure.any():
            noise.append(int(entry))
    if noise:
        yield Finding(
            "unused_column",
            "note",
            f"{view.named(noise)}: no row tells the next one, and neither the actions nor the reward nor any other "
            "observation was found to depend on it",
            "it is noise to the agent, which may find patterns in it that are none",
            "leave the column out, if nothing should depend on it",
        )


def _looks_like_noise(view: View, place: int) -> bool:
    """Say whether a column has nothing to do with itself a row later, with the other columns, nor with the actions."""
    rows = np.flatnonzero(view.inner)
    rows = rows[draw(len(rows), 20_000, "noise")]
    if len(rows) < 100:
        return False
    column = view.data.observations[:, view.varying[place]].astype(np.float64)
    others = np.column_stack([np.delete(view.states, place, axis=1), view.actions])
    own = view.states[:, place]
    bound = 4 / np.sqrt(len(rows))
    related = [_correlation(column[rows], column[rows + 1])]
    related += [_correlation(own, other) for other in others.T]
    return bool(max(related) < bound)


def _correlation(one: FloatArray, other: FloatArray) -> float:
    """Return the size of a correlation, or of that of the squares, whichever is larger."""
    found = []
    for power in (1, 2):
        a, b = ((each - each.mean()) ** power for each in (one, other))
        a, b = a - a.mean(), b - b.mean()
        size = np.sqrt((a**2).mean() * (b**2).mean())
        found.append(abs(float((a * b).mean())) / size if size > 0 else 0.0)
    return max(found)


def observation_codes(view: View) -> Iterator[Finding]:
    """Find observations that are codes: whole numbers whose order means nothing to what happens."""
    for place, entry in enumerate(view.varying):
        gain = code_gain(view, view.data.observations[view.sample, entry], np.delete(view.states, place, axis=1))
        if gain:
            yield Finding(
                "observation_codes",
                "warning",
                f"'{view.names[entry]}' holds {gain[0]} whole numbers, and knowing which one explains {gain[1]:.0%} of "
                "what its size leaves unexplained of the actions or of what follows",
                "the agent takes 1 for something between 0 and 2, and has to unlearn that",
                "give each code a column of its own, 1 where it holds and 0 elsewhere",
            )


def code_gain(
    view: View, column: np.ndarray, others: FloatArray, *, of_actions: bool = False
) -> tuple[int, float] | None:
    """Return how many codes a column has, and what knowing the code adds to knowing its size; None for no codes.

    What is predicted are actions and effects, or effects alone `of_actions`, by the column, its square, and the
    others; then by the code as well.

    Args:
        view: The data.
        column: `(K,)`, of the sample.
        others: `(K, F)`.
        of_actions: The column is an action.
    """
    values = np.unique(column)
    whole = (values == np.rint(values)).all()
    if not whole or not LEVELS[0] <= len(values) <= LEVELS[1] or len(column) < 20 * len(values):
        return None
    size = column.astype(np.float64)
    size = (size - size.mean()) / size.std()
    simple = np.column_stack([size, others])
    codes = (column[:, None] == values).astype(np.float64)
    wanted = view.effects if of_actions else np.column_stack([view.actions, view.effects])
    gain = view.gain(simple, codes, wanted)
    strong = gain.beyond(CODED)
    return (len(values), float(gain.share[strong].max())) if strong.any() else None


CODED = 0.1
"""Part of what the size of a number leaves unexplained that its being this number must explain to make it a code."""
