"""The training loop: every update of every run is made here, in whichever process that is.

With ``--workers 0`` it is the process that has called ``orl.train``, and a breakpoint here, or in the losses of an
algorithm, stops. Otherwise child processes run the same code, see :mod:`offline_rl.training.worker`. When to log, to
evaluate and to save is decided by :mod:`offline_rl.training.trainer`, which asks for some updates at a time.
"""

from collections.abc import Mapping

import torch

from offline_rl.training.options import Mode
from offline_rl.training.replica import Replica
from offline_rl.training.updates.compiled import CompiledUpdates
from offline_rl.training.updates.cuda_graph import CapturedUpdates

REPEATED = {"compile": CompiledUpdates, "cudagraph": CapturedUpdates}
"""Other ways to make the updates of all replicas than one operation after the other."""


def make_updates(replica: Replica, first: int, last: int) -> None:
    """Make the updates ``first`` to ``last`` of one replica, one operation after the other."""
    for step in range(first, last + 1):
        if step > replica.agent.length.offline:
            replica.interact(step)
            if step <= replica.random_steps:
                continue
        batch = replica.sampler.batch(step)
        metrics = replica.agent.update(batch, step)
        replica.means.add(metrics)


class TrainingLoop:
    """Trains the replicas of one process, which are all at the same step.

    Args:
        replicas: By name; of one algorithm, on one device.
        step: Updates that they have made before.
        mode: How updates are made.
    """

    def __init__(self, replicas: Mapping[str, Replica], step: int = 0, mode: Mode = "eager") -> None:
        self.replicas, self.step = replicas, step
        self._agent = next(iter(replicas.values())).agent
        self._repeated = REPEATED[mode](list(replicas.values())) if mode in REPEATED else None

    def run(self, until: int) -> None:
        """Make the updates of all replicas up to and including number ``until``."""
        done = self.step
        # A graph or a program makes offline updates only: online each one follows a step in an environment.
        if self._repeated and done < self._agent.length.offline:
            done = min(until, self._agent.length.offline)
            self._repeated.run(self.step + 1, done)
            if done < until:
                self._repeated.settle()
        for replica in self.replicas.values():
            make_updates(replica, done + 1, until)
        if self._agent.device.type == "cuda":
            torch.cuda.synchronize(self._agent.device)  # the caller measures how long updates take
        self.step = until

    def settle(self) -> None:
        """Bring all that updates have changed into the replicas, so that their states can be read."""
        if self._repeated and self.step <= self._agent.length.offline:
            self._repeated.settle()
