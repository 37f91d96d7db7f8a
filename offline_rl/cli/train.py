"""``offline-rl train``, ``offline-rl finetune`` and ``offline-rl resume``."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_rl.arguments import (
    CommandLine,
    UsageError,
    algorithm_table,
    options_class,
    own_first,
    read_off,
    show_options,
    train_settings,
)
from offline_rl.cli.summary import print_report
from offline_rl.settings import Setting, table_of, types_of

if TYPE_CHECKING:
    from offline_rl.training.requests import Ahead


def train_command(arguments: list[str]) -> int:
    """Train an agent for each seed; return the exit status."""
    from offline_rl.training.requests import Ahead

    if not arguments or arguments[0].startswith("-") or _starts_none(arguments):
        return _train(arguments, None)
    with contextlib.closing(Ahead()) as ahead:  # before PyTorch is loaded here, which takes as long as it does there
        return _train(arguments, ahead)


def _starts_none(arguments: list[str]) -> bool:
    """Say whether a command line asks for help, for no worker, or for another kind of worker than the usual one."""
    given = {word.partition("=")[0] for word in arguments}
    return bool(given & {"-h", "--help", "--workers", "--threads"})


def _train(arguments: list[str], ahead: "Ahead | None") -> int:
    from offline_rl.agent import algorithms
    from offline_rl.training.run import train_by

    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] not in ("-h", "--help"):
            raise UsageError(f"name the algorithm first: offline-rl train {'|'.join(algorithms())} --dataset NAME")
        _show_train_help()
        return 0
    algorithm, options, overrides = train_settings(arguments)
    return print_report(train_by(ahead, algorithm, options=options, **overrides))


def _show_train_help() -> None:
    """Show the options that all algorithms share."""
    from offline_rl.agent import algorithms
    from offline_rl.training.options import TrainOptions

    def command(algo: str, run: Any) -> None:
        """Train an agent for each seed, show progress, evaluate, save; print the normalised score per seed.

        These options are common to all algorithms. offline-rl train ALGO --help also lists the algorithm's
        hyperparameters.

        Args:
            algo: The algorithm.
            run: The run.
        """

    command.__doc__ = (command.__doc__ or "").replace("The algorithm.", f"One of {', '.join(algorithms())}.")
    show_options(command, "offline-rl train", TrainOptions)


def _show_finetune_help() -> None:
    """Show the options that all runs share."""
    from offline_rl.training.options import FinetuneOptions

    def command(run: str, online: Any) -> None:
        """Train the agents of a finished run online, in a new run folder; evaluate, save; print the scores.

        These options are common to all runs. offline-rl finetune RUN --help also lists the hyperparameters, with those
        of the run as defaults.

        Args:
            run: The finished run's folder.
            online: The new run.
        """

    show_options(command, "offline-rl finetune", FinetuneOptions)


def finetune_command(arguments: list[str]) -> int:
    """Go on online with a finished run; return the exit status."""
    from offline_rl.agent import find_algorithm
    from offline_rl.training.finetune import finetune
    from offline_rl.training.options import FinetuneOptions
    from offline_rl.training.run import Run

    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] not in ("-h", "--help"):
            raise UsageError("name the run first: offline-rl finetune RUN --steps N")
        _show_finetune_help()
        return 0
    old = Run(Path(arguments[0]))
    name, recorded = old.config["algorithm"], old.config["config"]
    config = find_algorithm(name, recorded).config_class.of(recorded)
    table, own = algorithm_table(name, config), types_of(FinetuneOptions)

    def command(run: Any, agent: Any) -> tuple[Any, Any]:
        """Train the agents of a finished run online, in a new run folder; evaluate, save; print the scores.

        Args:
            run: The run.
            agent: Hyperparameters of the algorithm.
        """
        return run, agent

    command.__annotations__ |= {"run": options_class(own_first(FinetuneOptions)), "agent": options_class(table)}
    line = CommandLine(arguments[1:], {**own, **{key: setting.kind for key, setting in table.items()}})
    run, agent = line.parse(command, "offline-rl finetune RUN")
    overrides = read_off(agent, [key for key in line.given if key in table])
    return print_report(finetune(old, options=FinetuneOptions(**read_off(run, own)), **overrides))


def resume_command(arguments: list[str]) -> int:
    """Go on with a run that was stopped; return the exit status."""
    from offline_rl.training.resume import resume

    table = resume_table()

    def command(run: str, new: Any) -> tuple[str, Any]:
        """Continue a run from its last checkpoint with all that its config.json records; print the scores.

        Args:
            run: The run's folder.
            new: What may be given again.
        """
        return run, new

    command.__annotations__ |= {"run": str, "new": options_class(table)}
    types = {"run": str, **{name: setting.kind for name, setting in table.items()}}
    line = CommandLine(arguments, types, positional=("run",))
    run, options = line.parse(command, "offline-rl resume")
    return print_report(resume(run, **read_off(options, [name for name in line.given if name in table])))


def resume_table() -> dict[str, Setting]:
    """Return what is known of the options of ``offline-rl resume``."""
    from offline_rl.training.options import FREE_OPTIONS, TrainOptions
    from offline_rl.training.resume import LENGTHS

    own = {
        "steps": "Updates of each agent on the dataset, to go on longer; after finetune, its environment steps.",
        "online_steps": "Environment steps of each agent after that, to go on longer.",
        "dataset": "Where the run's dataset is now, if it has moved.",
    }
    kinds = {**dict.fromkeys(LENGTHS, int | None), "dataset": str | None}
    table = table_of(TrainOptions)
    return {name: Setting(kinds[name], None, (), said) for name, said in own.items()} | {
        name: table[name] for name in FREE_OPTIONS
    }
