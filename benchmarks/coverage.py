"""How often the intervals that reports print cover the truth, counted on simulated runs whose truth is known.

``python -m benchmarks.coverage --out results/coverage.json``: a minute on one core.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from offline_rl.analysis.statistics import Difference, Estimate, bootstrap, interquartile_mean, optimality_gap, profile
from offline_rl.analysis.statistics import probability_of_improvement as improvement
from offline_rl.draws import Stream
from offline_rl.files import sealed, write_json

SEEDS = (3, 5, 10)
TASKS = ((60.0, 10.0), (80.0, 5.0), (40.0, 15.0))
"""Mean and standard deviation of the runs of each task."""
OTHERS = ((55.0, 15.0), (78.0, 5.0), (45.0, 10.0))
REPLICATES = 300


def main() -> None:
    """Simulate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--trials", type=int, default=4000, help="of intervals by Student's t")
    parser.add_argument("--bootstrap_trials", type=int, default=400)
    given = parser.parse_args()
    result = measure(given.trials, given.bootstrap_trials)
    print(json.dumps(result, indent=2))
    if given.out:
        write_json(given.out, sealed(result))


def measure(trials: int, bootstrap_trials: int) -> dict[str, Any]:
    """Return the share of intervals that cover the truth, by what they are of and the number of seeds."""
    covers = {f"{name}, Student's t": _by_seeds(_t_covers(name), trials) for name in ("mean", "difference")}
    covers |= {
        f"{name}, bootstrap": _by_seeds(_bootstrap_covers(name), bootstrap_trials) for name in ("mean", *STATISTICS)
    }
    facts = {"trials": trials, "bootstrap_trials": bootstrap_trials, "replicates": REPLICATES, "level": 0.95}
    return {"what": "share of 95 % intervals that cover the truth, normal runs", **facts, "coverage": covers}


def _by_seeds(covers: Callable[[int, int], bool], trials: int) -> dict[str, float]:
    return {str(seeds): round(float(np.mean([covers(seeds, t) for t in range(trials)])), 4) for seeds in SEEDS}


def _runs(tasks: Sequence[tuple[float, float]], seeds: int, trial: int, name: str) -> list[list[float]]:
    generator = Stream(seeds, name).at(trial)
    return [generator.normal(mean, deviation, seeds).tolist() for mean, deviation in tasks]


def _t_covers(name: str) -> Callable[[int, int], bool]:
    def covers(seeds: int, trial: int) -> bool:
        ours, theirs = (_runs(tasks[:1], seeds, trial, who)[0] for who, tasks in (("ours", TASKS), ("theirs", OTHERS)))
        found: Any = Estimate.of(ours) if name == "mean" else Difference.of(ours, theirs)
        truth = TASKS[0][0] - (OTHERS[0][0] if name == "difference" else 0.0)
        return bool(abs(found.mean - truth) <= found.half_width)

    return covers


STATISTICS: dict[str, Callable[..., Any]] = {
    "interquartile mean": interquartile_mean,
    "optimality gap": optimality_gap,
    "profile at 60": lambda tasks: profile(tasks, [60.0])[0],
    "probability of improvement": improvement,
}


def _bootstrap_covers(name: str) -> Callable[[int, int], bool]:
    """Return the check of one statistic; a cell's mean is there to show why cells have no bootstrap."""
    if name == "mean":
        statistic: Callable[..., Any] = lambda tasks: math.fsum(tasks[0]) / len(tasks[0])  # noqa: E731
        kinds: tuple[Any, ...] = (TASKS[:1],)
    else:
        statistic = STATISTICS[name]
        kinds = (TASKS, OTHERS) if statistic is improvement else (TASKS,)
    truth = TASKS[0][0] if name == "mean" else _truth(statistic, kinds)

    def covers(seeds: int, trial: int) -> bool:
        samples = [_runs(tasks, seeds, trial, f"{name}/{number}") for number, tasks in enumerate(kinds)]
        low, high = bootstrap(statistic, *samples, replicates=REPLICATES, seed=trial)
        return bool(low <= truth <= high)

    return covers


def _truth(statistic: Callable[..., Any], kinds: Sequence[Any]) -> float:
    """Return a statistic's value for very many runs; the probability of improvement in closed form."""
    if statistic is improvement:
        pairs = zip(*kinds, strict=True)
        normal = [0.5 * (1 + math.erf((a - b) / math.sqrt(2 * (s * s + t * t)))) for (a, s), (b, t) in pairs]
        return sum(normal) / len(normal)
    return float(statistic(*(_runs(tasks, 400_000, 0, "truth") for tasks in kinds)))


if __name__ == "__main__":
    main()
