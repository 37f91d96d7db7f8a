"""Runs in the competitors' environment: times algorithms of d3rlpy when asked to, see ``peer_serving.py``."""

import functools
import logging
import time
from collections.abc import Callable
from typing import Any

import d3rlpy
import numpy as np
import structlog
import torch

from benchmarks.peer_serving import Window, serve, timed


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


def build(algorithm: str, data: str, **sizes: Any) -> Window:
    """Make a learner, and return what makes its updates."""
    dataset, learner = read(data), config_of(algorithm, sizes).create(device="cpu:0")
    # Fitting for a moment is d3rlpy's way to build the networks, the scaler and the neighbours.
    silent = d3rlpy.logging.NoopAdapterFactory()
    learner.fit(dataset, n_steps=2, n_steps_per_epoch=2, logger_adapter=silent, show_progress=False, save_interval=9)
    if algorithm == "dt":
        return window(learner, lambda: dataset.sample_trajectory_batch(sizes["batch_size"], sizes["length"]))
    return window(learner, lambda: dataset.sample_transition_batch(sizes["batch_size"]))


def window(learner: Any, sample: Callable[[], Any]) -> Window:
    """Return what makes a learner's updates, and measures besides how long sampling takes."""

    def make(seconds: float, most: int | None) -> dict[str, float]:
        sampling = 0.0

        def update() -> int:
            nonlocal sampling
            begin = time.perf_counter()
            batch = sample()
            sampling += time.perf_counter() - begin
            learner.update(batch)
            return 1

        return {**timed(update, seconds, most), "sampling": sampling}

    return make


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    torch.set_num_threads(1)
    serve(build, d3rlpy.__version__)
