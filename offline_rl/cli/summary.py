"""What a finished run came to, in one table, and what one would type next."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_rl.analysis.statistics import Estimate
from offline_rl.cli.common import DEVIATION, INTERVAL, goal_lines, score_line
from offline_rl.cli.estimate import command_for
from offline_rl.envs.registry import SUCCESS

Row = Mapping[str, Any]


def print_report(run: Any) -> int:
    """Print what a run came to, phase by phase, next to the data and an untrained agent.

    Returns:
        The exit status: 1 if all agents have diverged, else 0.
    """
    config, rows = run.config, run.rows
    last = [row for row in rows if row["kind"] == "final"]
    print("\n" + "\n".join(_summary(config, rows)))
    curve = ", curve.png" if (run.path / "curve.png").exists() else ""
    print(f"saved in {run.path}: agents/seed-N, metrics.jsonl{curve}")
    if _all_diverged(rows):
        who = "the agent has" if len(config["options"]["seeds"]) == 1 else "all agents have"
        print(f"error: {who} diverged, so {run.path} has no result; lower the learning rates", file=sys.stderr)
        return 1
    print("\n".join(_next_commands(run.path, config, scored=bool(last))))
    return 0


def _all_diverged(rows: Sequence[Row]) -> bool:
    """Say whether no agent is left, by the last evaluation if there is one, else by the last losses."""
    final = [row for row in rows if row["kind"] == "final"]
    if final:
        return all(row["return"] is None for row in final if row["step"] == final[-1]["step"])
    newest = {row["seed"]: row for row in rows if row["kind"] == "train"}
    return bool(newest) and all(None in row.values() for row in newest.values())


def _next_commands(path: Path, config: Row, *, scored: bool) -> list[str]:
    seeds, run = config["options"]["seeds"], shlex.quote(str(path))
    one = f" --seed {seeds[0]}" if len(seeds) > 1 else ""
    commands = [
        *([f"offline-rl evaluate {run}"] if config["task"] else _estimating(path, config)),
        f"offline-rl export {run}{one} --out policy.onnx",
        *([f"offline-rl report {run} --out report"] if scored else []),
    ]
    return [f"{'' if number else 'next':6}{command}" for number, command in enumerate(commands)]


def _estimating(path: Path, config: Row) -> list[str]:
    """Return the command that says what agents without a task are worth; none for those that it refuses."""
    from offline_rl.agent import SequenceAgent, find_algorithm

    if issubclass(find_algorithm(config["algorithm"], config["config"]), SequenceAgent):
        return []
    return [command_for(path, config["dataset"]["source"])]


def _summary(config: Row, rows: Sequence[Row]) -> list[str]:
    final = [row for row in rows if row["kind"] == "final"]
    data, steps, online_steps = config["dataset"], config["options"]["steps"], config["options"]["online_steps"]
    length = [f"{steps:,} updates"] * bool(steps) + [f"{online_steps:,} online"] * bool(online_steps)
    dynamics = f", {config['dynamics']} dynamics" if config["task"] else ""
    lines = [f"{config['algorithm']} on {data['name']}, {' and '.join(length)}{dynamics}"]
    lines += _estimates(rows)
    if not final:
        return lines
    reference = data.get("reference") or {"score_name": "normalised score", "returns": "D4RL's"}
    lines.append(score_line("", "return", reference["score_name"]))
    for step in sorted({row["step"] for row in final}):
        if online_steps:
            lines.append("  after the offline phase" if step == steps else "  after the online phase")
        lines += _phase([row for row in final if row["step"] == step], config)
    if data["mean_return"] is not None:
        lines.append(score_line("mean of the data", f"{data['mean_return']:.1f}", _rounded(data["mean_score"])))
    untrained = [row for row in rows if row["kind"] == "evaluation" and row["step"] == 0]
    lines += [_played("untrained agent", row, config) for row in untrained[:1]]
    return lines + _remarks(final, config, reference)


def _estimates(rows: Sequence[Row]) -> list[str]:
    """Return the last estimate of each agent, if a run has made any."""
    last = {row["seed"]: row for row in rows if row["kind"] == "estimate"}
    lines = [f"  discounted value by the data alone: {_estimated(row)}, seed {seed}" for seed, row in last.items()]
    return [*lines, "  an estimate is no score; the range is a 90 % interval"] if lines else []


def _estimated(row: Row) -> str:
    if row["value"] is None or row["value_low"] is None:
        return f"not known at update {row['step']:,}"
    return f"{row['value']:.4g} ({row['value_low']:.4g} to {row['value_high']:.4g}) at update {row['step']:,}"


def _remarks(final: Sequence[Row], config: Row, reference: Row) -> list[str]:
    """Return what one has to know to read the table."""
    seeds, several = config["options"]["seeds"], final[0]["episodes"] > 1
    remarks = [DEVIATION] if several else []
    if _mean_of_seeds(final, config):
        remarks.append(INTERVAL)
    if len(seeds) == 1:
        remarks.append("one seed is no result; train several: --seeds 0 1 2 3 4")
    if not reference["returns"].startswith("D4RL's"):
        remarks.append(f"this score is not D4RL's; {_meaning(reference)}")
    return [f"  {remark}" for remark in remarks]


def _meaning(reference: Row) -> str:
    return f"0 is a return of {reference['score_0']:.1f}, 100 is {reference['score_100']:.1f}: {reference['returns']}"


def _phase(rows: Sequence[Row], config: Row) -> list[str]:
    """Return the lines of the agents at the end of a phase, and that of their mean."""
    options, each = config["options"], config["options"].get("each", {})
    lines = []
    for row in rows:
        place = options["seeds"].index(row["seed"])
        episodes = f"{row['episodes']} episode{'s' * (row['episodes'] > 1)}"
        about = [f"{name} {values[place]:g}" for name, values in each.items()] or [episodes]
        lines.append(_played(f"seed {row['seed']}, {', '.join(about)}", row, config))
        lines += goal_lines(row)
        for name in (key.removeprefix("return/") for key in row if key.startswith("return/")):
            lines.append(
                score_line(f"  asked for {name}", _rounded(row[f"return/{name}"]), _rounded(row[f"score/{name}"]))
            )
    return lines + _mean_of_seeds(rows, config)


def _mean_of_seeds(rows: Sequence[Row], config: Row) -> list[str]:
    """Return the line of the mean of seeds that differ in nothing else; none where there is no such mean."""
    if len(config["options"]["seeds"]) == 1 or config["options"].get("each"):
        return []
    step = rows[-1]["step"]
    found = [row for row in rows if row["step"] == step]
    if lost := sum(row["score"] is None for row in found):
        return [score_line("mean of seeds", f"none, {lost} of {len(found)}", "diverged")]
    returns, scores = (Estimate.of([row[name] for row in found]) for name in ("return", "score"))
    return [score_line(f"mean of {len(found)} seeds", str(returns), str(scores))]


def _played(what: str, row: Row, config: Row) -> str:
    """Return the line of an agent that has played, with the standard deviations over its episodes."""
    if row["return"] is None or row["score"] is None:
        return score_line(what, "has diverged", "")
    if row["episodes"] < 2 or row["return_std"] is None:
        return score_line(what, _rounded(row["return"]), _rounded(row["score"]))
    if (config["dataset"].get("reference") or {}).get("returns") == SUCCESS:
        spread = (row["score"] * (100 - row["score"])) ** 0.5
    else:
        low, high = _references(config)
        spread = 100 * row["return_std"] / (high - low)
    return score_line(what, f"{row['return']:.1f} ± {row['return_std']:.1f}", f"{row['score']:.1f} ± {spread:.1f}")


def _references(config: Row) -> tuple[float, float]:
    """Return the returns that score 0 and 100; runs of older versions did not record D4RL's."""
    from offline_rl.envs.tasks import find_task

    if reference := config["dataset"].get("reference"):
        return reference["score_0"], reference["score_100"]
    robot = find_task(config["task"]).robot
    return robot.reference_min, robot.reference_max


def _rounded(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
