"""Measures what uniform random actions earn in Gymnasium's v5 environments: the 0 of our scores on Minari's data.

    python -m benchmarks.random_returns --episodes 1000

prints the table `RANDOM_RETURNS` of offline_rl/envs/tasks.py, and beside each mean its standard error.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from offline_rl.envs import make_env
from offline_rl.envs.recovered import recovered_task

ENVIRONMENTS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5")


def random_returns(env_id: str, episodes: int) -> np.ndarray:
    """Play episodes of independent uniform actions; return what each earned `(episodes,)`. The same in every call."""
    import gymnasium

    limit = gymnasium.spec(env_id).max_episode_steps
    described = {"id": env_id, "kwargs": {}, "max_episode_steps": limit, "wrappers": [], "references": None}
    task = recovered_task(described, observation_size=0, action_size=0, mean_return=0.0)
    environment: Any = make_env(task)
    space, returns = environment.action_space, np.zeros(episodes)
    generator = np.random.default_rng(0)
    for episode in range(episodes):
        environment.reset(seed=episode)
        ended = False
        while not ended:
            action = generator.uniform(space.low, space.high).astype(np.float32)
            _, reward, terminated, truncated, _ = environment.step(action)
            returns[episode] += float(reward)
            ended = terminated or truncated
    return returns


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1000)
    options = parser.parse_args()
    with ProcessPoolExecutor(2) as pool:
        for name, found in zip(
            ENVIRONMENTS, pool.map(partial(random_returns, episodes=options.episodes), ENVIRONMENTS), strict=True
        ):
            error = found.std(ddof=1) / len(found) ** 0.5
            print(f'    "{name}": {found.mean():.2f},  # standard error {error:.2f}, {len(found):,} episodes')
