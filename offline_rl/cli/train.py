"""``offline-rl train`` and ``offline-rl finetune``."""

import statistics
from pathlib import Path
from typing import Any

from offline_rl.arguments import CommandLine, UsageError, algorithm_table, options_class, read_off, train_settings
from offline_rl.cli.common import spread
from offline_rl.settings import table_of, types_of


def train_command(arguments: list[str]) -> None:
    """Train an agent for each seed."""
    from offline_rl.agent import algorithms
    from offline_rl.training.run import train

    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] not in ("-h", "--help"):
            raise UsageError(f"name the algorithm first: offline-rl train {'|'.join(algorithms())} --dataset NAME")
        print(f"usage: offline-rl train ALGO --dataset NAME [options]\n\nALGO is one of {', '.join(algorithms())};")
        print("offline-rl train ALGO --help lists all options")
        return
    algorithm, options, overrides = train_settings(arguments)
    print_report(train(algorithm, options=options, **overrides))


def finetune_command(arguments: list[str]) -> None:
    """Go on online with a finished run."""
    from offline_rl.agent import find_algorithm
    from offline_rl.training.finetune import finetune
    from offline_rl.training.options import FinetuneOptions
    from offline_rl.training.run import Run

    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] not in ("-h", "--help"):
            raise UsageError("name the run first: offline-rl finetune RUN --steps N")
        print("usage: offline-rl finetune RUN --steps N [options]\n\nRUN is the folder of a finished run;")
        print("offline-rl finetune RUN --help lists all options, with the run's own settings as defaults")
        return
    old = Run(Path(arguments[0]))
    name, recorded = old.config["algorithm"], old.config["config"]
    config = find_algorithm(name, recorded).config_class.of(recorded)
    table, own = algorithm_table(name, config), types_of(FinetuneOptions)

    def command(run: Any, agent: Any) -> tuple[Any, Any]:
        """Train the agents of a finished run online, in a new run folder; evaluate, save; print the scores.

        Args:
            run: The run.
            agent: The algorithm's settings.
        """
        return run, agent

    command.__annotations__ |= {"run": options_class(table_of(FinetuneOptions)), "agent": options_class(table)}
    line = CommandLine(arguments[1:], {**own, **{key: setting.kind for key, setting in table.items()}})
    run, agent = line.parse(command, "offline-rl finetune RUN")
    overrides = read_off(agent, [key for key in line.given if key in table])
    print_report(finetune(old, options=FinetuneOptions(**read_off(run, own)), **overrides))


def print_report(run: Any) -> None:
    """Print what a run came to, phase by phase, next to the data and an untrained agent."""
    config, rows = run.config, run.rows
    final = [row for row in rows if row["kind"] == "final"]
    data, steps, online_steps = config["dataset"], config["options"]["steps"], config["options"]["online_steps"]
    online = f" and {online_steps:,} online" if online_steps else ""
    print(f"\n{config['algorithm']} on {data['name']}, {steps:,} updates{online}")
    if final:
        reference = data.get("reference") or {"score_name": "normalised score", "returns": "D4RL's"}
        print(f"  {'':22}{'return':>18}  {reference['score_name']:>17}   ({config['dynamics']} dynamics)")
        untrained = [row for row in rows if row["kind"] == "evaluation" and row["step"] == 0]
        for step in sorted({row["step"] for row in final}):
            if online_steps:
                print("  after the offline phase" if step == steps else "  after the online phase")
            _print_final([row for row in final if row["step"] == step], config["options"])
        print(_score_line("mean of the data", data["mean_return"], None, data["mean_score"]))
        if untrained:
            row = untrained[0]
            print(_score_line("untrained agent", row["return"], spread(row), row["score"]))
        if not reference["returns"].startswith("D4RL's"):
            print(f"  this score is not D4RL's; {_meaning(reference)}")
    curve = ", curve.png" if (run.path / "curve.png").exists() else ""
    print(f"saved in {run.path}: agents/seed-N, metrics.jsonl{curve}")


def _meaning(reference: dict[str, Any]) -> str:
    return f"0 is a return of {reference['score_0']:.1f}, 100 is {reference['score_100']:.1f}: {reference['returns']}"


def _print_final(rows: list[dict[str, Any]], options: dict[str, Any]) -> None:
    each = options.get("each", {})
    for row in rows:
        place = options["seeds"].index(row["seed"])
        about = [f"{name} {values[place]:g}" for name, values in each.items()] or [f"{row['episodes']} episodes"]
        what = f"seed {row['seed']}, {', '.join(about)}"
        print(_score_line(what, row["return"], spread(row), row["score"]))
        for name in (key.removeprefix("return/") for key in row if key.startswith("return/")):
            print(_score_line(f"  asked for {name}", row[f"return/{name}"], None, row[f"score/{name}"]))
    if len(rows) > 1 and not each and all(row["score"] is not None for row in rows):
        mean = {name: statistics.fmean(row[name] for row in rows) for name in ("return", "score")}
        print(_score_line("mean of seeds", mean["return"], None, mean["score"]))


def _score_line(what: str, mean: float | None, spread: str | None, score: float | None) -> str:
    if mean is None or score is None:
        return f"  {what:22}{'has diverged':>18}"
    returns = f"{mean:.1f}" + (f" ± {spread}" if spread is not None else "")
    return f"  {what:22}{returns:>18}  {score:>17.1f}"
