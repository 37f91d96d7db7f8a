"""How much memory a run takes at least, computed before it starts."""

from dataclasses import dataclass

import torch

from offline_rl.agent import Agent, new_agent
from offline_rl.errors import RunError
from offline_rl.networks import MLP
from offline_rl.processes.cores import available_memory
from offline_rl.training.plan import Plan


@dataclass(frozen=True)
class Memory:
    """What training needs at least, in bytes.

    Attributes:
        device: Where.
        dataset: The packed dataset, which all replicas share.
        replica: Weights, gradients, moments and targets of one replica.
        replicas: How many there are.
        update: What an update of one replica holds for a moment; others may be at work at the same time, or not.
        free: What the device has left; None if it does not say.
    """

    device: str
    dataset: int
    replica: int
    replicas: int
    update: int
    free: int | None

    @classmethod
    def of(cls, plan: Plan) -> "Memory":
        """Look what a plan needs."""
        agent = new_agent(plan.description(plan.options.seeds[0]), "meta")  # sizes alone, no numbers
        width = 2 * agent.observation_size + agent.action_size + 2
        return cls(
            plan.device,
            4 * width * len(plan.dataset),
            kept_by(agent),
            len(plan.options.seeds),
            held_by_update(agent),
            _free(plan.device),
        )

    @property
    def needed(self) -> int:
        """All together."""
        return self.dataset + self.replicas * self.replica + self.update

    @property
    def in_words(self) -> str:
        """What is needed, and what there is."""
        free = "" if self.free is None else f", {_size(self.free)} free"
        return f"at least {_size(self.needed)} needed{free}"

    def __str__(self) -> str:
        """Say it in one line, with its parts."""
        agents = f"{self.replicas} x {_size(self.replica)} for agents"
        parts = f"dataset {_size(self.dataset)}, {agents}, {_size(self.update)} for an update"
        return f"memory on {self.device}: {self.in_words} ({parts})"

    def check(self) -> None:
        """Refuse what cannot fit.

        Raises:
            RunError: The device has too little left.
        """
        if self.free is not None and self.needed > self.free:
            raise RunError(f"{self}; train fewer seeds at once, or take a smaller dataset, network or batch")


def kept_by(agent: Agent) -> int:
    """Return the bytes of an agent's weights, gradients, moments and targets."""
    gradients = sum(group.flat.nbytes for group in agent.groups.values())
    return gradients + sum(tensor.nbytes for tensor in agent.training_state().values())


def held_by_update(agent: Agent) -> int:
    """Return the bytes that an update holds at once, of what it allocates and gives back.

    They are all gradients before they are gathered, and of the largest network of MLPs what one pass of a batch
    leaves in its hidden layers for the way back.
    """
    gradients = sum(group.flat.nbytes for group in agent.groups.values())
    passes = [
        sum(bias.numel() for bias in list(module.layers)[1:-1:2]) * group.flat.element_size()
        for group in agent.groups.values()
        for module in group.network.modules()
        if isinstance(module, MLP)
    ]
    return gradients + agent.config.batch_size * max(passes, default=0)  # type: ignore[no-any-return]


def _free(device: str) -> int | None:
    if device != "cpu":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
