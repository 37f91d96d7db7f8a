"""Going on with a run that was stopped, with all that its folder records."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offline_rl.data import Dataset
from offline_rl.errors import RunError, named_inside
from offline_rl.kernels.choice import precision_of
from offline_rl.tracking.callbacks import Callback
from offline_rl.training.options import FREE_OPTIONS, TrainOptions
from offline_rl.training.plan import options_of, split_settings
from offline_rl.training.run import Run, train

LENGTHS = ("steps", "online_steps")


def resume(
    run: Run | str | Path,
    *,
    dataset: Dataset | str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Run:
    """Continue a run from its last checkpoint, as ``train`` or ``finetune`` with the same options and ``resume`` would.

    Settings, dataset, seeds and device are those of ``config.json``. A finished run stays as it is, unless it is made
    longer.

    Args:
        run: The run, or its folder.
        dataset: The run's dataset, if it was trained on one in memory; or where it is now, if it has moved.
        callbacks: As for :func:`offline_rl.train`.
        **options: ``steps`` or ``online_steps``, to go on longer; of :class:`TrainOptions` those that change no result:
            ``workers``, ``checkpoint_seconds``, ``profile``, ``wandb`` and what begins with it, ``tensorboard`` and
            ``quiet``. A run that went online by ``finetune`` takes ``steps`` as that did: those of the online phase.

    Returns:
        The finished run.

    Raises:
        OfflineRLError: It is no run, its dataset is not found or has changed, an option cannot be changed, or the run
            cannot be made longer.
        Interrupted: SIGINT or SIGTERM arrived; the run can be resumed.
    """
    old = run if isinstance(run, Run) else Run(Path(run))
    config, known = old.config, {*LENGTHS, *FREE_OPTIONS}
    for name in options:
        if name in {field.name for field in dataclasses.fields(TrainOptions)} - known:
            raise RunError(f"{name} is that of {old.path} and cannot be changed when it goes on; leave it out")
        if name not in known:
            raise RunError(f"unknown option {name!r} of a run that goes on{named_inside(name, known)}")
    given = {name: value for name, value in options.items() if value is not None}
    if "offline" in config and "steps" in given:
        given["online_steps"] = given.pop("steps")
    recorded, settings = split_settings(config["algorithm"], options_of(config))
    data = dataset if dataset is not None else recorded["dataset"]
    if data is None:
        raise RunError(f"{old.path} was trained on a dataset in memory; give it again with dataset=")
    recorded |= {"dataset": "", "device": config["compute"]["device"], "out": str(old.path), "resume": True}
    recorded["precision"] = precision_of(config["compute"]["kernel"])
    return train(
        config["algorithm"], data, options=TrainOptions(**{**recorded, **given}), callbacks=callbacks, **settings
    )
