"""The child process of a run: it trains some members, or plays episodes, whichever the parent asks for.

It writes no file. What it is asked is decided by the parent; see ``offline_rl/training/trainer.py``.
"""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from offline_rl.agent import Agent, agent_from_description, new_agent
from offline_rl.data.packed import PackedRows
from offline_rl.envs.dynamics import Dynamics
from offline_rl.envs.online import Transition
from offline_rl.envs.tasks import Task
from offline_rl.errors import DivergedError
from offline_rl.kernels.choice import Kernel, use_kernel
from offline_rl.processes.child import Message, serve
from offline_rl.training.checkpoint import prefixed, select
from offline_rl.training.evaluation import play
from offline_rl.training.means import Means
from offline_rl.training.online import Interaction
from offline_rl.training.options import Mode
from offline_rl.training.updates.compiled import CompiledUpdates
from offline_rl.training.updates.cuda_graph import CapturedUpdates
from offline_rl.training.updates.sampler import Sampler

Reply = tuple[Message, Mapping[str, Tensor]]


class Member:
    """One agent in training: its sampler, the means of its metrics, and what it does online.

    Args:
        agent: Who is trained.
        rows: The dataset.
        task: What is played in the online phase, if there is one.
        dynamics: Its physics.
        random_steps: Up to and including this step, online actions are drawn uniformly and nothing is learned.
        witness: Is told of each step online.
    """

    def __init__(
        self,
        agent: Agent,
        rows: PackedRows,
        task: Task | None = None,
        dynamics: Dynamics = "d4rl",
        *,
        random_steps: int = 0,
        witness: Callable[[Transition], None] | None = None,
    ) -> None:
        self.agent = agent
        self._random_steps, self._witness = random_steps, witness
        agent.prepare(rows)
        self.rows, self._task, self._dynamics = rows, task, dynamics
        self.sampler = Sampler(agent, rows)
        self._interaction: Interaction | None = None
        self.means = Means()

    def run(self, first: int, last: int) -> None:
        """Make the updates ``first`` to ``last``."""
        for step in range(first, last + 1):
            if step > self.agent.length.offline:
                happened = self._online().step(step)
                if self._witness is not None:
                    self._witness(happened)
                if step <= self._random_steps:
                    continue
            self.means.add(self.agent.update(self.sampler.batch(step), step))

    def metrics(self) -> dict[str, float]:
        """Return the means of metrics since the last report, and what the log says of episodes online."""
        online = self._interaction.metrics() if self._interaction else {}
        return dict(sorted({**self.means.report(), **online}.items()))

    def state(self, stored: int = 0) -> dict[str, Tensor]:
        """Return all that continuing exactly needs; of rows collected online those after the first ``stored``."""
        online = self._interaction.state(stored) if self._interaction else {}
        return self.agent.training_state() | prefixed(self.means.state(), "means/") | prefixed(online, "online/")

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state` returned, with all rows collected online."""
        self.agent.load_training_state(state)
        self.means.load_state(select(state, "means/"))
        if online := select(state, "online/"):
            self._online().load_state(online)

    def _online(self) -> Interaction:
        """Return the online phase, which begins with the first call."""
        if self._interaction is None:
            assert self._task is not None
            self._interaction = Interaction(self.agent, self.rows, self._task, self._dynamics, self._random_steps)
            self.agent.go_online(self._interaction.replay)
            # One batch at a time: each may hold the row collected just before.
            self.sampler = Sampler(self.agent, self._interaction.replay, block=1)
        return self._interaction


class Worker:
    """Answers requests; each ``do`` names a method."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._repeated: CapturedUpdates | CompiledUpdates | None = None
        self._arithmetic: tuple[Kernel, int] = "default", 1
        self._step = 0
        self._profiler: Any = None
        self._watched_from = 0

    def answer(self, message: Message, tensors: dict[str, Tensor]) -> Reply:
        """Call the method that ``message["do"]`` names with the rest of the message."""
        message = dict(message)
        methods: dict[str, Callable[..., Reply]] = {
            "setup": self.setup,
            "build": self.build,
            "run": self.run,
            "watch": self.watch,
            "watched": self.watched,
            "state": self.state,
            "weights": self.weights,
            "play": self.play,
        }
        return methods[message.pop("do")](tensors=tensors, **message)

    def setup(self, kernel: Kernel, threads: int, tensors: dict[str, Tensor]) -> Reply:
        """Choose how this process computes when it trains."""
        self._arithmetic = kernel, threads
        use_kernel(*self._arithmetic)
        return {}, {}

    def build(  # noqa: PLR0917
        self,
        descriptions: dict[str, Any],
        file: int,
        device: str,
        mode: Mode,
        step: int,
        task: dict[str, Any] | None,
        dynamics: Dynamics,
        tensors: dict[str, Tensor],
    ) -> Reply:
        """Build members, in place of others, on the data in ``file``; with a ``step``, continue from the tensors."""
        from safetensors.torch import load_file

        if self._profiler is not None:
            self.watched({})  # a run was stopped meanwhile
        # Mapped, not read: all workers share one copy of the dataset.
        arrays = load_file(f"/dev/fd/{file}")
        os.close(file)
        agents = {name: new_agent(description, device) for name, description in descriptions.items()}
        first = next(iter(agents.values()))
        rows = PackedRows(arrays, first.observation_size, first.action_size, device)
        played = Task.from_json(task) if task else None
        self._members = {}
        for name, agent in agents.items():
            self._members[name] = member = Member(agent, rows, played, dynamics)
            if step:
                member.load_state(select(tensors, f"{name}/"))
        self._step = step
        ways = {"cudagraph": CapturedUpdates, "compile": CompiledUpdates}
        self._repeated = ways[mode](list(self._members.values())) if mode in ways else None
        return {}, {}

    def run(self, until: int, report: bool, tensors: dict[str, Tensor]) -> Reply:
        """Train every member up to and including update ``until``; return their metrics if ``report``."""
        first = next(iter(self._members.values())).agent
        # Online each update comes after a step in an environment, which is the host's.
        offline = min(until, first.length.offline) if self._repeated else self._step
        if self._repeated and offline > self._step:
            self._repeated.run(self._step + 1, offline)
            if until > offline:
                self._repeated.settle()
        for member in self._members.values():
            member.run(max(self._step, offline) + 1, until)
        if first.device.type == "cuda":
            torch.cuda.synchronize(first.device)  # the parent measures how long updates take
        self._step = until
        return {"metrics": {name: member.metrics() for name, member in self._members.items()} if report else {}}, {}

    def watch(self, tensors: dict[str, Tensor]) -> Reply:
        """Begin to watch what updates are spent on."""
        from offline_rl.training.profile import Profiler

        self._watched_from, self._profiler = self._step, Profiler(type(self))
        return {}, {}

    def watched(self, tensors: dict[str, Tensor]) -> Reply:
        """Stop watching; return a text, and the trace as the bytes of a gzipped file."""
        text, trace = self._profiler.stop(self._step - self._watched_from)
        self._profiler = None
        return {"text": text}, {"trace": torch.frombuffer(bytearray(trace), dtype=torch.uint8)}

    def state(self, stored: int, tensors: dict[str, Tensor]) -> Reply:
        """Return every member's full state, and which lengths algorithms know.

        Of rows collected online it holds those after the first ``stored``.
        """
        tensors = self._gather(lambda member: member.state(stored))
        return {"lengths": [name for member in self._members.values() for name in member.agent.lengths_used]}, tensors

    def weights(self, tensors: dict[str, Tensor]) -> Reply:
        """Return what acting needs of every member."""
        return {}, self._gather(lambda member: member.agent.acting_weights())

    def play(
        self,
        description: dict[str, Any],
        task: dict[str, Any],
        dynamics: Dynamics,
        seeds: list[int],
        tensors: dict[str, Tensor],
    ) -> Reply:
        """Play one block of episodes with the agent that ``description`` and the tensors make.

        An agent whose training has diverged cannot act; its returns are NaN, and its neighbours go on.
        """
        diverged: Reply = {"returns": [[math.nan]] * len(seeds), "lengths": [[math.nan]] * len(seeds)}, {}
        if not all(bool(weight.isfinite().all()) for weight in tensors.values()):
            return diverged
        # Episodes are played the same way in every process: which one plays a block hangs on the moment.
        use_kernel("default", 1)
        try:
            agent = agent_from_description(description, tensors)
            returns, lengths = play(agent, Task.from_json(task), dynamics, seeds)
        except DivergedError:  # its weights are finite, but too large
            return diverged
        finally:
            use_kernel(*self._arithmetic)
        return {"returns": returns, "lengths": lengths}, {}

    def _gather(self, of: Callable[[Member], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        if self._repeated and self._step <= next(iter(self._members.values())).agent.length.offline:
            self._repeated.settle()
        return {f"{name}/{key}": t.cpu() for name, member in self._members.items() for key, t in of(member).items()}


def main() -> None:
    """Serve the parent."""
    serve(Worker().answer)


if __name__ == "__main__":
    main()
