"""How good estimates without a simulator are: `benchmarks/estimates.yaml`.

    python -m benchmarks.estimates run --data_dir DIR [--workers 2]
    python -m benchmarks.estimates show

The first trains what is missing, plays each agent in D4RL's dynamics, and estimates it from each number of recorded
rows; every result is one small JSON in `results/estimates`, written as soon as it is there. The second writes the table
and the figure of what is there.

Values are discounted by the agent's own γ. In score units 0 is the mean discounted return of D4RL's random data and 100
that of its expert data, `ROBOT_random.hdf5` and `ROBOT_expert.hdf5` in the same folder.
"""

import argparse
import dataclasses
import itertools
import multiprocessing
import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

import offline_rl as orl
from offline_rl.agent import Agent, find_algorithm
from offline_rl.data import Dataset, load_dataset
from offline_rl.data.dataset import COLUMNS, EPISODES
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.documents import read_yaml
from offline_rl.draws import Stream, derived_seed
from offline_rl.envs import find_task
from offline_rl.envs.vector import rollout
from offline_rl.errors import OfflineRLError, RunError
from offline_rl.estimation.estimate import discount_of
from offline_rl.estimation.options import EstimateOptions
from offline_rl.estimation.result import Verdict
from offline_rl.files import read_sealed, sealed, write_bytes, write_json
from offline_rl.kernels.choice import choose_kernel, use_kernel
from offline_rl.origin import versions
from offline_rl.training.updates.sampler import Sampler

SUITE = Path(__file__).with_suffix(".yaml")
RESULTS, AGENTS = Path("results") / "estimates", Path("runs") / "estimates"
BLOCK = 10
"""Episodes that are stepped together."""
ESTIMATORS = {"fitted Q": "fitted_q", "per decision": "per_decision", "doubly robust": "doubly_robust"}
HEAD = (
    "dataset",
    "estimator",
    "rows",
    "agents",
    "rank correlation",
    "mean absolute error",
    "covered by 90 %",
    "regret of the best",
)
Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One method on one dataset: its agents, their true values, and their estimates.

    Attributes:
        dataset: The file's name without its ending.
        method: The method's name in results.
        settings: Algorithm, checkpoints, whether it acts with noise, and the algorithm's settings.
        suite: The rest of the suite.
    """

    dataset: str
    method: str
    settings: dict[str, Any]
    suite: dict[str, Any]

    @property
    def checkpoints(self) -> list[int]:
        """Updates after which the agent is kept."""
        return sorted(self.settings["checkpoints"])

    @property
    def noise(self) -> bool:
        """Whether the noisy policy is meant."""
        return bool(self.settings.get("noise", False))

    def name(self, checkpoint: int) -> str:
        """Return what files of an agent are called."""
        words = re.sub(r"[^a-z0-9]+", "-", f"{self.method} {self.dataset}".lower()).strip("-")
        return f"{words}-{checkpoint}"


def jobs_of(suite: Path) -> list[Job]:
    """Return the jobs of a suite."""
    values = read_yaml(suite, RunError, "restore it")
    pairs = itertools.product(values["datasets"], values.pop("methods").items())
    return [Job(dataset, method, settings, values) for dataset, (method, settings) in pairs]


def agents_of(job: Job, data_dir: Path, folder: Path) -> dict[int, Agent]:
    """Return the method's agents by checkpoint; those that are not in the folder are trained, from the start."""
    places = {checkpoint: folder / job.name(checkpoint) for checkpoint in job.checkpoints}
    if not all((place / "agent.json").exists() for place in places.values()):
        dataset = load_dataset(data_dir / f"{job.dataset}.hdf5")
        own = {name: value for name, value in job.settings.items() if name not in ("algorithm", "checkpoints", "noise")}
        algorithm = find_algorithm(job.settings["algorithm"], own)
        config, seed = algorithm.config_class.of(own), job.suite["seed"]
        preprocessing = Preprocessing.fit(dataset, normalize=config.normalize)
        rows = PackedRows.of(dataset, preprocessing)
        agent = algorithm(
            config, *preprocessing.sizes, seed=seed, steps=job.checkpoints[-1], preprocessing=preprocessing
        )
        agent.prepare(rows)
        sampler = Sampler(agent, rows)
        for step in range(1, job.checkpoints[-1] + 1):
            agent.update(sampler.batch(step), step)
            if step in places:
                agent.save(places[step])
    return {checkpoint: orl.load_agent(place) for checkpoint, place in places.items()}


def true_values(agent: Agent, job: Job) -> dict[str, list[float]]:
    """Play episodes in D4RL's dynamics; return their discounted and undiscounted returns."""
    task, discount = find_task(job.dataset.split("_", maxsplit=1)[0]), discount_of(agent, EstimateOptions())
    seeds = [derived_seed(job.suite["seed"], f"playing/{episode}", 0) for episode in range(job.suite["episodes"])]
    discounted, returns = [], []
    for number, first in enumerate(range(0, len(seeds), BLOCK)):
        block = seeds[first : first + BLOCK]
        streams, steps = [Stream(seed, "acting") for seed in block], itertools.count()
        total, place = np.zeros(len(block)), np.full(len(block), -1)

        def act(observation: Any, streams: Any = streams, steps: Any = steps) -> Any:
            if not (job.noise or agent.stochastic):
                return agent.act(observation)
            step = next(steps)
            noise = np.stack([stream.at(step).standard_normal(agent.action_size, np.float32) for stream in streams])
            return agent.act_with_noise(observation, noise)

        def note(row: int, _: Any, reward: float, total: Any = total, place: Any = place) -> None:
            total[row] += discount ** max(0, place[row]) * reward  # the reset earns 0
            place[row] += 1

        played = rollout(act, task, "d4rl", block, on_step=note)
        discounted += total.tolist()
        returns += played.returns.tolist()
        print(f"  {job.dataset}, {job.method}: block {number + 1} played", file=sys.stderr)
    return {"discounted": discounted, "returns": returns}


def sample(dataset: Dataset, rows: int, seed: int) -> Dataset:
    """Return whole episodes, drawn without replacement, of about so many rows; all of them if there are no more."""
    order = Stream(seed, "estimates/episodes").at(0).permutation(len(dataset.episode_returns))
    lengths = np.diff(dataset.episode_bounds)
    chosen = np.sort(order[: int(np.searchsorted(np.cumsum(lengths[order]), rows)) + 1])
    index = np.concatenate([np.arange(*dataset.episode_bounds[[episode, episode + 1]]) for episode in chosen])
    return dataclasses.replace(
        dataset,
        name=f"{dataset.name}, {len(index):,} rows",
        episode_bounds=np.concatenate([[0], np.cumsum(lengths[chosen])]),
        **{name: getattr(dataset, name)[index] for name in COLUMNS},
        **{name: getattr(dataset, name)[chosen] for name in EPISODES},
    )


def references(job: Job, data_dir: Path, discount: float) -> list[float]:
    """Return the mean discounted returns of the robot's random and expert data, which score 0 and 100."""
    robot, found = job.dataset.split("_", maxsplit=1)[0], []
    for kind in ("random", "expert"):
        data = load_dataset(data_dir / f"{robot}_{kind}.hdf5")
        step = np.arange(len(data)) - np.repeat(data.episode_bounds[:-1], np.diff(data.episode_bounds))
        returns = np.add.reduceat(data.rewards * discount ** step.astype(float), data.episode_bounds[:-1])
        found.append(float(returns[data.episode_complete].mean()))
    return found


def run_job(job: Job, data_dir: Path, out: Path, folder: Path) -> int:
    """Make what is missing of one job; return the number of results written."""
    paths = {
        (checkpoint, rows): out / f"{job.name(checkpoint)}-rows-{rows}.json"
        for checkpoint in job.checkpoints
        for rows in job.suite["rows"]
    }
    missing = {key: path for key, path in paths.items() if not path.exists()}
    if not missing:
        return 0
    use_kernel(choose_kernel(), 1)
    agents = agents_of(job, data_dir, folder)
    dataset = load_dataset(data_dir / f"{job.dataset}.hdf5")
    options = EstimateOptions(**job.suite["estimate"], noise=job.noise)
    for checkpoint, agent in agents.items():
        wanted = {rows: path for (own, rows), path in missing.items() if own == checkpoint}
        if not wanted:
            continue
        played = true_values(agent, job)
        for rows, path in wanted.items():
            begin, data = time.monotonic(), sample(dataset, rows, job.suite["seed"])
            made = orl.estimate(agent, data, options=options, out=folder / job.name(checkpoint) / "estimates")
            weights = made.importance
            result = {
                **{"dataset": job.dataset, "method": job.method, "checkpoint": checkpoint, "rows": rows},
                **{"settings": job.settings, "suite": job.suite, "true": played},
                "references": references(job, data_dir, made.value.discount),
                "fitted_q": dataclasses.asdict(made.value.agent),
                "data": dataclasses.asdict(made.value.data),
                "per_decision": dataclasses.asdict(weights.per_decision) if weights else None,
                "doubly_robust": dataclasses.asdict(weights.doubly_robust) if weights else None,
                "effective_episodes": weights.effective_episodes if weights else None,
                **{"verdict": made.verdict, "flags": [flag.kind for flag in made.flags], "share": made.support.share},
                **{"versions": versions(), "seconds": time.monotonic() - begin},
            }
            out.mkdir(parents=True, exist_ok=True)
            write_json(path, sealed(_finite(result)))
            print(f"written {path}, {result['seconds']:.0f} s", file=sys.stderr)
    return len(missing)


def _finite(value: Any) -> Any:
    """Return a value with None for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {name: _finite(own) for name, own in value.items()}
    if isinstance(value, list):
        return [_finite(own) for own in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def scored(value: float, result: Result) -> float:
    """Return a discounted value in score units."""
    low, high = result["references"]
    return 100 * (value - low) / (high - low)


def summary(results: Sequence[Result], estimator: str) -> list[str]:
    """Return the cells of one line of the table: what an estimator comes to over some agents of one dataset."""
    known = [own for own in results if own[estimator] is not None and own[estimator]["mean"] is not None]
    if len(known) < 3:
        return [str(len(known)), *["–"] * 4]
    true = np.array([scored(float(np.mean(own["true"]["discounted"])), own) for own in known])
    said = np.array([scored(own[estimator]["mean"], own) for own in known])
    covered = [_covers(own, estimator) for own in known]
    return [
        str(len(known)),
        f"{rank_correlation(said, true):.2f}",
        f"{np.abs(said - true).mean():.1f}",
        f"{100 * np.mean(covered):.0f} %",
        f"{true.max() - true[said.argmax()]:.1f}",
    ]


def _covers(result: Result, estimator: str) -> bool:
    low, high = result[estimator]["low"], result[estimator]["high"]
    return low is not None and low <= float(np.mean(result["true"]["discounted"])) <= high


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's rank correlation, with mean ranks for ties."""
    ranks = [np.array([((own < value).sum() + (own <= value).sum() - 1) / 2 for value in own]) for own in (one, other)]
    if any(own.std() == 0 for own in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def table(results: Sequence[Result]) -> str:
    """Return the results as Markdown: the critics of each dataset, then every estimator over all of them."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    for dataset, rows in sorted({(own["dataset"], own["rows"]) for own in results}):
        these = [own for own in results if (own["dataset"], own["rows"]) == (dataset, rows)]
        believed = [own for own in these if own["verdict"] == "estimate"]
        for name, own in (("fitted Q", these), ("fitted Q, verdict `estimate`", believed)):
            lines.append(f"| {dataset} | {name} | {rows:,} | {' | '.join(summary(own, 'fitted_q'))} |")
    for rows in sorted({own["rows"] for own in results}):
        these = [own for own in results if own["rows"] == rows]
        weighted = [own for own in these if own["per_decision"] is not None]
        pairs = [(name, estimator, weighted) for name, estimator in ESTIMATORS.items()]
        pairs[:1] = [("fitted Q", "fitted_q", these), ("fitted Q, of noisy policies", "fitted_q", weighted)]
        for name, estimator, own in pairs:
            # Agents of different datasets are not chosen from.
            *cells, _ = summary(own, estimator)
            lines.append(f"| all | {name} | {rows:,} | {' | '.join(cells)} | – |")
    told = [own for own in results if own["verdict"] == "estimate"]
    lines += [
        "",
        "Values are discounted. Score units: 0 is the mean discounted return of D4RL's random data, 100 of its expert"
        " data. Regret: how much the agent of the highest estimate falls short of the best one of those in the line."
        " Only noisy policies have importance weights, so two estimators have fewer agents. True values are"
        " means of episodes in D4RL's dynamics, whose own scatter is not taken off.",
        "",
        f"* {len(told)} of {len(results)} estimates have the verdict `estimate`.",
        *(f"* Made with {made}." for made in sorted({_in_words(own["versions"]) for own in results})),
    ]
    return "\n".join(lines)


def _in_words(made: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(made.items()))


def brief(results: Sequence[Result]) -> str:
    """Return what the page on estimates says of the results, as Markdown."""
    head = ("rows", "verdict", "estimates", "mean absolute error", "largest", "covered by 90 %")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for rows, verdict in itertools.product(sorted({own["rows"] for own in results}), get_args(Verdict)):
        these = [own for own in results if (own["rows"], own["verdict"]) == (rows, verdict)]
        known = [own for own in these if own["fitted_q"]["mean"] is not None]
        if not known:
            continue
        true = np.array([scored(float(np.mean(own["true"]["discounted"])), own) for own in known])
        error = np.abs(np.array([scored(own["fitted_q"]["mean"], own) for own in known]) - true)
        covered = f"{sum(_covers(own, 'fitted_q') for own in known)} of {len(known)}"
        cells = (f"{rows:,}", verdict, str(len(these)), f"{error.mean():,.1f}", f"{error.max():,.1f}", covered)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw fitted Q evaluation against true values, one panel for each dataset, and write a PNG."""
    from matplotlib.figure import Figure

    names, rows = sorted({own["dataset"] for own in results}), sorted({own["rows"] for own in results})
    figure = Figure(figsize=(4.2 * len(names), 4), layout="constrained")
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), place)
        for number, count in enumerate(rows):
            own = [
                r for r in results if (r["dataset"], r["rows"]) == (name, count) and r["fitted_q"]["low"] is not None
            ]
            true = [scored(float(np.mean(r["true"]["discounted"])), r) for r in own]
            said = [[scored(r["fitted_q"][end], r) for end in ("mean", "low", "high")] for r in own]
            bars = np.array([[mean - low, high - mean] for mean, low, high in said]).T
            means = [mean for mean, _, _ in said]
            axes.errorbar(true, means, bars, fmt="os^v"[number % 4], ms=4, lw=1, label=f"{count:,} rows")
        axes.axline((0, 0), slope=1, color="gray", lw=1, ls="--")
        axes.set(title=name, xlabel="true value, score units", ylabel="fitted Q evaluation")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def read(out: Path) -> list[Result]:
    """Return the results that are there."""
    found = [read_sealed(path) for path in sorted(out.glob("*-rows-*.json"))]
    if not found:
        raise RunError(f"{out} has no results; make some with: python -m benchmarks.estimates run --data_dir DIR")
    return found


def main() -> int:
    """Read the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "show"))
    parser.add_argument("--data_dir", type=Path, help="folder of recordings")
    parser.add_argument("--suite", type=Path, default=SUITE)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--agents", type=Path, default=AGENTS, help="folder of the trained agents")
    parser.add_argument("--workers", type=int, default=1, help="processes side by side")
    options = parser.parse_args()
    try:
        if options.command == "run":
            if options.data_dir is None:
                parser.error("run needs --data_dir")
            jobs, context = jobs_of(options.suite), multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(options.workers, context) as pool:
                given = options.data_dir, options.out, options.agents
                for done in as_completed([pool.submit(run_job, job, *given) for job in jobs]):
                    done.result()
        results = read(options.out)
        text = table(results)
        write_bytes(options.out / "table.md", f"{text}\n".encode())
        draw(results, options.out / "estimates.png")
    except OfflineRLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
