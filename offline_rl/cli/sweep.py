"""``offline-rl sweep``."""

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offline_rl.arguments import CommandLine, UsageError, training_types
from offline_rl.cli.common import show
from offline_rl.processes.cluster import Launcher, read_options


def sweep_command(arguments: list[str]) -> None:
    """Run a sweep file."""

    def command(
        *,
        file: str,
        run_cap: int | None = None,
        out: str | None = None,
        concurrent_trials: int | None = None,
        launcher: Launcher = "local",
        workers: int = 1,
        launcher_options: str = "",
    ) -> dict[str, Any]:
        """Run a sweep file in W&B's format without an account; started again, run only what is missing.

        Any option of offline-rl train may be given, too, for instance --dataset NAME or --steps N: it takes the place
        of what the file says. Trials log to W&B only if --wandb is given.

        Args:
            file: YAML file in W&B's format: the command, the method, the metric and the parameters to search; see
                benchmarks/sweeps/.
            run_cap: Number of trials; by default what the file says.
            out: Folder of the sweep; by default sweeps/ and the file's name.
            concurrent_trials: Trials that a worker runs at the same time; by default what its cores allow.
            launcher: Where the workers are: processes of this machine, Slurm jobs, or tasks of a Ray cluster.
            workers: Processes that run trials, each of which starts training processes of its own.
            launcher_options: For Slurm in submitit's words, "timeout_min=600 slurm_partition=gpu"; for Ray
                "address=HOST:PORT num_cpus=2 num_gpus=1".
        """
        return locals()

    own = typing.get_type_hints(command)
    if arguments and arguments[0] in ("-h", "--help"):
        CommandLine(["--help"], own, positional=("file",)).parse(command, "offline-rl sweep")
    if not arguments or arguments[0].startswith("-"):
        raise UsageError("name the file first: offline-rl sweep FILE.yaml")
    from offline_rl.sweep.file import algorithm_of

    file = Path(arguments[0])
    options = {name: kind for name, kind in own.items() if name != "file"}
    line = CommandLine(arguments[1:], {**training_types(algorithm_of(file)), **options})
    typed = [str(file), *(f"--{name}={value}" for name, value in line.given.items() if name in own)]
    typed += ["--help"] if line.help else []
    given = CommandLine(typed, own, positional=("file",)).parse(command, "offline-rl sweep")
    _run(given, {name: value for name, value in line.given.items() if name not in own})


def _run(given: Mapping[str, Any], overrides: Mapping[str, str]) -> None:
    """Run the sweep with these options, and show what it came to."""
    try:
        from offline_rl.sweep.run import Place, run_sweep
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; pip install 'offline-rl-suite[sweep]'") from None
    summary = run_sweep(
        Path(given["file"]),
        out=Path(given["out"]) if given["out"] else None,
        overrides=overrides,
        run_cap=given["run_cap"],
        place=Place(
            given["launcher"], given["workers"], given["concurrent_trials"], read_options(given["launcher_options"])
        ),
    )
    print()
    show(summary)
