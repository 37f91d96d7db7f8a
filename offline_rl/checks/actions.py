"""Checks of the actions."""

from collections.abc import Iterator

import numpy as np

from offline_rl.checks.columns import LEVELS, code_gain
from offline_rl.checks.finding import Finding
from offline_rl.checks.view import CLEAR, View, examples

HEAP = 0.05
"""Share of rows with the very same extreme action that makes a heap."""
PRESSED = 0.2
"""Share of rows at a bound that is worth a note."""
NARROW = 0.05
"""Part of the bounds that nearly all actions must fill."""
SEEN = 0.75
"""Share of the groups of episodes that must agree for something to be taken to depend on the actions."""
IGNORED = 0.05
"""Part of the variance of actions that observations must explain to matter."""


def saturated_actions(view: View) -> Iterator[Finding]:
    """Find actions that are clipped, inside of the bounds or at them."""
    low, high = (bound.astype(np.float64) for bound in view.data.action_bounds)
    for entry, name in enumerate(view.action_names):
        column = view.data.actions[:, entry].astype(np.float64)
        ends = column.min(), column.max()
        if len(np.unique(column[view.sample])) < LEVELS[1]:
            continue
        heaps = [float((column == end).mean()) for end in ends]
        gaps = [ends[0] - low[entry], high[entry] - ends[1]]
        inside = [gap > 0.05 * (high[entry] - low[entry]) for gap in gaps]
        if any(heap > HEAP and within for heap, within in zip(heaps, inside, strict=True)):
            said = " and ".join(f"{heap:.0%} are exactly {end:.6g}" for heap, end in zip(heaps, ends, strict=True))
            yield Finding(
                "saturated_actions",
                "warning",
                f"'{name}': {said}, though actions may be {low[entry]:g} to {high[entry]:g}: they were clipped there",
                "the agent may choose what is beyond, of which no row knows what it does",
                f"give action_bounds {ends[0]:.6g} and {ends[1]:.6g} (in Python, or as the attribute of an HDF5 file)",
            )
        elif max(heaps) > PRESSED:
            said = " and ".join(f"{heap:.0%} at {end:.6g}" for heap, end in zip(heaps, ends, strict=True))
            yield Finding(
                "saturated_actions",
                "note",
                f"'{name}' is often at the end of its range: {said}",
                "the agent learns to press against the limit; what is beyond nobody knows",
                "nothing, if the actuator ends there; else record what was asked for before it was clipped",
            )


def narrow_actions(view: View) -> Iterator[Finding]:
    """Find actions that use a small part of their range, as where one row has set it, or the unit is another."""
    low, high = (bound.astype(np.float64) for bound in view.data.action_bounds)
    for entry, name in enumerate(view.action_names):
        column = view.data.actions[:, entry].astype(np.float64)
        inner = np.quantile(column, (0.005, 0.995))
        part = float(inner[1] - inner[0]) / (high[entry] - low[entry])
        if part >= NARROW:
            continue
        away = np.flatnonzero((column < inner[0]) | (column > inner[1]))
        worst = away[np.argsort(-np.abs(column[away] - column.mean()), kind="stable")]
        rows = f"; the others: {examples(worst)}" if len(worst) else ""
        yield Finding(
            "narrow_actions",
            "warning",
            f"'{name}': 99 % of the rows are between {inner[0]:.4g} and {inner[1]:.4g}, {part:.1%} of the range from "
            f"{low[entry]:g} to {high[entry]:g}{rows}",
            "to the agent, which knows the range as -1 to 1, all these actions are nearly one",
            "repair the few rows that set the range, or give action_bounds that fit (in Python, or as an attribute)",
        )


def ignored_observations(view: View) -> Iterator[Finding]:
    """Find actions that do not depend on observations; and, if they have no effect either, are in the wrong rows."""
    if view.rows < 200 or not len(view.varying):
        return
    none = np.zeros((len(view.sample), 0))
    chosen = view.gain(none, view.states, view.actions)
    varying = view.actions.std(0) > 0
    if not varying.any() or (chosen.share + CLEAR * chosen.error > IGNORED)[varying].any():
        return
    effect = view.gain(view.states, view.actions, view.effects)
    said = f"observations explain {max(0.0, float(chosen.share.max())):.1%} of the actions, on other episodes"
    seen = (effect.wins >= SEEN) & (effect.share > CLEAR * effect.error)
    if seen.any():
        best = int(np.argmax(np.where(seen, effect.share, -np.inf)))
        yield Finding(
            "ignored_observations",
            "note",
            f"{said}, but actions explain {effect.share[best]:.0%} of what else is unknown of "
            f"{view.effect_names[best]}: they look random",
            "right for data of random actions; there is no behaviour to imitate, so bc learns a constant",
            "choose an algorithm that learns from rewards, such as td3_bc or iql",
        )
    else:
        yield Finding(
            "ignored_observations",
            "warning",
            f"{said}, and neither the reward nor any next observation was found to depend on the actions",
            "the agent learns nothing about what its actions do",
            "look whether the actions stand in the rows in which they were done, and whether they were done at all",
        )


def action_codes(view: View) -> Iterator[Finding]:
    """Find actions that are codes of discrete ones, for which an agent would answer numbers between them."""
    for entry, name in enumerate(view.action_names):
        column = view.data.actions[view.sample, entry]
        others = np.column_stack([view.states, np.delete(view.actions, entry, axis=1)])
        values = np.unique(column)
        if not (values == np.rint(values)).all() or len(values) < 2 or len(values) > LEVELS[1]:
            continue
        gain = code_gain(view, column, others, of_actions=True)
        if gain:
            yield Finding(
                "action_codes",
                "warning",
                f"'{name}' holds {gain[0]} whole numbers, and knowing which one explains {gain[1]:.0%} of what its "
                "size leaves unexplained of what follows: they are codes, not amounts",
                "an agent answers any number between them, and codes of discrete actions are not supported",
                "give an amount instead of a code, or a column for each action of which the largest is done",
            )
        elif np.ptp(values) >= 1:
            yield Finding(
                "action_codes",
                "note",
                f"'{name}' holds {len(values)} whole numbers only, {values[0]:g} to {values[-1]:g}, whose size matters",
                "an agent answers any number between them",
                "round the agent's answers, if only whole numbers can be done",
            )
