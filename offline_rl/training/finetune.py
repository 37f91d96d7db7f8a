"""Going on online with the agents of a finished offline run."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offline_rl.agent import find_algorithm
from offline_rl.data import Dataset
from offline_rl.errors import RunError
from offline_rl.files import replace_folder, sealed, write_json
from offline_rl.origin import begun
from offline_rl.tracking.callbacks import Callback, check_callbacks
from offline_rl.training.checkpoint import Checkpoint
from offline_rl.training.options import FinetuneOptions, LoopOptions, TrainOptions
from offline_rl.training.plan import Plan, names_of, normalisation, split_settings
from offline_rl.training.preset import recorded_preset
from offline_rl.training.run import Run, train


def finetune(
    run: Run | str | Path,
    *,
    options: FinetuneOptions | None = None,
    dataset: Dataset | str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Run:
    """Continue a finished run online: a new run folder begins where the old one ended, the old one stays as it is.

    Networks, targets, optimisers and seeds go on as if the run had been started with ``online_steps``; learning rates
    that decayed are constant from here on.

    Args:
        run: The finished run, or its folder.
        options: Options; instead, they may be given one by one as keywords.
        dataset: The run's dataset, if it was trained on one in memory; or where it is now, if it has moved.
        callbacks: As for :func:`offline_rl.train`.
        **settings: Fields of :class:`FinetuneOptions` and of the algorithm's ``Config``, for instance
            ``steps=100_000, alpha=5.0``; by default the algorithm's settings stay.

    Returns:
        The new run.

    Raises:
        OfflineRLError: The run is not finished, was online before, cannot explore, or its dataset is not found; a
            setting is unknown, or given twice.
        Interrupted: SIGINT or SIGTERM arrived; the new run can be resumed.
    """
    check_callbacks(callbacks)
    old = run if isinstance(run, Run) else Run(Path(run))
    config = old.config
    own = {field.name for field in dataclasses.fields(FinetuneOptions)}
    if options is not None and (twice := sorted(own & set(settings))):
        raise RunError(f"give {twice[0]} within options, or no options object")
    options = options or FinetuneOptions(**{name: value for name, value in settings.items() if name in own})
    rest = {name: value for name, value in settings.items() if name not in own}
    run_settings, agent_settings = split_settings(config["algorithm"], rest)
    if run_settings:
        raise RunError(f"{sorted(run_settings)[0]} is that of the run and cannot be changed when it goes on online")
    train_options = _train_options(old, options, agent_settings)
    data = dataset or _source(config, options)
    settings_of_all = {name: value for name, value in config["config"].items() if name not in train_options.each}
    overrides = {**settings_of_all, **agent_settings}
    out = Path(str(train_options.out))
    if not options.resume or not out.exists():
        # All updates to come follow a step in an environment, and are made one by one.
        mode = "eager" if train_options.mode == "auto" else train_options.mode
        one_by_one = dataclasses.replace(train_options, mode=mode)
        _begin(old, out, Plan.make(config["algorithm"], data, one_by_one, overrides))
    resumed = dataclasses.replace(train_options, resume=True)
    return train(config["algorithm"], data, options=resumed, callbacks=callbacks, **overrides)


def _train_options(old: Run, options: FinetuneOptions, agent_settings: dict[str, Any]) -> TrainOptions:
    config = old.config
    loop = {field.name: getattr(options, field.name) for field in dataclasses.fields(LoopOptions)}
    loop["out"] = options.out or f"{str(old.path).rstrip('/')}-online"
    return TrainOptions(
        **loop,
        seeds=config["options"]["seeds"],
        each={name: own for name, own in config["options"].get("each", {}).items() if name not in agent_settings},
        steps=config["options"]["steps"],
        online_steps=options.steps,
        task=config["task"],
        preset=recorded_preset(find_algorithm(config["algorithm"], config["config"]), config.get("preset")),
        dynamics=config["dynamics"],
        data_mode=config["dataset"]["mode"],
    )


def _source(config: dict[str, Any], options: FinetuneOptions) -> str:
    source = options.dataset or config["dataset"]["source"]
    if source is None:
        raise RunError("the run was trained on a dataset in memory; give it again with dataset=")
    return str(source)


def _begin(old: Run, out: Path, plan: Plan) -> None:
    """Make the new folder: the old run's record and checkpoint, with a step count that is no longer the end."""
    if out.exists():
        raise RunError(f"{out} exists; choose another --out, or continue it by offline-rl resume {out}")
    config = old.config
    if plan.dataset.fingerprint != config["dataset"]["fingerprint"]:
        raise RunError(f"{plan.dataset.name} is not the data that {old.path} was trained on; give that with --dataset")
    if any(config["dataset"].get(name, names) != names for name, names in names_of(plan.dataset).items()):
        raise RunError(f"{plan.dataset.name} calls its columns otherwise than the data of {old.path}; rename them back")
    if (before := normalisation(config)) != (now := normalisation(plan.record())):
        raise RunError(
            f"{old.path} divided observations by {before}, and this version divides those of other data than D4RL's by "
            f"{now}; train it again"
        )
    if config["options"].get("online_steps"):
        raise RunError(f"{old.path} has an online phase already; start from the offline run before it")
    checkpoint = Checkpoint.load(old.path)
    if checkpoint is None or not checkpoint.finished:
        raise RunError(f"{old.path} is not finished; continue it first by offline-rl resume {old.path}")
    going_on = dataclasses.replace(checkpoint, finished=False, total=plan.options.total_steps)
    try:
        with replace_folder(out, new=True) as folder:
            shutil.copyfile(old.path / "metrics.jsonl", folder / "metrics.jsonl")
            write_json(folder / "config.json", sealed(plan.record() | begun() | {"offline": config}))
            going_on.save(folder)
    except FileExistsError:
        raise RunError(f"{out} exists; choose another --out, or continue it by offline-rl resume {out}") from None
    except OSError as error:
        raise RunError(f"{out} cannot be written ({error}); choose another --out") from error
