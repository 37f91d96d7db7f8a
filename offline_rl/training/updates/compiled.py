"""Updates as compiled programs: one for each place in an algorithm's cycle.

An update is traced to PyTorch's operations, backward passes and optimiser included, and Inductor writes a program for
them, in C++ for a CPU: what stands between matrix products becomes a few loops, and autograd keeps no books. Results
are an eager update's within rounding. Compiling takes some seconds for MLPs, and minutes for a transformer; the
programs are kept in the cache folder.
"""

import contextlib
import hashlib
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from offline_rl.agent import Agent, Batch, Metrics, OptimizerGroup, Target, adam
from offline_rl.errors import RunError
from offline_rl.files import cache_folder
from offline_rl.training.contract import check, cycle_of
from offline_rl.training.updates.cuda_graph import Trained
from offline_rl.training.updates.lending import batch_like, fields_of, lend

FEW = 64
"""Parameters up to which Inductor's own loops take a step. A single number, such as a temperature, can be a loss's
factor, which Inductor would read only after an operation of ours has changed it."""


class CompiledUpdates:
    """Makes the updates of all replicas of a process by compiled programs.

    Which program makes an update depends on its number alone, so that a run that is resumed goes on as it would have.
    Before the first one is used it is seen whether it does what updates do, see :mod:`offline_rl.training.contract`.

    Args:
        replicas: All at the same step.

    Raises:
        RunError: The algorithm does not declare its ``cycle``; from :meth:`run`: or does not keep to it, or cannot be
            compiled.
    """

    def __init__(self, replicas: Sequence[Trained]) -> None:
        self._replicas = replicas
        self._cycles = [cycle_of(replica.agent) for replica in replicas]
        self._programs: list[dict[int, Program]] = [{} for _ in replicas]
        self._checked = False

    def run(self, first: int, last: int) -> None:
        """Make the updates ``first`` to ``last``."""
        for number, replica in enumerate(self._replicas):
            for step in range(first, last + 1):
                if not replica.agent.repeats(step):
                    replica.means.add(replica.agent.update(replica.sampler.batch(step), step))
                    continue
                if not self._checked:
                    check([replica.agent], replica.rows, step, self._cycles[number], self)
                    self._checked = True
                replica.means.add(self.make(step, number))

    def make(self, step: int, number: int = 0) -> Metrics:
        """Make update ``step``, which repeats, of one replica by the program of its place."""
        replica, programs, place = self._replicas[number], self._programs[number], step % self._cycles[number]
        batch = replica.sampler.batch(step)
        if place not in programs:
            programs[place] = Program(replica.agent, batch, step)
        return programs[place](batch)

    def settle(self) -> None:
        """Let the agents have what updates have changed: they do, always."""

    def take(self) -> None:
        """Take over what the agents are now: programs change the agents themselves."""


class Program:
    """One agent's update, compiled.

    Args:
        agent: Whose tensors it changes in place, as ``update`` does.
        batch: Like those it will be given; only shapes matter.
        step: One of those that it will make.

    Raises:
        RunError: The update cannot be compiled.
    """

    def __init__(self, agent: Agent, batch: Batch, step: int) -> None:
        # Before anything of Inductor's is imported, which chooses a place of its own. There it also finds programs that
        # were written for vectors of another length, whose results are then wrong; machines may share a cache folder.
        folder = cache_folder() / "compiled" / torch.backends.cpu.get_cpu_capability()
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
        self._state = agent.training_state()
        self._names: list[str] = []
        inputs = [*self._state.values(), *trees.tree_leaves(fields_of(batch))]
        try:
            with torch.no_grad():
                self._program = compiled(traced(self._traceable(agent, batch, step), inputs), inputs)
        except Exception as error:  # anything may go wrong in a compiler
            said = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"[:300]
            raise RunError(f"{agent.name}'s update cannot be compiled ({said}); train with --mode eager") from error

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Metrics:
        """Make the update."""
        values = self._program(*self._state.values(), *trees.tree_leaves(fields_of(batch)))
        return dict(zip(self._names, values, strict=True))

    def _traceable(self, agent: Agent, batch: Batch, step: int) -> Callable[..., tuple[Tensor, ...]]:
        """Return the update as a function of the training state's tensors and the batch's."""
        layout = trees.tree_structure(fields_of(batch))

        def update(*tensors: Tensor) -> tuple[Tensor, ...]:
            state = dict(zip(self._state, tensors[: len(self._state)], strict=True))
            fields = trees.tree_unflatten(tensors[len(state) :], layout)
            # Autograd keeps its books while the update is traced; the program does without.
            with _replaced(agent, state), torch.enable_grad():
                metrics = agent.update(batch_like(batch, fields), step)
            self._names = list(metrics)
            return tuple(value.detach() for value in metrics.values())

        return update


def traced(function: Callable[..., Any], inputs: Sequence[Tensor]) -> torch.fx.GraphModule:
    """Return the operations that a function makes of its inputs; they are not made."""
    from torch.fx.experimental.proxy_tensor import make_fx

    # What an agent has besides its training state does not change, and becomes a constant of the program.
    return make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)


def compiled(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Return a program that makes a graph's operations; one process compiles, others find what it has made."""
    from filelock import FileLock
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # Inductor finds programs it has written before only where shapes have an environment.
    fake = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv(), static_shapes=True)
    like = [fake.from_tensor(tensor, static_shapes=True) for tensor in inputs]
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{hashlib.sha256(graph.code.encode()).hexdigest()[:24]}.lock")
    options = {
        "compile_threads": 1,  # a pool of processes that compile, in every replica's process, would be too many
        "size_asserts": False,  # sizes are always the same
        # What is begun early, as PRDC's search, is to run beside the rest.
        "reorder_for_locality": False,
        "reorder_for_peak_memory": False,
    }
    with lock, config.patch(options), tracing(TracingContext(fake)):
        return compile_fx(graph, like)  # type: ignore[return-value]


@contextlib.contextmanager
def _replaced(agent: Agent, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Let an agent's update compute with, and change, the tensors in ``state`` instead of its own."""
    groups, targets, before = dict(agent.groups), dict(agent.targets), []
    try:
        for name, group in groups.items():
            traced = TracedGroup(group, {key: state[f"{name}.{key}"] for key in group.state()})
            agent.groups[name] = traced
            before.append((group.network, lend(group.network, traced.parameters)))
        for name, target in targets.items():
            flat = state[f"{name}.target"]
            agent.targets[name] = Target(target.network, flat, agent.groups[name].flat)
            before.append((target.network, lend(target.network, _parts(flat, target.network))))
        yield
    finally:
        for network, own in before:
            lend(network, own)
        agent.groups.update(groups)
        agent.targets.update(targets)


class TracedGroup:
    """An :class:`OptimizerGroup` for an agent while its update is traced.

    Args:
        group: The agent's own.
        state: The tensors to compute with, as :meth:`OptimizerGroup.state` names them.
    """

    def __init__(self, group: OptimizerGroup, state: Mapping[str, Tensor]) -> None:
        self.network, self.adam, self._own = group.network, group.adam, group.flat
        self._state = dict(state)
        self.flat, self.count = state["parameters"], state["count"]
        self.parameters = [part.detach().requires_grad_() for part in _parts(self.flat, group.network)]
        self._gradients: tuple[Tensor, ...] = ()

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Return a loss's gradients, one for each parameter."""
        return torch.autograd.grad(loss, self.parameters)

    def gradient_norm(self) -> Tensor:
        """Return the length that the gradient of the last step had before it was clipped."""
        norm: Tensor = torch.cat([gradient.reshape(-1) for gradient in self._gradients]).norm()
        return norm

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that are computed with."""
        return self._state

    @torch.no_grad()
    def step(self, gradients: tuple[Tensor, ...]) -> None:
        """Take one Adam step, as one operation: the loops that Inductor writes for it take several times as long."""
        self._gradients = gradients
        rate = self.adam.rate(self.count, self._own)
        gradient = torch.cat([gradient.reshape(-1) for gradient in gradients])
        if self.adam.gradient_clip is not None:
            gradient = gradient * self.adam.clip(gradient.norm())
        if len(gradient) <= FEW:
            self._move(gradient, rate)
            return
        fixed, given = (0.0, rate) if isinstance(rate, Tensor) else (rate, None)
        gradients = gradients if self.adam.gradient_clip is None else (gradient,)
        state = self.flat, self._state["mean"], self._state["square"], self.count
        torch.ops.offline_rl.adam(*state, gradients, given, fixed, self.adam.weight_decay)

    def _move(self, gradient: Tensor, rate: float | Tensor) -> None:
        mean, square = self._state["mean"], self._state["square"]
        self.count += 1
        steps = self.count.double()
        self.flat *= 1 - rate * self.adam.weight_decay
        mean.lerp_(gradient, 0.1)
        square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        size = (rate / (1 - 0.9**steps)).to(self.flat.dtype)
        scale = (1 - 0.999**steps).sqrt().to(self.flat.dtype)
        self.flat -= size * mean / (square.sqrt() / scale + 1e-8)


def _adam(  # noqa: PLR0917 (operations know no names)
    flat: Tensor,
    mean: Tensor,
    square: Tensor,
    count: Tensor,
    gradients: Sequence[Tensor],
    given: Tensor | None,
    fixed: float,
    weight_decay: float,
) -> None:
    gradient = torch.cat([gradient.reshape(-1) for gradient in gradients])
    adam(flat, gradient, mean, square, count, fixed if given is None else given, weight_decay)


_operations: Any = torch.library.Library("offline_rl", "FRAGMENT")  # type: ignore[no-untyped-call]
_operations.define(
    "adam(Tensor(a!) flat, Tensor(b!) mean, Tensor(c!) square, Tensor(d!) count, Tensor[] gradients, Tensor? given,"
    " float fixed, float weight_decay) -> ()"
)
_operations.impl("adam", _adam, "CompositeExplicitAutograd")
_operations.impl("adam", lambda *_: None, "Meta")


def _parts(flat: Tensor, network: nn.Module) -> list[Tensor]:
    """Return the views of a flat tensor that a network's parameters are."""
    shapes = [parameter.shape for parameter in network.parameters()]
    parts = torch.split(flat, [shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def obstacle(algorithm: type[Agent], device: str) -> str | None:
    """Say why an algorithm's updates cannot be compiled here; None if nothing is known to be in the way."""
    if not algorithm.stackable:
        return f"{algorithm.name} does not declare that its updates change optimisers and targets alone (stackable)"
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device == "cpu" and not shutil.which(compiler.split()[0]):
        return f"there is no C++ compiler {compiler}"
    if device == "cpu" and not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's headers are missing (Debian: python3-dev)"
    return None
