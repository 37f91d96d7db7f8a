"""Does A-PARL need fewer environment steps than the alternation? Hopper and walker2d, from nothing, by comparisons.

``python -m benchmarks.parl_online --out DIR`` trains what is missing and goes on with what was stopped, one run after
the other; killed at any moment, the same command continues. Then, and with ``--steps 0`` at once, it writes

* ``DIR/table.md``: the return at the end, and the environment steps after which an evaluation first reached 50 % and
  80 % of the oracle's return at the end, with 95 % intervals over seeds where every seed has reached it;
* ``DIR/ranking.png``: how the return, and the share of unasked pairs that the rewards rank rightly, grow.

The oracle is the same soft actor-critic on the task's own rewards. "Zero" learns from a constant of 1, which pays for
staying alive: what is as good as that is no merit of comparisons. A budget is spread over 20 rounds. A threshold is a
share of the *distance* from no return, because all returns here are positive.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import offline_rl as orl
from offline_rl.algos.parl_online.agent import PARLOnline
from offline_rl.analysis.statistics import Estimate
from offline_rl.data.packed import PackedRows
from offline_rl.envs.tasks import find_task
from offline_rl.errors import OfflineRLError
from offline_rl.files import write_bytes
from offline_rl.kernels.choice import choose_kernel, use_kernel
from offline_rl.training.loop import make_updates
from offline_rl.training.replica import Replica

TASKS = "hopper", "walker2d"
BUDGETS = 100, 400
ROUNDS = 20
SHARES = 0.5, 0.8
WITHOUT_LABELS: Mapping[str, Mapping[str, Any]] = {"oracle": {"rewards": "oracle"}, "zero": {"rewards": "zero"}}
WITH_LABELS: Mapping[str, Mapping[str, Any]] = {"decoupled": {"hyper_mode": "none"}, "A-PARL": {"hyper_mode": "cg"}}


def jobs(tasks: Sequence[str], budgets: Sequence[int]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return task, method and settings of all runs, the oracle of each task first."""
    asked = [
        (f"{name}, {budget} labels", {**settings, "num_labels": budget, "labels_per_round": max(2, budget // ROUNDS)})
        for budget, (name, settings) in itertools.product(budgets, WITH_LABELS.items())
    ]
    methods = [(name, dict(settings)) for name, settings in WITHOUT_LABELS.items()] + asked
    return [(task, name, settings) for task in tasks for name, settings in methods]


def folder_of(out: Path, task: str, method: str) -> Path:
    """Return the folder of a run."""
    return out / "runs" / f"{task}-{method.lower().replace(', ', '-').replace(' ', '-')}"


def run_missing(
    wanted: Sequence[tuple[str, str, dict[str, Any]]], out: Path, steps: int, seeds: list[int], **more: Any
) -> None:
    """Train every run that is not finished; ``more`` are settings of all."""
    for task, method, settings in wanted:
        folder = folder_of(out, task, method)
        options = {"task": task, "online_steps": steps, "seeds": seeds, "eval_every": max(1, steps // 40)}
        common = {"eval_episodes": 10, "final_episodes": 20, "quiet": True, "resume": folder.exists()}
        print(f"{task}: {method}", flush=True)
        orl.train("parl_online", "none", out=str(folder), **{**options, **common, **settings, **more})


def curves(run: orl.Run) -> dict[int, list[tuple[int, float]]]:
    """Return steps and returns of each seed's evaluations, the final one last."""
    played = [row for row in run.rows if row["kind"] in ("evaluation", "final")]
    return {
        seed: [(row["step"], row["return"]) for row in played if row["seed"] == seed]
        for seed in run.config["options"]["seeds"]
    }


def reached(curve: Sequence[tuple[int, float]], level: float) -> int | None:
    """Return the first step whose evaluation has this return; None if there is none."""
    return next((step for step, value in curve if value >= level), None)


def interval(values: Sequence[float]) -> str:
    """Return mean and half the width of its 95 % interval, of one value that alone."""
    estimate = Estimate.of(values)
    return f"{estimate.mean:,.0f}" + (f" ± {estimate.half_width:,.0f}" if estimate.half_width is not None else "")


def row_of(task: str, method: str, found: Mapping[int, list[tuple[int, float]]], oracle: float | None) -> list[str]:
    """Return a line of the table; ``oracle`` is the return that the shares are of."""
    cells = [task, method, interval([curve[-1][1] for curve in found.values()])]
    for share in SHARES:
        steps = [None if oracle is None else reached(curve, share * oracle) for curve in found.values()]
        those = [step for step in steps if step is not None]
        every = interval(those) if len(those) == len(steps) else f"{len(those)} of {len(steps)} seeds"
        cells.append("no oracle" if oracle is None else every)
    return cells


def table(wanted: Sequence[tuple[str, str, dict[str, Any]]], out: Path) -> str:
    """Return the table of the runs that are finished, as Markdown."""
    head = ["Task", "Method", "Return at the end", *(f"Steps to {share:.0%} of the oracle's" for share in SHARES)]
    lines, oracle = [head, ["---"] * len(head)], dict[str, float]()
    for task, method, _ in wanted:
        folder = folder_of(out, task, method)
        if not (folder / "agents").exists():
            continue
        found = curves(orl.Run(folder))
        if method == "oracle":
            ends = [curve[-1][1] for curve in found.values()]
            oracle[task] = sum(ends) / len(ends)
        lines.append(row_of(task, method, found, oracle.get(task)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(wanted: Sequence[tuple[str, str, dict[str, Any]]], out: Path) -> None:
    """Draw returns and held-out rankings of the finished runs, the mean of seeds."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(task for task, _, _ in wanted))
    figure = Figure(figsize=(5 * len(tasks), 7), layout="constrained")
    axes = figure.subplots(2, len(tasks), squeeze=False)
    for task, method, _ in wanted:
        folder = folder_of(out, task, method)
        if not (folder / "agents").exists():
            continue
        run, column = orl.Run(folder), tasks.index(task)
        returns = list(zip(*curves(run).values(), strict=True))
        axes[0, column].plot(
            [at[0][0] for at in returns], [sum(v for _, v in at) / len(at) for at in returns], label=method
        )
        right: dict[int, list[float]] = {}
        for row in run.rows:
            if row["kind"] == "train" and "held_out_accuracy" in row:
                right.setdefault(row["step"], []).append(row["held_out_accuracy"])
        axes[1, column].plot(list(right), [sum(values) / len(values) for values in right.values()], label=method)
        axes[0, column].set_title(task)
    for axis, said in zip(axes[:, 0], ("return", "unasked pairs ranked rightly"), strict=True):
        axis.set_ylabel(said)
    for axis in axes.flat:
        axis.set_xlabel("environment steps")
        axis.grid(alpha=0.3)
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(out / "ranking.png", dpi=120)


def cost(random_steps: int = 1000, updates: int = 300) -> str:
    """Return what updates and rounds of each method cost on hopper, in CPU seconds of this thread, as Markdown."""
    lines = [["Method", "Updates of the search/s", "Updates after it/s", "CPU seconds of a round"], ["---"] * 4]
    for name, settings in {**WITHOUT_LABELS, **WITH_LABELS, "A-PARL, onestep": {"hyper_mode": "onestep"}}.items():
        schedule = {"random_steps": random_steps, "search_steps": updates, "feedback_every": 10**9}
        config = PARLOnline.config_class.of({**schedule, "segment_length": 10, **settings})
        agent = PARLOnline(config, 11, 3, steps=0, online_steps=random_steps + 2 * updates + 1)
        replica = Replica(agent, PackedRows.empty(11, 3), find_task("hopper"))
        make_updates(replica, 1, random_steps)
        search = _seconds(make_updates, replica, random_steps + 1, random_steps + updates)
        start = random_steps + updates + 1
        make_updates(replica, start, start)  # the first round
        learn = _seconds(make_updates, replica, start + 1, start + updates)
        cells = [f"{updates / seconds:,.0f}" for seconds in (search, learn)]
        rounds = [_seconds(agent.round) for _ in range(4)] if config.rewards == "learned" else []
        cells[0] = "–" if config.rewards == "oracle" else cells[0]
        lines.append([name, *cells, f"{sum(rounds) / len(rounds):.1f}" if rounds else "–"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _seconds(work: Callable[..., object], *arguments: Any) -> float:
    begin = time.thread_time()
    work(*arguments)
    return time.thread_time() - begin


def main() -> int:
    """Read the command line, run what is missing, write table and picture; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/parl_online"), help="folder of runs, table and picture")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--budgets", nargs="+", type=int, default=BUDGETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps; 0 to train nothing")
    parser.add_argument("--cost", action="store_true", help="measure what updates and rounds cost, and train nothing")
    options = parser.parse_args()
    if options.cost:
        use_kernel(choose_kernel(1), 1)
        print(cost())
        return 0
    wanted = jobs(options.tasks, options.budgets)
    try:
        if options.steps:
            run_missing(wanted, options.out, options.steps, options.seeds)
        text = table(wanted, options.out)
    except OfflineRLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    write_bytes(options.out / "table.md", f"{text}\n".encode())
    draw(wanted, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
