"""The check for a clock that is not observed."""

from collections.abc import Iterator

import numpy as np

from offline_rl.checks.finding import Finding
from offline_rl.checks.view import FloatArray, View

STRONG = 0.3
"""Part of what is otherwise unexplained that the time in the episode must explain."""
TOLD = 0.7
"""Part of the variance of the time from which on the observations tell it, as where all episodes start alike.

What the time then adds cannot be told from what the fit of the observations misses."""
WAVES = 6
"""Waves over the length of an episode that a clock may make."""


def hidden_clock(view: View) -> Iterator[Finding]:
    """Find actions, rewards or changes that depend on the time in the episode, which no observation shows."""
    ages = view.age[view.sample]
    if view.rows < 500 or len(view.starts) < 10 or np.ptp(ages) < 4:
        return
    time = ages[:, None].astype(np.float64)
    if not len(view.varying) or view.gain(np.zeros((len(ages), 0)), view.states, time).share[0] > TOLD:
        return
    clock = _clock(ages)
    both = np.column_stack([view.states, view.actions])
    for what, inputs, targets, names in (
        ("actions", view.states, view.actions, [f"'{name}'" for name in view.action_names]),
        ("what follows", both, view.effects, view.effect_names),
    ):
        gain = view.gain(inputs, clock, targets)
        strong = gain.beyond(STRONG)
        if strong.any():
            best = int(np.argmax(np.where(strong, gain.share, -np.inf)))
            yield Finding(
                "hidden_clock",
                "warning",
                f"the time in the episode explains {gain.share[best]:.0%} of what the observations"
                f"{' and actions' * (what != 'actions')} leave unexplained of {names[best]}, on other episodes",
                "the agent cannot know that time, so it learns a mean over all times",
                "add the time in the episode, or whatever it stands for, as an observation",
            )


def _clock(ages: np.ndarray) -> FloatArray:
    """Return the time in the episode `(K, 1 + 2 WAVES)` from -1 to 1, and waves of it."""
    part = ages / max(1, ages.max())
    waves = np.arange(1, WAVES + 1) * 2 * np.pi * part[:, None]
    found: FloatArray = np.column_stack([2 * part - 1, np.sin(waves), np.cos(waves)])
    return found
