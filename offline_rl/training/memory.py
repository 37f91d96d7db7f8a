"""How much memory a run takes at least, told before it takes it."""

from dataclasses import dataclass

import torch

from offline_rl.agent import new_agent
from offline_rl.errors import RunError
from offline_rl.processes.cores import available_memory
from offline_rl.training.plan import Plan


@dataclass(frozen=True)
class Memory:
    """What training needs, in bytes, besides what a single update holds for a moment.

    Attributes:
        device: Where.
        dataset: The packed dataset, which all replicas share.
        replica: Weights, gradients, moments and targets of one replica.
        replicas: How many there are.
        free: What the device has left; None if it does not say.
    """

    device: str
    dataset: int
    replica: int
    replicas: int
    free: int | None

    @classmethod
    def of(cls, plan: Plan) -> "Memory":
        """Look what a plan needs."""
        agent = new_agent(plan.description(plan.options.seeds[0]), "meta")  # sizes alone, no numbers
        gradients = sum(group.flat.nbytes for group in agent.groups.values())
        width = 2 * agent.observation_size + agent.action_size + 2
        return cls(
            plan.device,
            4 * width * len(plan.dataset),
            gradients + sum(tensor.nbytes for tensor in agent.training_state().values()),
            len(plan.options.seeds),
            _free(plan.device),
        )

    @property
    def needed(self) -> int:
        """All together."""
        return self.dataset + self.replicas * self.replica

    @property
    def in_words(self) -> str:
        """What is needed, and what there is."""
        free = "" if self.free is None else f", {_size(self.free)} free"
        return f"at least {_size(self.needed)} needed{free}"

    def __str__(self) -> str:
        """Say it in one line, with its parts."""
        parts = f"dataset {_size(self.dataset)}, {self.replicas} x {_size(self.replica)} for agents"
        return f"memory on {self.device}: {self.in_words} ({parts})"

    def check(self) -> None:
        """Refuse what cannot fit.

        Raises:
            RunError: The device has too little left.
        """
        if self.free is not None and self.needed > self.free:
            raise RunError(f"{self}; train fewer seeds at once, or a smaller dataset or network")


def _free(device: str) -> int | None:
    if device != "cpu":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
