"""What an update computes, and how fast this machine could compute it."""

import functools
import math
import time
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.workloads import Data, agent_of, synthetic
from offline_rl.kernels.choice import Kernel, onednn_is_exact, use_kernel
from offline_rl.training.loop import make_updates
from offline_rl.training.replica import Replica


class Counter(TorchDispatchMode):
    """Counts the floating-point operations of matrix products, two for each multiply-add."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make an operation, and count it."""
        result = function(*args, **(kwargs or {}))
        if (formula := flop_registry.get(function._overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


@functools.cache
def flops_of_update(algorithm: str, observation_size: int = 17, action_size: int = 6) -> int:
    """Return the floating-point operations in the matrix products of an update, the mean over a cycle.

    Counted while an agent on noise of these sizes makes updates with PyTorch's own products, because a kernel's own are
    not seen. It is what the update needs: counted by hand, that is the same number for TD3+BC and IQL, and for A2PR,
    without what its authors' code computes and never uses, the same to the digits that were written down (8.19 million
    multiply-adds a row).
    """
    data = Data(synthetic(5000, observation_size, action_size), "cpu")
    use_kernel("default", 1)
    member = Replica(agent_of(algorithm, 0, data, "cpu"), data.rows)
    make_updates(member, 1, 1)
    with Counter() as counter:
        make_updates(member, 2, 1 + member.agent.cycle)
    return round(counter.flops / member.agent.cycle)


def product_rate(device: str, members: int, precision: str) -> float:
    """Return the floating-point operations a second of the fastest 256³ products just now.

    On a GPU it is a batch of one for each member; on a CPU one, by the fastest of PyTorch's kernels that are exact.
    """
    shape = (256, 256) if device == "cpu" else (members, 256, 256)
    left, right = torch.randn(shape, device=device), torch.randn(shape, device=device)
    best, repeats = math.inf, 20 if device == "cpu" else 200
    for kernel in _kernels(device, precision):
        use_kernel(kernel, 1)
        for _ in range(10 if device == "cpu" else 3):
            torch.matmul(left, right)
            wait(device)
            begin = time.perf_counter()
            for _ in range(repeats):
                torch.matmul(left, right)
            wait(device)
            best = min(best, (time.perf_counter() - begin) / repeats)
    return 2 * math.prod(shape) * 256 / best


@functools.cache
def _kernels(device: str, precision: str) -> tuple[Kernel, ...]:
    if precision == "tf32":
        return ("tf32",)
    return ("default", "onednn") if device == "cpu" and onednn_is_exact() else ("default",)


def wait(device: str) -> None:
    """Wait until a GPU has done its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
