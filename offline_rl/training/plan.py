"""Everything that is decided, and checked, before a run writes its first byte."""

import dataclasses
import functools
import os
import platform
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike

from offline_rl.agent import (
    Agent,
    AgentConfig,
    SequenceAgent,
    describe,
    find_algorithm,
    new_agent,
    setting_types,
    upgraded,
)
from offline_rl.checks.summary import KEY, MOST_COLUMNS, Summary
from offline_rl.data import Dataset, load_dataset
from offline_rl.data.d4rl import DATASETS
from offline_rl.data.names import FIELDS, key_of
from offline_rl.data.preprocessing import D4RL_SCALE, OWN_SCALE, Preprocessing
from offline_rl.envs.dynamics import Dynamics, dynamics_of
from offline_rl.envs.recovered import check_playable
from offline_rl.envs.registry import D4RL, LOCOMOTION
from offline_rl.envs.tasks import Task, check_fits, find_task, mean_score, normalized_score
from offline_rl.errors import OfflineRLError, RunError, TaskError, brief, named_inside
from offline_rl.kernels.choice import Kernel, bf16_is_faster, choose_kernel, precision_of
from offline_rl.origin import commit, processor, versions
from offline_rl.training.contract import UNDECLARED
from offline_rl.training.mode import Choice, choose_mode
from offline_rl.training.nothing import NO_DATASET, without_dataset
from offline_rl.training.options import Mode, TrainOptions
from offline_rl.training.preset import Preset, find_preset, recorded_preset
from offline_rl.training.updates.compiled import obstacle

FORMAT = 2
"""Of ``config.json``; since 2 it carries a checksum."""
_UNEVALUATED = "train without evaluation, with eval_every 0 and final_episodes 0"
WAYS = {"compile": "compiled", "cudagraph": "as CUDA graphs"}
"""Modes of making updates, in words."""


@dataclass(frozen=True)
class Compute:
    """Where and how a run computes, which it keeps when it is resumed.

    Attributes:
        device: "cpu" or "cuda:N".
        kernel: See :mod:`offline_rl.kernels.choice`.
        mode: How updates are made.
    """

    device: str
    kernel: Kernel
    mode: Mode

    @classmethod
    def recorded(cls, config: dict[str, Any]) -> "Compute":
        """Return what a ``config.json`` says; runs that record no mode knew one only."""
        recorded = config["compute"]
        return cls(recorded["device"], recorded["kernel"], recorded.get("mode", "eager"))


@dataclass(frozen=True)
class Plan:
    """A run that can be started: every name is resolved, every size fits; ``source`` is the dataset as it was named.

    ``dynamics`` are what the options ask for, else those of the task's data; ``"d4rl"`` for a run without a task.
    """

    algorithm: type[Agent]
    config: AgentConfig
    preset: Preset
    options: TrainOptions
    dataset: Dataset
    source: str | None
    task: Task | None
    dynamics: Dynamics
    preprocessing: Preprocessing
    device: str

    @classmethod
    def make(
        cls,
        algorithm: str,
        dataset: Dataset | str | Path | None,
        options: TrainOptions,
        overrides: dict[str, Any],
    ) -> "Plan":
        """Resolve and check everything.

        Args:
            algorithm: Its name.
            dataset: The data, or what :func:`offline_rl.load_dataset` takes; None for ``options.dataset``.
            options: The run's options.
            overrides: The algorithm's settings that are given; they go over those of the preset.

        Raises:
            OfflineRLError: Something is unknown, does not fit, or is not supported.
        """
        found = find_algorithm(algorithm, overrides)
        if options.online_steps and not found.explores():
            raise RunError(
                f"{found.name} has no way to explore, so it cannot be trained online; leave out online_steps"
            )
        if options.estimate_every and issubclass(found, SequenceAgent):
            raise RunError(
                f"{found.name} acts on past steps, so its value cannot be estimated; leave out estimate_every"
            )
        source = None if isinstance(dataset, Dataset) else str(dataset or options.dataset)
        if source == NO_DATASET:
            options, data = without_dataset(found, options)
        else:
            data = dataset if isinstance(dataset, Dataset) else load(dataset or options.dataset, options)
            if not options.steps:
                raise RunError("steps is 0; it must be at least 1")
        task = _task(options, data)
        dynamics = dynamics_of(task, options.dynamics) if task else options.dynamics or "d4rl"
        preset = find_preset(found, options.preset, task, data)
        config = found.config_class.of({**preset.settings, **overrides})
        _check_each(found, options, overrides)
        if config.normalize and not len(data):
            raise RunError("normalize needs a dataset, and there is none; leave it out")
        preprocessing = Preprocessing.fit(data, normalize=config.normalize, d4rl=bool(task and task.robot.d4rl))
        device = _device(options.device)
        _check_compute(options, device)
        plan = cls(found, config, preset, options, data, source, task, dynamics, preprocessing, device)
        for seed in options.seeds:
            plan.config_of(seed)  # refuses what is out of range
        if plan.obstacle:
            warnings.warn(f"updates are made eagerly, not {WAYS[plan.way]}: {plan.obstacle}", stacklevel=2)
        return plan

    def config_of(self, seed: int) -> AgentConfig:
        """Return the settings of one replica."""
        place = self.options.seeds.index(seed)
        own: dict[str, Any] = {name: values[place] for name, values in self.options.each.items()}
        return self.config.replaced(own)

    def description(self, seed: int) -> dict[str, Any]:
        """Return what ``agent.json`` of one replica holds; see :meth:`offline_rl.agent.Agent.description`."""
        return describe(
            self.algorithm,
            self.config_of(seed),
            observation_size=self.dataset.observation_size,
            action_size=self.dataset.action_size,
            seed=seed,
            steps=self.options.steps,
            online_steps=self.options.online_steps,
            preprocessing=self.preprocessing,
            provenance=self.provenance(),
        )

    def provenance(self) -> dict[str, Any]:
        """Return what an agent says of its origin."""
        return {
            "task": self.task.name if self.task else None,
            # A name leads to D4RL's tasks alone; others are named in full.
            **({"recovered_task": self.task.to_json()} if self.task and not self.task.robot.d4rl else {}),
            "dynamics": self.dynamics if self.task else None,
            "dataset": self.dataset.name,
            "fingerprint": self.dataset.fingerprint,
            "versions": versions(),
            **self._observations,
        }

    @functools.cached_property
    def _observations(self) -> dict[str, Any]:
        """What an agent keeps of its observations, for drift; nothing of very many columns or without rows."""
        if self.dataset.observation_size > MOST_COLUMNS or not len(self.dataset):
            return {}
        return {KEY: Summary.of(self.dataset).to_json()}

    def record(self) -> dict[str, Any]:
        """Return what ``config.json`` holds."""
        options = dataclasses.asdict(self.options)
        return {
            "format": FORMAT,
            "algorithm": self.algorithm.name,
            "config": self.config.settings(),
            "preset": list(self.preset.entries),
            "preset_settings": self.preset.in_force(self.config, self.options.each),
            "preset_reason": self.preset.reason,
            "options": {name: options[name] for name in self.options.recorded},
            "task": self.task.name if self.task else None,
            "dynamics": self.dynamics,
            "dataset": {
                "name": self.dataset.name,
                "source": self.source,
                "fingerprint": self.dataset.fingerprint,
                **names_of(self.dataset),
                "mode": self.dataset.metadata.get("mode", self.options.data_mode),
                "ends": self.dataset.ends,
                "normalisation": self._normalisation(),
                "rows": len(self.dataset),
                "episodes": len(self.dataset.episode_returns),
                "mean_return": self.dataset.mean_return if len(self.dataset) else None,
                "mean_score": self.score(self.dataset.whole_returns) if len(self.dataset) else None,
                "reference": self._reference(),
            },
            "compute": dataclasses.asdict(self.compute),
            "versions": versions(),
            "commit": commit(),
            "hardware": {
                "machine": platform.machine(),
                "processor": processor(),
                "cores": os.cpu_count(),
                "gpu": _gpu(self.device),
            },
        }

    def sentences(self) -> list[str]:
        """Say what was decided that nobody may have asked for: the preset, and rows that are not a D4RL id's own."""
        said = [self.preset.sentence(self.config, self.options.each)]
        mode = self.dataset.metadata.get("mode")
        if self.task and self.task.name in DATASETS and mode == "exact" and self.options.data_mode is None:
            said.append(
                f"data mode exact, {len(self.dataset):,} rows; D4RL's {self.task.name}, asked for by its id, has mode"
                " d4rl, which --data_mode d4rl takes for a file in D4RL's layout"
            )
        return said

    def _normalisation(self) -> str | None:
        """Return what observations are divided by, in words; None if they stay as they are."""
        if not self.config.normalize:
            return None
        return D4RL_SCALE if self.task and self.task.robot.d4rl else OWN_SCALE

    @property
    def compute(self) -> Compute:
        """How a run computes that begins with this plan."""
        return Compute(self.device, self.kernel, self.mode)

    @property
    def kernel(self) -> Kernel:
        """Which kernel computes, see :mod:`offline_rl.kernels.choice`."""
        if self.options.precision == "float32":
            return choose_kernel(self.options.threads) if self.device == "cpu" else "default"
        return self.options.precision

    @functools.cached_property
    def choice(self) -> Choice:
        """How updates would best be made: as asked for, or by default as suits the device and the run's length."""
        if self.options.mode != "auto":
            return Choice(self.options.mode)
        if self.device != "cpu":
            return Choice("cudagraph")
        return choose_mode(self.algorithm, self.options.steps, self.kernel, lambda: self._cycle)

    @property
    def way(self) -> Mode:
        """The mode of :attr:`choice`."""
        return self.choice.mode

    @functools.cached_property
    def _cycle(self) -> int | None:
        """After how many updates an agent does the same again; only one that is built knows, for settings decide."""
        return new_agent(self.description(self.options.seeds[0])).cycle

    @functools.cached_property
    def obstacle(self) -> str | None:
        """Why updates are made eagerly instead; None if nothing is known to be in the way."""
        if self.way == "compile" and (reason := obstacle(self.algorithm, self.device)):
            return reason
        if self.way != "eager" and self._cycle is None:
            return f"{self.algorithm.name} {UNDECLARED}"
        return None

    @property
    def mode(self) -> Mode:
        """How updates are made."""
        return "eager" if self.obstacle else self.way

    def score(self, returns: ArrayLike) -> float | None:
        """Return the mean normalised score of episodes, or None for a task without one."""
        if self.task is None or not self.task.robot.scored:
            return None
        return mean_score(self.task, returns)

    @property
    def score_name(self) -> str:
        """What to call a score while the run goes on: plainly so if it is D4RL's."""
        return self.task.robot.score_name if self.task and self.task.robot.reference != D4RL else "score"

    def _reference(self) -> dict[str, Any] | None:
        """Return what a score of this run means, in words and numbers; None for a task without one."""
        if self.task is None or not self.task.robot.scored:
            return None
        robot = self.task.robot
        return {
            "score_name": robot.score_name,
            "returns": robot.reference,
            "score_0": robot.reference_min,
            "score_100": robot.reference_max,
        }


def upgraded_record(record: dict[str, Any]) -> dict[str, Any]:
    """Return a ``config.json``, which an older version may have written, with settings by the names of today."""
    name, options = record["algorithm"], record["options"]
    new = {**record, "config": upgraded(name, record["config"])}
    if "each" in options:
        each = options["each"]
        both = upgraded(name, {**record["config"], **each})  # what a name means may depend on settings that all share
        own = {name: value for name, value in both.items() if any(value is values for values in each.values())}
        new["options"] = {**options, "each": own}
    if isinstance(before := record.get("offline"), dict):
        new["offline"] = upgraded_record(before)
    return new


def options_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return the options and settings that repeat the run of a ``config.json``, by name."""
    dataset = record["dataset"]
    differing = record["options"].get("each", {})
    settings = {name: value for name, value in record["config"].items() if name not in differing}
    preset = recorded_preset(find_algorithm(record["algorithm"], record["config"]), record.get("preset"))
    return {
        **settings,
        **record["options"],
        "dataset": dataset["source"],
        "data_mode": dataset["mode"],
        "task": record["task"],
        "dynamics": record["dynamics"],
        **({"preset": preset} if preset else {}),
    }


def names_of(dataset: Dataset) -> dict[str, list[str] | None]:
    """Return the names of a dataset's columns, which are part of its agents; runs of older versions recorded none."""
    return {key_of(field): dataset.names.get(key_of(field)) for field in FIELDS}


def differences(old: dict[str, Any], plan: Plan) -> list[str]:
    """Return, in words, the settings of a stored ``config.json`` that a new run does not share.

    How a run computes is its own choice, kept when it is resumed, unless it is asked for by name.
    """
    new = plan.record()
    pairs = [(name, old.get(name), new[name]) for name in ("algorithm", "task", "dynamics")]
    pairs.append(("dataset", old["dataset"]["fingerprint"][:12], new["dataset"]["fingerprint"][:12]))
    pairs += [(name, old["dataset"].get(name, names), names) for name, names in names_of(plan.dataset).items()]
    pairs.append(("normalisation", normalisation(old), normalisation(new)))
    pairs.append(("device", old["compute"]["device"], new["compute"]["device"]))
    kernels = [record["compute"]["kernel"] for record in (old, new)]
    pairs.append(("precision", precision_of(kernels[0]), precision_of(kernels[1])))
    if plan.options.mode != "auto":
        pairs.append(("mode", old["compute"].get("mode", "eager"), new["compute"]["mode"]))
    for section in ("config", "options"):
        # A setting that there was not yet had the effect of its default.
        before = {**plan.config.defaults(), **old[section]} if section == "config" else old[section]
        pairs += [(name, before.get(name), new[section].get(name)) for name in {**before, **new[section]}]
    return [
        f"{name} was {brief(repr(before))}, now {brief(repr(after))}"
        for name, before, after in pairs
        if before != after
    ]


def normalisation(record: dict[str, Any]) -> str | None:
    """Return what a ``config.json`` says of observations' scale; before it said so, all were divided by D4RL's."""
    said: str | None = record["dataset"].get("normalisation", D4RL_SCALE if record["config"]["normalize"] else None)
    return said


def split_settings(algorithm: str, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part keyword arguments into a run's options and the algorithm's settings.

    Raises:
        RunError: Neither knows a name; the nearest one is suggested.
    """
    run = {field.name for field in dataclasses.fields(TrainOptions)}
    agent = set(setting_types(algorithm))
    for name in settings:
        if name not in run | agent:
            raise RunError(f"unknown setting {name!r} for {algorithm}{named_inside(name, run | agent)}")
    return (
        {name: value for name, value in settings.items() if name in run},
        {name: value for name, value in settings.items() if name in agent},
    )


def load(dataset: str | Path, options: TrainOptions) -> Dataset:
    """Load a dataset as a run's options say.

    Raises:
        OfflineRLError: None is named, or it cannot be loaded.
    """
    if not dataset and options.resume:
        raise RunError(f"no dataset; offline-rl resume {options.out} takes that of the run, and all its other options")
    if not dataset:
        raise RunError("no dataset; give --dataset hopper-demo, in Python dataset='hopper-demo', or another one's name")
    return load_dataset(dataset, options.data_mode)


def _task(options: TrainOptions, dataset: Dataset) -> Task | None:
    if (options.task or dataset.task) is None:
        hint = f"dataset {dataset.name} names no task; give one, for instance --task hopper, in Python task='hopper'"
        if options.online_steps:
            raise TaskError(hint)
        if options.evaluates:
            raise TaskError(f"{hint}, or {_UNEVALUATED}")
        return None
    try:
        # The data's own task may be one that its name alone does not lead to.
        task = dataset.find_task() if options.task in (None, dataset.task) else find_task(options.task or "")
    except TaskError:
        if options.evaluates or options.online_steps or not dataset.environment:
            raise
        return None
    assert task is not None
    check_fits(task, dataset.observation_size, dataset.action_size)
    if options.evaluates and not task.robot.scored:
        try:
            normalized_score(task, 0.0)
        except OfflineRLError as error:
            raise TaskError(f"{error}; {_UNEVALUATED}") from None
    if task.robot.maker != LOCOMOTION and (options.evaluates or options.online_steps):
        check_playable(task, dynamics_of(task, options.dynamics), online=options.online_steps > 0)
    return task


def _device(name: str) -> str:
    """Return "cpu" or "cuda:N"."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RunError(f"unknown device {name!r}; use cpu, cuda or auto") from None
    if device.type not in ("cpu", "cuda"):
        raise RunError(f"device {name!r} is not supported; use cpu, cuda or auto")
    if device.type == "cpu":
        return "cpu"
    index = device.index or 0
    if index >= torch.cuda.device_count():
        raise RunError(f"device {name!r} is not there: PyTorch finds {torch.cuda.device_count()} CUDA GPUs")
    return f"cuda:{index}"


def _check_each(algorithm: type[Agent], options: TrainOptions, overrides: dict[str, Any]) -> None:
    """Refuse settings in which the replicas of a run cannot differ."""
    types = algorithm.config_class.types()
    able = [name for name, kind in types.items() if kind is float]
    for name in options.each:
        if name not in types:
            raise RunError(f"each: unknown setting {name!r} for {algorithm.name}{named_inside(name, able)}")
        if name not in able:
            raise RunError(f"each: agents of one run cannot differ in {name}; they can in {', '.join(able)}")
        if name in overrides:
            raise RunError(f"{name} is given for all agents and for each; leave out one of the two")


def _check_compute(options: TrainOptions, device: str) -> None:
    """Refuse what a device has not."""
    if device == "cpu" and (options.mode == "cudagraph" or options.precision == "tf32"):
        name = "mode cudagraph" if options.mode == "cudagraph" else "precision tf32"
        raise RunError(f"{name} needs a GPU, and this run is on the CPU; leave it out")
    if options.precision == "bf16" and not (device == "cpu" and bf16_is_faster()):
        raise RunError("precision bf16 needs a CPU with units for it (AMX), and this run has none; leave it out")


def _gpu(device: str) -> str | None:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else None
