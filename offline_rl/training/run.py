"""A run's folder: opening, resuming and reading it; and ``train``, which does the whole."""

import contextlib
import itertools
import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_rl.agent import Agent, load_agent
from offline_rl.analysis.results import CONFIG
from offline_rl.data import Dataset
from offline_rl.data.kinds import stem
from offline_rl.documents import read_bytes, said
from offline_rl.errors import RunError, suggestion
from offline_rl.files import MAKE_ROOM, read_record, sealed, write_json, writing
from offline_rl.folders import owned_folder
from offline_rl.origin import begun
from offline_rl.tracking.callbacks import Callback, Row, TensorBoardCallback, check_callbacks
from offline_rl.tracking.record import Record, read_metrics, rows_in
from offline_rl.tracking.wandb import WandbCallback
from offline_rl.training.checkpoint import PLACE, Checkpoint, check_metrics
from offline_rl.training.longer import changed_lengths, lengths_of, made_longer
from offline_rl.training.options import TrainOptions, warn_of_ignored
from offline_rl.training.plan import FORMAT, Compute, Plan, differences, split_settings, upgraded_record
from offline_rl.training.requests import Ahead
from offline_rl.training.trainer import Stop, stopped_by_signals, train_plan
from offline_rl.training.workers import WorkerPool

logger = logging.getLogger(__name__)
_DRAWING = threading.Lock()


@dataclass(frozen=True)
class Run:
    """A run on disk.

    Attributes:
        path: Its folder.
    """

    path: Path

    @property
    def config(self) -> dict[str, Any]:
        """What ``config.json`` holds."""
        return _read_config(self.path)

    @property
    def rows(self) -> list[Row]:
        """The rows of ``metrics.jsonl``, which must be those that the last checkpoint knows."""
        path, seeds = self.path / "metrics.jsonl", self.config["options"]["seeds"]
        content = read_metrics(path)
        check_metrics(self.path, content)
        rows = rows_in(path, content)
        if foreign := [row["seed"] for row in rows if row["seed"] not in seeds]:
            raise RunError(f"{path} has rows of seed {foreign[0]}, which config.json does not name; copy the run again")
        return rows

    @property
    def scores(self) -> dict[int, float]:
        """The normalised score of the final evaluation of each seed; NaN if it has diverged."""
        final = [row for row in self.rows if row["kind"] == "final"]
        return {row["seed"]: math.nan if row["score"] is None else row["score"] for row in final}

    @property
    def agents(self) -> Mapping[int, Agent]:
        """The trained agents by seed, each loaded for acting when it is asked for; one that has diverged is refused."""
        return _Agents({seed: self.path / "agents" / f"seed-{seed}" for seed in self.config["options"]["seeds"]})

    def __fspath__(self) -> str:
        return str(self.path)


class _Agents(Mapping[int, Agent]):
    """Agents that are loaded one by one, so that one that cannot be loaded is no obstacle to the others."""

    def __init__(self, folders: Mapping[int, Path]) -> None:
        self._folders = folders

    def __getitem__(self, seed: int) -> Agent:
        return load_agent(self._folders[seed])

    def __iter__(self) -> Iterator[int]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)

    def __repr__(self) -> str:
        return f"agents of the seeds {', '.join(map(str, self._folders))}"


def train(
    algorithm: str,
    dataset: Dataset | str | Path | None = None,
    *,
    options: TrainOptions | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Run:
    """Train an algorithm on a dataset.

    Works from a plain script without a ``__main__`` guard. What a command prints goes to the log of this process, to
    the logger "offline_rl", unless ``quiet`` is set; a terminal gets a progress bar.

    Args:
        algorithm: Its name, for instance ``"td3_bc"``.
        dataset: A :class:`Dataset`, or what :func:`offline_rl.load_dataset` takes.
        options: The run's options; instead, they may be given one by one as keywords.
        callbacks: Each is called with every row of the run's record, a dict, and with the run's settings before; see
            :mod:`offline_rl.tracking.callbacks`. One that raises ends the run.
        **settings: Fields of :class:`TrainOptions` and of the algorithm's ``Config``, for instance
            ``seeds=[0, 1], steps=100_000, out="runs/x", alpha=5.0``.

    Returns:
        The finished run.

    Raises:
        OfflineRLError: Something is unknown, does not fit, or failed; nothing was overwritten.
        Interrupted: SIGINT or SIGTERM arrived; the run can be resumed.
    """
    return train_by(None, algorithm, dataset, options=options, callbacks=callbacks, **settings)


def train_by(
    ahead: Ahead | None,
    algorithm: str,
    dataset: Dataset | str | Path | None = None,
    *,
    options: TrainOptions | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Run:
    """Train as :func:`train` does, by a worker that was started before, and that is ended with the run.

    Without one, it is started first of all, to be ready when the data is.
    """
    run_settings, agent_settings = split_settings(algorithm, settings)
    if options is not None and run_settings:
        raise RunError(f"give {sorted(run_settings)[0]} within options, or no options object")
    options = options or TrainOptions(**run_settings)
    check_callbacks(callbacks)
    warn_of_ignored(options)
    ahead = ahead or (Ahead(options.threads) if options.workers != 0 else None)
    with contextlib.closing(WorkerPool(ahead)) as pool:
        plan = Plan.make(algorithm, dataset, options, agent_settings)
        out = Path(options.out) if options.out else _names(f"{plan.algorithm.name}-{_short(plan.dataset.name)}")
        return carry_out(plan, out, pool, callbacks=callbacks)


def carry_out(
    plan: Plan,
    out: Path | Iterable[Path],
    pool: WorkerPool,
    *,
    callbacks: Sequence[Callback] = (),
    stop: Stop | None = None,
    say: Callable[[str], None] | None = None,
) -> Run:
    """Do what is planned, in a run folder; several plans may be carried out at once by threads of one process.

    Args:
        plan: What to do.
        out: The run's folder; or names of which the first that is free is taken.
        pool: Where child processes come from.
        callbacks: What is called with each row, before the callbacks that the plan's options ask for.
        stop: Lets the caller ask to stop.
        say: What to do with a sentence on where the run begins; by default it is logged, unless the plan is quiet.

    Returns:
        The finished run.

    Raises:
        OfflineRLError: As :func:`train`.
        Interrupted: ``stop`` or a signal asked to stop.
    """
    say = say or (_silent if plan.options.quiet else _log)
    stop = stop or Stop()
    callbacks = [*callbacks, *_trackers(plan.options)]
    with contextlib.ExitStack() as signals:
        signals.enter_context(stopped_by_signals(stop))
        with _opened(out, plan, say) as (path, checkpoint, compute):
            if checkpoint is not None and checkpoint.finished:
                say(f"{path} is finished ({checkpoint.step:,} updates); nothing to do")
                if not (path / "curve.png").exists():
                    _draw(path)
                return Run(path)
            known = (checkpoint.metrics_bytes, checkpoint.files.get("metrics.jsonl")) if checkpoint else (0, None)
            record = Record(path / "metrics.jsonl", callbacks, *known)
            with contextlib.closing(record):
                step = checkpoint.step if checkpoint else 0
                record.announce({"kind": "config", "step": step, "path": str(path), "config": _read_config(path)})
                train_plan(plan, path, compute, record, checkpoint, pool=pool, stop=stop)
            signals.close()  # what is left can be stopped at any moment
            _draw(path)
    return Run(path)


@contextlib.contextmanager
def _opened(
    out: Path | Iterable[Path], plan: Plan, say: Callable[[str], None]
) -> Iterator[tuple[Path, Checkpoint | None, Compute]]:
    """Own the folder; give it, the checkpoint to continue from, and how to compute."""
    with owned_folder(out, keep=PLACE, check=lambda path: _check_folder(path, plan.options.resume)) as folder:
        yield folder.path, *_begin(folder.path, plan, say)


def _check_folder(out: Path, resume: bool) -> None:
    if not resume:
        raise RunError(f"{out} exists; choose another --out, or continue it by offline-rl resume {out}")
    if not (out / "config.json").is_file():
        raise RunError(f"{out} is no run folder (it holds no config.json); choose another --out")


def _begin(out: Path, plan: Plan, say: Callable[[str], None]) -> tuple[Checkpoint | None, Compute]:
    config = out / "config.json"
    old = _read_config(out) if config.is_file() else None
    different, other_lengths = (differences(old, plan), changed_lengths(old, plan)) if old else ([], [])
    if len(different) > len(other_lengths):
        raise RunError(
            f"{out} was made with other settings: {'; '.join(different)}; offline-rl resume {out} goes on with its own"
        )
    checkpoint = Checkpoint.load(out) if plan.options.resume else None
    if checkpoint is None:
        if plan.options.resume:
            say(f"no checkpoint in {out}; starting over")
        with writing(config, "choose another --out"):
            write_json(config, sealed(plan.record() | begun()))
        return None, plan.compute
    if old and (longer := made_longer(checkpoint, old, plan, out)):
        # The checkpoint first: with it alone, the same command does the rest.
        say(
            f"{out} is made longer, to {plan.options.total_steps:,} updates; agents and final evaluation of step"
            f" {checkpoint.step:,} are replaced"
            if checkpoint.finished
            else f"{out} is made longer, to {plan.options.total_steps:,} updates"
        )
        checkpoint = longer
        checkpoint.save(out)
        with writing(config, MAKE_ROOM):
            write_json(config, sealed({**old, "options": {**old["options"], **lengths_of(plan)}}))
    if old and "offline" in old and checkpoint.step == plan.options.steps:
        say(f"the online phase begins, after {checkpoint.step:,} updates of the offline run")
    elif not checkpoint.finished:
        say(f"resumed at step {checkpoint.step}")
    return checkpoint, Compute.recorded(old) if old else plan.compute


def _trackers(options: TrainOptions) -> list[Callback]:
    """Return the callbacks that the options ask for."""
    trackers: list[Callback] = []
    if options.wandb:
        trackers.append(
            WandbCallback(
                project=options.wandb_project,
                entity=options.wandb_entity,
                group=options.wandb_group,
                tags=options.wandb_tags,
                artifact=options.wandb_artifact,
            )
        )
    if options.tensorboard:
        trackers.append(TensorBoardCallback())
    return trackers


def _log(sentence: str) -> None:
    logger.info("%s", sentence)


def _silent(sentence: str) -> None:
    """Say nothing."""


def _draw(out: Path) -> None:
    from offline_rl.analysis.curves import draw_curve

    run = Run(out)
    # Matplotlib is not made for several threads.
    with _DRAWING:
        draw_curve(run.rows, run.config, out / "curve.png")


def _read_config(out: Path) -> dict[str, Any]:
    path, remedy = out / "config.json", "give the folder of a run, or copy the run again"
    if not out.exists():
        beside = [other.name for other in out.parent.iterdir()] if out.parent.is_dir() else []
        raise RunError(f"there is no folder {out}{suggestion(out.name, beside) or '; check the path'}")
    try:
        content = read_bytes(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({said(error)}); {remedy}") from None
    return upgraded_record(read_record(path, content, FORMAT, CONFIG, error=RunError, remedy=remedy))


def _names(name: str) -> Iterator[Path]:
    """Yield names for a run's folder, one after the other."""
    if "WANDB_SWEEP_ID" in os.environ and (trial := os.environ.get("WANDB_RUN_ID")):
        # Agents of one sweep start runs at the same moment; each has a folder of its own.
        name = f"{name}-{trial}"
    for number in itertools.count(1):
        yield Path("runs") / (name if number == 1 else f"{name}-{number}")


def _short(dataset: str) -> str:
    return "+".join(stem(part.replace("/", "-")) for part in dataset.split("+"))
