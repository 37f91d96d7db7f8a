"""Options of a run, apart from the algorithm's own settings."""

import warnings
from dataclasses import dataclass, field
from typing import Annotated, Literal

from offline_rl.errors import RunError, quoted
from offline_rl.kernels.choice import Precision
from offline_rl.settings import AtLeast, Count, NonNegative, conform

Mode = Literal["eager", "compile", "cudagraph"]
"""How updates are made: operation after operation, by compiled programs, or as CUDA graphs."""
SEED_LIMIT = 1000
"""Agents of one run, which are trained side by side."""


@dataclass(frozen=True)
class LoopOptions:
    """Options of every run, whatever begins it."""

    device: str = "auto"
    """Where to train: "cpu", "cuda", or "auto" for a GPU if there is one."""
    mode: Literal["auto", "eager", "compile", "cudagraph"] = "auto"
    """How updates are made: "auto" is "cudagraph" on a GPU, and on a CPU "compile" where a run is long enough to repay
    compiling, else "eager"."""
    precision: Precision = "float32"
    """Of matrix products; "tf32" (on a GPU) and "bf16" (on a CPU with AMX) are faster, and change results."""
    out: str | None = None
    """Folder of the run; by default runs/ALGORITHM-DATASET, or RUN-online after finetune; with -2 if that exists."""
    resume: bool = False
    """Continue the run in --out from its last checkpoint; with more steps also a finished one that has no schedule."""
    eval_every: Annotated[int, AtLeast(0)] = 5000
    """Updates between evaluations; 0 for none."""
    eval_episodes: Count = 10
    """Episodes of each evaluation during training."""
    final_episodes: Annotated[int, AtLeast(0)] = 100
    """Episodes of the evaluation after the last update of a phase; 0 for none."""
    log_every: Count = 1000
    """Updates between rows of training metrics, which are means over these updates."""
    checkpoint_seconds: NonNegative = 5.0
    """Seconds between checkpoints."""
    workers: Annotated[int | None, AtLeast(0)] = None
    """Training processes at most, one on a GPU; by default one for each seed, at most two for each usable core.
    With 0 the calling process itself trains and evaluates, so that a debugger stops in an algorithm."""
    threads: Count = 1
    """Threads of each training process; changing it changes the last bits of results."""
    profile: bool = False
    """Say at the end where the time of updates went, and write profile.txt and a trace of some hundred updates."""
    wandb: bool = False
    """Also log to Weights & Biases, one W&B run for each seed; without an API key offline, into the run folder."""
    wandb_project: str | None = None
    """Project of the W&B runs; by default WANDB_PROJECT, else "offline_rl"."""
    wandb_entity: str | None = None
    """User or team that the W&B runs belong to; by default W&B's."""
    wandb_group: str | None = None
    """Group of the W&B runs; by default the run folder's name."""
    wandb_tags: list[str] = field(default_factory=list)
    """Tags of the W&B runs."""
    wandb_artifact: bool = False
    """Also store each trained agent in W&B, as an artifact of its run."""
    tensorboard: bool = False
    """Also write TensorBoard files into the run folder."""
    quiet: bool = False
    """Show no progress and no remarks; warnings and the address of a W&B run stay."""

    def __post_init__(self) -> None:
        conform(self, RunError)


def warn_of_ignored(options: LoopOptions) -> None:
    """Warn of options that say how to log to W&B where nothing is logged there."""
    given = [name for name in vars(options) if name.startswith("wandb_") and getattr(options, name)]
    if given and not options.wandb:
        verb = "is" if len(given) == 1 else "are"
        text = f"{' and '.join(given)} {verb} ignored, because nothing is logged to W&B; add wandb"
        warnings.warn(text, stacklevel=3)


@dataclass(frozen=True)
class TrainOptions(LoopOptions):
    """Options of a training run."""

    dataset: str = ""
    """A D4RL or Minari id, a file in D4RL's layout, a CSV or Parquet file, "hopper-demo", or several joined by "+"; or
    "none" for algorithms that collect their own, which need task and online_steps instead of steps."""
    task: str | None = None
    """Task to score on; by default what the dataset names."""
    preset: str | None = None
    """Dataset of D4RL's whose published settings to begin with, or "none" for the defaults; by default what fits."""
    seeds: Annotated[list[int], AtLeast(0)] = field(default_factory=lambda: [0])
    """One independent agent is trained for each seed."""
    each: dict[str, list[float]] = field(default_factory=dict)
    """Settings in which the agents differ, a number for each seed: {"alpha": [1, 2.5]} with two seeds."""
    steps: Annotated[int, AtLeast(0)] = 1_000_000
    """Updates of each agent on the dataset."""
    online_steps: Annotated[int, AtLeast(0)] = 0
    """Environment steps of each agent after that, each followed by an update on the dataset and what was collected."""
    dynamics: Literal["d4rl", "plain"] | None = None
    """Physics of evaluation and of the online phase: "d4rl" for D4RL's own (the default for its tasks), "plain" for
    Gymnasium's stock environments (the only one for Minari's data)."""
    data_mode: Literal["d4rl", "exact"] | None = None
    """Rows as D4RL's qlearning_dataset makes them, or exact next observations; by default as fits the file."""
    estimate_every: Annotated[int, AtLeast(0)] = 0
    """Updates between estimates of each agent's value from the data alone, for which training waits; 0 for none."""
    estimate_updates: Count = 5000
    """Gradient steps of each such estimate; see offline-rl estimate --help."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds:
            raise RunError("seeds is empty; give at least one, for instance --seeds 0")
        if len(self.seeds) > SEED_LIMIT:
            raise RunError(f"seeds are {len(self.seeds):,} numbers; a run trains at most {SEED_LIMIT:,} agents at once")
        if len(set(self.seeds)) < len(self.seeds):
            raise RunError(f"seeds are {quoted(self.seeds)}; they must be different numbers")
        for name, values in self.each.items():
            if len(values) != len(self.seeds):
                raise RunError(
                    f"each has {len(values)} values of {name} for {len(self.seeds)} seeds; give one for each"
                )
        if self.resume and not self.out:
            raise RunError("resume needs to know the run; name its folder with --out")

    @property
    def total_steps(self) -> int:
        """Updates of both phases."""
        return self.steps + self.online_steps

    @property
    def ends(self) -> list[int]:
        """The last update of each phase that there is."""
        return sorted({self.steps, self.total_steps} - {0})

    @property
    def recorded(self) -> list[str]:
        """The options that the record of this run names."""
        silent = {*(() if self.each else ("each",)), *(() if self.estimate_every else ESTIMATES)}
        return [name for name in RESULT_OPTIONS if name not in silent]

    @property
    def evaluates(self) -> bool:
        """Whether the run plays any episode."""
        return self.eval_every > 0 or self.final_episodes > 0


@dataclass(frozen=True)
class FinetuneOptions(LoopOptions):
    """Options of going on online with a finished run."""

    steps: Count = 1_000_000
    """Environment steps of each agent, each followed by one update."""
    dataset: str | None = None
    """Where the run's dataset is now, if it has moved."""


RESULT_OPTIONS = (
    "seeds",
    "each",
    "steps",
    "online_steps",
    "eval_every",
    "eval_episodes",
    "final_episodes",
    "log_every",
    "threads",
    "estimate_every",
    "estimate_updates",
)
"""Options that change what a run records; a resumed run must have the same."""

ESTIMATES = ("estimate_every", "estimate_updates")
"""Of these, the ones that say nothing where no estimate is made; runs from before there were any do not record them."""

FREE_OPTIONS = (
    "workers",
    "checkpoint_seconds",
    "profile",
    "wandb",
    "wandb_project",
    "wandb_entity",
    "wandb_group",
    "wandb_tags",
    "wandb_artifact",
    "tensorboard",
    "quiet",
)
"""Options that change nothing of a run's results; each time that it goes on it may be given others."""
