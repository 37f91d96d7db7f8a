"""``offline-rl algos`` and ``offline-rl datasets``."""

import inspect
import shutil
import sys
import textwrap
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_rl.arguments import CommandLine, UsageError
from offline_rl.cli.check import check_dataset
from offline_rl.errors import suggestion

if TYPE_CHECKING:
    from offline_rl.agent import AgentConfig


def algos_command(arguments: list[str]) -> None:
    """List the algorithms, or describe one."""
    from offline_rl.agent import find_algorithm, variants
    from offline_rl.training.preset import in_words

    def command(name: str | None = None) -> str | None:
        """List the algorithms, fastest first, or describe one with its paper, objective, settings and presets.

        Args:
            name: The algorithm to describe.
        """
        return name

    name = CommandLine(arguments, {"name": str | None}, positional=("name",)).parse(command, "offline-rl algos")
    if name is None:
        _list_algorithms()
        return
    algorithm = find_algorithm(name)
    _print_documentation(_module_doc(algorithm))
    for chosen, variant in variants(name).items():
        print()
        _print_documentation(inspect.cleandoc(variant.__doc__ or ""))
        print(f"\nHyperparameters{f' with {chosen}' if chosen else ''}")
        _print_hyperparameters(variant.config_class())
    print("\nPresets" if algorithm.PRESETS else "\nNo presets: one setting serves all tasks.")
    for task, values in algorithm.PRESETS.items():
        _print_wrapped(f"  {task:28} ", in_words(values))


def _list_algorithms() -> None:
    """Print what each algorithm does, when to use it and what it needs; the fastest first, unmeasured ones last."""
    from offline_rl.agent import About, algorithms, find_algorithm
    from offline_rl.analysis.speeds import measured_speeds

    speeds = measured_speeds()
    names = sorted(algorithms(), key=lambda name: -speeds.rates.get(name, 0.0))
    longest = max(map(len, names))
    for name in names:
        algorithm = find_algorithm(name)
        about = algorithm.about or About(method=_module_doc(algorithm).splitlines()[0], use_when="", needs="")
        rate = f"{speeds.rates[name]:,.0f}/s" if name in speeds.rates else "–"
        parts = (
            ("Use it", about.use_when),
            ("Needs", about.needs),
            ("Offline", "" if algorithm.explores() else "only"),
        )
        _print_wrapped(f"  {name:{longest}}  {rate:>6} ", about.method)
        _print_wrapped(" " * (longest + 11), " ".join(f"{word} {text}." for word, text in parts if text))
    _print_wrapped("", f"Updates/s: {speeds.protocol}. To read more of one: offline-rl algos NAME")


def _print_hyperparameters(config: "AgentConfig") -> None:
    """Print each one's name, default and range, and the sentence below its field."""
    for name, setting in config.table().items():
        print(f"  {name} = {setting.default}" + (f"   ({setting.range})" if setting.range else ""))
        _print_wrapped(" " * 6, setting.description)


def _print_documentation(text: str) -> None:
    """Print a docstring's paragraphs, wrapped at words; what is indented, such as a formula, stays as it is."""
    paragraphs = text.replace("``", "").split("\n\n")
    width = shutil.get_terminal_size().columns
    print("\n\n".join(p if "\n " in p or p.startswith(" ") else textwrap.fill(p, width) for p in paragraphs))


def _print_wrapped(label: str, text: str) -> None:
    """Print a text behind a label, wrapped at words, its other lines below its first."""
    width, indent = shutil.get_terminal_size().columns, " " * len(label)
    lines = textwrap.wrap(text, width, initial_indent=label, subsequent_indent=indent, break_on_hyphens=False)
    print("\n".join(lines))


def _module_doc(algorithm: type) -> str:
    return inspect.cleandoc(sys.modules[algorithm.__module__].__doc__ or "")


def datasets_command(arguments: list[str]) -> None:
    """List, describe or download datasets."""
    if arguments and arguments[0] == "download":
        _download(arguments[1:])
        return

    def command(
        name: str | None = None,
        mode: typing.Literal["d4rl", "exact"] | None = None,
        check: bool = False,
        page: str | None = None,
    ) -> tuple[Any, ...]:
        """List the datasets that are known by name, or describe one: episodes, returns, score.

        Args:
            name: A D4RL id, a Minari id, a file, or "hopper-demo".
            mode: Rows as D4RL makes them, or exact next observations; by default as fits the file.
            check: Look for faults that make learning from it hard.
            page: HTML file for the findings and pictures of the columns; it also checks.
        """
        return name, mode, check, page

    types = typing.get_type_hints(command)
    name, mode, check, page = CommandLine(arguments, types, positional=("name",)).parse(command, "offline-rl datasets")
    if name is None and (check or page):
        raise UsageError(
            "--check and --page need a dataset; name it, for instance offline-rl datasets hopper-demo --check"
        )
    if name is None:
        _list_datasets()
    elif check or page:
        check_dataset(name, mode, page)
    else:
        describe_dataset(name, mode)


def _download(arguments: list[str]) -> None:
    from offline_rl.data import d4rl, minari

    def command(names: list[str]) -> list[str]:
        """Fetch datasets into D4RL's and Minari's own folders, for instance for a machine without network.

        Args:
            names: D4RL ids, such as hopper-medium-v2, and Minari ids, such as mujoco/hopper/medium-v0.
        """
        return names

    line = CommandLine(arguments, typing.get_type_hints(command), positional=("names",))
    names = line.parse(command, "offline-rl datasets download")
    for name in names:
        if not d4rl.find_id(name) and not (minari.is_id(name) and "/" in name):
            raise UsageError(f"{name!r} is no dataset of D4RL's or Minari's{suggestion(name, d4rl.DATASETS)}")
    for name in names:
        known = d4rl.find_id(name)
        print(f"{known or name}: {d4rl.download(known) if known else minari.download(name)}")


def _list_datasets() -> None:
    """Print each dataset that is known by name, whether it is here and how large, and whether it has no score."""
    from offline_rl.data import DEMO, DEMO_FILE, d4rl, minari
    from offline_rl.envs.registry import ROBOTS
    from offline_rl.envs.tasks import find_task

    files = {name: d4rl.cache_folder() / Path(path).name for name, path in d4rl.DATASETS.items()}
    places = {DEMO: DEMO_FILE, **files, **{name: minari.folder_of(name) for name in minari.local_ids()}}
    width = max(map(len, places))
    for name, place in places.items():
        scored = name not in files or find_task(name).robot.scored
        print(f"{name:{width}}  {_size(place):>14}{'' if scored else '  no score'}")
    print(f"\nD4RL's are kept in {d4rl.cache_folder()}, Minari's in {minari.folder_of()}.", file=sys.stderr)
    unscored = {robot.name: robot.unscored for robot in ROBOTS.values() if robot.unscored}
    for robot, reason in unscored.items():
        print(f"{robot.capitalize()} has no score: {reason}.", file=sys.stderr)


def _size(place: Path) -> str:
    """Return how large what is here is."""
    parts = [place] if place.is_file() else place.rglob("*")
    size = sum(part.stat().st_size for part in parts if part.is_file())
    return f"{size / 1e6:,.1f} MB" if size else "not here"


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def describe_dataset(name: str, mode: str | None) -> None:
    """Print what a dataset holds: episodes, lengths, returns, sizes, score."""
    import numpy as np

    from offline_rl.data import load_dataset
    from offline_rl.data.names import FIELDS, key_of
    from offline_rl.envs.tasks import mean_score
    from offline_rl.errors import TaskError

    dataset = load_dataset(name, mode)
    returns, lengths = dataset.episode_returns, dataset.episode_lengths
    low, median, high = np.quantile(returns, (0.1, 0.5, 0.9))
    facts = {
        "rows": f"{len(dataset):,} (mode {dataset.metadata.get('mode', 'mixed')})",
        "episodes": f"{len(returns):,}, {int(dataset.episode_complete.sum()):,} of them complete",
        "episode length": f"{lengths.mean():.0f} mean, {lengths.min()} to {lengths.max()}",
        "episode return": f"{dataset.mean_return:.1f} mean, {returns.min():.1f} to {returns.max():.1f}, "
        f"median {median:.0f}, 10 % are below {low:.0f}, 10 % above {high:.0f}",
        "terminated": _rows(int(dataset.terminated.sum())),
        "truncated": _rows(int(dataset.truncated.sum())),
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
        robot, score = task.robot, mean_score(task, dataset.whole_returns)
        facts["score"] = (
            f"{score:.1f}; {robot.score_name}, 0 is a return of {robot.reference_min:.1f},"
            f" 100 is {robot.reference_max:.1f} ({robot.reference})"
        )
    print(dataset.name)
    for what, value in facts.items():
        _print_wrapped(f"  {what:17} ", value)
