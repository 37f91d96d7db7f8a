"""Which results are seeds of the same thing, and may be averaged."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from offline_rl.analysis.results import Result
from offline_rl.errors import RunError


@dataclass(frozen=True)
class Group:
    """Seeds of the same thing: results that differ in nothing that could move their mean.

    Attributes:
        dataset: The dataset's name.
        label: The method, and what tells it apart from the other groups at hand.
        results: One for each seed.
    """

    dataset: str
    label: str
    results: list[Result]

    @property
    def method(self) -> str:
        """The method alone; results of other settings may bear the same name."""
        return _names(self.results[0])[1]

    @property
    def online(self) -> bool:
        """Whether a phase in the environment followed the one on the dataset."""
        return "offline" in self.results[0]


def grouped(results: Sequence[Result], methods: Sequence[str] = ()) -> list[Group]:
    """Part results into groups, in the order of datasets and methods.

    Args:
        results: What to part.
        methods: The methods' order; those not named come first, in the order of their names.

    Returns:
        The groups. Their labels have the same order on every dataset; see :func:`labels`.

    Raises:
        RunError: A seed is there twice.
    """
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in sorted(results, key=lambda result: result["seed"]):
        same = json.dumps([conditions(result), identity(result)], sort_keys=True)
        groups.setdefault((*_names(result), same), []).append(result)
    for (dataset, method, _), members in groups.items():
        seeds = [member["seed"] for member in members]
        if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
            raise RunError(f"seed {twice[0]} of {method} on {dataset} is there twice; remove one of the results")
    apart = varying(conditions(result) for result in results)
    made = [Group(names[0], _label(names, members[0], results, apart), members) for names, members in groups.items()]
    places = {method: place for place, method in enumerate(methods)}
    return sorted(made, key=lambda group: (group.dataset, *_place(group, places)))


def labels(groups: Sequence[Group], methods: Sequence[str] = ()) -> list[str]:
    """Return the groups' labels, each once, in the one order that tables and figures have.

    Args:
        groups: What :func:`grouped` returned.
        methods: The methods' order that it was given.
    """
    places = {method: place for place, method in enumerate(methods)}
    return list(dict.fromkeys(group.label for group in sorted(groups, key=lambda group: _place(group, places))))


def _place(group: Group, places: dict[str, int]) -> tuple[Any, ...]:
    """Return what a group is sorted by within a dataset: numbers in labels count as numbers, so 256 is before 1024."""
    words = re.split(r"(\d+(?:\.\d+)?)", group.label)
    return places.get(group.method, -1), group.method, [float(w) if n % 2 else w for n, w in enumerate(words)]


def _names(result: Result) -> tuple[str, str]:
    return result["dataset"]["name"], result.get("method") or result["algorithm"]


def _label(names: tuple[str, ...], member: Result, results: Sequence[Result], apart: set[str]) -> str:
    """Name the method, and every condition and setting in which its results differ from those it stands beside."""
    within = varying(identity(result) for result in results if _names(result) == names[:2])
    facts = [fact(name, value) for name, value in conditions(member).items() if name in apart]
    facts += [fact(name, value) for name, value in identity(member).items() if name in within]
    return ", ".join([names[1], *facts])


def varying(settings: Iterable[dict[str, Any]]) -> set[str]:
    """Return the names that do not have the same value everywhere."""
    every = list(settings)
    names = {name for each in every for name in each}
    return {name for name in names if any(each.get(name) != every[0].get(name) for each in every)}


def conditions(result: Result) -> dict[str, Any]:
    """Return what must be equal for results of different algorithms to compare: protocol and versions.

    How often and how long agents were evaluated along the way belongs to the protocol: the mean of the last evaluations
    and the best of them depend on it.
    """
    options = result["options"]
    return {
        "dynamics": result["dynamics"],
        "steps": options["steps"],
        "online_steps": options.get("online_steps", 0),
        "eval_every": options["eval_every"],
        "eval_episodes": options["eval_episodes"],
        "final_episodes": final_episodes(result),
        **result["versions"],
    }


def identity(result: Result) -> dict[str, Any]:
    """Return what must be equal for results to be seeds of the same thing, beside its :func:`conditions`."""
    data = {"data_mode": result["dataset"]["mode"], "fingerprint": result["dataset"]["fingerprint"][:12]}
    settings = {**result["config"], "task": result["task"], **data}
    # A run that went on online with other settings than its agents began with.
    before = result["offline_run"]
    began = {**before["config"], **before["versions"]} if before else {}
    here = {**settings, **conditions(result)}
    return settings | {f"offline {name}": value for name, value in began.items() if value != here.get(name)}


def final_episodes(result: Result) -> str:
    """Return how many episodes each phase's final evaluation had, once if it is the same."""
    counts = [f"{result[phase]['episodes']:,}" for phase in ("offline", "final") if phase in result]
    return " then ".join(dict.fromkeys(counts))


def fact(name: str, value: Any) -> str:
    """Return a setting in words."""
    return f"{name} {value:,}" if type(value) is int else f"{name} {value}"
