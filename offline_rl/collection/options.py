"""Options of a collection, apart from a learner's own settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from offline_rl.agent import AgentConfig, find_algorithm
from offline_rl.errors import RunError, quoted, suggestion
from offline_rl.settings import AtLeast, Count, NonNegative, conform


@dataclass(frozen=True)
class CollectOptions:
    """Options of every collection."""

    task: str | None = None
    """Task to play, for instance hopper; an agent by default plays the one it was trained for."""
    steps: Count = 1_000_000
    """Environment steps, the rows of the file."""
    out: str = ""
    """HDF5 file to make; one that exists is never overwritten."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Decides the starts of episodes and every random draw."""
    dynamics: Literal["d4rl", "plain"] = "d4rl"
    """Physics: D4RL's own, or Gymnasium's stock v4 environments."""
    resume: bool = False
    """Continue a collection that was stopped; it ends in the same bytes."""
    checkpoint_seconds: NonNegative = 10.0
    """Seconds between checkpoints."""
    quiet: bool = False
    """Show no progress and no remarks."""

    def __post_init__(self) -> None:
        conform(self, RunError)
        if not self.out:
            raise RunError("no file to make; give --out, for instance --out hopper-random.hdf5")
        if Path(self.out).suffix.lower() not in (".hdf5", ".h5"):
            raise RunError(f"out is {quoted(self.out)}; the file is HDF5, so let its name end with .hdf5")


@dataclass(frozen=True)
class AgentOptions(CollectOptions):
    """Options of letting a saved agent play."""

    agent: str = ""
    """A saved agent: its folder, for instance runs/x/agents/seed-0, a run with one agent, or hf://user/name."""
    deterministic: bool = True
    """Act as well as possible; False acts as the agent explores."""
    noise: NonNegative = 0.0
    """Standard deviation of normal noise on every action."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.agent:
            raise RunError("no agent; give its folder with --agent, for instance --agent runs/x/agents/seed-0")
        if self.noise and not self.deterministic:
            raise RunError("noise is for an agent that acts deterministically; leave out one of the two")


@dataclass(frozen=True)
class LearnerOptions(CollectOptions):
    """Options of training an agent from nothing and keeping all that it does."""

    random_steps: Annotated[int, AtLeast(0)] = 5000
    """Steps with uniform random actions at the beginning, before the first update; then each step has one update."""
    snapshots: Annotated[list[int], AtLeast(1)] = field(default_factory=list)
    """Steps after which the agent is saved, beside the file in NAME-agents/step-N."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.snapshots and max(self.snapshots) > self.steps:
            raise RunError(f"snapshots is {quoted(self.snapshots)}; it must be at most steps, which is {self.steps}")

    @property
    def snapshots_folder(self) -> Path:
        """Where the agents are saved."""
        out = Path(self.out)
        return out.with_name(f"{out.stem}-agents")


KINDS: Mapping[str, type[CollectOptions]] = {
    "random": CollectOptions,
    "agent": AgentOptions,
    "sac": LearnerOptions,
}
"""What can collect, and its options; a learner is the algorithm of that name, and has its settings, too."""


def learner_config(kind: str) -> type[AgentConfig] | None:
    """Return the class of the algorithm's settings if ``kind`` learns."""
    return find_algorithm(kind).config_class if KINDS[kind] is LearnerOptions else None


def find_kind(kind: str) -> type[CollectOptions]:
    """Return the options of a kind of collection.

    Raises:
        RunError: There is no such kind.
    """
    if kind not in KINDS:
        raise RunError(f"nothing collects by the name {kind!r}{suggestion(kind, KINDS)}; there are {', '.join(KINDS)}")
    return KINDS[kind]
