"""The sweep file: W&B's format, read whole, checked, and refused by name where it asks for what there is not."""

import dataclasses
import math
import os
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from offline_rl.agent import find_algorithm
from offline_rl.arguments import CommandLine, train_settings, training_types
from offline_rl.documents import read_yaml
from offline_rl.errors import OfflineRLError, SweepError, brief, quoted
from offline_rl.sweep.hyperband import Hyperband
from offline_rl.sweep.metric import Metric
from offline_rl.sweep.space import Choice, Parameter, check_keys, number, read_parameters
from offline_rl.training.options import ESTIMATES, RESULT_OPTIONS, TrainOptions
from offline_rl.training.preset import named_preset

KEYS = (
    "method",
    "metric",
    "parameters",
    "early_terminate",
    "run_cap",
    "command",
    "program",
    "name",
    "description",
    "project",
    "entity",
)
"""What a sweep file may hold. ``program``, ``name``, ``description``, ``project`` and ``entity`` are W&B's alone."""
ARGUMENTS = ("args", "args_no_equals", "args_no_hyphens", "args_no_boolean_flags", "args_json", "args_json_file")
"""W&B's macros for a trial's parameters; here they mean the same, because no text is made of them."""
OWN = ("out", "resume", "workers", "quiet", "config", "each")
"""Options of a run that the sweep decides."""
FOR_AGENTS = ("quiet", "wandb")
"""Options among the command's that are there for W&B's agents: here nothing goes to W&B unless --wandb is typed."""
PARSED = 100
"""Values that the command line is tried with before the first trial; of more, some, and the others in their trials."""
IDENTITY = (
    *(name for name in RESULT_OPTIONS if name not in (*OWN, *ESTIMATES)),
    "dataset",
    "task",
    "dynamics",
    "data_mode",
    "device",
)
"""Options of a run that tell it from another."""


@dataclass(frozen=True)
class Sweep:
    """A sweep that can be run.

    Attributes:
        algorithm: The algorithm's name.
        method: How points are chosen.
        metric: What is compared.
        constants: Options that are the same in each trial, as texts of a command line.
        parameters: What is searched.
        hyperband: When trials are stopped early, if at all.
        cap: How many trials there are.
    """

    algorithm: str
    method: Literal["grid", "random", "bayes"]
    metric: Metric
    constants: dict[str, str]
    parameters: dict[str, Parameter]
    hyperband: Hyperband | None
    cap: int

    def arguments(self, point: dict[str, Any]) -> list[str]:
        """Return what stands after ``offline-rl train`` for a trial, spelled as a W&B agent does."""
        values = {**self.constants, **point}
        return [self.algorithm, *(f"--{name}={value}" for name, value in values.items())]

    def settings(self, point: dict[str, Any]) -> tuple[TrainOptions, dict[str, Any]]:
        """Return a trial's options and the algorithm's settings.

        Raises:
            OfflineRLError: They do not fit.
        """
        _, options, settings = train_settings(self.arguments(point))
        if options.preset is not None:
            named_preset(find_algorithm(self.algorithm), options.preset)
        return options, settings

    def identity(self, point: dict[str, Any]) -> dict[str, Any]:
        """Return what tells a trial's run from another."""
        options, settings = self.settings(point)
        chosen = {name: getattr(options, name) for name in IDENTITY}
        # Named only where it is given: folders of trials from before there was this option keep their names.
        chosen |= {"preset": options.preset} if options.preset is not None else {}
        chosen |= {name: getattr(options, name) for name in ESTIMATES if options.estimate_every}
        return {"algorithm": self.algorithm, "options": chosen, "config": settings}


def read_file(path: Path) -> dict[str, Any]:
    """Read the file.

    Raises:
        SweepError: It cannot be read, or holds no sweep.
    """
    values = read_yaml(path, SweepError, "write a sweep in W&B's format, as those in benchmarks/sweeps/")
    if not isinstance(values, dict):
        raise SweepError(f"{path} is no sweep; it must hold method, metric, parameters and command")
    return values


def algorithm_of(path: Path) -> str:
    """Return the name of the algorithm that a sweep file's command trains."""
    return _command(str(path), read_file(path))[0]


def read_sweep(path: Path, overrides: dict[str, str] | None = None, run_cap: int | None = None) -> Sweep:
    """Read and check a sweep file.

    Args:
        path: The file.
        overrides: Options of a run that take the place of what the file says, as texts of a command line.
        run_cap: Takes the place of the file's.

    Raises:
        OfflineRLError: Something in it is unknown, does not fit, or is not supported.
    """
    return make_sweep(str(path), read_file(path), overrides or {}, run_cap)


def make_sweep(where: str, text: dict[str, Any], overrides: dict[str, str], run_cap: int | None) -> Sweep:
    """Check a sweep file's values; see :func:`read_sweep`."""
    try:
        check_keys("the sweep", text, KEYS)
        algorithm, flags = _command(where, text)
        method = text.get("method")
        if method not in ("grid", "random", "bayes"):
            raise SweepError(f"method is {quoted(method)}; it must be grid, random or bayes")
        constants, parameters = read_parameters(text.get("parameters"), method)
        # What is typed is stronger than what the file searches.
        parameters = {name: parameter for name, parameter in parameters.items() if name not in overrides}
        fixed = {**flags, **{name: str(value) for name, value in constants.items()}, **overrides}
        metric = _metric(text, method)
        sweep = Sweep(
            algorithm=algorithm,
            method=method,
            metric=metric,
            constants=fixed,
            parameters=parameters,
            hyperband=Hyperband.read(text["early_terminate"], metric.maximize) if "early_terminate" in text else None,
            cap=_cap(method, parameters, text.get("run_cap") if run_cap is None else run_cap),
        )
        _check_settings(sweep)
    except OfflineRLError as error:
        raise SweepError(f"{where}: {error}") from None
    return sweep


def _command(where: str, text: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Return the algorithm and the fixed options that ``command`` names."""
    command = text.get("command")
    example = "command: [offline-rl, train, prdc, '${args}']"
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise SweepError(f"{where}: command must name the algorithm, for instance {example}")
    words = []
    for word in command:
        macro = re.fullmatch(r"\$\{(\w+)\}", word)
        if macro is None:
            words.append(re.sub(r"\$\{envvar:(\w+)\}", lambda match: os.environ.get(match[1], ""), word))
        elif macro[1] not in ("env", "interpreter", "program", *ARGUMENTS):
            raise SweepError(f"{where}: command: {brief(word, 100)} is not supported; write ${{args}}")
    if not any(f"${{{name}}}" in command for name in ARGUMENTS):
        raise SweepError(f"{where}: command lacks ${{args}}, the trial's parameters; for instance {example}")
    if "train" not in words or words.index("train") + 1 == len(words):
        raise SweepError(f"{where}: command must hold 'train' and the algorithm's name, for instance {example}")
    place = words.index("train")
    if words[:place] not in ([], ["offline-rl"], ["-m", "offline_rl"], ["python", "-m", "offline_rl"]):
        raise SweepError(
            f"{where}: command runs {quoted(' '.join(words[:place]))}; only offline-rl train can be run here"
        )
    algorithm, *rest = words[place + 1 :]
    flags = CommandLine(rest, training_types(algorithm)).given
    return algorithm, {name: value for name, value in flags.items() if name not in FOR_AGENTS}


def _metric(text: dict[str, Any], method: str) -> Metric:
    entry = text.get("metric", {} if method != "bayes" else None)
    if entry is None:
        raise SweepError("method bayes needs a metric, for instance metric: {name: score, goal: maximize}")
    check_keys("metric", entry, ("name", "goal"))
    goal = entry.get("goal", "minimize" if "name" in entry else "maximize")
    if goal not in ("minimize", "maximize"):
        raise SweepError(f"metric.goal is {quoted(goal)}; it must be minimize or maximize")
    name = entry.get("name", "score")
    if not isinstance(name, str):
        raise SweepError(f"metric.name is {quoted(name)}; it must be a text")
    return Metric(name, goal == "maximize")


def _cap(method: str, parameters: dict[str, Parameter], given: Any) -> int:
    cap: int | None = None if given is None else number("run_cap", given, integer=True)
    if cap is not None and cap < 1:
        raise SweepError(f"run_cap is {cap}; it must be at least 1")
    if method == "grid":
        points = math.prod(len(parameter.values) for parameter in parameters.values() if isinstance(parameter, Choice))
        return points if cap is None else min(cap, points)
    if cap is None:
        raise SweepError(f"method {method} never ends by itself; give run_cap, in the file or as --run_cap")
    return cap


def _check_settings(sweep: Sweep) -> None:
    """Refuse what no trial could be run with, before the first begins."""
    known = training_types(sweep.algorithm)
    for name in [*sweep.constants, *sweep.parameters]:
        if name in OWN:
            raise SweepError(f"{name} is decided by the sweep itself; leave it out")
    CommandLine([f"--{name}=0" for name in sweep.parameters], known)
    first = {name: parameter.at(0.5) for name, parameter in sweep.parameters.items()}
    options, settings = sweep.settings(first)
    if sweep.metric.estimated and not options.estimate_every:
        raise SweepError(f"metric {sweep.metric.name} needs estimates; give estimate_every, for instance 10000")
    along = options.eval_every or sweep.metric.estimated or sweep.metric.name.startswith("train/")
    if sweep.hyperband and not along:
        raise SweepError("early_terminate compares evaluations along the way, but eval_every is 0; remove one of them")
    parsed = [(name, value) for name, p in sweep.parameters.items() for value in _to_parse(p, known[name])]
    for name, value in parsed[:: -(-len(parsed) // PARSED) or 1]:
        sweep.settings({**first, name: value})
    # Numbers, of which there may be many, go without the command line, whose parser takes a tenth of a second.
    config = find_algorithm(sweep.algorithm, settings).config_class.of(settings)
    for name, parameter in sweep.parameters.items():
        for value in _numbers(parameter, known[name]):
            if hasattr(options, name):
                dataclasses.replace(options, **{name: value})
            else:
                config.replaced({name: value})


def _is_number(value: Any, kind: Any) -> bool:
    kinds = {kind, *typing.get_args(kind)}
    return type(value) in (int, float) and bool(kinds & {int, float}) and typing.get_origin(kind) is not list


def _numbers(parameter: Parameter, kind: Any) -> list[Any]:
    return [value for value in parameter.values if _is_number(value, kind)] if isinstance(parameter, Choice) else []


def _to_parse(parameter: Parameter, kind: Any) -> list[Any]:
    """Return the values that only the parser of command lines can judge, and for numbers the ends."""
    if not isinstance(parameter, Choice):
        return [parameter.at(0.0), parameter.at(1 - 1e-9)]
    return [value for value in parameter.values if not _is_number(value, kind)]
