"""Runs in the competitors' environment: times d3rlpy's TD3+BC when asked to, on synthetic data of a given size."""

import json
import sys
import time

import numpy as np


def build(request: dict[str, int]) -> tuple[object, object]:
    """Make d3rlpy's learner and replay buffer."""
    import d3rlpy
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    rows, episode = request["rows"], 1000
    timeouts = np.zeros(rows, np.float32)
    timeouts[episode - 1 :: episode] = 1
    dataset = d3rlpy.dataset.MDPDataset(
        observations=rng.standard_normal((rows, request["observation_size"])).astype(np.float32),
        actions=rng.uniform(-1, 1, (rows, request["action_size"])).astype(np.float32),
        rewards=rng.standard_normal(rows).astype(np.float32),
        terminals=np.zeros(rows, np.float32),
        timeouts=timeouts,
    )
    learner = d3rlpy.algos.TD3PlusBCConfig(
        batch_size=256, observation_scaler=d3rlpy.preprocessing.StandardObservationScaler()
    ).create(device="cpu:0")
    learner.build_with_dataset(dataset)
    learner.observation_scaler.fit_with_transition_picker(dataset.episodes, dataset.transition_picker)
    return learner, dataset


def main() -> None:
    """Read one JSON request a line, answer with seconds a line."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    learner, dataset = build(json.loads(sys.stdin.readline()))
    print(json.dumps({"version": __import__("d3rlpy").__version__}), file=answers, flush=True)
    for line in sys.stdin:
        updates = json.loads(line)
        sampling = 0.0
        begin = time.perf_counter()
        for _ in range(updates):
            start = time.perf_counter()
            batch = dataset.sample_transition_batch(256)
            sampling += time.perf_counter() - start
            learner.update(batch)
        print(json.dumps({"seconds": time.perf_counter() - begin, "sampling": sampling}), file=answers, flush=True)


if __name__ == "__main__":
    main()
