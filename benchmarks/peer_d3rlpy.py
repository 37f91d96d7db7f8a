"""Runs in the competitors' environment: times an algorithm of d3rlpy when asked to.

Speaks JSON, a line each: first ``{"algorithm", "data"}`` comes in and the version goes out, then numbers of updates
come in and seconds go out.
"""

import json
import os
import sys
import time
from typing import Any

import numpy as np


def build(algorithm: str, data: str) -> tuple[Any, Any]:
    """Make d3rlpy's learner and replay buffer; its settings are those of ours."""
    import d3rlpy
    import torch

    torch.set_num_threads(1)
    with np.load(data) as arrays:
        dataset = d3rlpy.dataset.MDPDataset(**{name: arrays[name] for name in arrays.files})
    config = {"td3_bc": d3rlpy.algos.TD3PlusBCConfig, "prdc": d3rlpy.algos.PRDCConfig}[algorithm]
    scaler = d3rlpy.preprocessing.StandardObservationScaler()
    learner = config(batch_size=256, observation_scaler=scaler).create(device="cpu:0")
    # Fitting for a moment is d3rlpy's way to build the networks, the scaler and the neighbours.
    silent = d3rlpy.logging.NoopAdapterFactory()
    learner.fit(dataset, n_steps=2, n_steps_per_epoch=2, logger_adapter=silent, show_progress=False, save_interval=9)
    return learner, dataset


def main() -> None:
    """Serve the benchmark."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    answers, sys.stdout = sys.stdout, sys.stderr
    learner, dataset = build(**json.loads(sys.stdin.readline()))
    print(json.dumps({"version": __import__("d3rlpy").__version__}), file=answers, flush=True)
    for line in sys.stdin:
        sampling = 0.0
        begin = time.perf_counter()
        for _ in range(json.loads(line)):
            start = time.perf_counter()
            batch = dataset.sample_transition_batch(256)
            sampling += time.perf_counter() - start
            learner.update(batch)
        print(json.dumps({"seconds": time.perf_counter() - begin, "sampling": sampling}), file=answers, flush=True)


if __name__ == "__main__":
    main()
