"""Which published settings a run begins with: those of its data, of its task, of what is asked for, or none.

An algorithm's ``PRESETS`` have entries for D4RL's datasets, ``hopper-medium-v2``, and for all of a robot's,
``hopper-*``, or of a family's, ``antmaze-*``. An entry of a dataset holds for that dataset and that version alone.
Other data of the same robot, by whatever name it goes, gets the robot's entry; it may have another one's if ``preset``
asks for it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from offline_rl.agent import Agent, AgentConfig, merged, presets
from offline_rl.data import Dataset
from offline_rl.data.d4rl import DATASETS
from offline_rl.envs.tasks import Task, find_task
from offline_rl.errors import RunError, TaskError, suggestion

NONE = "none"
"""What asks for the defaults, even where a preset would hold."""
EVERY = "-*"
"""How the name of an entry for all of a robot's data ends."""
LISTED = 4
"""Entries that a sentence names."""
LONGEST = 80
"""Letters of a wrong name that a sentence repeats."""


@dataclass(frozen=True)
class Preset:
    """The published settings that a run begins with; those that are given by hand go over them.

    Attributes:
        entries: Names in the algorithm's ``PRESETS``; a later one goes over an earlier.
        settings: What the entries come to.
        reason: Why these, or why none, in words.
        hint: What else there is and how to take it; empty if there is nothing to say.
    """

    entries: tuple[str, ...]
    settings: Mapping[str, Any]
    reason: str
    hint: str = ""

    def in_force(self, config: AgentConfig, each: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of the preset that a run keeps, given its config and those that its agents differ in."""
        current = config.settings()
        return {n: value for n, value in self.settings.items() if n not in each and current[n] == value}

    def sentence(self, config: AgentConfig | None = None, each: Mapping[str, Any] = MappingProxyType({})) -> str:
        """Say which preset is taken, or that none is, and why; of a run, also what is left of it."""
        if not self.entries:
            return "; ".join(filter(None, [f"no preset: {self.reason}", self.hint]))
        kept = self.in_force(config, each) if config else self.settings
        text = f"preset {' and '.join(self.entries)} ({self.reason}): {in_words(kept) or 'nothing is left of it'}"
        current = config.settings() if config else {}
        own = {n: "for each agent" if n in each else current[n] for n in self.settings if n not in kept}
        return "; ".join(filter(None, [text, f"given by hand: {in_words(own)}" if own else "", self.hint]))


def find_preset(algorithm: type[Agent], asked: str | None, task: Task | None, dataset: Dataset) -> Preset:
    """Return the preset of a run.

    Args:
        algorithm: The algorithm.
        asked: What the run's option ``preset`` says; None for what fits its data and task.
        task: The run's task.
        dataset: Its data.

    Raises:
        RunError: What is asked for is unknown, or nothing is published for it.
    """
    if asked is not None:
        return named_preset(algorithm, asked)
    if not algorithm.PRESETS:
        return Preset((), {}, f"{algorithm.name} uses its defaults for all tasks")
    if task is None:
        return Preset((), {}, f"dataset {dataset.name} names no task", f"--preset takes one of {_listed(algorithm)}")
    # Joined data goes by its first part's task, but what was published for that part is not meant for it.
    joined = "parts" in dataset.metadata
    name, reason = (task.robot.family, "for the joined data's robot") if joined else _kind(task, dataset)
    found = presets(algorithm, task.robot.family, name)
    entries = tuple(found)
    if name in found:
        return Preset(entries, merged(found), reason)
    guesses = () if joined else (name, dataset.name)
    hint = _hint(algorithm, task.robot.family, guesses)
    if entries:
        return Preset(entries, merged(found), "for all data of the robot", hint)
    what = "joined data" if joined else f"task {name} and dataset {dataset.name}" if name != dataset.name else name
    return Preset((), {}, f"nothing is published for {algorithm.name} on {what}", hint)


def named_preset(algorithm: type[Agent], name: str) -> Preset:
    """Return the preset that a name in any spelling asks for; :data:`NONE` is the one without settings.

    Raises:
        RunError: The name is unknown, or nothing is published for it.
    """
    if _plain(name) == NONE:
        return Preset((), {}, "the defaults, as asked for")
    if not algorithm.PRESETS:
        raise RunError(f"preset {_quoted(name)}: {algorithm.name} has one setting for all tasks; leave it out")
    plain = _plain(name).removesuffix(EVERY)
    own = {_plain(entry).removesuffix(EVERY): entry for entry in algorithm.PRESETS}
    try:
        task = find_task(plain)
        robot, exact = task.robot.family, task.name
    except TaskError:
        if plain not in own:
            near = suggestion(plain, _known(algorithm)) or f"; published are {_listed(algorithm)}"
            raise RunError(f"unknown preset {_quoted(name)}{near}") from None
        robot = exact = own[plain].removesuffix(EVERY)
    found = presets(algorithm, robot, exact)
    others = [] if exact in found else list(_namesakes(algorithm, exact))
    if not found or others:
        near = f"did you mean {' or '.join(others)}?" if others else f"published are {_listed(algorithm)}"
        raise RunError(f"{algorithm.name} has no preset for {exact}; {near}")
    return Preset(tuple(found), merged(found), "asked for")


def recorded_preset(algorithm: type[Agent], entries: Sequence[str] | None) -> str | None:
    """Return the name that asks for a preset again; None if nothing is recorded, or there is no such one any more.

    Args:
        algorithm: The algorithm.
        entries: ``preset`` of a run's ``config.json``.
    """
    if entries is None or not all(entry in algorithm.PRESETS for entry in entries):
        return None
    return entries[-1].removesuffix(EVERY) if entries else NONE


def near_preset(algorithm: type[Agent], dataset: str) -> Preset | None:
    """Return the preset of the D4RL dataset that a name is like, of any version; None if there is none."""
    return next((named_preset(algorithm, entry) for entry in _namesakes(algorithm, dataset)), None)


def in_words(settings: Mapping[str, Any]) -> str:
    """Return settings as they stand in a sentence."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _kind(task: Task, dataset: Dataset) -> tuple[str, str]:
    """Return the task whose preset holds: one that names a dataset of D4RL's, else the data's own.

    ``--task hopper`` only says where agents are scored, so data that is D4RL's keeps its preset.
    """
    own = _d4rl_task(dataset)
    if task.name not in DATASETS and own and own.robot == task.robot:
        return own.name, "for the dataset"
    return task.name, "for the dataset" if own == task else "for the task"


def _d4rl_task(dataset: Dataset) -> Task | None:
    try:
        task = dataset.find_task()
    except TaskError:
        return None
    return task if task and task.name in DATASETS else None


def _hint(algorithm: type[Agent], robot: str, guesses: Sequence[str]) -> str:
    """Say which dataset's preset is near, and how to take it; else which there are for the robot."""
    for guess in guesses:
        for entry in _namesakes(algorithm, guess):
            if entry.startswith(f"{robot}-"):
                return f"--preset {entry} takes {in_words(named_preset(algorithm, entry).settings)}"
    others = [entry for entry in algorithm.PRESETS if entry.startswith(f"{robot}-") and not entry.endswith(EVERY)]
    return f"--preset takes one of {', '.join(others)}" if others else ""


def _namesakes(algorithm: type[Agent], name: str) -> Iterator[str]:
    """Yield the entries for the same kind of data, of another version or with one."""
    return (entry for entry in algorithm.PRESETS if _unversioned(entry) == _unversioned(name) and entry != name)


def _known(algorithm: type[Agent]) -> list[str]:
    return [NONE, *algorithm.PRESETS, *DATASETS]


def _listed(algorithm: type[Agent]) -> str:
    names = list(algorithm.PRESETS)
    if len(names) <= LISTED:
        return ", ".join(names)
    return f"{', '.join(names[:LISTED])} and {len(names) - LISTED} more, which offline-rl algos {algorithm.name} lists"


def _quoted(name: str) -> str:
    return repr(name if len(name) <= LONGEST else f"{name[:LONGEST]}…")


def _unversioned(name: str) -> str:
    return re.sub(r"-v\d+$", "", _plain(name))


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")
