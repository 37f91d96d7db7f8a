"""Makes the datasets in which there is luck; the same command gives the same rows.

    python -m benchmarks.make_stochastic bandit 0.1 bandit.hdf5
    python -m benchmarks.make_stochastic lucky lucky.hdf5
    python -m benchmarks.make_stochastic lake 0.333333 0.4 lake.hdf5
    python -m benchmarks.make_stochastic lottery hopper_medium.hdf5 hopper_lottery.hdf5
    python -m benchmarks.make_stochastic noise runs/x/agents/seed-0 hopper 0.1 hopper_noise.hdf5

The files are in D4RL's layout and have `next_observations`. Scores belong to the undisturbed rewards.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from offline_rl.agent import load_agent
from offline_rl.data import load_dataset
from offline_rl.draws import derived_seed
from offline_rl.envs import find_task
from offline_rl.envs.finite import FiniteProblem, bernoulli_bandit, frozen_lake, lucky_arm
from offline_rl.envs.stochastic import prize_of, record, with_lottery

BANDIT_EPISODES, LUCKY_EPISODES, LAKE_EPISODES = 1000, 2000, 100


def finite_columns(problem: FiniteProblem, episodes: int, seed: int) -> dict[str, np.ndarray]:
    """Return so many episodes of a finite problem as `Dataset.from_arrays` takes them."""
    return problem.columns(problem.collect(episodes, seed))


def lottery_columns(source: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the rows of a dataset with prizes in the rewards, and what to say of them."""
    dataset = load_dataset(source, "exact")
    prize = prize_of(dataset.episode_returns)
    columns = {
        name: getattr(dataset, name)
        for name in ("observations", "actions", "terminated", "truncated", "next_observations")
    }
    attributes = {"env_id": dataset.task, "lottery_prize": prize, "fingerprint_of_source": dataset.fingerprint}
    cut = not dataset.episode_complete[-1]
    return {**columns, "rewards": with_lottery(dataset.rewards, prize, seed)}, {**attributes, "last_episode_cut": cut}


def noise_columns(agent: Path, task: str, std: float, episodes: int, seed: int) -> dict[str, np.ndarray]:
    """Return episodes that a saved agent plays with disturbed actions."""
    seeds = [derived_seed(seed, "recording", episode) for episode in range(episodes)]
    return record(load_agent(agent).act, find_task(task), "d4rl", seeds, std)


def write(path: Path, columns: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    """Write rows in D4RL's layout, whole or not at all."""
    labels = {"terminated": "terminals", "truncated": "timeouts"}
    partial = path.with_name(f"{path.name}.part")
    with h5py.File(partial, "w", libver="latest") as file:
        for name, column in columns.items():
            kind = bool if name in labels else np.float32
            file.create_dataset(labels.get(name, name), data=column.astype(kind), compression="gzip", track_times=False)
        for name in sorted(attributes):
            file.attrs[name] = attributes[name]
    partial.replace(path)


def main() -> None:
    """Read the command line and write one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    bandit, lucky, lake, lottery, noise = (kinds.add_parser(n) for n in ("bandit", "lucky", "lake", "lottery", "noise"))
    bandit.add_argument("p", type=float)
    lake.add_argument("control", type=float)
    lake.add_argument("epsilon", type=float)
    lottery.add_argument("source")
    noise.add_argument("agent", type=Path)
    noise.add_argument("task")
    noise.add_argument("std", type=float)
    noise.add_argument("--episodes", type=int, default=200)
    for kind in (bandit, lucky, lake, lottery, noise):
        kind.add_argument("destination", type=Path)
        kind.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    attributes: dict[str, Any] = {}
    if options.kind == "bandit":
        columns = finite_columns(bernoulli_bandit(options.p), BANDIT_EPISODES, options.seed)
    elif options.kind == "lucky":
        columns = finite_columns(lucky_arm(), LUCKY_EPISODES, options.seed)
    elif options.kind == "lake":
        columns = finite_columns(frozen_lake(options.control, options.epsilon), LAKE_EPISODES, options.seed)
    elif options.kind == "lottery":
        columns, attributes = lottery_columns(options.source, options.seed)
    else:
        columns = noise_columns(options.agent, options.task, options.std, options.episodes, options.seed)
        attributes = {"env_id": options.task, "action_noise": options.std}
    write(options.destination, columns, attributes)
    returns = load_dataset(options.destination, "exact").episode_returns
    print(json.dumps({"episodes": len(returns), "mean_return": float(returns.mean()), **attributes}, default=str))


if __name__ == "__main__":
    main()
