"""How a run introduces itself: what it does, on what, with which settings, and where it is."""

import inspect
import re
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any

from offline_rl.kernels.choice import kernel_in_words
from offline_rl.training.memory import Memory
from offline_rl.training.plan import Compute, Plan

WIDTH, LABEL = 80, 11
"""Columns of a line, and of the label at its beginning."""
MODES = {"eager": "eager updates", "compile": "compiled updates", "cudagraph": "updates as CUDA graphs"}


def introduction(plan: Plan, compute: Compute, out: Path, memory: Memory, *, resumed: bool) -> list[str]:
    """Return the lines with which a run begins.

    Args:
        plan: What it does.
        compute: How it computes.
        out: Its folder.
        memory: What it needs.
        resumed: Whether it goes on, so that preset and settings are those that its ``config.json`` has.
    """
    preset, *remarks = plan.sentences()
    facts = [
        ("algorithm", f"{plan.algorithm.name}, {_first_line(sys.modules[plan.algorithm.__module__])}"),
        ("objective", re.sub(r"\s*\([^()]*\bequations?\b[^()]*\)$", "", _first_line(plan.algorithm))),
        ("dataset", "; ".join([_dataset(plan), *remarks])),
        ("preset", "" if resumed else preset.removeprefix("preset ").replace("no preset:", "none:", 1)),
        ("settings", f"those in {out / 'config.json'}" if resumed else _settings(plan)),
        ("run", _run(plan)),
        ("compute", f"{compute.device}, {_mode(plan, compute, resumed=resumed)}, {_kernel(plan, compute)}"),
        ("memory", memory.in_words),
        ("folder", str(out)),
        ("stop", f"Ctrl-C; continue with: offline-rl resume {shlex.quote(str(out))}"),
    ]
    return [line for label, text in facts if text for line in wrapped(label, text)]


def wrapped(label: str, text: str) -> list[str]:
    """Return the lines that say something under a label."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{label:{LABEL}}",
        subsequent_indent=" " * LABEL,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _first_line(documented: Any) -> str:
    return next(iter(inspect.cleandoc(documented.__doc__ or "").splitlines()), "").rstrip(".")


def _dataset(plan: Plan) -> str:
    data = plan.dataset
    if not len(data):
        return "none: the agents begin with what they collect"
    score = plan.score(data.whole_returns)
    facts = [
        f"{data.name}: {len(data):,} rows in {len(data.episode_returns):,} episodes",
        f"mode {data.metadata['mode']}" if "mode" in data.metadata else "",
        f"mean {plan.score_name} {score:.1f}" if score is not None else f"mean return {data.mean_return:.1f}",
    ]
    return ", ".join(filter(None, facts))


def _settings(plan: Plan) -> str:
    """Return what differs from the defaults, but for the preset's settings, of which its own sentence tells."""
    current, defaults, each = plan.config.settings(), plan.config.defaults(), plan.options.each
    own = [
        f"{name} {value} (default {defaults[name]})"
        for name, value in current.items()
        if value != defaults[name] and name not in plan.preset.settings and name not in each
    ]
    own += [f"{name} {', '.join(f'{value:g}' for value in values)} (by seed)" for name, values in each.items()]
    return ", ".join(own) or ("the defaults for the rest" if plan.preset.entries else "the defaults")


def _run(plan: Plan) -> str:
    options, seeds = plan.options, ", ".join(map(str, plan.options.seeds))
    updates = f"{options.steps:,} updates" if options.steps else ""
    online = f"{options.online_steps:,} {'' if updates else 'steps '}online" if options.online_steps else ""
    length = ", ".join(filter(None, (updates, online)))
    every = f"; evaluated every {options.eval_every:,} updates" if options.eval_every else ""
    several = "s" * (len(options.seeds) > 1)
    return f"seed{several} {seeds}; {length}{' each' * bool(several)}{every}"


def _mode(plan: Plan, compute: Compute, *, resumed: bool) -> str:
    """Return how updates are made, and why; a run that goes on keeps what it began with, whatever the reason was."""
    reason = "" if resumed else plan.choice.reason
    return MODES[compute.mode] + (f" ({reason})" if reason else "")


def _kernel(plan: Plan, compute: Compute) -> str:
    if compute.device != "cpu":
        return f"{plan.options.precision} matrix products"
    return kernel_in_words(compute.kernel, plan.options.threads)
