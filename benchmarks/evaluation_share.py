"""What evaluation costs a run: the wall time of one run with it, and of the same run without.

``python -m benchmarks.evaluation_share --out results/throughput/evaluation.json`` measures.
"""

import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import offline_rl as orl
from offline_rl.files import write_json


@dataclass(frozen=True)
class Arguments:
    """Measure what evaluation costs.

    Attributes:
        out: Result file to write.
        algorithm: What to train.
        dataset: On which data.
        seeds: How many agents.
        steps: Updates of each.
        eval_every: Updates between evaluations of ten episodes.
        device: Where to train.
    """

    out: Path | None = None
    algorithm: str = "td3_bc"
    dataset: str = "hopper-demo"
    seeds: int = 4
    steps: int = 100_000
    eval_every: int = 5000
    device: str = "auto"


def main() -> None:
    """Measure."""
    import tyro

    arguments = tyro.cli(Arguments)
    with tempfile.TemporaryDirectory() as folder:
        seconds = {name: measured(arguments, Path(folder) / name, name == "on") for name in ("off", "on")}
        config = json.loads((Path(folder) / "on" / "config.json").read_text(encoding="utf-8"))
    result: dict[str, Any] = {**vars(arguments), "out": None, "seconds": seconds}
    result["ratio"] = round(seconds["on"] / seconds["off"], 3)
    result |= {name: config[name] for name in ("compute", "hardware", "versions")} | {"cores": os.cpu_count()}
    del result["out"]
    print(json.dumps(result))
    if arguments.out:
        write_json(arguments.out, result)


def measured(arguments: Arguments, out: Path, evaluates: bool) -> float:
    """Return the seconds of a run, its start and its end included, with or without evaluation."""
    begin = time.perf_counter()
    orl.train(
        arguments.algorithm,
        arguments.dataset,
        seeds=list(range(arguments.seeds)),
        steps=arguments.steps,
        eval_every=arguments.eval_every if evaluates else 0,
        final_episodes=0,
        device=arguments.device,
        out=str(out),
        quiet=True,
    )
    return round(time.perf_counter() - begin, 2)


if __name__ == "__main__":
    main()
