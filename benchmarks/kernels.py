"""How many kernels a GPU is told to run for one update of agents that are trained together.

``python -m benchmarks.kernels --out results/throughput/kernels.json`` counts, and ``--show FILE`` prints them.

An update of two agents, stacked as on a GPU, is made on the CPU, and the operations that PyTorch dispatches are
counted, views and memory requests left out: most are one kernel each, some, such as a sorting, are several, so that the
count is a lower bound. It needs no GPU. What a kernel costs is not seen here.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.algorithms import ours
from benchmarks.machine import today, versions
from benchmarks.workloads import Data, agent_of, synthetic
from offline_rl.agent import find_algorithm
from offline_rl.files import read_sealed, sealed, write_json
from offline_rl.kernels.choice import use_kernel
from offline_rl.neighbors import search
from offline_rl.training.replica import Replica
from offline_rl.training.updates.cuda_graph import CapturedUpdates

ROWS = 5000
"""Of the dataset. PRDC compares with all rows, and tells a GPU a few kernels more for each 32,768."""


class Kernels(TorchDispatchMode):
    """Counts the operations that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make an operation, and count it."""
        aliases = [value.alias_info for value in function._schema.returns]
        view = any(alias is not None and not alias.is_write for alias in aliases)
        name = str(function)
        if not view and not any(word in name for word in ("empty", "detach", "view", "alias")):
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def kernels_of_update(updates: CapturedUpdates, cycle: int, first: int) -> Counter[str]:
    """Return how often each operation is made in the ``cycle`` updates from ``first`` on, which all repeat."""
    updates.run(first, first + cycle - 1)  # libraries set themselves up
    with Kernels() as kernels:
        for step in range(first + cycle, first + 2 * cycle):
            updates.make(step)
    return kernels.counts


def count(algorithm: str) -> float:
    """Return the kernels of an update with the algorithm's own settings, the mean over a cycle."""
    data = Data(synthetic(ROWS), "cpu")
    use_kernel("default", 1)
    agents = [agent_of(algorithm, seed, data, "cpu") for seed in range(2)]
    updates = CapturedUpdates([Replica(agent, data.rows) for agent in agents], stacked=True)
    cycle = agents[0].cycle
    assert cycle is not None
    return sum(kernels_of_update(updates, cycle, 1 + 2 * cycle).values()) / cycle


def sentence(result: dict[str, Any]) -> str:
    """Return the counts as a sentence of Markdown, fewest first."""
    counts = sorted(result["counts"].items(), key=lambda item: item[1])
    return f"Kernels of an update: {', '.join(f'{name} {number:,.0f}' for name, number in counts)}."


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", nargs="+", default=[n for n in ours() if find_algorithm(n, {}).stackable])
    parser.add_argument("--out", type=Path, help="result file to write")
    parser.add_argument("--show", type=Path, help="result file to show instead of counting")
    options = parser.parse_args()
    if options.show:
        print(sentence(read_sealed(options.show)))
        return
    # A CPU searches for PRDC in another way, which is no operation of PyTorch's.
    search.HostSearch = lambda columns, beta, *_: search.ProductSearch(columns, beta)  # type: ignore[misc, assignment]
    result = {"date": today(), "versions": versions(), "rows": ROWS, "counts": {}}
    for name in options.algorithms:
        result["counts"][name] = count(name)
        print(f"{name}: {result['counts'][name]:,.0f}", flush=True)
    if options.out:
        write_json(options.out, sealed(result))


if __name__ == "__main__":
    main()
