"""What a person sees of a sweep: a table while it runs; at the end the best trials, importance, a picture."""

import dataclasses
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offline_rl.analysis.statistics import BudgetCurve
from offline_rl.analysis.tables import markdown
from offline_rl.errors import RunError, brief
from offline_rl.files import write_json
from offline_rl.sweep.file import Sweep
from offline_rl.sweep.folder import command, run_folder
from offline_rl.sweep.search import Search, Trial
from offline_rl.sweep.space import Choice, spelled
from offline_rl.tracking.record import read_rows

logger = logging.getLogger(__name__)
FORMAT = 1
TOP = 5
"""Trials that the end of a sweep lists."""
FIRST_NEW_SEED = 10
NEW_SEEDS = 4
"""Seeds of the command that trains the best settings again."""
IMPORTANCE_TRIALS = 10
IMPORTANCE_TRIALS_EACH = 3
"""Finished trials, in all and for each parameter, below which importance would be chance."""
BUDGET_TRIALS = 5
"""Trials with a value below which the expected best of several would be chance."""
SHOWN = 20
"""Trials that the table shows: all that run, then the best."""
REFRESH_SECONDS = 1.0


class Table:
    """Shows trials on standard error: a table on a terminal, otherwise a plain line whenever a trial's state changes.

    Args:
        sweep: The sweep.
        folder: Its folder.
    """

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        from rich import console, live

        self._sweep, self._folder = sweep, folder
        self._states: dict[int, str] = {}
        self._steps = sweep.settings({name: p.at(0.5) for name, p in sweep.parameters.items()})[0].total_steps
        self._folders: dict[int, Path] = {}
        self._next = 0.0
        error = console.Console(stderr=True)
        self._live = live.Live(console=error, auto_refresh=False) if sys.stderr.isatty() else None
        if self._live:
            self._live.start()

    def show(self, trials: Sequence[Trial]) -> None:
        """Show how things stand."""
        for trial in trials:
            if len(trial.point) < len(self._sweep.parameters):
                continue  # it is only just being made
            if self._live is None and self._states.get(trial.number) != trial.state:
                self._states[trial.number] = trial.state
                logger.info("%s", self._line(trial))
        if self._live and time.monotonic() >= self._next:
            self._live.update(self._table(trials), refresh=True)
            self._next = time.monotonic() + REFRESH_SECONDS

    def say(self, text: str) -> None:
        """Show a sentence, unless the table says it all."""
        if self._live is None:
            logger.info("%s", text)

    def close(self, trials: Sequence[Trial]) -> None:
        """Show how things stand at the end."""
        self._next = 0.0
        self.show(trials)
        if self._live:
            self._live.stop()

    def _line(self, trial: Trial) -> str:
        point = "  ".join(f"{name} {shown(value)}" for name, value in trial.point.items())
        came_to = f"{self._sweep.metric.name} {trial.value:.4g}" if trial.value is not None else trial.error or ""
        what = "  ".join(part for part in (trial.state, came_to, point) if part)
        return f"trial {trial.number + 1}/{self._sweep.cap}  {what}"

    def _table(self, trials: Sequence[Trial]) -> Any:
        from rich.table import Table

        done = sum(trial.state != "running" for trial in trials)
        table = Table(
            title=f"{self._sweep.method} sweep of {self._sweep.algorithm}: {done} of {self._sweep.cap} trials"
        )
        for column in ("trial", "state", *self._sweep.parameters, "step", self._sweep.metric.name):
            table.add_column(column)
        running = [trial for trial in trials if trial.state == "running"]
        others = ranked(self._sweep, [trial for trial in trials if trial.state != "running"])
        for trial in [*running, *others][:SHOWN]:
            values = [*trial.history, trial.value] if trial.value is not None else trial.history
            point = [shown(trial.point[name]) if name in trial.point else "" for name in self._sweep.parameters]
            step = f"{self._step(trial):,}/{self._steps:,}" if trial.state == "running" else ""
            cells = [str(trial.number + 1), trial.state, *point, step, f"{values[-1]:.4g}" if values else ""]
            table.add_row(*cells)
        return table

    def _step(self, trial: Trial) -> int:
        """Return the last step that a running trial has recorded."""
        if len(trial.point) < len(self._sweep.parameters):
            return 0
        if trial.number not in self._folders:
            self._folders[trial.number] = run_folder(self._folder, self._sweep, trial.point)
        try:
            rows = read_rows(self._folders[trial.number] / "metrics.jsonl")
        except RunError:  # not begun, or just being cut off
            return 0
        return int(rows[-1]["step"]) if rows else 0


def shown(value: Any) -> str:
    """Return a value as a person reads it."""
    return f"{value:.4g}" if isinstance(value, float) else brief(value, 100)


def ranked(sweep: Sweep, trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials, finished ones first, the best before the others."""
    sign = -1 if sweep.metric.maximize else 1
    return sorted(trials, key=lambda t: (t.state != "finished", t.value is None, sign * (t.value or 0.0), t.number))


def importance(search: Search, sweep: Sweep) -> dict[str, float] | None:
    """Return how much of the metric's variation each parameter explains, by PED-ANOVA; None if that cannot be computed.

    Source: Watanabe et al., PED-ANOVA (https://arxiv.org/abs/2304.10255), as Optuna computes it.
    """
    import optuna

    if not sweep.parameters:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            found = optuna.importance.get_param_importances(search.study, evaluator=evaluator)
    except (ValueError, RuntimeError):
        return None
    return {name: float(value) for name, value in found.items()}


def conclude(search: Search, sweep: Sweep, folder: Path) -> str:
    """Write ``summary.json`` and ``sweep.png``; return in words and a Markdown table what the sweep came to."""
    trials = search.trials()
    finished = [trial for trial in ranked(sweep, trials) if trial.state == "finished"]
    seeds = used_seeds(sweep, trials)
    weights = importance(search, sweep) if len(finished) >= needed_trials(sweep) else None
    curve = budget_curve(sweep, trials)
    told = {"importance": weights, "budget": curve and dataclasses.asdict(curve)}
    write_json(folder / "summary.json", _summary(sweep, folder, trials, finished, seeds, told))
    draw(sweep, trials, folder / "sweep.png", curve)
    counts = {state: sum(trial.state == state for trial in trials) for state in dict.fromkeys(t.state for t in trials)}
    said = [f"{len(trials)} trials: {', '.join(f'{count} {state}' for state, count in counts.items())}"]
    said += [f"  trial {trial.number + 1} failed: {trial.error}" for trial in trials if trial.error]
    said += _on_the_best(sweep, folder, finished, seeds) if finished else ["no trial has finished"]
    if weights:
        said.append("importance: " + ", ".join(f"{name} {value:.0%}" for name, value in weights.items()))
    elif sweep.parameters:
        said.append(f"importance: {_no_importance(sweep, finished)}")
    said += _on_the_budget(sweep, trials, curve)
    return "\n".join([*said, f"saved in {folder}: summary.json, sweep.png, runs"])


def budget_curve(sweep: Sweep, trials: Sequence[Trial]) -> BudgetCurve | None:
    """Return the expected best value against the number of trials; None if trials are not independent, or too few.

    A trial that was stopped early counts with what it had come to: that is what the budget was spent on.
    """
    values = [trial.value for trial in trials if trial.value is not None]
    if sweep.method == "bayes" or len(values) < BUDGET_TRIALS:
        return None
    return BudgetCurve.of(values, maximize=sweep.metric.maximize)


def _on_the_budget(sweep: Sweep, trials: Sequence[Trial], curve: BudgetCurve | None) -> list[str]:
    """Return the lines on what tuning came to against what it cost."""
    if curve is None:
        why = "a Bayesian search does not draw its trials independently"
        few = f"it needs {BUDGET_TRIALS} trials with a value"
        return [f"tuning budget: not told; {why if sweep.method == 'bayes' else few}"]
    assert curve.low is not None
    assert curve.high is not None
    ends = [f"{low:.4g} to {high:.4g}" for low, high in zip(curve.low, curve.high, strict=True)]
    rows = [list(row) for row in zip(map(str, curve.tries), (f"{best:.4g}" for best in curve.best), ends, strict=True)]
    without = sum(trial.value is None for trial in trials)
    left_out = f"; {without} without a value are left out, so that it looks too good" if without else ""
    return [
        "",
        markdown(["trials drawn", f"expected best {sweep.metric.name}", "95 % interval"], rows),
        "",
        f"tuning budget: the best of so many trials, drawn from the {len(trials) - without} of this sweep{left_out}",
    ]


def _on_the_best(sweep: Sweep, folder: Path, finished: Sequence[Trial], seeds: Sequence[int]) -> list[str]:
    """Return the lines on the best trials, of at least one, and on how to check the first of them."""
    best = finished[0]
    head = ["rank", "trial", sweep.metric.name, *sweep.parameters]
    rows = [
        [
            str(rank),
            str(trial.number + 1),
            f"{trial.value:.4g}",
            *(shown(trial.point[name]) for name in sweep.parameters),
        ]
        for rank, trial in enumerate(finished[:TOP], 1)
    ]
    return [
        f"best: trial {best.number + 1}, {sweep.metric.name} {best.value:.4g}, {_name(folder, sweep, best)}",
        "",
        markdown(head, rows),
        "",
        _caution(sweep, finished, seeds),
        f"train the best settings on new seeds by\n  {_command(sweep, best, seeds)}",
    ]


def _caution(sweep: Sweep, finished: Sequence[Trial], seeds: Sequence[int]) -> str:
    """Say how far the best value can be trusted."""
    end = "highest" if sweep.metric.maximize else "lowest"
    on = f"seed {seeds[0]}, on which it was chosen" if len(seeds) == 1 else "the seeds on which it was chosen"
    if len(finished) == 1:
        return f"the value is that of a single trial, on {on}; new seeds show how far it can be trusted"
    return f"the best value is optimistic: it is the {end} of {len(finished)} trials, on {on}"


def used_seeds(sweep: Sweep, trials: Sequence[Trial]) -> list[int]:
    """Return the seeds that trials are trained with; they may be among what is searched."""
    points = {spelled(trial.point.get("seeds")): trial.point for trial in trials}
    return sorted({seed for point in points.values() for seed in sweep.settings(point)[0].seeds})


def new_seeds(used: Sequence[int]) -> list[int]:
    """Return seeds that no trial has seen: 10, 11, 12 and 13, or those after the last one used."""
    first = max(FIRST_NEW_SEED, max(used, default=0) + 1)
    return list(range(first, first + NEW_SEEDS))


def _command(sweep: Sweep, best: Trial, seeds: Sequence[int]) -> str:
    return command(sweep, best.point, new_seeds(seeds), f"runs/{sweep.algorithm}-best")


def needed_trials(sweep: Sweep) -> int:
    """Return how many finished trials the importance needs."""
    return max(IMPORTANCE_TRIALS, IMPORTANCE_TRIALS_EACH * len(sweep.parameters))


def _no_importance(sweep: Sweep, finished: Sequence[Trial]) -> str:
    if len(finished) >= needed_trials(sweep):
        return "it cannot be computed from these trials"
    return (
        f"not computed from {len(finished)} finished trials; it needs {needed_trials(sweep)}"
        f" (at least {IMPORTANCE_TRIALS}, and {IMPORTANCE_TRIALS_EACH} for each parameter)"
    )


def _name(folder: Path, sweep: Sweep, trial: Trial) -> str:
    return str(folder / "runs" / run_folder(folder, sweep, trial.point).name)


def _summary(  # noqa: PLR0917
    sweep: Sweep,
    folder: Path,
    trials: Sequence[Trial],
    finished: Sequence[Trial],
    seeds: Sequence[int],
    told: dict[str, Any],
) -> dict[str, Any]:
    best = finished[0] if finished else None
    return {
        "format": FORMAT,
        "algorithm": sweep.algorithm,
        "method": sweep.method,
        "metric": {"name": sweep.metric.name, "goal": "maximize" if sweep.metric.maximize else "minimize"},
        "best": best and {**_entry(sweep, folder, best), "command": _command(sweep, best, seeds)},
        "caution": _caution(sweep, finished, seeds) if finished else None,
        "seeds": seeds,
        "new_seeds": new_seeds(seeds),
        "top": [_entry(sweep, folder, trial) for trial in finished[:TOP]],
        **told,
        "importance_needs_trials": needed_trials(sweep),
        "trials": [_entry(sweep, folder, trial) for trial in trials],
    }


def _entry(sweep: Sweep, folder: Path, trial: Trial) -> dict[str, Any]:
    run = f"runs/{run_folder(folder, sweep, trial.point).name}"
    what = {"number": trial.number + 1, "state": trial.state, "value": trial.value, "parameters": trial.point}
    return {**what, "run": run, **({"error": trial.error} if trial.error else {})}


def draw(sweep: Sweep, trials: Sequence[Trial], path: Path, curve: BudgetCurve | None = None) -> None:
    """Draw the metric over the trials, over the values of each parameter, and its expected best over the budget.

    Args:
        sweep: The sweep.
        trials: Its trials; those without a value are left out.
        path: Where the PNG goes.
        curve: What :func:`budget_curve` returned; None leaves its panel out.
    """
    # The object interface: it needs no display and leaves the caller's own figures alone.
    from matplotlib.figure import Figure

    known = [trial for trial in trials if trial.value is not None]
    names = ["trial", *sweep.parameters]
    count = len(names) + (curve is not None)
    figure = Figure(figsize=(4 * min(count, 3), 3.2 * -(-count // 3)), layout="constrained")
    panels = figure.subplots(-(-count // 3), min(count, 3), squeeze=False).flatten()
    for axes in panels[count:]:
        axes.set_visible(False)
    if curve is not None:
        _draw_budget(panels[count - 1], curve)
    for name, axes in zip(names, panels, strict=False):
        for state, colour in (("finished", "#0072B2"), ("stopped early", "#E69F00")):
            of_state = [trial for trial in known if trial.state == state]
            places = [_place(sweep, name, trial) for trial in of_state]
            axes.scatter(places, [trial.value for trial in of_state], color=colour, s=18, label=state)
        parameter = sweep.parameters.get(name)
        if isinstance(parameter, Choice):
            axes.set_xticks(range(len(parameter.values)), [str(value) for value in parameter.values], fontsize=7)
        elif parameter and parameter.log and all(_place(sweep, name, trial) > 0 for trial in known):
            axes.set_xscale("log")
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    panels[0].xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel(sweep.metric.name)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def _draw_budget(axes: Any, curve: BudgetCurve) -> None:
    axes.plot(curve.tries, curve.best, color="#0072B2", marker="o", ms=3, lw=1.6)
    axes.fill_between(curve.tries, curve.low, curve.high, color="#0072B2", alpha=0.15, lw=0)
    axes.set_xscale("log")
    axes.set_xticks(curve.tries, list(map(str, curve.tries)), fontsize=7)
    axes.minorticks_off()
    axes.set_xlabel("trials drawn: expected best, 95 % interval")
    axes.grid(alpha=0.3)


def _place(sweep: Sweep, name: str, trial: Trial) -> float:
    """Return where a trial stands on the axis of a parameter."""
    if name == "trial":
        return trial.number + 1
    parameter, value = sweep.parameters[name], trial.point[name]
    if isinstance(parameter, Choice):
        return [spelled(choice) for choice in parameter.values].index(spelled(value))
    return float(value)
