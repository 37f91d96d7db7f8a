"""One seed's training state: the agent, and all else that its next update depends on."""

from collections.abc import Callable, Mapping

from torch import Tensor

from offline_rl.agent import Agent
from offline_rl.data.packed import PackedRows
from offline_rl.envs.dynamics import Dynamics
from offline_rl.envs.online import Transition
from offline_rl.envs.tasks import Task
from offline_rl.training.checkpoint import prefixed, select
from offline_rl.training.means import Means
from offline_rl.training.online import Interaction
from offline_rl.training.updates.sampler import Sampler


class Replica:
    """One seed's training state. :mod:`offline_rl.training.loop` makes its updates.

    Args:
        agent: The agent that is trained.
        rows: The dataset.
        task: What is played in the online phase, if there is one.
        dynamics: Its physics.
        random_steps: Up to and including this step, online actions are drawn uniformly and nothing is learned; at least
            as many as the algorithm asks for.
        on_transition: Is called with each transition of the online phase.

    Attributes:
        sampler: Makes the batch of each update.
        means: The means of metrics since the last report.
    """

    def __init__(
        self,
        agent: Agent,
        rows: PackedRows,
        task: Task | None = None,
        dynamics: Dynamics = "d4rl",
        *,
        random_steps: int = 0,
        on_transition: Callable[[Transition], None] | None = None,
    ) -> None:
        self.agent = agent
        self.random_steps, self._on_transition = max(random_steps, agent.random_steps), on_transition
        agent.prepare(rows)
        self.rows, self._task, self._dynamics = rows, task, dynamics
        self.sampler = Sampler(agent, rows)
        self._interaction: Interaction | None = None
        self.means = Means()

    def interact(self, step: int) -> None:
        """Make the step in the environment that comes before update ``step`` of the online phase."""
        transition = self._online().step(step)
        if self._on_transition is not None:
            self._on_transition(transition)

    def metrics(self, *, begin_anew: bool = True) -> dict[str, float]:
        """Return the means of metrics since the last report, and what the log says of episodes online.

        Args:
            begin_anew: Whether this is a report, after which means begin anew.
        """
        online = self._interaction.metrics() if self._interaction else {}
        means = self.means.report() if begin_anew else self.means.so_far()
        return dict(sorted({**means, **online}.items()))

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
            self._interaction = Interaction(self.agent, self.rows, self._task, self._dynamics, self.random_steps)
            self.agent.go_online(self._interaction.replay)
            # One batch at a time: each may hold the row collected just before.
            self.sampler = Sampler(self.agent, self._interaction.replay, block=1)
        return self._interaction
