"""Train an algorithm in a loop of your own, on arrays of your own."""

import numpy as np

import offline_rl as orl
from offline_rl.algos.td3_bc import TD3BC, Config
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.training.updates.sampler import Sampler


def main(steps: int = 1000) -> None:
    """Train TD3+BC to move a point to the origin, from random moves, and save the agent."""
    rng = np.random.default_rng(0)
    positions = rng.uniform(-1, 1, (5000, 2))
    moves = rng.uniform(-1, 1, (5000, 2))
    after = positions + 0.3 * moves
    dataset = orl.Dataset.from_arrays(
        observations=positions,
        actions=moves,
        rewards=-np.linalg.norm(after, axis=1),
        terminated=np.zeros(5000, bool),
        next_observations=after,
    )
    preprocessing = Preprocessing.fit(dataset, normalize=True)
    agent = TD3BC(Config(alpha=10.0, discount=0.9), 2, 2, seed=0, steps=steps, preprocessing=preprocessing)
    rows = PackedRows.of(dataset, preprocessing)
    agent.prepare(rows)
    sampler = Sampler(agent, rows)
    for step in range(1, steps + 1):
        metrics = agent.update(sampler.batch(step), step)
        if step % 200 == 0:
            print(f"step {step}: " + ", ".join(f"{name} {float(value):.3f}" for name, value in metrics.items()))
    print("from (0.8, -0.5) it moves by", agent.act(np.array([0.8, -0.5])).round(2))
    agent.save("runs/own-loop")


if __name__ == "__main__":
    main()
