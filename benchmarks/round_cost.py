"""What a full round of PARL costs with what the rewards know of the policy, against the round without: CPU seconds.

``python -m benchmarks.round_cost`` makes the 5,000 updates of a round of the million-update schedule, and the round
itself, on one core, in turns; the warm-up's fit and the evaluations are left out.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from benchmarks.machine import about
from offline_rl.algos.parl.agent import PARL, Config
from offline_rl.data import load_dataset
from offline_rl.data.packed import PackedRows
from offline_rl.data.preprocessing import Preprocessing
from offline_rl.files import sealed, write_json
from offline_rl.kernels.choice import choose_kernel, use_kernel
from offline_rl.training.updates.sampler import Sampler

STEPS = 1_000_000
ROUND = 11
"""The first one in which the weighted pairs have their full share."""
TURN = 250
"""Updates of one mode before the other has its turn."""


@dataclass(frozen=True)
class Arguments:
    """Measure the cost of a round."""

    dataset: str = "hopper-demo"
    """Name or file; the rows that are labelled again in each round."""
    num_labels: int = 500
    """Pairs."""
    segment_length: int = 64
    """Steps of a segment."""
    mode: Literal["sf", "reweight", "onestep", "cg"] = "sf"
    """What is measured against "none"."""
    out: Path | None = None
    """Result file to write."""


class Runner:
    """An agent on its way through one round."""

    def __init__(self, mode: str, given: Arguments) -> None:
        settings = {"num_labels": given.num_labels, "segment_length": given.segment_length, "reward_epochs": 1}
        config = Config(hyper_mode=mode, **settings)  # type: ignore[arg-type]
        dataset = load_dataset(given.dataset)
        preprocessing = Preprocessing.fit(dataset, normalize=config.normalize)
        sizes = dataset.observation_size, dataset.action_size
        self._agent = PARL(config, *sizes, steps=STEPS, preprocessing=preprocessing)
        rows = PackedRows.of(dataset, preprocessing)
        self._agent.prepare(rows)
        self._sampler = Sampler(self._agent, rows)
        self._step, self.last = (self._agent.schedule.end(number) for number in (ROUND - 1, ROUND))
        self.seconds = self.round = 0.0
        self.run(10)
        self.seconds = 0.0  # without the fit, and whatever else comes only once

    def run(self, count: int) -> None:
        """Make so many updates, not beyond the end of the round."""
        for _ in range(min(count, self.last - self._step)):
            self._step += 1
            batch = self._sampler.batch(self._step)
            begin = time.process_time()
            self._agent.update(batch, self._step)
            seconds = time.process_time() - begin
            if self._step == self.last:
                self.round = seconds
            else:
                self.seconds += seconds


def main() -> None:
    """Measure, print, and write."""
    given = tyro.cli(Arguments)
    kernel = choose_kernel()
    use_kernel(kernel, 1)
    runners = {mode: Runner(mode, given) for mode in ("none", given.mode)}
    while not all(runner.round for runner in runners.values()):
        for runner in runners.values():
            runner.run(TURN)
    totals = {mode: runner.seconds + runner.round for mode, runner in runners.items()}
    result = {
        **about(),
        "kernel": kernel,
        "dataset": Path(given.dataset).stem,
        **{name: getattr(given, name) for name in ("num_labels", "segment_length", "mode")},
        "updates_cpu_seconds": {mode: round(runner.seconds, 2) for mode, runner in runners.items()},
        "round_cpu_seconds": {mode: round(runner.round, 2) for mode, runner in runners.items()},
        "ratio": round(totals[given.mode] / totals["none"], 2),
    }
    print(json.dumps(result, indent=2))
    if given.out:
        write_json(given.out, sealed(result))


if __name__ == "__main__":
    main()
