"""Twins: d3rlpy's algorithms, trained by d3rlpy's own loop on the rows that ours are trained on.

``python -m benchmarks.twins`` trains what is missing, one seed of one program after the other, and writes a result for
each to ``results/twins``; when it is started again, it goes on with what is missing, from the beginning of a seed.
``python -m benchmarks.twins show`` draws the picture and writes the table in ``docs/parity.md``. d3rlpy lives in an
environment of its own; see ``benchmarks/peer_parity.py``.

Equal are: the rows, with ours already normalised; hyperparameters, as far as d3rlpy has words for them; how many
updates; and who plays the policies, which is our evaluator in our environments. Not equal are: initial weights, the
order of rows, noise, and the differences that ``docs/parity.md`` lists. So equal curves are no matter of course.
"""

import contextlib
import functools
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import today, versions
from benchmarks.peer import PYTHON, ROOT, Peer
from benchmarks.peer_parity import layers_of
from benchmarks.text import between
from offline_rl.agent import Agent
from offline_rl.analysis.figures import draw_bands
from offline_rl.analysis.statistics import Difference, Estimate
from offline_rl.analysis.tables import markdown
from offline_rl.benchmark import located
from offline_rl.data import Dataset
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.errors import OfflineRLError, RunError
from offline_rl.files import read_sealed, sealed, write_bytes, write_json
from offline_rl.training.evaluation import evaluate
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import Plan
from offline_rl.training.run import train

FOLDER = ROOT / "results" / "twins"
PAGE = ROOT / "docs" / "parity.md"
PROGRAMS = ("ours", "d3rlpy")
SETTINGS: Mapping[str, Mapping[str, Any]] = {"td3_bc": {}, "iql": {"scale_rewards": False}, "prdc": {}}
"""What can be trained, with the settings that are not our default. PRDC of d3rlpy takes a second for each update."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Arguments:
    """Train twins, one in each program, and compare their scores. For d3rlpy: make .venv-peers/peers.stamp."""

    peers: Path = PYTHON
    """Python of the environment that has d3rlpy."""
    out: Path = FOLDER
    """Folder of the results."""
    algorithms: Sequence[str] = ("td3_bc", "iql")
    """What to train; prdc may be added, which takes d3rlpy hours."""
    datasets: Sequence[str] = ("hopper-demo",)
    """Names, or files."""
    data_dir: Path | None = None
    """Folder of the datasets that are files."""
    seeds: Sequence[int] = (0, 1, 2)
    """Of each program."""
    steps: int = 30_000
    """Updates of a run."""
    every: int = 5_000
    """Updates between evaluations; it must divide steps."""
    episodes: int = 10
    """Of an evaluation along the way."""
    final_episodes: int = 100
    """Of the last evaluation."""


def chained(dataset: Dataset, preprocessing: Preprocessing) -> dict[str, np.ndarray]:
    """Return the rows as episodes of d3rlpy's kind, from which it makes just these rows.

    d3rlpy has no next observations: it takes the observation of the next step, and of an episode that does not
    terminate it leaves out the last step. So such an episode gets one step more, with the last next observation; a new
    one begins wherever a next observation is not the next row's.

    Returns:
        ``observations`` ``(T, O)``, ``actions`` ``(T, A)`` and ``rewards`` ``(T, 1)`` of all steps, the ``bounds`` of
        the episodes ``(E + 1,)``, and which of them ``terminated``, ``(E,)``.
    """
    breaks = np.ones(len(dataset.rewards), bool)
    breaks[:-1] = (dataset.next_observations[:-1] != dataset.observations[1:]).any(1) | dataset.terminated[:-1]
    ends = np.flatnonzero(breaks)
    steps: dict[str, list[np.ndarray]] = {"observations": [], "actions": [], "rewards": []}
    start, lengths = 0, []
    for end in ends:
        rows, more = slice(start, end + 1), 0 if dataset.terminated[end] else 1
        observations = np.concatenate([dataset.observations[rows], dataset.next_observations[end : end + more]])
        steps["observations"].append(preprocessing.normalized(observations))
        for name, values in (
            ("actions", preprocessing.to_network(dataset.actions[rows])),
            ("rewards", dataset.rewards[rows]),
        ):
            steps[name].append(np.concatenate([values, np.zeros((more, *values.shape[1:]), values.dtype)]))
        lengths.append(end + 1 - start + more)
        start = end + 1
    columns = {name: np.concatenate(parts).astype(np.float32) for name, parts in steps.items()}
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    return {**columns, "rewards": columns["rewards"][:, None], "bounds": bounds, "terminated": dataset.terminated[ends]}


def acting(agent: Agent, path: Path) -> Agent:
    """Give an agent the policy that d3rlpy has written, as far as acting without noise needs it."""
    layers = layers_of(agent.actor.mlp, 0)
    with np.load(path) as arrays, torch.no_grad():
        theirs = [arrays[name] for name in arrays.files][-len(layers) :]  # a log-std for all states comes first
        for own, their in zip(layers, theirs, strict=True):
            own.copy_(torch.from_numpy(their))
    return agent


def theirs(peer: Peer, plan: Plan, seed: int, arguments: Arguments) -> Result:
    """Train d3rlpy's twin; return its curve, ``[step, score]``, and what it took."""
    config, agent = plan.config.settings(), plan.algorithm(plan.config, *plan.preprocessing.sizes, learning=False)
    agent.preprocessing = plan.preprocessing
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        np.savez(data, **chained(plan.dataset, plan.preprocessing))
        asked = {"algorithm": plan.algorithm.name, "settings": config, "data": str(data), "out": folder, "seed": seed}
        answer = peer.ask({**asked, "steps": arguments.steps, "every": arguments.every})
        if answer.pop("rows") != len(plan.dataset.rewards):
            raise RunError(f"d3rlpy makes other rows of {plan.dataset.name}; twins must train on the same")
        curve = []
        for step in range(arguments.every, arguments.steps + 1, arguments.every):
            episodes = arguments.final_episodes if step == arguments.steps else arguments.episodes
            acting(agent, Path(folder) / f"{step}.npz")
            scores = evaluate(agent, plan.task, dynamics=plan.dynamics, episodes=episodes, seed=seed).scores
            assert scores is not None
            curve.append([step, float(scores.mean())])
    return {"curve": curve, **answer}


def ours(plan: Plan, name: str, seed: int, arguments: Arguments) -> Result:
    """Train our twin; return the same as :func:`theirs`."""
    begin = time.perf_counter()
    options = {"steps": arguments.steps, "eval_every": arguments.every, "eval_episodes": arguments.episodes}
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            plan.algorithm.name,
            name,
            seeds=[seed],
            out=str(Path(folder) / "run"),
            final_episodes=arguments.final_episodes,
            quiet=True,
            preset="none",
            mode="eager",
            **options,
            **SETTINGS[plan.algorithm.name],
        )
        # The final evaluation stands for the one along the way at the same step.
        rows = [row for row in run.rows if row["kind"] in ("evaluation", "final") and row["step"]]
        curve = {row["step"]: row["score"] for row in rows}
    return {"curve": [list(point) for point in curve.items()], "seconds": time.perf_counter() - begin}


def run(arguments: Arguments) -> None:
    """Train what is missing.

    Raises:
        RunError: A result is there that was made in another way.
    """
    if arguments.steps % arguments.every:
        raise RunError(f"every is {arguments.every}, which does not divide {arguments.steps} steps; change one of them")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:

        @functools.cache
        def peer() -> Peer:
            started = Peer("peer_twins.py", arguments.peers)
            stack.callback(started.close)
            return started

        names = itertools.product(arguments.seeds, arguments.datasets, arguments.algorithms, PROGRAMS)
        for seed, dataset, algorithm, program in names:
            place = located(dataset, arguments.data_dir)
            _one(peer, arguments, program=program, algorithm=algorithm, dataset=place, seed=seed)


def _one(
    peer: Callable[[], Peer], arguments: Arguments, *, program: str, algorithm: str, dataset: str, seed: int
) -> None:
    """Train one seed of one program, unless its result is there."""
    if algorithm not in SETTINGS:
        raise RunError(f"{algorithm} has no twin; choose from {', '.join(SETTINGS)}")
    options = TrainOptions(seeds=[seed], steps=arguments.steps, device="cpu", preset="none")
    plan = Plan.make(algorithm, dataset, options, dict(SETTINGS[algorithm]))
    if plan.task is None:
        raise RunError(f"{dataset} has no task that gives scores; twins cannot be compared on it")
    names = ("steps", "every", "episodes", "final_episodes")
    about = {"program": program, "algorithm": algorithm, "dataset": plan.dataset.name, "seed": seed}
    about |= {"settings": plan.config.settings(), **{name: getattr(arguments, name) for name in names}}
    path = arguments.out / f"{program}-{algorithm}-{plan.dataset.name}-seed-{seed}.json"
    if path.exists():
        found = read_sealed(path)
        if wrong := [name for name, value in about.items() if found[name] != value]:
            raise RunError(f"{path} was made with another {', '.join(wrong)}; remove it, or choose another --out")
        return
    print(f"{program}: {algorithm} on {plan.dataset.name}, seed {seed}", file=sys.stderr, flush=True)
    found = ours(plan, dataset, seed, arguments) if program == "ours" else theirs(peer(), plan, seed, arguments)
    write_json(path, sealed({**about, "dynamics": plan.dynamics, "date": today(), "versions": versions(), **found}))


def pairs(results: Sequence[Result]) -> dict[tuple[str, str], dict[str, list[Result]]]:
    """Return the results of both programs by algorithm and dataset; one that lacks a program is left out."""
    found: dict[tuple[str, str], dict[str, list[Result]]] = {}
    for result in sorted(results, key=lambda result: result["seed"]):
        own = found.setdefault((result["algorithm"], result["dataset"]), {})
        own.setdefault(result["program"], []).append(result)
    return {key: both for key, both in sorted(found.items()) if set(both) == set(PROGRAMS)}


def tables(results: Sequence[Result]) -> str:
    """Return last scores of both programs and their difference as Markdown.

    Raises:
        RunError: There is no pair of twins, or they were made with different protocols.
    """
    found = pairs(results)
    if not found:
        raise RunError("there are no twins yet; python -m benchmarks.twins makes some")
    protocols = {(result["steps"], result["final_episodes"]) for result in results}
    if len(protocols) > 1:
        raise RunError("results of twins differ in steps or final_episodes; keep those of one protocol")
    rows = []
    for (algorithm, dataset), both in found.items():
        ours, theirs = ([result["curve"][-1][1] for result in both[program]] for program in PROGRAMS)
        difference = Difference.of(ours, theirs)
        half = "–" if difference.half_width is None else f"{difference.half_width:.1f}"
        verdict = {True: "within noise", False: "more than noise", None: "no interval"}[difference.is_noise]
        seconds = [f"{_seconds(both[program]):,.0f}" for program in PROGRAMS]
        scores = [str(Estimate.of(ours)), str(Estimate.of(theirs)), f"{difference.mean:.1f} ± {half}", verdict]
        rows.append([algorithm, dataset, f"{len(ours)} and {len(theirs)}", *scores, *seconds])
    ((steps, episodes),) = protocols
    head = ["algorithm", "dataset", "seeds", *PROGRAMS, "difference", "verdict", "seconds, ours", "seconds, d3rlpy"]
    text = (
        f"Scores after {steps:,} updates, {episodes} episodes: means over seeds ± half the 95 % Student-t interval; the"
        " difference's is Welch's. Seconds are those of a run, on a shared machine; ours include evaluations."
    )
    return f"{markdown(head, rows)}\n\n{text}"


def _seconds(results: Sequence[Result]) -> float:
    return float(np.mean([result["seconds"] for result in results]))


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw both programs' curves, a panel for each algorithm and dataset."""
    panels = {
        f"{algorithm} on {dataset}": {
            program: [dict(map(tuple, r["curve"])) for r in both[program]] for program in PROGRAMS
        }
        for (algorithm, dataset), both in pairs(results).items()
    }
    draw_bands(panels, path, "updates", "normalised score")


def show(folder: Path = FOLDER, page: Path = PAGE) -> None:
    """Draw the picture, and write the table between the marks of the page.

    Raises:
        RunError: There are no twins.
    """
    results = [read_sealed(path) for path in sorted(folder.glob("*.json"))]
    text = tables(results)
    draw(results, folder / "curves.png")
    picture = "![Learning curves of both programs](../results/twins/curves.png)"
    made = between(page.read_text(encoding="utf-8"), "twins", f"{text}\n\n{picture}\n")
    write_bytes(page, made.encode())


def main() -> int:
    """Train what is missing, or show what there is; return the exit status."""
    import tyro

    try:
        if sys.argv[1:] == ["show"]:
            show()
        else:
            run(tyro.cli(Arguments))
    except OfflineRLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
