"""Checks of where episodes begin and end.

Whether an end is a real one can be seen in the states: a robot that fell lies on the ground, while a time limit comes
in the middle of whatever goes on. So the states at ends are compared with others of about the same age.
"""

from collections.abc import Iterator

import numpy as np

from offline_rl.checks.finding import Finding
from offline_rl.checks.view import BoolArray, FloatArray, IntArray, View, area, distance_ratio, draw, examples
from offline_rl.data.rules import NO_ENDS

ENDS, OTHERS = 300, 1500
"""States at ends, and other states, that are compared at most."""
ENOUGH = 8
"""Ends of which at least as many must be alike before they are judged."""
PILE = 1.5
"""How many times as many ends as in a step shortly before come at a time limit, at least, and beyond chance."""
RANDOM, DISTINCT = 0.8, 0.9
"""Probability that an end looks more like ends than another state does: below the first, ends come regardless of the
state; above the second, the state brings them about."""
CALM, LEAP, LEAST = 0.15, 6, 0.5
"""A column changes smoothly if three quarters of its steps are below CALM deviations; a leap is LEAP times as far,
and LEAST deviations at least."""
ALONE = 5
"""A leap is so many times as far as the steps before and after it; a fast robot is fast in these, too."""
MOST_LEAPS = 0.2
"""Share of steps above which leaps are how the data moves, and no missed borders."""
CHUNK = 100_000
"""Rows looked at together."""


def time_limit_as_end(view: View) -> Iterator[Finding]:
    """Find time limits that are marked as terminated: ends after the same number of steps, whatever the state."""
    terminated = view.data.terminated[view.lasts]
    longest = int(view.lengths.max())
    at_limit = terminated & (view.lengths == longest)
    count, before = int(at_limit.sum()), max(1.0, 0.1 * longest)
    near = terminated & (view.lengths >= longest - before) & (view.lengths < longest)
    usual = float(near.sum()) / before  # ends in a single step shortly before
    if longest < 4 or count < max(ENOUGH, PILE * usual, usual + 3 * np.sqrt(usual + 1)):
        return
    if (~terminated & view.data.episode_complete & (view.lengths == longest)).any():
        return  # the log tells ends from time limits there
    rows = view.lasts[at_limit]
    ends = rows[draw(len(rows), ENDS, "limits")]
    others = np.flatnonzero((view.age >= longest // 2) & (view.age < longest - 1) & ~view.data.terminated)
    others = others[draw(len(others), OTHERS, "before limits")]
    alike = _distinctness(view, ends, others, following=False)
    said = f"{count:,} of {int(terminated.sum()):,} terminated episodes have exactly {longest:,} steps, the most of all"
    remedy = "mark these rows as truncated instead (in a D4RL file: timeouts), if this is a time limit"
    if alike < RANDOM:
        yield Finding(
            "time_limit_as_end",
            "warning",
            f"{said}, and the observation does not show that the end comes (their states look like those before them: "
            f"{alike:.2f}, where 0.5 is no difference and 1 a clear one); {examples(rows)}",
            "the agent learns that nothing is worth anything after that step, which no observation explains",
            remedy,
        )
    elif count >= 0.9 * terminated.sum():
        yield Finding(
            "time_limit_as_end",
            "note",
            f"{said}; the states there differ from those before",
            "right if the task itself ends there; if only the recording does, the agent learns that nothing follows",
            remedy,
        )


def end_as_cut(view: View) -> Iterator[Finding]:
    """Find real ends that are marked as truncated: episodes of many lengths that stop in states of their own kind."""
    complete, longest = view.data.episode_complete, int(view.lengths.max())
    cut = ~view.data.terminated[view.lasts] & complete & (view.lengths < longest)
    ends = view.lasts[cut]
    if len(ends) < ENOUGH + 2 or len(np.unique(view.lengths[cut])) < 3:
        return
    ends = ends[draw(len(ends), ENDS, "cuts")]
    others = _of_same_age(view, ends)
    if len(others) < len(ends):
        return
    alike = _distinctness(view, ends, others, following=True)
    if alike > DISTINCT:
        yield Finding(
            "end_as_cut",
            "warning",
            f"{int(cut.sum()):,} episodes of {int(view.lengths[cut].min()):,} to {int(view.lengths[cut].max()):,} "
            f"steps are marked as cut, but stop in states that differ from those of other episodes after as many steps "
            f"({alike:.2f}, where 0.5 is no difference and 1 a clear one); {examples(view.lasts[cut])}",
            "the agent learns that more reward would have followed, so that such an end costs nothing",
            "mark these rows as terminated (in a D4RL file: terminals), if the state brought the end about",
        )


def no_ends(view: View) -> Iterator[Finding]:
    """Find data in which no row is marked as an end."""
    whole = view.data.metadata.get("ends") == NO_ENDS or (len(view.starts) == 1 and not view.data.terminated.any())
    if len(view.starts) > 1 or not whole:
        return
    leaps = _leaps(view)
    if len(leaps):
        gaps = np.diff(leaps)
        every = f", {int(np.median(gaps)):,} rows apart (median)" if len(gaps) else ""
        yield Finding(
            "no_ends",
            "warning",
            f"all {view.rows:,} rows are one episode, but its state leaps {len(leaps):,} times{every}; "
            f"{examples(leaps)}",
            "the agent learns that its actions lead from the end of one episode to the start of another",
            "say where episodes end, in columns 'terminated', 'truncated' or 'episode' of a table, or in 'timeouts'",
        )
    elif view.rows > 1:
        yield Finding(
            "no_ends",
            "note",
            f"all {view.rows:,} rows are one episode, and its state changes without leaps",
            "right for one long recording; returns of episodes mean nothing then",
            "say where episodes end, if there are several",
        )


def missed_border(view: View) -> Iterator[Finding]:
    """Find steps inside an episode that lead to somewhere else, as from one episode to the next."""
    if len(view.starts) == 1 and any(no_ends(view)):
        return
    yield from _broken_chain(view)
    leaps = _leaps(view)
    if not len(leaps):
        return
    place = ""
    if len(leaps) >= 3 and (view.age[leaps] == 0).mean() > 0.8:
        place = " right after the first row of the episode, as if ends were marked one row early"
    elif len(leaps) >= 3 and (~view.inner[leaps]).mean() > 0.8:
        place = " in the last step of the episode, as if ends were marked one row late"
    rule = view.data.metadata.get("mode") == "d4rl"
    yield Finding(
        "missed_border",
        "warning",
        f"in {len(leaps):,} of {view.rows:,} steps most observations leap at once, far beyond their usual steps"
        f"{place}; {examples(leaps)}",
        "the agent learns that its actions lead there",
        "mark the end of an episode in these rows" + (", or give --data_mode exact" if rule else ""),
    )


def _broken_chain(view: View) -> Iterator[Finding]:
    """Find rows whose next observation is not the observation of the next row, though their episode goes on."""
    data = view.data
    rows = np.flatnonzero(view.inner)
    scale = np.where(view.spread > 0, view.spread, 1.0) * 1e-3
    broken = np.zeros(len(rows), bool)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        gap = np.abs(data.next_observations[part] - data.observations[part + 1])
        broken[start : start + CHUNK] = (gap > scale).any(1)
    found, share = rows[broken], float(broken.mean()) if len(rows) else 0.0
    if share > 0.5:
        yield Finding(
            "missed_border",
            "note",
            f"{share:.0%} of the rows lead to an observation that is not that of the next row; {examples(found)}",
            "rows are no sequences, so returns of episodes, dt and doc, which read sequences, mean nothing here",
            "sort the rows by episode and time, if they come from episodes",
        )
    elif len(found):
        yield Finding(
            "missed_border",
            "warning",
            f"{len(found):,} rows lead to an observation that is not that of the next row, though their episode goes "
            f"on; {examples(found)}",
            "rows are missing there or belong to different episodes, so returns and sequences are wrong",
            "mark the end of an episode in these rows, or put the missing rows in",
        )


def _leaps(view: View) -> IntArray:
    """Return the rows after which at least half of all smooth columns, and at least two, leap at once."""
    data, rows = view.data, np.flatnonzero(~view.data.terminated)
    kept = view.varying
    if not len(rows) or len(kept) < 2:
        return np.zeros(0, np.int64)
    seen = rows[draw(len(rows), 50_000, "steps")]
    usual = np.quantile(np.abs(data.next_observations[seen] - data.observations[seen])[:, kept], 0.75, axis=0)
    usual = usual / view.spread[kept]
    smooth = usual <= CALM
    if smooth.sum() < 2:
        return np.zeros(0, np.int64)
    columns, limit = kept[smooth], np.maximum(LEAP * usual[smooth], LEAST) * view.spread[kept[smooth]]
    leaping = np.zeros(len(rows), bool)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        step = np.abs(data.next_observations[part][:, columns] - data.observations[part][:, columns])
        count = (step > limit).sum(1)
        leaping[start : start + CHUNK] = (count >= 2) & (count >= len(columns) / 2)
    found = rows[leaping] if leaping.mean() < MOST_LEAPS else rows[:0]
    return found[_stands_alone(view, found, columns)]


def _stands_alone(view: View, rows: IntArray, columns: IntArray) -> BoolArray:
    """Say of which rows `(K,)` the step is far larger in most columns than the steps before and after it."""

    def steps(of: IntArray) -> FloatArray:
        found: FloatArray = np.abs(view.data.next_observations[of] - view.data.observations[of])[:, columns]
        return found.astype(np.float64)

    step = steps(rows)
    around = np.zeros_like(step)
    for offset in (-1, 1):
        other = np.clip(rows + offset, 0, view.rows - 1)
        usable = (view.episode[other] == view.episode[rows]) & (other != rows) & ~view.data.terminated[other]
        around = np.maximum(around, np.where(usable[:, None], steps(other), 0))
    return np.asarray((step > ALONE * around).mean(1) >= 0.5)


def _distinctness(view: View, ends: IntArray, others: IntArray, *, following: bool) -> float:
    """Return with what probability a state at an end looks more like an end than another state does.

    That is asked of the nearest states of other episodes, and of each column by itself; the clearest answer counts.
    """
    columns = view.data.next_observations if following else view.data.observations
    high, low = view.scaled(columns[ends]), view.scaled(columns[others])
    if not high.shape[1] or not len(others):
        return 0.5
    owners = view.episode[ends], view.episode[others]
    joined = np.concatenate([high, low])
    score = distance_ratio(joined, high, low, (np.concatenate(owners), *owners))
    single = [_side(one, other) for one, other in zip(high.T, low.T, strict=True)]
    return max(area(score[: len(ends)], score[len(ends) :]), *single)


def _side(ends: FloatArray, others: FloatArray) -> float:
    """Return how well one column tells ends from others: by a threshold, or by a narrow range, such as a clock's."""
    above = area(ends, others)
    within = float(((others >= ends.min()) & (others <= ends.max())).mean())
    return max(above, 1 - above, 1 - within if within < 0.05 else 0.0)


def _of_same_age(view: View, ends: IntArray) -> IntArray:
    """Return rows inside other episodes that are about as old as the ends."""
    candidates: BoolArray = view.inner & ~view.data.terminated
    rows = np.flatnonzero(candidates)
    if not len(rows):
        return rows
    rows = rows[np.argsort(view.age[rows], kind="stable")]
    ages, wanted = view.age[rows], view.age[ends]
    low = np.searchsorted(ages, 0.8 * wanted - 1)
    high = np.searchsorted(ages, 1.2 * wanted + 1, side="right")
    places = low[:, None] + ((high - low)[:, None] * np.linspace(0.1, 0.9, OTHERS // ENDS)).astype(int)
    found = rows[places[high > low].ravel()]
    return np.unique(found)
