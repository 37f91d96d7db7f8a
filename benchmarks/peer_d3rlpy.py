"""Runs in the competitors' environment: times algorithms of d3rlpy when asked to.

Speaks JSON, a line each. First the algorithms with their data and sizes come in; then either ``"version"`` or an
algorithm with the seconds that it is to make updates for, and how many at most; what was asked goes out.
"""

import functools
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import d3rlpy
import numpy as np
import structlog
import torch


@functools.cache
def read(path: str) -> Any:
    """Return a replay buffer."""
    with np.load(path) as arrays:
        return d3rlpy.dataset.MDPDataset(**{name: arrays[name] for name in arrays.files})


def config_of(algorithm: str, sizes: dict[str, Any]) -> Any:
    """Return d3rlpy's settings, with our batch and networks; all else is its default."""
    scaler, encoder = d3rlpy.preprocessing.StandardObservationScaler(), d3rlpy.models.VectorEncoderFactory
    common = {"batch_size": sizes["batch_size"], "observation_scaler": scaler}
    if algorithm == "dt":
        return d3rlpy.algos.DecisionTransformerConfig(
            **common,
            encoder_factory=encoder([sizes["width"]], exclude_last_activation=True),
            context_size=sizes["length"],
            num_heads=sizes["heads"],
            num_layers=sizes["layers"],
            **{f"{place}_dropout": sizes["dropout"] for place in ("attn", "resid", "embed")},
        )
    network = encoder(sizes["hidden_dims"])
    if algorithm == "bc":
        return d3rlpy.algos.BCConfig(**common, encoder_factory=network)
    factories = {"actor_encoder_factory": network, "critic_encoder_factory": network}
    if algorithm == "iql":
        return d3rlpy.algos.IQLConfig(**common, **factories, value_encoder_factory=network)
    if algorithm == "cql":
        return d3rlpy.algos.CQLConfig(**common, **factories, n_action_samples=sizes["num_actions"])
    kinds = {"td3_bc": d3rlpy.algos.TD3PlusBCConfig, "prdc": d3rlpy.algos.PRDCConfig}
    return kinds[algorithm](**common, **factories)


def build(algorithm: str, data: str, **sizes: Any) -> tuple[Any, Callable[[], Any]]:
    """Make a learner; return it, and what samples a batch for it."""
    dataset, learner = read(data), config_of(algorithm, sizes).create(device="cpu:0")
    # Fitting for a moment is d3rlpy's way to build the networks, the scaler and the neighbours.
    silent = d3rlpy.logging.NoopAdapterFactory()
    learner.fit(dataset, n_steps=2, n_steps_per_epoch=2, logger_adapter=silent, show_progress=False, save_interval=9)
    if algorithm == "dt":
        return learner, lambda: dataset.sample_trajectory_batch(sizes["batch_size"], sizes["length"])
    return learner, lambda: dataset.sample_transition_batch(sizes["batch_size"])


def timed(learner: Any, sample: Callable[[], Any], seconds: float, most: int | None) -> dict[str, float]:
    """Make updates for so many seconds, so many at most, at least one."""
    updates, sampling, begin = 0, 0.0, time.perf_counter()
    while not updates or (time.perf_counter() - begin < seconds and updates != most):
        start = time.perf_counter()
        batch = sample()
        sampling += time.perf_counter() - start
        learner.update(batch)
        updates += 1
    return {"updates": updates, "seconds": time.perf_counter() - begin, "sampling": sampling}


def main() -> None:
    """Serve the benchmark."""
    answers, sys.stdout = sys.stdout, sys.stderr
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    torch.set_num_threads(1)
    learners = {name: build(name, **given) for name, given in json.loads(sys.stdin.readline()).items()}
    print(json.dumps(sorted(learners)), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked == "version":
            answer: Any = d3rlpy.__version__
        else:
            answer = timed(*learners[asked["algorithm"]], asked["seconds"], asked["most"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
