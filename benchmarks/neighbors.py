"""Times PRDC's exact nearest-neighbour search against scipy's k-d tree on one dataset file.

    python -m benchmarks.neighbors walker2d_medium_replay.hdf5 --json neighbors.json

Queries are batches of random rows, as training draws them, with actions at four distances from the data. The methods
take turns inside every window and the best window of each counts, so that a busy machine disturbs all of them alike.
Each method uses one thread. Build times are wall time and include nothing but the build.
"""

import argparse
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from offline_rl.data import load_dataset
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.files import sealed, write_json
from offline_rl.neighbors.index import NeighborIndex
from offline_rl.origin import processor

POLICIES: dict[str, float | None] = {"a + 0.1": 0.1, "a + 0.3": 0.3, "a + 0.6": 0.6, "uniform": None}
"""Standard deviation of the query's action around the dataset's; None draws it uniformly from the box."""

Array = NDArray[Any]
Batch = tuple[Array, Array]


def main() -> None:
    """Build every structure, time them, print a table and write the JSON."""
    options = _options()
    states, actions = load(options.file)
    report: dict[str, Any] = {
        "file": Path(options.file).name,
        "rows": len(states),
        "columns": [states.shape[1], actions.shape[1]],
        "beta": options.beta,
        "batch": options.batch,
        "lists": options.lists,
        "hardware": processor(),
        "versions": {name: version(name) for name in ("numpy", "numba", "scipy")}
        | {"python": platform.python_version()},
    }
    searches, report["build_seconds"] = build(states, actions, options)
    report["policies"] = {}
    print(f"{report['file']}: {len(states)} rows, {states.shape[1]} + {actions.shape[1]} columns, β = {options.beta}")
    print("built in seconds:", ", ".join(f"{name} {seconds:.1f}" for name, seconds in report["build_seconds"].items()))
    print(f"{'policy':10}{'method':16}{'ms/batch':>10}{'x scipy':>10}{'certified':>11}")
    for policy, deviation in POLICIES.items():
        batches = draw(actions, deviation, options)
        results = measure(searches, batches, options.windows)
        report["policies"][policy] = results
        for method, result in results.items():
            print(
                f"{policy:10}{method:16}{result['ms_per_batch']:10.3f}{result['ratio']:10.1f}{result['certified']:11.3f}",
                flush=True,
            )
    if options.json:
        write_json(options.json, sealed(report))


def load(name: str) -> tuple[Array, Array]:
    """Return the normalised states (N, O) and the actions (N, A) of a dataset, in D4RL's rows."""
    dataset = load_dataset(name, "d4rl")
    return Preprocessing.fit(dataset, normalize=True).normalized(dataset.observations), dataset.actions


def build(states: Array, actions: Array, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, float]]:
    """Build the three searches, each from (rows, actions) to distances and certified share; return the times, too."""
    keys = np.concatenate([np.float32(options.beta) * states, actions], axis=1)
    warm_up(states, actions)
    seconds = {}
    seconds["scipy cKDTree"], scipy_tree = timed(lambda: cKDTree(keys.astype(np.float64), leafsize=10))
    seconds["tree"], tree = timed(lambda: NeighborIndex(states, actions, options.beta, method="tree"))
    index = NeighborIndex(states, actions, options.beta, lists=options.lists, cache_dir=options.cache)
    seconds["lists"], _ = timed(index.build_lists)

    def ours(method: NeighborIndex) -> Callable[[Array, Array], tuple[Array, float]]:
        def search(rows: Array, policy_actions: Array) -> tuple[Array, float]:
            found = method.search(rows, policy_actions)
            return found.distance, found.certified

        return search

    def scipy(rows: Array, policy_actions: Array) -> tuple[Array, float]:
        queries = np.concatenate([keys[rows, : states.shape[1]], policy_actions], axis=1)
        return scipy_tree.query(queries, k=1, workers=1)[0], 0.0

    return {"scipy cKDTree": scipy, "tree": ours(tree), "lists + tree": ours(index)}, seconds


def warm_up(states: Array, actions: Array) -> None:
    """Compiles the kernels, which belongs to no measurement."""
    index = NeighborIndex(states[:1000], actions[:1000], 1.0)
    index.search(np.arange(8), actions[:8])
    index.build_lists()
    index.search(np.arange(8), actions[:8])


def draw(actions: Array, deviation: float | None, options: argparse.Namespace) -> list[Batch]:
    """Batches of rows (B,) and actions (B, A), no batch twice."""
    generator = np.random.default_rng(0)
    batches = []
    for _ in range(options.batches):
        rows = generator.integers(len(actions), size=options.batch)
        shape = len(rows), actions.shape[1]
        if deviation is None:
            chosen = generator.uniform(-1, 1, shape)
        else:
            chosen = np.clip(actions[rows] + deviation * generator.standard_normal(shape), -1, 1)
        batches.append((rows, chosen.astype(np.float32)))
    return batches


def measure(searches: dict[str, Any], batches: list[Batch], windows: int) -> dict[str, dict[str, float]]:
    """Milliseconds per batch in the best of `windows` rounds in which the methods take turns.

    scipy, hundreds of times slower, gets a few batches of each round and all the others all of them.
    """
    best = dict.fromkeys(searches, np.inf)
    certified = dict.fromkeys(searches, 0.0)
    for _ in range(windows):
        distances = {}
        for method, search in searches.items():
            own = batches[: max(2, len(batches) // 50)] if method == "scipy cKDTree" else batches
            start = time.perf_counter()
            found = [search(*batch) for batch in own]
            best[method] = min(best[method], (time.perf_counter() - start) / len(own) * 1e3)
            distances[method] = np.concatenate([distance for distance, _ in found])
            certified[method] = float(np.mean([share for _, share in found]))
        check(distances)
    reference = best["scipy cKDTree"]
    return {
        method: {"ms_per_batch": best[method], "ratio": reference / best[method], "certified": certified[method]}
        for method in searches
    }


def check(distances: dict[str, Array]) -> None:
    """Stop unless all methods found the same distances: a fast wrong answer is no measurement."""
    reference = distances["scipy cKDTree"]
    for method, found in distances.items():
        if not np.allclose(found[: len(reference)], reference, rtol=1e-12, atol=1e-12):
            raise SystemExit(f"{method} disagrees with scipy.")


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times the exact neighbour search against scipy's k-d tree.")
    parser.add_argument("file", help="a dataset: a file in D4RL's layout, or a name")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--beta", type=float, default=2.0, help="scale of the states (2)")
    parser.add_argument("--lists", type=int, default=64, help="entries per candidate list (64)")
    parser.add_argument("--batch", type=int, default=256, help="queries per batch (256)")
    parser.add_argument("--batches", type=int, default=200, help="batches per window (200)")
    parser.add_argument("--windows", type=int, default=5, help="windows, of which the best counts (5)")
    parser.add_argument("--cache", type=Path, help="folder of finished lists; without it they are built and timed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
