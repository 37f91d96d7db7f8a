"""Runs in the competitors' environment: trains d3rlpy's algorithms by d3rlpy's own loop.

Speaks JSON, a line each: the algorithm, our settings, ``data``, a file of episodes, how many ``steps``, every how many
to write the policy's parameters to the folder ``out``, and the ``seed``. The answer is how many seconds it took.
"""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import structlog
import torch
from peer_updates import matched


def buffer_of(path: str) -> Any:
    """Return a replay buffer of the episodes in a file; what they hold is described in ``benchmarks/twins.py``."""
    with np.load(path) as arrays:
        columns = {name: arrays[name] for name in arrays.files}
    bounds, terminated = columns.pop("bounds"), columns.pop("terminated")
    episodes = [
        d3rlpy.dataset.Episode(**{name: column[start:end] for name, column in columns.items()}, terminated=bool(ended))
        for start, end, ended in zip(bounds[:-1], bounds[1:], terminated, strict=True)
    ]
    return d3rlpy.dataset.create_infinite_replay_buffer(episodes)


def train(
    *, algorithm: str, settings: dict[str, Any], data: str, steps: int, every: int, seed: int, out: str
) -> dict[str, Any]:
    """Train; write ``<step>.npz`` with the policy's parameters, in d3rlpy's order, ``every`` so many updates."""
    d3rlpy.seed(seed)
    learner, buffer = matched(algorithm, settings, steps).create(device="cpu:0"), buffer_of(data)

    def write(algo: Any, _: int, step: int) -> None:
        parameters = [parameter.detach().numpy() for parameter in algo.impl.policy.parameters()]
        np.savez(Path(out) / f"{step}.npz", *parameters)

    begin = time.perf_counter()
    learner.fit(
        buffer,
        n_steps=steps,
        n_steps_per_epoch=every,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
        save_interval=steps,
        epoch_callback=write,
    )
    return {"seconds": time.perf_counter() - begin, "d3rlpy": d3rlpy.__version__, "rows": buffer.transition_count}


def main() -> None:
    """Answer until nothing more is asked."""
    answers, sys.stdout = sys.stdout, sys.stderr
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(train(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
