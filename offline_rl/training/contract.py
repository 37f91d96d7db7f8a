"""Whether an algorithm keeps what it declares of its updates: looked at once, before any of them is repeated.

A graph or a program is recorded at one update of each place in ``cycle`` and stands for all others of that place. So
whatever ``update`` computes from its number, or from what it keeps beside optimisers and targets, would be frozen, and
training would go wrong without a word.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from offline_rl.agent import Agent
from offline_rl.data.packed import PackedRows
from offline_rl.errors import OfflineRLError, RunError
from offline_rl.training.updates.sampler import Sampler

FAR = 720_720
"""Cycles after which updates are looked at again: what grows with the step has grown by then."""
MOST = 32
"""Updates that are looked at in one place at most; two cycles are, if they are fewer."""
TOLERANCE = 0.05
"""Largest difference, as a share of the way that updates by themselves have gone: float32 rounding was measured to make
a millionth, reduced precision may make some hundredths, and a forgotten cycle makes all of it."""
REMEDY = "(see 'Write an algorithm' in docs/api.md); until then train with --mode eager"


class Way(Protocol):
    """How updates are repeated."""

    def make(self, step: int) -> object:
        """Make update ``step`` of the agents looked at, as it will be made from now on."""

    def settle(self) -> None:
        """Let the agents have what updates have changed."""

    def take(self) -> None:
        """Take over what the agents are now."""


def cycle_of(agent: Agent) -> int:
    """Return after how many updates an algorithm does the same again.

    Raises:
        RunError: It does not say so.
    """
    if agent.cycle is None:
        raise RunError(f"{agent.name} {UNDECLARED}; set it {REMEDY}")
    return agent.cycle


UNDECLARED = "does not declare after how many updates its update does the same again (cycle)"


def check(agents: Sequence[Agent], rows: PackedRows, step: int, cycle: int, way: Way) -> None:
    """See that updates that are repeated do what ``update`` does; the agents are left as they were.

    Two cycles from ``step`` on, and as many far behind the run's end, are made by ``update`` and by ``way``, from the
    same state and with the same batches.

    Args:
        agents: Replicas of one algorithm.
        rows: The dataset.
        step: The first update that would be repeated.
        cycle: What the agents declare.
        way: How they would be repeated.

    Raises:
        RunError: They do something else.
    """
    way.settle()
    before = [_copied(agent.training_state()) for agent in agents]
    steps = [*_repeating(agents, step, cycle), *_repeating(agents, step + FAR * cycle, cycle)]
    for agent in agents:
        _update(agent, Sampler(agent, rows, block=1), steps, cycle)
    theirs = [_copied(agent.training_state()) for agent in agents]
    _restore(agents, before, way)
    try:
        for number in steps:
            way.make(number)
        way.settle()
    except OfflineRLError:
        raise
    except Exception as error:  # anything may go wrong in what is not made to be repeated
        raise unable(agents[0], error) from error
    for agent, start, expected in zip(agents, before, theirs, strict=True):
        if wrong := _differing(agent.training_state(), expected, start):
            raise RunError(
                f"{agent.name} declares that its update does the same again after {cycle} (cycle), but repeated updates"
                f" leave another {wrong} than update itself: it depends on the step, on other settings than"
                f" stackable_settings, or on what it keeps beside optimisers and targets; correct cycle, repeats or"
                f" stackable {REMEDY}"
            )
    _restore(agents, before, way)


def unable(agent: Agent, error: Exception) -> RunError:
    """Return what to say where an update cannot be repeated at all."""
    said = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"[:300]
    return RunError(f"{agent.name}'s update cannot be repeated ({said}); correct cycle, repeats or stackable {REMEDY}")


def _repeating(agents: Sequence[Agent], first: int, cycle: int) -> list[int]:
    """Return the next updates that all agents say repeat."""
    count = min(2 * cycle, MOST)
    near = range(first, first + 8 * count)
    return [step for step in near if all(agent.repeats(step) for agent in agents)][:count]


def _update(agent: Agent, sampler: Sampler, steps: Sequence[int], cycle: int) -> None:
    """Make updates one by one.

    Raises:
        RunError: One computes with its number what ``cycle`` does not tell.
    """
    uses: list[str] = []
    answers = type(agent).repeats is not Agent.repeats  # for what else it does with the number
    for number in steps:
        agent.update(sampler.batch(number), number if answers else Step(number, cycle, uses))
        if uses:
            raise RunError(
                f"{agent.name} declares that its update does the same again after {cycle} (cycle), but it computes"
                f" {uses[0]}, which repeated updates would freeze; let it use step % n alone, with cycle a multiple of"
                f" n, count by self.groups[...].count, or say by repeats which updates do not repeat {REMEDY}"
            )


class Step(int):
    """The number of an update, which notes what is computed with it beside its place in a cycle.

    Args:
        value: The number.
        cycle: The algorithm's.
        uses: Where notes go, in the words of a program.
    """

    def __new__(cls, value: int, cycle: int, uses: list[str]) -> "Step":
        """Make one."""
        step = super().__new__(cls, value)
        step.cycle, step.uses = cycle, uses
        return step

    cycle: int
    uses: list[str]

    def __mod__(self, other: Any) -> Any:
        """Return the place in a part of the cycle; note what is no part of it."""
        if type(other) is not int or other == 0 or self.cycle % other:
            self.uses.append(f"step % {other}")
        return int.__mod__(self, other)


def _noting(name: str) -> Callable[..., Any]:
    """Return an operation of whole numbers that notes its use."""
    operation = getattr(int, name)

    def noted(step: Step, *others: Any) -> Any:
        step.uses.append(f"with the step itself ({name.strip('_')})")
        return operation(step, *others)

    return noted


for _name in (
    *("add", "sub", "mul", "truediv", "floordiv", "divmod", "pow", "lshift", "rshift", "and", "or", "xor"),
    *("radd", "rsub", "rmul", "rtruediv", "rfloordiv", "rdivmod", "rmod", "rpow", "rlshift", "rand", "ror", "rxor"),
    *("lt", "le", "gt", "ge", "eq", "ne", "hash", "int", "float", "index", "neg", "abs", "invert", "round", "trunc"),
):
    setattr(Step, f"__{_name}__", _noting(f"__{_name}__"))


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def _restore(agents: Sequence[Agent], states: Sequence[Mapping[str, Tensor]], way: Way) -> None:
    """Put back what updates have changed, in place: graphs and programs know where it lies."""
    for agent, state in zip(agents, states, strict=True):
        for name, tensor in agent.training_state().items():
            tensor.copy_(state[name])
    way.take()


def _differing(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> str | None:
    """Name what has gone another way from ``start``; nothing where training has diverged."""
    for name in ours:
        one, other, began = (state[name].double() for state in (ours, theirs, start))
        if other.isfinite().all() and not _norm(one - other) <= TOLERANCE * _norm(other - began) + 1e-7 * _norm(other):
            return name
    return None


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor))
