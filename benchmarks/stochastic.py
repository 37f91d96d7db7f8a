"""What methods promise and what they earn where returns depend on luck: `benchmarks/stochastic.yaml`.

    python -m benchmarks.stochastic --data_dir DIR

runs what is missing in `results/stochastic`, one small JSON for each problem, method and seed, and prints the table.
A problem's data is that of `benchmarks/make_stochastic.py`, with the agent's seed for the data's.
"""

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import os
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.make_stochastic import BANDIT_EPISODES, LAKE_EPISODES, LUCKY_EPISODES, lottery_columns
from offline_rl.agent import Agent, SequenceAgent, find_algorithm
from offline_rl.algos.tabular import doc as tables
from offline_rl.analysis.statistics import Estimate
from offline_rl.data import Dataset, load_dataset
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.documents import read_yaml
from offline_rl.draws import derived_seed
from offline_rl.envs import find_task, normalized_score
from offline_rl.envs.finite import FiniteProblem, bernoulli_bandit, frozen_lake, lucky_arm
from offline_rl.envs.stochastic import TICKET
from offline_rl.envs.vector import rollout
from offline_rl.errors import OfflineRLError, RunError
from offline_rl.files import read_sealed, sealed, write_bytes, write_json
from offline_rl.kernels.choice import choose_kernel, use_kernel
from offline_rl.origin import versions
from offline_rl.processes.cores import available_cores
from offline_rl.training.updates.sampler import Sampler

SUITE = Path(__file__).with_suffix(".yaml")
RESULTS = Path("results") / "stochastic"
FINITE = {
    "lucky": (lucky_arm, LUCKY_EPISODES),
    "bandit": (bernoulli_bandit, BANDIT_EPISODES),
    "lake": (frozen_lake, LAKE_EPISODES),
}
"""How a finite problem is made from its parameters, and how many episodes its data has."""
Played = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One seed of one method on one problem.

    Attributes:
        problem: Its name in the table.
        kind: What it is, and its parameters.
        method: Its name in the table.
        settings: The algorithm, its length in updates, and its settings.
        seed: Of data, agent and evaluation.
        episodes: How many are played with the agent.
    """

    problem: str
    kind: list[Any]
    method: str
    settings: dict[str, Any]
    seed: int
    episodes: int

    @property
    def file_name(self) -> str:
        """Where the result goes."""
        words = f"{self.problem} {self.method}".replace("ε", "epsilon").replace("β", "beta").replace("1/3", "third")
        return f"{re.sub(r'[^a-z0-9.]+', '-', words.lower())}-seed-{self.seed}.json"


def jobs_of(suite: Path) -> list[Job]:
    """Return the jobs of a suite, in the table's order."""
    jobs = []
    for group in read_yaml(suite, RunError, "restore it")["groups"]:
        pairs = itertools.product(group["problems"].items(), group["methods"].items(), range(group["seeds"]))
        for (problem, kind), (method, settings), seed in pairs:
            jobs.append(Job(problem, kind, method, settings, seed, group["episodes"]))
    return jobs


def run_job(job: Job, data_dir: Path) -> dict[str, Any]:
    """Make the data, train, play; return the result."""
    use_kernel(choose_kernel(), 1)
    start = time.monotonic()
    kind, *parameters = job.kind
    played = (
        _lottery(job, data_dir / parameters[0]) if kind == "lottery" else _finite(job, FINITE[kind][0](*parameters))
    )
    hardware = {"machine": platform.machine(), "cores": os.cpu_count(), "gpu": None}
    return {
        **dataclasses.asdict(job),
        **played,
        "versions": versions(),
        "hardware": hardware,
        "seconds": time.monotonic() - start,
    }


def trained(settings: Mapping[str, Any], dataset: Dataset, seed: int) -> Agent:
    """Train an agent in this process."""
    options = dict(settings)
    algorithm, steps = find_algorithm(options.pop("algorithm")), options.pop("steps")
    config = algorithm.config_class.of(options)
    preprocessing = Preprocessing.fit(dataset, normalize=config.normalize)
    rows = PackedRows.of(dataset, preprocessing)
    agent = algorithm(config, *preprocessing.sizes, seed=seed, steps=steps, preprocessing=preprocessing)
    agent.prepare(rows)
    sampler = Sampler(agent, rows)
    for step in range(1, steps + 1):
        agent.update(sampler.batch(step), step)
    return agent


def promise(agent: Agent) -> float | None:
    """Return the mean return that an agent which has played predicted, or was asked for; None if it does neither."""
    promised = getattr(agent, "promise", None)
    if promised is None and isinstance(agent, SequenceAgent):
        promised = agent.target_return()
    return None if promised is None else float(promised.double().mean())


def _finite(job: Job, problem: FiniteProblem) -> Played:
    data = problem.collect(FINITE[job.kind[0]][1], job.seed)
    luck = derived_seed(job.seed, "playing", 0)
    if job.settings["algorithm"] == "tables":
        config = tables.Config(**{name: value for name, value in job.settings.items() if name != "algorithm"})
        solution = tables.solve(problem, data, config, [job.seed])[0]
        weights, promised = solution.policies[solution.chosen()], solution.candidates()[solution.chosen()]
        played = problem.play(lambda observation, _: observation @ weights, job.episodes, luck)
    else:
        agent = trained(job.settings, Dataset.from_arrays(**problem.columns(data)), job.seed)
        played = problem.play(agent.act, job.episodes, luck)
        promised = promise(agent)
    best = problem.optimal()
    return {
        "promised": promised,
        "earned": float(played.returns.mean()),
        "best_actions": float(best[played.state, played.action][played.mask].mean()),
        "data_earned": problem.value(problem.behavior),
        "best_earned": problem.value(best),
        "score": None,
    }


def _lottery(job: Job, source: Path) -> Played:
    columns, attributes = lottery_columns(str(source), job.seed)
    clean = load_dataset(source, "exact")
    assert clean.task is not None
    agent = trained(job.settings, Dataset.from_arrays(**columns), job.seed)
    task = find_task(clean.task)
    seeds = [derived_seed(job.seed, f"playing/{episode}", 0) for episode in range(job.episodes)]
    played = rollout(agent.act, task, "d4rl", seeds, tell_rewards=True)
    winnings = TICKET * attributes["lottery_prize"]
    return {
        "promised": promise(agent),
        "earned": float((played.returns + winnings * played.lengths).mean()),
        "best_actions": None,
        "data_earned": float((clean.episode_returns + winnings * np.diff(clean.episode_bounds)).mean()),
        "best_earned": None,
        "score": float(np.mean(normalized_score(task.name, played.returns))),
        "fingerprint": clean.fingerprint,
        "prize": attributes["lottery_prize"],
    }


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return results as Markdown: for each problem what the data and the best policy earn, and each method."""
    lines = ["| problem | method | promised | earned | best actions | score | seeds |", "|" + "---|" * 7]
    for problem, of_problem in itertools.groupby(results, key=lambda result: result["problem"]):
        own = list(of_problem)
        digits = 2 if own[0]["score"] is None else 0
        known = {"the data": "data_earned", "the best policy": "best_earned"}
        for name, field in known.items():
            if own[0][field] is not None:
                lines.append(f"| {problem} | *{name}* | | {own[0][field]:.{digits}f} | | | |")
        for method, of_method in itertools.groupby(own, key=lambda result: result["method"]):
            same = list(of_method)
            cells = [
                _estimate(same, "promised", digits),
                _estimate(same, "earned", digits),
                _estimate(same, "best_actions", 2),
                _estimate(same, "score", 1),
            ]
            lines.append(f"| {problem} | {method} | {' | '.join(cells)} | {len(same)} |")
    return "\n".join([*lines, "", *_facts(results)])


def _estimate(results: Sequence[Mapping[str, Any]], name: str, digits: int) -> str:
    values = [result[name] for result in results]
    return "" if None in values else Estimate.of(values).rounded(digits)


def _facts(results: Sequence[Mapping[str, Any]]) -> list[str]:
    made = {json.dumps({**result["versions"], **result["hardware"]}, sort_keys=True) for result in results}
    return [
        "Each number is a mean over seeds ± half of its 95 % confidence interval (Student's t). Each seed has data, an"
        " agent and evaluation episodes of its own.",
        "",
        "* Promised: for DoC, the mean return that it expects of the latent it acts on; for return-conditioned methods,"
        " the return that they are asked for, which is the best in the data.",
        "* Best actions: the share of actions that the optimal policy takes (value iteration, γ = 0.99).",
        "* The lottery's return is the simulator's reward plus the mean winnings of each step; its score leaves the"
        " winnings out.",
        *(f"* Made with {', '.join(f'{k} {v}' for k, v in json.loads(one).items() if v)}." for one in sorted(made)),
    ]


def _run_missing(jobs: Sequence[Job], data_dir: Path, out: Path, workers: int) -> None:
    missing = [job for job in jobs if not (out / job.file_name).exists()]
    out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        futures = {pool.submit(run_job, job, data_dir): job for job in missing}
        for done, future in enumerate(as_completed(futures), 1):
            job, result = futures[future], future.result()
            write_json(out / job.file_name, sealed(result))
            print(
                f"[{done}/{len(missing)}] {job.problem}, {job.method}, seed {job.seed}: earned {result['earned']:.2f},"
                f" {result['seconds']:.0f} s",
                file=sys.stderr,
            )


def read(jobs: Sequence[Job], out: Path) -> list[dict[str, Any]]:
    """Return the results of the jobs that have one, in the order of the jobs.

    Raises:
        RunError: A result was made with other settings than the suite's.
    """
    results = []
    for path, job in ((out / job.file_name, job) for job in jobs):
        if path.exists():
            result = read_sealed(path)
            expected = dataclasses.asdict(job)
            if different := [name for name in expected if result[name] != expected[name]]:
                raise RunError(f"{path} was made with other {', '.join(different)}; remove it, and run it again")
            results.append(result)
    return results


def main() -> int:
    """Read the command line, run what is missing, print and write the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data_dir", type=Path, help="folder of the robots' datasets; without it only results are shown"
    )
    parser.add_argument("--suite", type=Path, default=SUITE)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes side by side")
    options = parser.parse_args()
    jobs = jobs_of(options.suite)
    try:
        if options.data_dir:
            _run_missing(jobs, options.data_dir, options.out, options.workers)
        text = table(read(jobs, options.out))
    except OfflineRLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    write_bytes(options.out / "table.md", f"{text}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
