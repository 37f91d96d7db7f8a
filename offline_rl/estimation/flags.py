"""What speaks against an estimate, found in the data and in the estimate itself."""

import math
from collections.abc import Sequence

import numpy as np

from offline_rl.checks.finding import Finding
from offline_rl.estimation.log import Log
from offline_rl.estimation.result import Comparison, CurvePoint, Flag, Importance, Interval, Support
from offline_rl.estimation.support import LIMIT

FEW_EPISODES = 20
"""Below so many episodes an interval is too narrow: a bootstrap sees no more luck than the episodes had.

Simulated in ``tests/estimation/test_fqe.py``: 90 % intervals held the truth in about 80 % of datasets of 5 episodes."""
FEW_EFFECTIVE = 10.0
"""Below so many effective episodes importance weights say nothing."""
CUT = 0.05
"""Share of a return that lies beyond the ends of cut episodes, γ^T, above which the data's value lacks too much."""
LEAST_PASSES = 3.0
"""Time constants of the target network that the updates must last: e⁻³, 5 %, is left of a wrong start."""
SLACK = 0.05
"""How far, as a share of all possible values, a value may lie beyond them by error of approximation."""
LONGER = 10
"""How many times as long as the longest recorded episode another one may be, where nothing is discounted."""


def flags_of(
    log: Log,
    values: Sequence[tuple[Comparison, float]],
    curve: Sequence[CurvePoint],
    importance: Importance | None,
    support: Support,
    *,
    ends: Finding | None,
) -> tuple[Flag, ...]:
    """Return all that was found, the gravest first.

    Args:
        log: The recorded episodes.
        values: The discounted value, then the undiscounted one, if there is one; each with how many time constants of
            the target network the updates last.
        curve: The discounted value after each part of the updates.
        importance: Estimates by importance weights, if there are any.
        support: How far the agent leaves the data.
        ends: What :func:`offline_rl.checks.ends.time_limit_as_end` has found, if anything.
    """
    (value, passes), *more = values
    found = [
        _diverged(log, value),
        _endless(log, value.discount),
        _few_updates(passes),
        _moving(value, curve),
        _disagree(log, value, importance),
        _ends(ends),
        _support(support),
        *(_undiscounted(log, *own) for own in more),
        _cut(log, value.discount),
        _episodes(log),
        _weights(importance),
    ]
    return tuple(flag for flag in found if flag)


def possible_values(log: Log, discount: float) -> tuple[float, float]:
    """Return the lowest and highest value that any policy can have whose rewards are within those recorded."""
    horizon = 1 / (1 - discount) if discount < 1 else LONGER * float(log.lengths.max())
    low, high = float(log.reward.min()) * horizon, float(log.reward.max()) * horizon
    # Where episodes end, there may be less of everything.
    return (min(low, 0.0), max(high, 0.0)) if log.ended.any() else (low, high)


def _diverged(log: Log, value: Comparison) -> Flag | None:
    low, high = possible_values(log, value.discount)
    slack = SLACK * max(high - low, abs(high), abs(low))
    beyond = [own for own in value.members if not low - slack <= own <= high + slack]
    if not beyond:
        return None
    text = (
        f"{len(beyond)} of {len(value.members)} critics have diverged: one says {beyond[0]:.3g}, but recorded rewards"
        f" allow {low:.3g} to {high:.3g}"
    )
    return Flag("diverged", text)


def _endless(log: Log, discount: float) -> Flag | None:
    """Say that a sum of rewards that never ends has no value."""
    cut = int((~log.ended[log.used]).sum())
    if discount < 1 or not cut:
        return None
    text = (
        f"γ is 1, but {cut:,} of {int(log.used.sum()):,} episodes are cut before they end, so nothing bounds the sum"
        " of all rewards; give a smaller --discount"
    )
    return Flag("endless", text)


def _few_updates(passes: float) -> Flag | None:
    if passes >= LEAST_PASSES:
        return None
    text = (
        f"the updates are too few for the critics to forget what they began with: {passes:.1f} time constants of"
        f" their targets, of at least {LEAST_PASSES:g}; give more --updates"
    )
    return Flag("updates", text)


def _undiscounted(log: Log, value: Comparison, passes: float) -> Flag | None:
    """Judge the undiscounted value, which has critics of its own: they may fail where the others do not."""
    reason = _diverged(log, value) or _few_updates(passes)
    return Flag("undiscounted", f"the undiscounted value is not known: {reason.text}") if reason else None


def _moving(value: Comparison, curve: Sequence[CurvePoint]) -> Flag | None:
    """Compare the end with half of the training."""
    end, half = curve[-1], curve[(len(curve) - 1) // 2]
    moved, allowed = abs(end.mean - half.mean), value.agent.half_width
    if len(curve) < 2 or allowed is None or moved <= max(allowed, 1e-9 * abs(end.mean)):
        return None
    text = (
        f"the value still moves: by {moved:.3g} in the second half of the updates, more than half its interval; give"
        " more --updates"
    )
    return Flag("moving", text)


def _disagree(log: Log, value: Comparison, importance: Importance | None) -> Flag | None:
    if importance is None or importance.effective_episodes < FEW_EFFECTIVE:
        return None
    names = {"doubly robust": importance.doubly_robust}
    # What lies beyond time limits is in the critics' value and not in this one; that is no disagreement.
    if _beyond(log, value.discount) <= CUT:
        names = {"per-decision importance sampling": importance.per_decision, **names}
    for name, other in names.items():
        if not value.agent.overlaps(other):
            return Flag("disagree", f"{name} says {_said(other)}, the critics say {_said(value.agent)}")
    return None


def _support(support: Support) -> Flag | None:
    if support.share <= LIMIT:
        return None
    text = (
        f"in {100 * support.share:.0f} % of the recorded states the agent's action is farther from recorded ones than"
        " 95 % of these are from each other; its value there is extrapolated"
    )
    return Flag("support", text)


def _ends(finding: Finding | None) -> Flag | None:
    """Judge ends after a fixed number of steps, as the check of the data has found them.

    Where the state does not show that the end comes, no value can be known: if a time limit was marked as an end, what
    follows is left out; if it is an end, critics that see the state alone cannot foresee it.
    """
    if finding is None:
        return None
    if finding.severity == "warning":
        return Flag("ends", f"{finding.evidence}; so what follows is left out of the value; {finding.remedy}")
    text = f"{finding.evidence}; the value is right if the task itself ends there, and wrong if only the recording does"
    return Flag("limit", text)


def _beyond(log: Log, discount: float) -> float:
    """Return the share of the data's return that lies beyond the ends of cut episodes, if rewards go on as before."""
    return float(np.where(log.ended, 0.0, discount ** log.lengths.astype(float))[log.used].mean())


def _cut(log: Log, discount: float) -> Flag | None:
    beyond = _beyond(log, discount)
    if beyond <= CUT:
        return None
    text = (
        f"about {100 * beyond:.0f} % of the data's discounted return lies beyond the time limits of its episodes and is"
        " not in the data's value, though in the agent's; so the difference is no comparison"
    )
    return Flag("cut", text)


def _episodes(log: Log) -> Flag | None:
    count = len(log.lengths)
    if count >= FEW_EPISODES:
        return None
    if count == 1:
        return Flag("alone", "the data is one episode, so nothing says how far the value can be trusted")
    return Flag(
        "episodes", f"the data has {count} episodes, fewer than {FEW_EPISODES}, so its intervals are too narrow"
    )


def _weights(importance: Importance | None) -> Flag | None:
    if importance is None or importance.effective_episodes >= FEW_EFFECTIVE:
        return None
    text = (
        f"importance weights rest on {importance.effective_episodes:.1f} of {importance.episodes:,} episodes, so they"
        " neither confirm nor deny the critics"
    )
    return Flag("weights", text)


def _said(interval: Interval) -> str:
    half = interval.half_width
    return f"{interval.mean:.3g}" + ("" if half is None or not math.isfinite(half) else f" ± {half:.2g}")
