"""The installed algorithms by name, and agents made or loaded by them."""

import difflib
import functools
import importlib
import importlib.metadata
import os
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from offline_rl.agent.base import Agent
from offline_rl.agent.folder import agent_folder, read_description, read_weights, within
from offline_rl.agent.hub import downloaded, hub_name
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.errors import AgentError, brief, quoted

ALGOS = "offline_rl.algos"
"""The package that holds our own algorithms, and the entry-point group in which other packages name theirs."""


@functools.cache
def algorithms() -> Mapping[str, importlib.metadata.EntryPoint]:
    """Return the installed algorithms by name, those of the folder ``algos/`` and those of other packages.

    A file ``algos/NAME.py``, or a folder ``algos/NAME/`` with an ``agent.py``, is the algorithm NAME.

    Raises:
        AgentError: Another package gives an algorithm the name of one of ours.
    """
    own = {name: importlib.metadata.EntryPoint(name, module, ALGOS) for name, module in _own_modules()}
    others = {
        point.name: point
        for point in importlib.metadata.entry_points(group=ALGOS)
        if not point.value.startswith(f"{ALGOS}.")  # ours, as an older version had registered them
    }
    if taken := sorted(own.keys() & others.keys()):
        raise AgentError(
            f"{others[taken[0]].value} is registered as {taken[0]!r}, a name that is taken; choose another"
        )
    return dict(sorted({**own, **others}.items()))


def _own_modules() -> Iterator[tuple[str, str]]:
    package = importlib.import_module(ALGOS)
    for entry in pkgutil.iter_modules(package.__path__):
        if not entry.ispkg:
            yield entry.name, f"{ALGOS}.{entry.name}"
        elif any(Path(folder, entry.name, "agent.py").exists() for folder in package.__path__):
            yield entry.name, f"{ALGOS}.{entry.name}.agent"


@dataclass(frozen=True)
class Variants:
    """Several classes behind one name, chosen by a setting; an entry point may name it instead of a class.

    FamO2O is one name, and ``base`` says which algorithm it stands on: each class has a ``Config`` of its own, whose
    field ``base: Literal["cql"] = "cql"`` holds what leads to it.

    Attributes:
        setting: The setting.
        classes: By its values; the first is the default.
    """

    setting: str
    classes: Mapping[str, type[Agent]]

    def chosen(self, settings: Mapping[str, Any]) -> type[Agent]:
        """Return the class that settings ask for.

        Raises:
            AgentError: There is none, or a setting is one of another class.
        """
        value = settings.get(self.setting, next(iter(self.classes)))
        if value not in self.classes:
            raise AgentError(f"{self.setting} is {quoted(value)}; it must be one of {', '.join(self.classes)}")
        for name in sorted(set(settings) - set(self.classes[value].config_class.types())):
            for other, algorithm in self.classes.items():
                if name in algorithm.config_class.types():
                    raise AgentError(
                        f"{name} has no meaning with {self.setting} {value}; leave it out, or choose"
                        f" --{self.setting} {other}"
                    )
        return self.classes[value]

    def upgraded(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out of a record's settings those of the other classes, which once stood there without effect."""
        own = self.classes.get(settings.get(self.setting, next(iter(self.classes))))
        if own is None:
            return dict(settings)
        others = {name for algorithm in self.classes.values() for name in algorithm.config_class.types()}
        foreign = others - set(own.config_class.types())
        return {name: value for name, value in settings.items() if name not in foreign}


def find_algorithm(name: str, settings: Mapping[str, Any] = MappingProxyType({})) -> type[Agent]:
    """Return the class of the algorithm ``name``.

    Args:
        name: Its name.
        settings: Settings of it by name; an algorithm with :class:`Variants` looks at them.

    Raises:
        AgentError: No such algorithm is installed; the nearest name is suggested. Or no variant has these settings.
    """
    found = _installed(name)
    return found.chosen(settings) if isinstance(found, Variants) else found


def variants(name: str) -> dict[str, type[Agent]]:
    """Return the classes of the algorithm ``name``, by what chooses them; ``""`` for one that has a single class."""
    found = _installed(name)
    if isinstance(found, Variants):
        return {f"{found.setting} {value}": algorithm for value, algorithm in found.classes.items()}
    return {"": found}


def setting_types(name: str) -> dict[str, Any]:
    """Return the types of all settings of the algorithm ``name``, those of all its variants together."""
    found = _installed(name)
    types: dict[str, Any] = {}
    for algorithm in variants(name).values():
        types |= algorithm.config_class.types()
    return types | ({found.setting: Literal[tuple(found.classes)]} if isinstance(found, Variants) else {})


def upgraded(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a record of the algorithm ``name``, which may be an old one, by the names of today.

    Those of an algorithm that is not installed stay as they are.
    """
    if name not in algorithms():
        return dict(settings)
    found = _installed(name)
    own = found.upgraded(settings) if isinstance(found, Variants) else dict(settings)
    return find_algorithm(name, own).config_class.upgraded(own)


def _installed(name: str) -> type[Agent] | Variants:
    known = algorithms()
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise AgentError(f"unknown algorithm {quoted(name)}; {hint}")
    found = known[name].load()
    return _within_module(found, name) if isinstance(found, ModuleType) else found


def _within_module(module: ModuleType, name: str) -> type[Agent] | Variants:
    """Return the algorithm that a module defines."""
    values = vars(module).values()
    found: list[type[Agent] | Variants] = [value for value in values if isinstance(value, Variants)]
    classes = [value for value in values if isinstance(value, type) and issubclass(value, Agent)]
    found += [each for each in classes if each.__module__ == module.__name__ and vars(each).get("name") == name]
    if not found:
        raise AgentError(f"{module.__name__} has no class that extends Agent and has the name {name!r}; write one")
    return found[0]


def presets(algorithm: type[Agent], robot: str, task: str) -> dict[str, Mapping[str, Any]]:
    """Return the settings published for a task: those of ``hopper-*``, then, over them, those of the exact name."""
    return {name: algorithm.PRESETS[name] for name in (f"{robot}-*", task) if name in algorithm.PRESETS}


def merged(published: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings that :func:`presets` come to."""
    return {name: value for settings in published.values() for name, value in settings.items()}


def new_agent(description: Mapping[str, Any], device: torch.device | str = "cpu", *, learning: bool = True) -> Agent:
    """Build an agent from :func:`describe`: a whole one with its initial weights, or what acting needs, without any."""
    name = description["algorithm"]
    find_algorithm(name)  # refuses an unknown one
    config = upgraded(name, description["config"])
    algorithm = find_algorithm(name, config)
    if unknown := sorted(set(config) - set(algorithm.config_class.types())):
        raise AgentError(f"{algorithm.name} has no setting {unknown[0]!r}; upgrade offline-rl-suite if it is a new one")
    for name in ("seed", "steps", "online_steps"):
        value = description.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise AgentError(f"{name} is {value!r}; it must be a whole number, not negative")
    agent = algorithm(
        algorithm.config_class.of(config),
        description["observation_size"],
        description["action_size"],
        seed=description["seed"],
        steps=description["steps"],
        online_steps=description.get("online_steps", 0),
        preprocessing=Preprocessing.from_json(description["preprocessing"]),
        device=device,
        learning=learning,
    )
    agent.provenance = dict(description["provenance"])
    return agent


def agent_from_description(
    description: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    device: torch.device | str = "cpu",
) -> Agent:
    """Rebuild an agent for acting from :meth:`Agent.description` and :meth:`Agent.acting_weights`.

    Raises:
        AgentError: The description makes other networks than these weights are of.
    """
    with within(weights), _WithoutInitialWeights():
        agent = new_agent(description, device, learning=False)
    agent.load_acting_weights(weights)
    return agent


class _WithoutInitialWeights(TorchFunctionMode):
    """Leaves out the random weights that PyTorch's layers draw when they are made; saved ones replace them anyway."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func``, unless it fills a parameter."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def load_agent(
    path: str | os.PathLike[str], device: torch.device | str = "cpu", *, revision: str | None = None
) -> Agent:
    """Load an agent that was saved for acting; runs no code from the files.

    Args:
        path: An agent folder such as ``runs/x/agents/seed-0``; a run with one agent; or ``"hf://user/name"`` for an
            agent on the Hugging Face Hub, which needs the extra ``hub``. Nothing else asks the Hub.
        device: Where to put the networks.
        revision: On the Hub, a branch, tag or commit; by default the newest.

    Raises:
        AgentError: The folder is missing, damaged, of a newer format, holds several agents, or its weights do not fit;
            or there is no such agent on the Hub, or it cannot be reached.
        DivergedError: The weights are no finite numbers, or what the agent would do is not.
    """
    name = hub_name(path)
    if name is not None:
        with downloaded(name, revision) as folder:
            try:
                return _load_folder(folder, f"hf://{name}", device)
            except AgentError as error:
                raise type(error)(str(error).replace(str(folder), f"hf://{name}")) from None
    folder = agent_folder(path)
    if revision is not None:
        raise AgentError(f"{folder} is a folder, which has no revisions; leave out revision")
    return _load_folder(folder, str(folder), device)


def _load_folder(folder: Path, name: str, device: torch.device | str) -> Agent:
    description = read_description(folder)
    weights = read_weights(folder, description.pop("weights_sha256", None))
    try:
        agent = agent_from_description(description, weights, device)
        agent.refuse_divergence()
        agent.rehearse()
    except AgentError as error:
        raise type(error)(f"{name}: {brief(error)}") from None
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        AssertionError,
        ArithmeticError,
        MemoryError,
    ) as error:
        said = f"{type(error).__name__}: {brief(error)}"
        raise AgentError(f"{name}: agent.json does not describe an agent for {device} ({said})") from None
    return agent
