"""Checks of rows and episodes as wholes: copies, how many there are, where they start."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from offline_rl.checks.finding import Finding
from offline_rl.checks.view import FloatArray, IntArray, View, examples
from offline_rl.draws import Stream

FEW, SOME = 5, 20
"""Episodes below which there are too few, and below which that is worth a note."""
INDEPENDENT = 500
"""Independent states, of which one long recording may hold enough."""
COPIES = 1e-3
"""Share of rows that are copies from which on they are a fault; and at least five."""
CONTINUOUS = 0.2
"""Share of different values of a column from which on equal rows are no coincidence."""
ODD = 8
"""Distance of a start from the others' median, in spans of eight tenths of them, that is odd."""


def duplicated_rows(view: View) -> Iterator[Finding]:
    """Find rows and episodes that are copies of others, in data whose numbers do not repeat by themselves."""
    if not _is_continuous(view):
        return
    keys = _keys(view)
    twice = _logged_twice(view, keys)
    if len(twice) >= max(2, COPIES * view.rows):
        yield Finding(
            "duplicated_rows",
            "warning",
            f"{len(twice):,} rows repeat the row before them, although the state then moves on; {examples(twice)}",
            "the agent learns that its action changed nothing, and then that the same action changed something",
            "remove the second of two equal rows",
        )
    copies = _copies(view, keys)
    if len(copies) >= max(5, COPIES * view.rows):
        first, whole = view.episode[copies], np.bincount(view.episode[copies], minlength=len(view.starts))
        episodes = int((whole == np.diff(view.data.episode_bounds)).sum())
        yield Finding(
            "duplicated_rows",
            "warning",
            f"{len(copies):,} of {view.rows:,} rows are exact copies of earlier ones, {episodes:,} whole episodes and "
            f"rows of {len(np.unique(first)):,} episodes; {examples(copies)}",
            "there is less data than there seems to be, and what is copied counts several times",
            "remove the copies, if they were not meant",
        )


def _is_continuous(view: View) -> bool:
    columns = view.data.observations[view.sample]
    count = max((len(np.unique(column)) for column in columns.T), default=0)
    return view.rows >= 20 and count > CONTINUOUS * len(columns)


def _keys(view: View) -> npt.NDArray[np.uint64]:
    """Return a 64-bit number for each row's observation, action and reward, `(N,)`, equal where they are."""
    data, stream = view.data, Stream(0, "checks/keys").at(0)
    keys = np.zeros(view.rows, np.uint64)
    columns = [*data.observations.T, *data.actions.T, data.rewards]
    for column in columns:
        bits = (column + np.float32(0)).view(np.uint32).astype(np.uint64)  # -0 becomes 0
        bits *= np.uint64(stream.integers(2**63, dtype=np.uint64) * 2 + 1)
        keys = keys + (bits ^ (bits >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    return keys


def _logged_twice(view: View, keys: npt.NDArray[np.uint64]) -> IntArray:
    """Return the second of two equal rows in a row, where the state then changes: a system at rest would stay."""
    same = np.flatnonzero(view.inner[:-1] & (keys[1:] == keys[:-1])) + 1
    moved = (view.data.next_observations[same] != view.data.observations[same]).any(1)
    found: IntArray = same[moved & ~view.data.terminated[same]]
    return found


def _copies(view: View, keys: npt.NDArray[np.uint64]) -> IntArray:
    """Return rows that equal an earlier one, elsewhere than at rest and than at the same age of another episode's.

    Episodes of a deterministic system that come together stay together: equal rows of the same age are copies only if
    the episodes are equal from their first row on.
    """
    moving = view.data.terminated | (view.data.next_observations != view.data.observations).any(1)
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    original = first[place]
    copy = (original < np.arange(view.rows)) & moving
    copy[1:] &= ~(view.inner[:-1] & (keys[1:] == keys[:-1]))
    joined = copy & (view.age == view.age[original]) & ~copy[view.starts[view.episode]]
    return np.flatnonzero(copy & ~joined)


def few_episodes(view: View) -> Iterator[Finding]:
    """Find data of so few episodes that little can be known of others."""
    count = len(view.starts)
    if count >= SOME:
        return
    independent = view.rows / correlation_length(view)
    said = f"there {'is one episode' if count == 1 else f'are {count} episodes'} of {view.rows:,} rows"
    enough = count >= FEW or independent >= INDEPENDENT
    yield Finding(
        "few_episodes",
        "note" if enough else "warning",
        f"{said}, which are worth about {max(1, independent):,.0f} independent states",
        "the agent knows few starts and few ways to go on, and what it has not seen it must guess",
        "record more episodes; until then prefer bc or td3_bc with a small --alpha, which stay close to the data",
    )


def correlation_length(view: View) -> float:
    """Return how many rows go by until a state has little to do with the first one: the median over its entries."""
    lengths = [correlation_time(column.astype(np.float64)) for column in view.data.observations[:, view.varying].T]
    return float(np.median(lengths)) if lengths else float(view.rows)


def correlation_time(column: FloatArray) -> float:
    """Return by how much rows that hang together count less than independent ones for the mean, at least 1.

    Means of b rows each scatter b times less than single rows if rows are independent; this is the largest excess over
    that, for b = 1, 2, 4, … up to a tenth of the rows (the method of batch means).

    Args:
        column: `(N,)` in the order of time.
    """
    total = float(column.var())
    if total <= 0:
        return 1.0
    largest, size = 1.0, 2
    while len(column) // size >= 10:
        batches = len(column) // size
        means = column[: batches * size].reshape(batches, size).mean(1)
        largest = max(largest, size * float(means.var(ddof=1)) / total)
        size *= 2
    return largest


def start_states(view: View) -> Iterator[Finding]:
    """Find episodes that all start alike, and starts that are far from all others."""
    starts = view.data.observations[view.starts]
    count = len(starts)
    if count < SOME:
        return
    different = len(np.unique(starts, axis=0))
    if different <= max(1, 0.05 * count) and _is_continuous(view):
        yield Finding(
            "start_states",
            "note",
            f"{count:,} episodes start in {different:,} different state{'s' * (different > 1)}",
            "what the agent does after other starts is a guess",
            "record episodes from all states in which the agent shall start",
        )
        return
    low, middle, high = np.quantile(starts, (0.1, 0.5, 0.9), axis=0)
    spread = np.maximum(high - low, 0.02 * view.spread)
    away = np.abs(starts - middle) / np.where(spread > 0, spread, np.inf)
    odd = np.flatnonzero((away > ODD).any(1))
    if 0 < len(odd) <= 0.05 * count:
        entries = np.unique(away[odd].argmax(1))
        yield Finding(
            "start_states",
            "warning",
            f"{len(odd):,} of {count:,} episodes start far from all others, by {view.named(entries)}; "
            f"{examples(view.starts[odd])}",
            "such a row is often the logger's first, before it has read the sensors, and no state of the process",
            "look at these rows, and remove them if they are no states",
        )
