"""The commands, such as ``offline-rl train`` and ``offline-rl report``; :data:`USAGE` lists them."""

import dataclasses
import importlib.metadata
import inspect
import io
import json
import os
import select
import signal
import statistics
import sys
import threading
import typing
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from offline_rl.arguments import CommandLine, UsageError, train_settings, training_types, types_of
from offline_rl.errors import Interrupted, OfflineRLError, brief, quoted, suggestion
from offline_rl.interpreter import obey_leash
from offline_rl.launchers import Launcher

TRACEBACK = "OFFLINE_RL_TRACEBACK"
"""The environment variable that lets an error that nobody has foreseen keep its traceback."""
Dynamics = typing.Literal["d4rl", "plain"]

USAGE = """offline-rl: offline reinforcement learning on D4RL locomotion

  offline-rl train ALGO --dataset NAME    train, evaluate and save an agent for each seed
  offline-rl finetune RUN --steps N       go on online with the agents of a finished run
  offline-rl evaluate RUN_OR_AGENT        score saved agents
  offline-rl export RUN_OR_AGENT          write a policy as ONNX, to act without this package
  offline-rl sweep FILE.yaml              search settings with a sweep file in W&B's format, without an account
  offline-rl collect KIND --task TASK     make a dataset: random actions, a saved agent, or SAC that learns
  offline-rl benchmark SUITE.yaml         run what is missing of a suite, and print its table
  offline-rl report FOLDER_OR_RUN...      tables, intervals, figures and one page of results or finished runs
  offline-rl results collect RUN...       make small result files of finished runs, to keep and to publish
  offline-rl compare A B                  what differs between two runs or folders of results, and if it is noise
  offline-rl algos [NAME]                 list the algorithms, or describe one
  offline-rl datasets [NAME]              list the datasets, or describe one
  offline-rl datasets download NAME...    fetch datasets for a machine without network

Every command has --help. A first try: offline-rl train td3_bc --dataset hopper-demo --steps 10000"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 2 for a mistake of the user's or ours, 128 + signal when stopped.

    What no reader has foreseen ends in one sentence, too; with ``OFFLINE_RL_TRACEBACK`` set it keeps its traceback.
    """
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    obey_leash()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know no ±
    _hear_ctrl_c()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help", "--version"):
        print(importlib.metadata.version("offline-rl-suite") if arguments[:1] == ["--version"] else USAGE)
        return 0
    name, rest = arguments[0], arguments[1:]
    try:
        if name not in COMMANDS:
            raise UsageError(f"unknown command {quoted(name)}{suggestion(name, COMMANDS)}")
        COMMANDS[name](rest)
        sys.stdout.flush()
    except OfflineRLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signal
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        return _unforeseen(error)
    return 0


def _unforeseen(error: Exception) -> int:
    """Say in a sentence what went wrong where nobody has made one of it; return the exit status."""
    if os.environ.get(TRACEBACK):
        raise error
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        return 128 + signal.SIGPIPE
    said = brief(f"{type(error).__name__}: {error}")
    text = f"{said}; this is a fault of offline-rl: run it again with {TRACEBACK}=1 to see where, and report that"
    if isinstance(error, MemoryError):
        text = "there is too little memory for this; take less data, fewer seeds or smaller networks"
    elif isinstance(error, UnicodeEncodeError):
        text = f"{quoted(error.object)} has signs that this locale cannot spell; set LC_ALL=C.UTF-8"
    elif isinstance(error, OSError) and error.strerror:
        place = brief(error.filename or "a file")
        text = f"{place} cannot be used ({error.strerror}); look at the path, its permissions and the space left"
    print(f"error: {text}", file=sys.stderr)
    return 2


def _nobody_reads() -> bool:
    """Say whether whoever read our output has heard enough, as head does; then nothing more is written to it."""
    watcher = select.poll()
    watcher.register(1, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in watcher.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return True


def _hear_ctrl_c() -> None:
    """Answer SIGINT from the first moment on; scripts start what they put in the background deaf to it."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


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
    config_class = find_algorithm(old.config["algorithm"]).config_class

    def command(
        run: FinetuneOptions = FinetuneOptions(),  # noqa: B008 (frozen)
        agent: Any = config_class(**old.config["config"]),  # noqa: B008 (frozen)
    ) -> tuple[FinetuneOptions, Any]:
        """Train the agents of a finished run online, in a new run folder; evaluate, save; print the scores.

        Args:
            run: The run.
            agent: The algorithm's settings.
        """
        return run, agent

    command.__annotations__["agent"] = config_class
    line = CommandLine(arguments[1:], {**types_of(FinetuneOptions), **types_of(config_class)})
    options, settings = line.parse(command, "offline-rl finetune RUN")
    overrides = {name: getattr(settings, name) for name in line.given if name in types_of(config_class)}
    print_report(finetune(old, options=options, **overrides))


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
            print(_score_line("untrained agent", row["return"], _spread(row), row["score"]))
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
        print(_score_line(what, row["return"], _spread(row), row["score"]))
        for name in (key.removeprefix("return/") for key in row if key.startswith("return/")):
            print(_score_line(f"  asked for {name}", row[f"return/{name}"], None, row[f"score/{name}"]))
    if len(rows) > 1 and not each and all(row["score"] is not None for row in rows):
        mean = {name: statistics.fmean(row[name] for row in rows) for name in ("return", "score")}
        print(_score_line("mean of seeds", mean["return"], None, mean["score"]))


def _spread(row: dict[str, Any]) -> str:
    """Return the standard deviation of the returns of several episodes; of one there is none."""
    return "–" if row["episodes"] < 2 or row["return_std"] is None else f"{row['return_std']:.1f}"


def _score_line(what: str, mean: float | None, spread: str | None, score: float | None) -> str:
    if mean is None or score is None:
        return f"  {what:22}{'has diverged':>18}"
    returns = f"{mean:.1f}" + (f" ± {spread}" if spread is not None else "")
    return f"  {what:22}{returns:>18}  {score:>17.1f}"


def evaluate_command(arguments: list[str]) -> None:
    """Score saved agents."""

    def command(
        *,
        path: str,
        episodes: int = 100,
        task: str | None = None,
        dynamics: Dynamics | None = None,
        seed: int = 0,
        figure: str | None = None,
        video: str | None = None,
        video_episodes: int = 1,
        json: bool = False,
    ) -> dict[str, Any]:
        """Score a saved agent, or all agents of a run.

        Args:
            path: An agent folder, a run folder, or hf://user/name for an agent on the Hugging Face Hub.
            episodes: Episodes to play with each agent.
            task: Task to play; by default the one the agent was trained for; or a Gymnasium id, for returns alone.
            dynamics: Physics: D4RL's own, or Gymnasium's stock environments; by default as the agent was trained.
            seed: Decides the initial states.
            figure: PNG file for a picture of what the first agent decides in one episode, such as FamO2O's balance.
            video: MP4 or GIF file for a film of the first agent, of episodes that are scored.
            video_episodes: Episodes to film.
            json: Print JSON.
        """
        return locals()

    line = CommandLine(arguments, typing.get_type_hints(command), positional=("path",))
    _evaluate(**line.parse(command, "offline-rl evaluate"))


def _evaluate(
    *,
    path: str,
    episodes: int,
    task: str | None,
    dynamics: Dynamics | None,
    seed: int,
    figure: str | None,
    video: str | None,
    video_episodes: int,
    json: bool,
) -> None:
    from offline_rl.agent import load_agent
    from offline_rl.agent_files import agent_folders
    from offline_rl.envs.tasks import D4RL, SCORE_NAMES
    from offline_rl.training.evaluation import evaluate

    found: list[str | Path] = list(agent_folders(path).values()) or [path]
    if figure:
        _draw_episode(found[0], task, dynamics, seed, Path(figure))
    results: list[dict[str, Any]] = []
    for folder in found:
        agent = load_agent(folder)
        film: dict[str, Any] = {"video": video, "video_episodes": video_episodes} if folder == found[0] else {}
        result = evaluate(agent, task, dynamics=dynamics, episodes=episodes, seed=seed, **film)
        played = {"task": result.task, "dynamics": result.dynamics, "episodes": episodes}
        results.append({"agent": str(folder), **played, **_means(result)})
        if result.score_name != SCORE_NAMES[D4RL]:
            results[-1]["score_is"] = result.score_name
        if result.by_condition:
            results[-1]["asked_for"] = {asked: _means(played) for asked, played in result.by_condition.items()}
        if not json:
            _print_evaluation(results[-1])
    if json:
        print_json(results)
    if video:
        print(f"filmed to {video}", file=sys.stderr)


def _means(played: Any) -> dict[str, float]:
    return {
        "return": float(played.returns.mean()),
        "return_std": float(played.returns.std()),
        **({"score": float(played.scores.mean())} if played.scores is not None else {}),
        "length": float(played.lengths.mean()),
    }


def _print_evaluation(result: dict[str, Any]) -> None:
    asked_for = result.get("asked_for", {"": result})
    for asked, means in asked_for.items():
        who = f"{result['agent']}, asked for {asked}" if asked else result["agent"]
        score = result.get("score_is", "score") + (f" {means['score']:.1f}" if "score" in means else "")
        dynamics = f", {result['dynamics']} dynamics" if result["dynamics"] else ""
        spread = _spread({**means, "episodes": result["episodes"]})
        print(
            f"{who}: return {means['return']:.1f} ± {spread}, {score}"
            f"  ({result['episodes']} episodes of {means['length']:.0f} steps on {result['task']}{dynamics})"
        )


def _draw_episode(folder: str | Path, task: str | None, dynamics: Dynamics | None, seed: int, figure: Path) -> None:
    from offline_rl.agent import load_agent
    from offline_rl.analysis.curves import draw_signals
    from offline_rl.training.evaluation import task_of, trace

    agent = load_agent(folder)
    name = task_of(agent, task)
    signals = trace(agent, name, dynamics=dynamics, seed=seed)
    try:
        draw_signals(signals, f"{agent.name}, {folder}, one episode of {name}", figure)
    except (OSError, ValueError) as error:
        raise UsageError(f"{figure} cannot be written ({error}); choose another --figure") from None
    print(f"drawn to {figure}", file=sys.stderr)


def export_command(arguments: list[str]) -> None:
    """Write a policy for other programs."""

    def command(
        *, path: str, out: str = "policy.onnx", seed: int | None = None, explore: bool = False
    ) -> dict[str, Any]:
        """Write a saved agent's policy as one file: raw observations in, environment actions out.

        Args:
            path: An agent folder, a run folder, or hf://user/name for an agent on the Hugging Face Hub.
            out: The file: .onnx for ONNX, or .pt2 for a program that torch.export.load reads.
            seed: Which agent of a run with several.
            explore: Let the policy explore, with noise as one more input.
        """
        return locals()

    line = CommandLine(arguments, typing.get_type_hints(command), positional=("path",))
    _export(**line.parse(command, "offline-rl export"))


def _export(*, path: str, out: str, seed: int | None, explore: bool) -> None:
    from offline_rl.agent import load_agent
    from offline_rl.agent_files import agent_folders

    if not out.endswith((".onnx", ".pt2")):
        raise UsageError(f"--out is {out}; its name must end with .onnx or .pt2")
    found = agent_folders(path)
    if found:
        chosen = next(iter(found)) if seed is None and len(found) == 1 else seed
        if chosen not in found:
            raise UsageError(f"{path} has agents of the seeds {', '.join(map(str, found))}; choose one with --seed")
        path = str(found[chosen])
    elif seed is not None:
        raise UsageError(f"{path} is no run with agents of several seeds; leave out --seed")
    agent = load_agent(path)
    write = agent.export_onnx if out.endswith(".onnx") else agent.export_program
    write(out, deterministic=not explore)
    print(f"{out}: {agent.name} of {path}, compared with the agent")


def benchmark_command(arguments: list[str]) -> None:
    """Run what is missing of a suite, and print its table."""
    from offline_rl.benchmark import missing, read_suite, run_suite, suite_table, write_table
    from offline_rl.launchers import launch, read_options

    def command(
        *,
        suite: str,
        data_dir: str | None = None,
        results: str | None = None,
        runs: str = "runs",
        launcher: Launcher = "local",
        workers: int = 1,
        launcher_options: str = "",
    ) -> dict[str, Any]:
        """Train what is missing of a suite, write a small result file for each seed, and print the suite's table.

        Args:
            suite: YAML file with datasets, options of every run, and methods; see benchmarks/.
            data_dir: Folder of the datasets that are files.
            results: Folder of result files and table.md; by default results/ and the suite's name.
            runs: Folder of the runs, which go on from their checkpoints when the command is given again.
            launcher: Where the workers are: processes of this machine, Slurm jobs, or tasks of a Ray cluster.
            workers: Runs side by side; each trains its seeds in processes of their own.
            launcher_options: For Slurm in submitit's words, "timeout_min=600 slurm_partition=gpu"; for Ray
                "address=HOST:PORT num_cpus=2 num_gpus=1".
        """
        return locals()

    line = CommandLine(arguments, typing.get_type_hints(command), positional=("suite",))
    given = line.parse(command, "offline-rl benchmark")
    path, data = Path(given["suite"]), Path(given["data_dir"]) if given["data_dir"] else None
    results, runs = Path(given["results"] or Path("results", path.stem)), Path(given["runs"])
    suite, elsewhere = read_suite(path), read_options(given["launcher_options"])
    if missing(suite, results) and (given["workers"] > 1 or given["launcher"] != "local"):
        own = ["suite", "launcher", "workers", "launcher_options"]
        launch(
            ["benchmark", str(path), *(f"--{name}={value}" for name, value in line.given.items() if name not in own)],
            launcher=given["launcher"],
            workers=given["workers"],
            folder=runs / suite.name / "workers",
            options=elsewhere,
            done=lambda: not missing(suite, results),
        )
    text = suite_table(suite, run_suite(suite, data=data, results=results, runs=runs))
    write_table(results / "table.md", text)
    print(text)


def report_command(arguments: list[str]) -> None:
    """Write tables, figures and one page of results or finished runs."""
    from offline_rl.benchmark import read_suite, report_of

    def command(*, places: list[str], out: str | None = None, suite: str | None = None) -> dict[str, Any]:
        """Write table.md, report.md, .tex, .csv, .html, and curves and profiles as PNG and SVG; print the table.

        Args:
            places: Finished runs, and folders of result files, such as offline-rl benchmark writes.
            out: Where to write; by default a single folder of result files itself.
            suite: YAML file of the suite that made the results: its order of methods, its metrics as columns.
        """
        return locals()

    line = CommandLine(arguments, typing.get_type_hints(command), positional=("places",))
    given = line.parse(command, "offline-rl report")
    order = read_suite(Path(given["suite"])) if given["suite"] else None
    places = [Path(place) for place in given["places"]]
    columns = {"methods": list(order.methods), "metrics": order.metrics} if order else {}
    page = report_of(places, Path(given["out"]) if given["out"] else None, **columns)
    print((page.parent / "table.md").read_text(encoding="utf-8"), end="")
    print(f"written to {page.parent}; open {page}", file=sys.stderr)


def results_command(arguments: list[str]) -> None:
    """Make result files of finished runs."""
    from offline_rl.benchmark import collect

    def command(*, runs: list[str], out: str, method: str | None = None, note: str | None = None) -> dict[str, Any]:
        """Write one small result file for each seed of finished runs; none at all if one run cannot be taken.

        Args:
            runs: The runs' folders.
            out: Folder of the result files.
            method: What tables, and the files' names, call these runs; by default their algorithm.
            note: A remark on how the runs were made; the table shows it.
        """
        return locals()

    if arguments[:1] != ["collect"] and not {"-h", "--help"} & set(arguments):
        raise UsageError("usage: offline-rl results collect RUN [RUN ...] --out FOLDER")
    line = CommandLine(arguments[1:], typing.get_type_hints(command), positional=("runs",))
    line.help |= not arguments[1:]
    given = line.parse(command, "offline-rl results collect")
    runs, out = [Path(run) for run in given["runs"]], Path(given["out"])
    written = collect(runs, out=out, method=given["method"], note=given["note"])
    print(f"{len(written)} results of {len(runs)} {'run' if len(runs) == 1 else 'runs'} written to {out}")


def compare_command(arguments: list[str]) -> None:
    """Say what differs between two runs or folders of results."""
    from offline_rl.analysis.comparison import compare
    from offline_rl.benchmark import results_at

    def command(*, first: str, second: str) -> tuple[str, str]:
        """Print what changed, and whether scores differ by more than noise (Welch's t, 95 % interval).

        Args:
            first: A folder of result files, or a finished run.
            second: Another; differences are first less second.
        """
        return first, second

    line = CommandLine(arguments, typing.get_type_hints(command), positional=("first", "second"))
    first, second = line.parse(command, "offline-rl compare")
    print(compare(results_at(Path(first)), results_at(Path(second))))


def print_json(value: Any) -> None:
    """Print indented JSON."""
    print(json.dumps(value, indent=2))


def sweep_command(arguments: list[str]) -> None:
    """Run a sweep file."""
    from offline_rl.launchers import read_options

    def command(
        *,
        run_cap: int | None = None,
        out: str | None = None,
        members: int | None = None,
        launcher: Launcher = "local",
        workers: int = 1,
        launcher_options: str = "",
    ) -> dict[str, Any]:
        """Run a sweep file in W&B's format without an account; started again, run only what is missing.

        Any option of offline-rl train may be given, too, for instance --dataset NAME or --steps N: it takes the place
        of what the file says. Trials log to W&B only if --wandb is given.

        Args:
            run_cap: Number of trials; by default what the file says.
            out: Folder of the sweep; by default sweeps/ and the file's name.
            members: Trials that a worker runs at once; by default as many as its share of the cores allows.
            launcher: Where the workers are: processes of this machine, Slurm jobs, or tasks of a Ray cluster.
            workers: Processes that run trials.
            launcher_options: For Slurm in submitit's words, "timeout_min=600 slurm_partition=gpu"; for Ray
                "address=HOST:PORT num_cpus=2 num_gpus=1".
        """
        return locals()

    own = typing.get_type_hints(command)
    if arguments and arguments[0] in ("-h", "--help"):
        CommandLine(["--help"], own).parse(command, "offline-rl sweep FILE")
    if not arguments or arguments[0].startswith("-"):
        raise UsageError("name the file first: offline-rl sweep FILE.yaml")
    from offline_rl.sweep.file import algorithm_of

    try:
        from offline_rl.sweep.run import Place, run_sweep
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; pip install 'offline-rl-suite[sweep]'") from None
    file = Path(arguments[0])
    line = CommandLine(arguments[1:], {**training_types(algorithm_of(file)), **own})
    typed = CommandLine([f"--{name}={value}" for name, value in line.given.items() if name in own], own)
    typed.help = line.help
    given = typed.parse(command, "offline-rl sweep FILE")
    run_sweep(
        file,
        out=Path(given["out"]) if given["out"] else None,
        overrides={name: value for name, value in line.given.items() if name not in own},
        run_cap=given["run_cap"],
        place=Place(given["launcher"], given["workers"], given["members"], read_options(given["launcher_options"])),
    )


def collect_command(arguments: list[str]) -> None:
    """Make a dataset."""
    from offline_rl.collection.options import KINDS, find_kind, learner_config
    from offline_rl.collection.run import collect

    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] not in ("-h", "--help"):
            raise UsageError(f"say first who plays: offline-rl collect {'|'.join(KINDS)} --task TASK --out FILE.hdf5")
        print("usage: offline-rl collect KIND --task TASK --steps N --out FILE.hdf5 [options]\n")
        print("KIND is random (uniform random actions), agent (a saved one plays), or sac (SAC learns from nothing,")
        print("and every step is kept); offline-rl collect KIND --help lists all options")
        return
    kind = arguments[0]
    options_class, config_class = find_kind(kind), learner_config(kind)

    def command(collection: Any) -> tuple[Any, Any]:
        """Make a dataset in D4RL's layout by playing a task, every step a row; resumed, it ends in the same bytes.

        Args:
            collection: The collection.
        """
        return collection, None

    def learning_command(collection: Any, learner: Any) -> tuple[Any, Any]:
        """Make a dataset in D4RL's layout of all steps of an agent that learns; resumed, it ends in the same bytes.

        Args:
            collection: The collection.
            learner: The algorithm's settings.
        """
        return collection, learner

    for function in (command, learning_command):
        function.__annotations__ |= {"collection": options_class, "learner": config_class}
    own = types_of(config_class) if config_class else {}
    line = CommandLine(arguments[1:], types_of(options_class) | own)
    options, learner = line.parse(learning_command if config_class else command, f"offline-rl collect {kind}")
    path = collect(kind, options=options, **{name: getattr(learner, name) for name in line.given if name in own})
    _describe_dataset(str(path), None)


def algos_command(arguments: list[str]) -> None:
    """List the algorithms, or describe one."""
    from offline_rl.agent import algorithms, find_algorithm

    def command(name: str | None = None) -> str | None:
        """List the algorithms, or describe one with its paper, objective, settings and presets.

        Args:
            name: The algorithm to describe.
        """
        return name

    name = CommandLine(arguments, {"name": str | None}, positional=("name",)).parse(command, "offline-rl algos")
    if name is None:
        width = max(map(len, algorithms()))
        for known in algorithms():
            print(f"  {known:{width}}  {_module_doc(find_algorithm(known)).splitlines()[0]}")
        return
    algorithm = find_algorithm(name)
    print(f"{_module_doc(algorithm)}\n\n{inspect.cleandoc(algorithm.__doc__ or '')}\n\nSettings")
    settings = dataclasses.asdict(algorithm.config_class())
    for field, value in settings.items():
        print(f"  {field:{max(map(len, settings))}} {value}")
    print("\nPresets" if algorithm.PRESETS else "\nNo presets: one setting serves all tasks.")
    for task, values in algorithm.PRESETS.items():
        print(f"  {task:28} {values}")


def _module_doc(algorithm: type) -> str:
    return inspect.cleandoc(sys.modules[algorithm.__module__].__doc__ or "")


def datasets_command(arguments: list[str]) -> None:
    """List, describe or download datasets."""
    from offline_rl.data import d4rl, dataset_names, minari

    if arguments and arguments[0] == "download":
        names = [name for name in arguments[1:] if not name.startswith("-")]
        if not names or len(names) < len(arguments) - 1:
            raise UsageError("usage: offline-rl datasets download NAME [NAME ...]")
        for name in names:
            if not d4rl.find_id(name) and not (minari.is_id(name) and "/" in name):
                raise UsageError(f"{name!r} is no dataset of D4RL's or Minari's{suggestion(name, d4rl.DATASETS)}")
        for name in names:
            known = d4rl.find_id(name)
            print(f"{known or name}: {d4rl.download(known) if known else minari.download(name)}")
        return

    def command(name: str | None = None, mode: typing.Literal["d4rl", "exact"] | None = None) -> tuple[Any, Any]:
        """List the datasets that are known by name, or describe one: episodes, returns, score.

        Args:
            name: A D4RL id, a Minari id, a file, or "hopper-demo".
            mode: Rows as D4RL makes them, or exact next observations; by default as fits the file.
        """
        return name, mode

    types = typing.get_type_hints(command)
    name, mode = CommandLine(arguments, types, positional=("name",)).parse(command, "offline-rl datasets")
    if name is None:
        print("\n".join(dataset_names()))
        return
    _describe_dataset(name, mode)


def _describe_dataset(name: str, mode: str | None) -> None:
    import numpy as np

    from offline_rl.data import load_dataset
    from offline_rl.data.names import FIELDS, key_of
    from offline_rl.envs import normalized_score
    from offline_rl.errors import TaskError

    dataset = load_dataset(name, mode)
    returns, lengths = dataset.episode_returns, dataset.episode_lengths
    facts = {
        "rows": f"{len(dataset):,} (mode {dataset.metadata.get('mode', 'mixed')})",
        "episodes": f"{len(returns):,}, {int(dataset.episode_complete.sum()):,} of them complete",
        "episode length": f"{lengths.mean():.0f} mean, {lengths.min()} to {lengths.max()}",
        "episode return": f"{dataset.mean_return:.1f} mean, {returns.min():.1f} to {returns.max():.1f}, "
        f"deciles {', '.join(f'{value:.0f}' for value in np.quantile(returns, (0.1, 0.5, 0.9)))} (10, 50, 90 %)",
        "terminated": f"{int(dataset.terminated.sum()):,} rows",
        "truncated": f"{int(dataset.truncated.sum()):,} rows",
        "episode ends": dataset.ends,
        "sizes": f"{dataset.observation_size} observation entries, {dataset.action_size} action entries",
        "task": dataset.task or "none named",
        "fingerprint": dataset.fingerprint,
    }
    for field in FIELDS:
        if names := dataset.names.get(key_of(field)):
            facts[f"{field} entries"] = ", ".join(names)
    try:
        task = dataset.find_task()
    except TaskError as error:
        task, facts["score"] = None, f"none: {error}"
    if task and task.robot.scored:
        robot, score = task.robot, float(normalized_score(task, dataset.mean_return))
        facts["score"] = (
            f"{score:.1f}; {robot.score_name}, 0 is a return of {robot.reference_min:.1f},"
            f" 100 is {robot.reference_max:.1f} ({robot.reference})"
        )
    print(dataset.name)
    for what, value in facts.items():
        print(f"  {what:17} {value}")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train_command,
    "finetune": finetune_command,
    "evaluate": evaluate_command,
    "export": export_command,
    "sweep": sweep_command,
    "collect": collect_command,
    "benchmark": benchmark_command,
    "report": report_command,
    "results": results_command,
    "compare": compare_command,
    "algos": algos_command,
    "datasets": datasets_command,
}

if __name__ == "__main__":
    sys.exit(main())
