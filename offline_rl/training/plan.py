"""Everything that is decided, and checked, before a run writes its first byte."""

import dataclasses
import os
import platform
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from offline_rl.agent import Agent, AgentConfig, decimals, describe, find_algorithm, merged, presets
from offline_rl.data import Dataset, load_dataset
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.envs.dynamics import Dynamics, dynamics_of
from offline_rl.envs.recovered import check_playable
from offline_rl.envs.tasks import Task, check_fits, find_task, normalized_score
from offline_rl.errors import OfflineRLError, RunError, TaskError, suggestion
from offline_rl.networks.kernels import bf16_is_faster, choose_kernel
from offline_rl.origin import commit, processor, versions
from offline_rl.training.compiled import obstacle
from offline_rl.training.options import RESULT_OPTIONS, TrainOptions

FORMAT = 2
"""Of ``config.json``; since 2 it carries a checksum."""


@dataclass(frozen=True)
class Plan:
    """A run that can be started: every name is resolved, every size fits; ``source`` is the dataset as it was named.

    ``preset`` names the entries of the algorithm's ``PRESETS`` that hold for the task; a later one goes over an earlier.

    ``dynamics`` are what the options ask for, else those of the task's data; ``"d4rl"`` for a run without a task.
    """

    algorithm: type[Agent]
    config: AgentConfig
    preset: tuple[str, ...]
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
            overrides: The algorithm's settings that differ from the task's preset.

        Raises:
            OfflineRLError: Something is unknown, does not fit, or is not supported.
        """
        found = find_algorithm(algorithm)
        if options.online_steps and not found.explores():
            raise RunError(
                f"{found.name} has no way to explore, so it cannot be trained online; leave out online_steps"
            )
        source = None if isinstance(dataset, Dataset) else str(dataset or options.dataset)
        data = dataset if isinstance(dataset, Dataset) else load(dataset or options.dataset, options)
        task = _task(options, data)
        dynamics = dynamics_of(task, options.dynamics) if task else options.dynamics or "d4rl"
        # Joined data goes by its first part's task, but what was published for that part is not meant for it.
        joined = "parts" in data.metadata
        published = presets(found, task.robot.name, task.robot.name if joined else task.name) if task else {}
        config = found.config_class(**{**merged(published), **overrides})
        _check_each(found, options, overrides)
        preprocessing = Preprocessing.fit(data, normalize=config.normalize)
        device = _device(options.device)
        _check_compute(found, options, device)
        plan = cls(found, config, tuple(published), options, data, source, task, dynamics, preprocessing, device)
        for seed in options.seeds:
            plan.config_of(seed)  # refuses what is out of range
        return plan

    def config_of(self, seed: int) -> AgentConfig:
        """Return the settings of one member."""
        place = self.options.seeds.index(seed)
        own: dict[str, Any] = {name: values[place] for name, values in self.options.each.items()}
        return dataclasses.replace(self.config, **own)

    def description(self, seed: int) -> dict[str, Any]:
        """Return what ``agent.json`` of one member holds; see :meth:`offline_rl.agent.Agent.description`."""
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
            # A name leads to D4RL's tasks alone; others are told in full.
            **({"recovered_task": self.task.to_json()} if self.task and not self.task.robot.d4rl else {}),
            "dynamics": self.dynamics,
            "dataset": self.dataset.name,
            "fingerprint": self.dataset.fingerprint,
            "versions": versions(),
        }

    def record(self) -> dict[str, Any]:
        """Return what ``config.json`` holds."""
        options = dataclasses.asdict(self.options)
        recorded = [name for name in RESULT_OPTIONS if name != "each" or self.options.each]
        return {
            "format": FORMAT,
            "algorithm": self.algorithm.name,
            "config": dataclasses.asdict(self.config),
            "preset": list(self.preset),
            "options": {name: options[name] for name in recorded},
            "task": self.task.name if self.task else None,
            "dynamics": self.dynamics,
            "dataset": {
                "name": self.dataset.name,
                "source": self.source,
                "fingerprint": self.dataset.fingerprint,
                "mode": self.dataset.metadata.get("mode", self.options.data_mode),
                "rows": len(self.dataset),
                "episodes": len(self.dataset.episode_returns),
                "mean_return": self.dataset.mean_return,
                "mean_score": self.score(self.dataset.mean_return),
                "reference": self._reference(),
            },
            "compute": {"device": self.device, "kernel": self.kernel, "mode": self.mode},
            "versions": versions(),
            "commit": commit(),
            "hardware": {
                "machine": platform.machine(),
                "processor": processor(),
                "cores": os.cpu_count(),
                "gpu": _gpu(self.device),
            },
        }

    @property
    def kernel(self) -> str:
        """Which kernel computes, see :mod:`offline_rl.networks.kernels`."""
        if self.options.precision == "float32":
            return choose_kernel(self.options.threads) if self.device == "cpu" else "default"
        return self.options.precision

    @property
    def mode(self) -> str:
        """How updates are made: "auto" resolved, and eagerly where they cannot be compiled."""
        if self.options.mode == "compile":
            return "eager" if obstacle(self.algorithm, self.device) else "compile"
        if self.options.mode != "auto":
            return self.options.mode
        return "eager" if self.device == "cpu" else "cudagraph"

    def score(self, value: float) -> float | None:
        """Return the normalised score of a return, or None for a task without one."""
        if self.task is None or not self.task.robot.scored:
            return None
        return float(normalized_score(self.task, value))

    @property
    def score_name(self) -> str:
        """What to call a score while the run goes on: plainly so if it is D4RL's."""
        return self.task.robot.score_name if self.task and not self.task.robot.d4rl else "score"

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


def differences(old: dict[str, Any], plan: Plan) -> list[str]:
    """Return, in words, the settings of a stored ``config.json`` that a new run does not share.

    How a run computes is its own choice, kept when it is resumed, unless it is asked for by name.
    """
    new = plan.record()
    pairs = [(name, old.get(name), new[name]) for name in ("algorithm", "task", "dynamics")]
    pairs.append(("dataset", old["dataset"]["fingerprint"][:12], new["dataset"]["fingerprint"][:12]))
    pairs.append(("device", old["compute"]["device"], new["compute"]["device"]))
    kernels = [record["compute"]["kernel"] for record in (old, new)]
    precisions = [kernel if kernel in ("tf32", "bf16") else "float32" for kernel in kernels]
    pairs.append(("precision", precisions[0], precisions[1]))
    if plan.options.mode != "auto":
        pairs.append(("mode", old["compute"].get("mode", "eager"), new["compute"]["mode"]))
    for section in ("config", "options"):
        names = {**old[section], **new[section]}
        pairs += [(name, old[section].get(name), new[section].get(name)) for name in names]
    return [f"{name} was {before!r}, now {after!r}" for name, before, after in pairs if before != after]


def split_settings(algorithm: str, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part keyword arguments into a run's options and the algorithm's settings.

    Raises:
        RunError: Neither knows a name; the nearest one is suggested.
    """
    run = {field.name for field in dataclasses.fields(TrainOptions)}
    agent = {field.name for field in dataclasses.fields(find_algorithm(algorithm).config_class)}
    for name in settings:
        if name not in run | agent:
            raise RunError(f"unknown setting {name!r} for {algorithm}{suggestion(name, run | agent)}")
    return (
        {name: value for name, value in settings.items() if name in run},
        {name: value for name, value in settings.items() if name in agent},
    )


def load(dataset: str | Path, options: TrainOptions) -> Dataset:
    """Load a dataset as a run's options say.

    Raises:
        OfflineRLError: None is named, or it cannot be loaded.
    """
    if not dataset:
        raise RunError("no dataset; give --dataset, for instance --dataset hopper-medium-v2 or --dataset hopper-demo")
    return load_dataset(dataset, options.data_mode)


def _task(options: TrainOptions, dataset: Dataset) -> Task | None:
    if (options.task or dataset.task) is None:
        hint = f"dataset {dataset.name} names no task; give --task, for instance --task hopper"
        if options.online_steps:
            raise TaskError(hint)
        if options.evaluates:
            raise TaskError(f"{hint}, or train without evaluation by --eval_every 0 --final_episodes 0")
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
            raise TaskError(f"{error}; train without evaluation by --eval_every 0 --final_episodes 0") from None
    if not task.robot.d4rl and (options.evaluates or options.online_steps):
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
    """Refuse settings in which the members of a run cannot differ."""
    able = decimals(algorithm.config_class)
    for name in options.each:
        if name not in {field.name for field in dataclasses.fields(algorithm.config_class)}:
            raise RunError(f"each: unknown setting {name!r} for {algorithm.name}{suggestion(name, able)}")
        if name not in able:
            raise RunError(f"each: agents of one run cannot differ in {name}; they can in {', '.join(able)}")
        if name in overrides:
            raise RunError(f"{name} is given for all agents and for each; leave out one of the two")


def _check_compute(algorithm: type[Agent], options: TrainOptions, device: str) -> None:
    """Refuse what a device has not; warn where an update cannot be compiled."""
    if device == "cpu" and (options.mode == "cudagraph" or options.precision == "tf32"):
        name = "mode cudagraph" if options.mode == "cudagraph" else "precision tf32"
        raise RunError(f"{name} needs a GPU, and this run is on the CPU; leave it out")
    if options.precision == "bf16" and not (device == "cpu" and bf16_is_faster()):
        raise RunError("precision bf16 needs a CPU with units for it (AMX), and this run has none; leave it out")
    if options.mode == "compile" and (reason := obstacle(algorithm, device)):
        warnings.warn(f"updates are made eagerly, not compiled: {reason}", stacklevel=3)


def _gpu(device: str) -> str | None:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else None
